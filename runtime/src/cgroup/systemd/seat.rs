//! A process that holds a place in a cgroup until somebody else is there.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pause};

use crate::sys::clone::{Cloned, Kinship, clone_alone};
use crate::sys::process::{exit_now, kill_by_pidfd};

/// A process that does nothing; it ends with this value, and with the process that made it.
#[derive(Debug)]
pub(in super::super) struct Seat {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Seat {
    /// Makes the process.
    ///
    /// # Errors
    /// `ENOTSUP` if this process has more than one thread, and what clone3(2) says.
    pub(in super::super) fn take() -> Result<Self, Errno> {
        let parent = nix::unistd::getpid();
        match clone_alone(0, Kinship::Child, None)? {
            Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd }),
            Cloned::Child => {
                let armed = set_pdeathsig(Signal::SIGKILL);
                // The parent may have ended before it was watched.
                while armed.is_ok() && nix::unistd::getppid() == parent {
                    pause();
                }
                exit_now(0)
            }
        }
    }

    /// Its number, for systemd.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // It is our child and ends by this signal; if it is gone already, all the better.
        let _ = kill_by_pidfd(&self.pidfd);
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}
