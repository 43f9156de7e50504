//! A process that is remembered from one command to the next.

use std::io::Read as _;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process, by a number and by the time at which it started: together they are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedProcess {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (proc(5), field 22 of stat).
    pub start_ticks: u64,
}

impl SavedProcess {
    /// Looks a living process up.
    ///
    /// # Errors
    /// `ESRCH` if there is none.
    pub fn of(pid: Pid) -> Result<Self, Errno> {
        let stat = ProcessStat::read(pid).ok_or(Errno::ESRCH)?;
        Ok(Self { pid: pid.as_raw(), start_ticks: stat.start_ticks })
    }

    /// Returns whether this very process lives; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        ProcessStat::read(Pid::from_raw(self.pid))
            .is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_dead)
    }

    /// Opens a descriptor of this very process.
    ///
    /// # Errors
    /// `ESRCH` if it is gone, also if another process has its number.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        let pid = rustix::process::Pid::from_raw(self.pid).ok_or(Errno::ESRCH)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
        // The number was taken before the look, so the look tells about the descriptor.
        if self.is_alive() { Ok(pidfd) } else { Err(Errno::ESRCH) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProcessStat {
    is_dead: bool,
    start_ticks: u64,
}

impl ProcessStat {
    fn read(pid: Pid) -> Option<Self> {
        // One line, of some fifty numbers and a name of at most 64 bytes.
        let mut line = [0; 2048];
        let mut file = std::fs::File::open(format!("/proc/{pid}/stat")).ok()?;
        let length = file.read(&mut line).ok()?;
        Self::parse(line.get(..length)?)
    }

    /// The name in parentheses may hold anything, parentheses and spaces included.
    fn parse(stat: &[u8]) -> Option<Self> {
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
        let state = fields.next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { is_dead: matches!(state, "Z" | "X" | "x"), start_ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_hide_the_start_time() {
        let tail = "Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 777 21";
        let stat = format!("12 (a) b) (c) {tail}");

        let parsed = ProcessStat::parse(stat.as_bytes());

        assert_eq!(parsed, Some(ProcessStat { is_dead: true, start_ticks: 19 }));
        assert_eq!(ProcessStat::parse(b"no parenthesis"), None);
    }

    #[test]
    fn a_recycled_number_is_another_process() {
        let own = SavedProcess::of(Pid::this()).unwrap();
        let recycled = SavedProcess { start_ticks: own.start_ticks - 1, ..own };

        assert!(own.is_alive() && own.open().is_ok());
        assert!(!recycled.is_alive());
        assert_eq!(recycled.open().unwrap_err(), Errno::ESRCH);
    }
}
