//! Ends CRIU if this process is killed while CRIU waits to be asked for memory.
//!
//! ```text
//! runtime ──pipe──▶ guard ──SIGKILL──▶ criu, at its port
//!    └── is killed: the pipe ends          or it ends: so does the guard
//! ```
//!
//! Until then nothing of the kind is needed: CRIU asks at each step, and undoes what it did if nobody
//! answers. Once it serves memory it asks no more, and would keep its port, and the container
//! frozen, for ever. A signal at the parent's death would not do: it cannot be told from outside when it
//! begins, and CRIU must not die while its code is in the container's processes.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::sys::clone::{Cloned, Kinship, clone_alone};
use crate::sys::fd::close_all_but;
use crate::sys::process::{exit_now, kill_by_pidfd};

/// A process that watches this one and CRIU.
#[derive(Debug)]
pub(super) struct Guard {
    pid: Pid,
    /// Ends with this process, however that ends.
    alive: Option<OwnedFd>,
}

impl Guard {
    /// Begins to watch; `criu` is a child that has not been waited for.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn of(criu: Pid) -> Result<Self, Errno> {
        let raw = rustix::process::Pid::from_raw(criu.as_raw()).ok_or(Errno::ESRCH)?;
        let criu = pidfd_open(raw, PidfdFlags::empty())
            .map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        let (end, alive) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        match clone_alone(0, Kinship::Child, None)? {
            Cloned::Parent { pid, .. } => Ok(Self { pid, alive: Some(alive) }),
            Cloned::Child => stand(&end, &criu),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.alive.take());
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

/// The guard's life.
fn stand(parent: &OwnedFd, criu: &OwnedFd) -> ! {
    // Whoever reads what the runtime writes must not wait for the guard.
    let mut keep = [parent, criu].map(|fd| fd.as_raw_fd().cast_unsigned());
    let _ = close_all_but(0, &mut keep);
    let mut both = [parent, criu].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
    while poll(&mut both, PollTimeout::NONE) == Err(Errno::EINTR) {}
    // If CRIU has ended this reaches nobody: the descriptor names no other process.
    let _ = kill_by_pidfd(criu);
    exit_now(0)
}
