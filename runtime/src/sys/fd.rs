//! Descriptors: which of them survive execve(2), and taking over inherited ones.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Marks every descriptor from `first` upward close-on-exec. See close_range(2).
///
/// # Errors
/// `ENOSYS` before Linux 5.9, `EINVAL` before 5.11.
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: the call takes integers only, and with CLOEXEC it closes nothing in this process,
    // so every live `OwnedFd` stays valid.
    let ret =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if ret == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// Closes every descriptor from `first` upward but those in `keep`. See close_range(2).
///
/// Only for a process that was cloned and never returns into the frames that it was cloned in:
/// descriptors that are owned there are closed under their owners.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_all_but(first: u32, keep: &mut [u32]) -> Result<(), Errno> {
    keep.sort_unstable();
    let mut start = first;
    for fd in keep.iter().copied().filter(|fd| *fd >= first).chain([u32::MAX]) {
        if let Some(end) = fd.checked_sub(1).filter(|end| *end >= start) {
            close_range(start, end)?;
        }
        start = fd.saturating_add(1);
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: the call takes integers only. The owners of what it closes are in frames to which the
    // caller promises never to return, so none of them uses or closes its descriptor again.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if ret == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// Returns whether a descriptor is open that execve(2) would leave open: as the program opens its own
/// close-on-exec, whoever started it has opened this one. See fcntl(2).
#[must_use]
pub fn is_inherited(fd: u32) -> bool {
    // SAFETY: F_GETFD reads a flag of the table entry; a number that is not open, or none at all, fails
    // with EBADF.
    let flags = unsafe { libc::fcntl(fd.cast_signed(), libc::F_GETFD) };
    flags != -1 && flags & libc::FD_CLOEXEC == 0
}

/// Returns whether a descriptor is open at all. See fcntl(2).
#[must_use]
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD reads a flag of the table entry; a number that is not open fails with EBADF.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// Sets or clears close-on-exec on a descriptor given by number. See fcntl(2).
///
/// # Errors
/// `EBADF` if no such descriptor is open.
pub fn set_cloexec(fd: RawFd, cloexec: bool) -> Result<(), Errno> {
    let flag = if cloexec { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: F_SETFD takes an integer and changes a flag of the table entry only; a number that
    // is not open fails with EBADF.
    let ret = unsafe { libc::fcntl(fd, libc::F_SETFD, flag) };
    if ret == -1 { Err(Errno::last()) } else { Ok(()) }
}

/// Opens `/dev/null` in the place of the standard streams that are closed: what is opened later would
/// be taken for them.
///
/// # Errors
/// The kernel's.
pub fn fill_standard_streams() -> Result<(), Errno> {
    for fd in 0..3 {
        if !is_open(fd) {
            // SAFETY: the path is a constant that ends in NUL. The call gives the lowest number that is
            // free, which is `fd`, and nobody owns that: it stays open as the stream it stands for.
            Errno::result(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) })?;
        }
    }
    Ok(())
}

/// Takes over a descriptor that a call has just returned, or the caller of this program has passed, as a bare number.
///
/// # Panics
/// If `fd` is negative, which no successful call returns.
#[must_use]
pub fn take(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "not a descriptor: {fd}");
    // SAFETY: the callers pass numbers that the environment has given to this program for this one use, or that
    // accept4(2), recvmsg(2) or inotify have just returned to
    // them and that they keep nowhere else, so this is the only owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
