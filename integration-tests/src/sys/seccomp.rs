//! The supervisor's end of a system call filter (seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::unistd::Pid;

/// A system call that waits for its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Names the call, as long as it waits.
    pub id: u64,
    /// Who makes it.
    pub pid: Pid,
}

/// Waits for the next system call that the supervisor is to decide about.
///
/// # Errors
/// `ENOENT` if a call was given up before it was looked at: the next may be asked for.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // SAFETY: all fields are integers, for which zero is a valid value, and the kernel wants zeros.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
    // SAFETY: the descriptor is borrowed, so open; the kernel writes one such structure, whose size is
    // part of the request, into one that is ours and outlives the call.
    let ret = unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw mut notification) };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = Pid::from_raw(notification.pid.cast_signed());
    Ok(Notification { id: notification.id, pid })
}

/// Whether the call still waits for an answer.
#[must_use]
pub fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    let request = libc::SECCOMP_IOCTL_NOTIF_ID_VALID;
    // SAFETY: the descriptor is open, and the kernel reads one number that outlives the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw const id) == 0 }
}

/// Lets the call return `value`.
///
/// # Errors
/// `ENOENT` if it does not wait any more.
pub fn answer(listener: BorrowedFd<'_>, id: u64, value: i64) -> io::Result<()> {
    let response = libc::seccomp_notif_resp { id, val: value, error: 0, flags: 0 };
    let request = libc::SECCOMP_IOCTL_NOTIF_SEND;
    // SAFETY: the descriptor is open; the kernel reads one such structure, whose size is part of the
    // request, and it outlives the call.
    let ret = unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw const response) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
