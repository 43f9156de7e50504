//! What `/proc` tells of a process (proc(5)).

use std::fs;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Clock ticks per second in `/proc`: fixed in the kernel's interface, whatever the timer does.
const TICKS_PER_SEC: u64 = 100;

/// One process, as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// Its parent's.
    pub parent_pid: u32,
    /// Real user id.
    pub uid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// Processor time used.
    pub cpu_usec: u64,
    /// Controlling terminal, or empty.
    pub terminal: String,
    /// Program and arguments; the name in brackets if it has none.
    pub command: Vec<String>,
}

/// Describes processes; one that has ended meanwhile is left out.
pub(crate) fn describe(pids: &[u32]) -> Vec<ProcessInfo> {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot_time(&stat).unwrap_or(Timestamp::UNIX_EPOCH);
    pids.iter().filter_map(|pid| process(*pid, boot)).collect()
}

/// How long ago a process started, whatever the time of day was set to meanwhile.
pub(crate) fn age(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start_ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let up_secs: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let up = Duration::try_from_secs_f64(up_secs).ok()?;
    Some(up.saturating_sub(Duration::from_millis(start_ticks.saturating_mul(1000 / TICKS_PER_SEC))))
}

fn process(pid: u32, boot: Timestamp) -> Option<ProcessInfo> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}"));
    let stat = String::from_utf8_lossy(&read("stat").ok()?).into_owned();
    let status = String::from_utf8_lossy(&read("status").ok()?).into_owned();
    parse(pid, boot, &stat, &status, &read("cmdline").ok()?)
}

/// The name in `stat` stands in parentheses and may itself hold some: what follows the last one
/// counts.
fn parse(
    pid: u32,
    boot: Timestamp,
    stat: &str,
    status: &str,
    cmdline: &[u8],
) -> Option<ProcessInfo> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    // Field 3 of proc(5), the state, is the first here.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    let start_ticks = field(22)?;
    let started = SignedDuration::from_millis(
        i64::try_from(start_ticks.saturating_mul(1000 / TICKS_PER_SEC)).ok()?,
    );
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let mut command: Vec<String> = cmdline
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    command.pop();
    if command.is_empty() {
        command.push(format!("[{name}]"));
    }
    Some(ProcessInfo {
        pid,
        parent_pid: u32::try_from(field(4)?).ok()?,
        uid,
        started_at: boot.checked_add(started).ok()?,
        cpu_usec: (field(14)? + field(15)?) * (1_000_000 / TICKS_PER_SEC),
        terminal: terminal(fields.get(4)?.parse().ok()?),
        command,
    })
}

/// Names a terminal by its device number: pseudo-terminals are majors 136 to 143, with 256 minors
/// in the lowest octet and more above bit 20.
fn terminal(device: i64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => String::new(),
    }
}

fn boot_time(stat: &str) -> Option<Timestamp> {
    let secs = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(secs).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ages_by_the_clock_that_nobody_sets() {
        let own = age(std::process::id()).expect("this process");
        let first = age(1).expect("the first process");

        assert!(own <= first, "{own:?} {first:?}");
        assert_eq!(age(u32::MAX), None);
    }

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b ( c) S 1 7 7 34817 7 0 0 0 0 0 150 50 0 0 20 0 1 0 300 0 0\n";
        let status = "Name:\tx\nUid:\t589824\t0\t0\t0\n";
        let boot = Timestamp::from_second(1000).unwrap();

        let process = parse(7, boot, stat, status, b"sh\0-c\0\0").unwrap();

        assert_eq!((process.parent_pid, process.uid, process.cpu_usec), (1, 589_824, 2_000_000));
        assert_eq!(process.started_at, Timestamp::from_second(1003).unwrap());
        assert_eq!(process.terminal, "pts/1");
        assert_eq!(process.command, ["sh", "-c", ""]);
    }

    #[test]
    fn a_process_without_arguments_has_its_name_in_brackets() {
        let stat = "7 (worker) S 2 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n";

        let process = parse(7, Timestamp::UNIX_EPOCH, stat, "Uid:\t0\n", b"").unwrap();

        assert_eq!((process.command, process.terminal), (vec!["[worker]".into()], String::new()));
    }

    #[test]
    fn this_process_is_described_and_one_that_is_gone_is_left_out() {
        let processes = describe(&[std::process::id(), u32::MAX]);

        assert_eq!(processes.len(), 1);
        assert!(processes[0].started_at <= Timestamp::now());
    }
}
