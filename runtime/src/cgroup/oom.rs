//! Being told when a container runs out of memory.
//!
//! v1 signals an eventfd, at an out-of-memory condition and once more when the cgroup is removed. v2
//! counts in `memory.events`, and wakes whoever polls that file; a removed cgroup wakes too.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Cgroup;
use super::dir::Dir;
use super::error::CgroupError;

/// A watch over one container's memory.
#[derive(Debug)]
pub struct OomWatch {
    dir: Dir,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The kernel counts into the eventfd as long as it is registered; the control file stays open
    /// with it.
    V1 { event: EventFd, _control: OwnedFd },
    /// `seen` counts the processes that were killed for lack of memory.
    V2 { events: OwnedFd, seen: u64 },
}

/// What a watch saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomNotice {
    /// The container ran out of memory.
    OutOfMemory,
    /// The cgroup was removed: nothing will come any more.
    Gone,
    /// Nothing, for as long as was asked to wait.
    Nothing,
}

impl Cgroup {
    /// Watches for the container running out of memory.
    ///
    /// # Errors
    /// [`CgroupError::ControllerAbsent`] where memory is not controlled.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        if let Some(group) = self.v1_group("memory") {
            return OomWatch::v1(Dir::open(&group.dir)?);
        }
        if let Some(group) = &self.saved.v2 {
            let dir = Dir::open(&group.dir)?;
            if dir.has(EVENTS) {
                return OomWatch::v2(dir);
            }
        }
        Err(CgroupError::ControllerAbsent { controller: "memory", field: "memory" })
    }
}

const CONTROL: &str = "memory.oom_control";
const REGISTER: &str = "cgroup.event_control";
const EVENTS: &str = "memory.events";

impl OomWatch {
    fn v1(dir: Dir) -> Result<Self, CgroupError> {
        use std::os::fd::AsRawFd as _;
        let failed = |errno| CgroupError::Read { file: dir.path().join(CONTROL), errno };
        let event =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
        let control = dir.open_for_read(CONTROL)?;
        let registration = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
        dir.write(REGISTER, &registration)?;
        Ok(Self { dir, source: Source::V1 { event, _control: control } })
    }

    fn v2(dir: Dir) -> Result<Self, CgroupError> {
        let events = dir.open_for_read(EVENTS)?;
        let seen = parse_kills(&dir.read(EVENTS)?);
        Ok(Self { dir, source: Source::V2 { events, seen } })
    }

    /// What to poll, and for what, in a loop that waits for other things too.
    pub fn poll_fd(&self) -> PollFd<'_> {
        match &self.source {
            Source::V1 { event, .. } => PollFd::new(event.as_fd(), PollFlags::POLLIN),
            Source::V2 { events, .. } => PollFd::new(borrowed(events), PollFlags::POLLPRI),
        }
    }

    /// Waits for a notice. What happened since the last call is told at once.
    ///
    /// # Errors
    /// [`CgroupError::Read`] if the kernel does not tell.
    pub fn wait(&mut self, timeout: Duration) -> Result<OomNotice, CgroupError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [self.poll_fd()], timeout) {
                // v2 wakes for other counts too, such as that a limit was touched.
                Ok(1..) => match self.look()? {
                    OomNotice::Nothing => {}
                    notice => return Ok(notice),
                },
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(CgroupError::Read { file: self.dir.path().into(), errno });
                }
            }
            if left.is_zero() {
                return Ok(OomNotice::Nothing);
            }
        }
    }

    fn look(&mut self) -> Result<OomNotice, CgroupError> {
        match &mut self.source {
            Source::V1 { event, .. } => match event.read() {
                Ok(_) if !self.dir.has(REGISTER) => Ok(OomNotice::Gone),
                Ok(_) => Ok(OomNotice::OutOfMemory),
                Err(Errno::EAGAIN) => Ok(OomNotice::Nothing),
                Err(errno) => Err(CgroupError::Read { file: self.dir.path().join(CONTROL), errno }),
            },
            Source::V2 { seen, .. } => {
                let Some(text) = self.dir.read_if_present(EVENTS)? else {
                    return Ok(OomNotice::Gone);
                };
                let kills = parse_kills(&text);
                let more = kills > *seen;
                *seen = kills;
                Ok(if more { OomNotice::OutOfMemory } else { OomNotice::Nothing })
            }
        }
    }
}

fn borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    fd.as_fd()
}

fn parse_kills(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_by_their_name() {
        assert_eq!(parse_kills("low 1\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"), 5);
        assert_eq!(parse_kills("oom_group_kill 6\n"), 0);
    }
}
