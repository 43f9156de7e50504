//! Compares the machine before and after a test run, and fails if the run has left something behind.
//!
//! `keg-leftovers snapshot FILE` before, `keg-leftovers compare FILE` after; both with the same
//! `KEG_TEST_RUN` in the environment as the run, so that its processes are told from others'.
//!
//! | kind | what counts |
//! | --- | --- |
//! | mount | every mount of this mount namespace; below `/tmp` and `/run`, others' may go |
//! | cgroup | every directory of every hierarchy, but systemd's units and those in which others run |
//! | process | those with our `KEG_TEST_RUN`, and those whose mounts name a test's directory |
//! | interface, firewall | every network interface; every nftables table |
//! | directory | the tests' directories in `/tmp` |
//!
//! What is being taken away when the run ends (a cgroup, a mount) gets some seconds.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, bail};
use keg_fixtures::report::MountEntry;
use keg_fixtures::wait;
use serde::{Deserialize, Serialize};

const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
    network: BTreeSet<String>,
    directories: BTreeSet<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [command, file] = arguments.as_slice() else {
        bail!("usage: keg-leftovers snapshot|compare FILE");
    };
    match command.as_str() {
        "snapshot" => {
            let snapshot = serde_json::to_vec_pretty(&Snapshot::take())?;
            fs::write(file, snapshot).with_context(|| format!("write {file:?}"))?;
            Ok(ExitCode::SUCCESS)
        }
        "compare" => {
            let before = fs::read(file).with_context(|| format!("read {file:?}"))?;
            let before: Snapshot =
                serde_json::from_slice(&before).with_context(|| format!("parse {file:?}"))?;
            Ok(compare(&before))
        }
        other => bail!("no such command: {other}"),
    }
}

fn compare(before: &Snapshot) -> ExitCode {
    remove_parents_of_containers(before);
    let same = wait::poll(GRACE, || before.differences(&Snapshot::take()).is_empty().then_some(()));
    if same.is_some() {
        println!("mounts, cgroups, processes and network are as before the tests");
        return ExitCode::SUCCESS;
    }
    for difference in before.differences(&Snapshot::take()) {
        println!("{difference}");
    }
    ExitCode::FAILURE
}

/// Removes the cgroups that kegd keeps as parents of its containers', which no daemon removes, since
/// another may be about to use them. One that is not empty stays, and is reported.
fn remove_parents_of_containers(before: &Snapshot) {
    let now = cgroups();
    let parents = now.difference(&before.cgroups).filter(|path| path.ends_with("/keg"));
    for parent in parents {
        let _ = fs::remove_dir(parent);
    }
}

impl Snapshot {
    fn take() -> Self {
        Self {
            mounts: mounts(),
            cgroups: cgroups(),
            processes: processes(),
            network: network(),
            directories: directories(),
        }
    }

    /// Describes what is there after and was not before, and what is gone.
    fn differences(&self, after: &Self) -> Vec<String> {
        let kinds = [
            ("mount", &self.mounts, &after.mounts),
            ("cgroup", &self.cgroups, &after.cgroups),
            ("process", &self.processes, &after.processes),
            ("network", &self.network, &after.network),
            ("directory", &self.directories, &after.directories),
        ];
        let mut found: Vec<String> = kinds
            .iter()
            .flat_map(|(kind, before, after)| {
                after.difference(before).map(move |it| format!("{kind} left behind: {it}"))
            })
            .collect();
        // What others have in these directories comes and goes; the rest is the machine's own.
        let passing = |mount: &&String| mount.starts_with("/tmp/") || mount.starts_with("/run/");
        let gone = self.mounts.difference(&after.mounts).filter(|mount| !passing(mount));
        found.extend(gone.map(|it| format!("mount gone: {it}")));
        found.extend(self.network.difference(&after.network).map(|it| format!("gone: {it}")));
        found
    }
}

fn mounts() -> BTreeSet<String> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    String::from_utf8_lossy(&table)
        .lines()
        .filter_map(MountEntry::parse)
        .map(|mount| format!("{} ({} of {})", mount.mount_point, mount.fstype, mount.source))
        .collect()
}

fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect_directories(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

/// Collects the directories below one; returns whether others' processes are in them.
fn collect_directories(directory: &Path, found: &mut BTreeSet<String>) -> bool {
    let mut others_below = has_processes_of_others(directory);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || is_systemd_unit(&path) {
            continue;
        }
        let others = collect_directories(&path, found);
        others_below |= others;
        if !others {
            found.insert(path.display().to_string());
        }
    }
    others_below
}

/// Whether a process that is not of the run is in a cgroup.
fn has_processes_of_others(cgroup: &Path) -> bool {
    let list = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mark = mark();
    list.lines().filter_map(|pid| pid.parse().ok()).any(|pid| of_the_run(pid, &mark).is_none())
}

fn is_systemd_unit(path: &Path) -> bool {
    let kind = path.extension().and_then(|extension| extension.to_str());
    matches!(kind, Some("scope" | "service" | "slice" | "mount" | "socket" | "swap"))
}

fn processes() -> BTreeSet<String> {
    let mark = mark();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let kin = ancestors(std::process::id());
    pids.filter(|pid| !kin.contains(pid)).filter_map(|pid| of_the_run(pid, &mark)).collect()
}

/// What the environment of the run's processes holds.
fn mark() -> String {
    format!("KEG_TEST_RUN={}\0", env::var("KEG_TEST_RUN").unwrap_or_default())
}

/// Describes a process if it belongs to the tests.
fn of_the_run(pid: u32, mark: &str) -> Option<String> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let contains = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
    let marked = contains(&read("environ"), mark.as_bytes());
    let inside = contains(&read("mountinfo"), b"/tmp/keg-it.") && !marked;
    // Our own mount table names the directory of any test that has something mounted.
    let elsewhere = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?
        != fs::read_link("/proc/self/ns/mnt").ok()?;
    let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
    let stat = String::from_utf8_lossy(&read("stat")).into_owned();
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
    (marked || (inside && elsewhere)).then(|| format!("{pid} ({command}, started at {started})"))
}

fn ancestors(pid: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([pid]);
    let mut next = pid;
    while let Some(parent) = parent(next).filter(|parent| *parent != 0) {
        found.insert(parent);
        next = parent;
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn network() -> BTreeSet<String> {
    let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let interfaces =
        interfaces.map(|entry| format!("interface {}", entry.file_name().to_string_lossy()));
    let tables = Command::new("nft").args(["list", "tables"]).output();
    let tables = tables.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let tables = tables.unwrap_or_default();
    interfaces.chain(tables.lines().map(|line| format!("firewall {line}"))).collect()
}

fn directories() -> BTreeSet<String> {
    let entries = fs::read_dir("/tmp").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.starts_with("/tmp/keg-it."))
        .collect()
}
