//! Removing a cgroup, with what the container made below it.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Cgroup;
use super::dir::{Dir, errno_of};
use super::error::CgroupError;

/// A process that was killed holds its cgroup until the kernel has taken it apart, which can mean
/// freeing gigabytes of memory.
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_micros(250);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Deeper than a container can have made by accident; a bound for the recursion.
const DEPTH_MAX: usize = 256;

impl Cgroup {
    /// Removes the cgroup from every hierarchy, and all cgroups below it. Waits for processes that
    /// are dying, but kills none. What does not exist is removed already.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] if processes still live there after ten seconds. With systemd,
    /// processes are killed, and [`CgroupError::Systemd`] is an error too.
    pub fn destroy(&self) -> Result<(), CgroupError> {
        if let Some(unit) = &self.saved.unit {
            unit.stop()?;
        }
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut remaining: Vec<&Path> = self.groups().map(|group| group.dir.as_path()).collect();
        loop {
            let mut failure = None;
            remaining.retain(|dir| match remove_tree(dir, 0) {
                Ok(()) => false,
                Err(errno) => {
                    failure = Some(CgroupError::Remove { dir: (*dir).into(), errno });
                    true
                }
            });
            let Some(failure) = failure else { return Ok(()) };
            if failure.errno() != Some(Errno::EBUSY) || started.elapsed() > DEADLINE {
                return Err(failure);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Removes one directory that has nothing below it.
pub(super) fn remove_empty(dir: &Path) -> Result<(), Errno> {
    match std::fs::remove_dir(dir).map_err(errno_of) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Removes a directory and those below it, from the bottom up.
fn remove_tree(dir: &Path, depth: usize) -> Result<(), Errno> {
    match remove_empty(dir) {
        Err(Errno::EBUSY | Errno::ENOTEMPTY) if depth < DEPTH_MAX => {}
        outcome => return outcome,
    }
    let children = match Dir::open_existing(dir) {
        Ok(Some(open)) => open.children().map_err(|error| error.errno().unwrap_or(Errno::EIO))?,
        Ok(None) => return Ok(()),
        Err(error) => return Err(error.errno().unwrap_or(Errno::EIO)),
    };
    if children.is_empty() {
        return Err(Errno::EBUSY);
    }
    for child in children {
        remove_tree(&dir.join(child), depth + 1)?;
    }
    remove_empty(dir)
}
