//! What the figures were taken on.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

/// The machine, as a reader of the figures needs to know it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cpus: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) distribution: String,
}

impl Machine {
    /// Reads it from `/proc` and `/etc/os-release`; what is not there is "unknown".
    pub(crate) fn here() -> Self {
        let value = |path: &str, key: &str, separator: char| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(separator)?.1.trim().trim_matches('"').to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = value("/proc/meminfo", "MemTotal", ':')
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            processor: value("/proc/cpuinfo", "model name", ':').unwrap_or_else(unknown),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            distribution: value("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(unknown),
        }
    }
}

/// Returns the processor time that a process, its descendants and its dead children have spent.
///
/// # Errors
/// If it is gone.
pub(crate) fn cpu_of_tree(root: Pid) -> anyhow::Result<Duration> {
    let mut tree = HashSet::from([root.as_raw()]);
    let mut ticks = 0;
    let mut stats: Vec<(i32, i32, u64)> = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        // Processes come and go.
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
        stats.extend(parse_stat(&text));
    }
    // Children have higher ids than their parents, unless ids have begun anew: then a second look.
    for _ in 0..2 {
        for (pid, parent, _) in &stats {
            if tree.contains(parent) {
                tree.insert(*pid);
            }
        }
    }
    for (pid, _, spent) in stats {
        if tree.contains(&pid) {
            ticks += spent;
        }
    }
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock")?;
    let per_second = u64::try_from(per_second)?;
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// Reads process id, parent and ticks spent, dead children's included (proc(5), "/proc/pid/stat").
fn parse_stat(text: &str) -> Option<(i32, i32, u64)> {
    let (head, rest) = text.rsplit_once(") ")?;
    let pid = head.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let parent = fields.get(1)?.parse().ok()?;
    let spent = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((pid, parent, spent))
}

/// Lets the peak memory of a process begin anew.
///
/// # Errors
/// If it is gone, or another user's.
pub(crate) fn forget_peak(pid: Pid) -> anyhow::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak")
}

/// Returns the peak memory of a process since then.
///
/// # Errors
/// If it is gone.
pub(crate) fn peak_kib_of(pid: Pid) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    let number = line.split_whitespace().nth(1).context("no number")?;
    Ok(number.parse()?)
}
