//! clone3(2): one call that makes a process with all its namespaces, inside its cgroup.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// `CLONE_INTO_CGROUP`, which the libc crate declares with a type too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which of the two processes returned from [`clone_alone`].
#[derive(Debug)]
pub enum Cloned {
    /// The caller; `pidfd` names the child without the danger of a recycled number.
    Parent {
        /// The child's number in the caller's PID namespace.
        pid: Pid,
        /// A close-on-exec descriptor of the child.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// Whose child the new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinship {
    /// The caller's.
    Child,
    /// The caller's parent's: a sibling of the caller.
    Sibling,
}

/// Makes a process in new namespaces (`namespaces`: an or of `CLONE_NEW*`), and, if `cgroup` is a
/// cgroup v2 directory, inside that cgroup from its first instant. See clone3(2).
///
/// The child is a copy of the caller, as after fork(2): no memory is shared.
///
/// # Errors
/// The kernel's; notably `EPERM` without the privilege for a namespace, `ENOSPC` where a limit of
/// `/proc/sys/user` is reached, `EBUSY` if `cgroup` hands controllers to its children.
///
/// `ENOTSUP` if the process has more than one thread: a lock that another thread holds would stay
/// locked in the child for ever.
pub fn clone_alone(
    namespaces: u64,
    kinship: Kinship,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, Errno> {
    if !is_single_threaded() {
        return Err(Errno::ENOTSUP);
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: `clone_args` consists of integers only, for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    match kinship {
        Kinship::Child => args.exit_signal = libc::SIGCHLD as u64,
        // The kernel wants no signal here: it copies the one of the caller.
        Kinship::Sibling => args.flags |= libc::CLONE_PARENT as u64,
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` and `pidfd` outlive the call and are of the size stated. No stack is given
    // and CLONE_VM is not among the flags, so the child runs on its own copy of this stack. The
    // process has a single thread, as was just checked, so no lock is held by another.
    let ret =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match ret {
        -1 => Err(Errno::last()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: CLONE_PIDFD was asked for and the call succeeded, so `pidfd` holds a new
            // descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?);
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Returns whether the caller has a single thread: the directory of its threads has a link for each
/// of them, beside its own two.
fn is_single_threaded() -> bool {
    nix::sys::stat::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink <= 3)
}
