//! Who is in a cgroup, and how all of them are signalled at once.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::dir::Dir;
use super::error::CgroupError;
use super::{Cgroup, FreezerState, SavedGroup};

/// Without a freezer, processes can fork while they are killed: at some point a fork bomb has won.
const KILL_ROUNDS_MAX: u32 = 100;
/// Deeper than a container can have made by accident; a bound for the recursion.
const DEPTH_MAX: usize = 256;

impl Cgroup {
    /// All processes of the container, those in cgroups below its own included, in the order of
    /// their ids; none if the cgroup is gone.
    ///
    /// # Errors
    /// [`CgroupError::Read`] if the kernel does not tell.
    pub fn pids(&self) -> Result<Vec<Pid>, CgroupError> {
        let mut pids = Vec::new();
        if let Some(group) = self.census()
            && let Some(dir) = Dir::open_existing(&group.dir)?
        {
            collect(&dir, &mut pids, 0)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Sends a signal to all processes of the container.
    ///
    /// A frozen container stays frozen, and gets the signal when it is thawed, unless it is killed.
    ///
    /// # Errors
    /// [`CgroupError::Signal`] if one of them cannot be signalled; those that ended meanwhile are
    /// no error.
    pub fn kill_all(&self, signal: Signal) -> Result<(), CgroupError> {
        let killed_by_v2 = signal == Signal::SIGKILL && self.kill_by_v2()?;
        if killed_by_v2 && self.saved.v1.is_empty() {
            return Ok(());
        }
        let was = self.freezer_state()?;
        let frozen = was == FreezerState::Frozen || self.freeze().is_ok();
        let outcome = self.signal_each(signal, frozen);
        // v1 lets a killed process die only when it is thawed.
        if frozen && (was == FreezerState::Thawed || signal == Signal::SIGKILL) {
            match self.thaw() {
                Err(CgroupError::NoFreezer) => {}
                thawed => outcome.and(thawed)?,
            }
            return Ok(());
        }
        outcome
    }

    /// Kills by the kernel's own means (Linux 5.14), from which no fork escapes.
    fn kill_by_v2(&self) -> Result<bool, CgroupError> {
        let Some(group) = &self.saved.v2 else { return Ok(false) };
        let Some(dir) = Dir::open_existing(&group.dir)? else { return Ok(true) };
        match dir.try_write("cgroup.kill", "1") {
            Ok(()) | Err(Errno::ENODEV) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(dir.write_error("cgroup.kill", "1", errno)),
        }
    }

    fn signal_each(&self, signal: Signal, frozen: bool) -> Result<(), CgroupError> {
        let mut before = Vec::new();
        for _ in 0..KILL_ROUNDS_MAX {
            let pids = self.pids()?;
            for &pid in &pids {
                match kill(pid, signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => {
                        return Err(CgroupError::Signal {
                            signal: signal as i32,
                            pid: pid.as_raw(),
                            errno,
                        });
                    }
                }
            }
            // One round reaches all who stand still; otherwise until nobody new has come.
            if frozen || signal != Signal::SIGKILL || pids.iter().all(|pid| before.contains(pid)) {
                break;
            }
            before = pids;
        }
        Ok(())
    }

    /// The hierarchy that is asked who is there: any would do, since a container's processes can
    /// move only below their own cgroup.
    fn census(&self) -> Option<&SavedGroup> {
        ["freezer", "pids", "devices", "memory"]
            .iter()
            .find_map(|controller| self.v1_group(controller))
            .or(self.saved.v2.as_ref())
            .or(self.saved.v1.first())
    }
}

fn collect(dir: &Dir, pids: &mut Vec<Pid>, depth: usize) -> Result<(), CgroupError> {
    // A threaded cgroup of v2 has no list of processes (EOPNOTSUPP): its parent lists them.
    if let Some(text) = dir.read_if_present("cgroup.procs")? {
        for line in text.lines() {
            let pid =
                line.parse().map_err(|_| dir.parse_error("cgroup.procs", line, "process id"))?;
            // Zero stands for a process that our PID namespace cannot see.
            if pid != 0 {
                pids.push(Pid::from_raw(pid));
            }
        }
    }
    if depth == DEPTH_MAX {
        return Ok(());
    }
    let children = match dir.children() {
        Err(CgroupError::Read { errno: Errno::ENOENT | Errno::ENODEV, .. }) => return Ok(()),
        children => children?,
    };
    for name in children {
        if let Some(child) = Dir::open_existing(&dir.path().join(name))? {
            collect(&child, pids, depth + 1)?;
        }
    }
    Ok(())
}
