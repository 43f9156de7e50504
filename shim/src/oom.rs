//! Notices when a container runs out of memory.
//!
//! v1: an eventfd that the kernel signals for `memory.oom_control`; v2: inotify on `memory.events`.
//! Both are quiet until it happens. A cgroup without a memory controller is not watched.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cgroup::Cgroups;
use crate::stdio::nonblocking;

/// Watches one cgroup.
#[derive(Debug)]
pub(crate) struct OomWatch {
    /// The file that counts kills: `oom_kill N` is a line in both versions.
    counter: PathBuf,
    notices: AsyncFd<OwnedFd>,
    /// Whether a notice comes for other things too, after they were counted (v2). In v1 it comes
    /// for lack of memory only, and before the kernel has counted whom it kills.
    must_count: bool,
}

/// Why the cgroup is not watched.
#[derive(Debug, thiserror::Error)]
#[error("watch {path:?} for lack of memory")]
pub(crate) struct OomError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl OomWatch {
    /// Starts to watch; `None` if there is no memory controller.
    pub(crate) fn new(cgroups: &Cgroups) -> Result<Option<Self>, OomError> {
        let (counter, opened, must_count) = if let Some(dir) = cgroups.v1("memory") {
            let counter = dir.join("memory.oom_control");
            let opened = watch_v1(dir, &counter);
            (counter, opened, false)
        } else if let Some(counter) = cgroups.v2.as_ref().map(|dir| dir.join("memory.events"))
            && counter.exists()
        {
            let opened = watch_v2(&counter);
            (counter, opened, true)
        } else {
            return Ok(None);
        };
        match opened.and_then(nonblocking) {
            Ok(notices) => Ok(Some(Self { counter, notices, must_count })),
            Err(source) => Err(OomError { path: counter, source }),
        }
    }

    /// How many processes the kernel killed, as far as it still knows.
    pub(crate) fn kills(&self) -> u64 {
        fs::read_to_string(&self.counter).map_or(0, |text| count(&text))
    }

    /// Waits until memory ran out; `false` when the cgroup is gone.
    pub(crate) async fn next(&self) -> bool {
        let mut notice = [0; 512];
        loop {
            let read = |fd: &OwnedFd| Ok(nix::unistd::read(fd, &mut notice)?);
            if self.notices.async_io(Interest::READABLE, read).await.is_err() {
                return false;
            }
            // The removal of a cgroup is signalled too.
            let Ok(text) = fs::read_to_string(&self.counter) else { return false };
            if !self.must_count || count(&text) > 0 {
                return true;
            }
        }
    }
}

fn count(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn watch_v1(dir: &Path, counter: &Path) -> io::Result<OwnedFd> {
    let notices = eventfd(0, EventfdFlags::CLOEXEC)?;
    let control = File::open(counter)?;
    let registration = format!("{} {}", notices.as_raw_fd(), control.as_raw_fd());
    fs::write(dir.join("cgroup.event_control"), registration)?;
    Ok(notices)
}

fn watch_v2(counter: &Path) -> io::Result<OwnedFd> {
    let notices = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&notices, counter, inotify::WatchFlags::MODIFY)?;
    Ok(notices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_versions() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(count("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(count("oom_kill_disable 0\nunder_oom 1\n"), 0);
    }
}
