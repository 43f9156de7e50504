//! seccomp(2): loading a filter, and asking what the kernel offers.

use std::os::fd::{FromRawFd as _, OwnedFd};

use nix::errno::Errno;

/// One instruction of classic BPF: `struct sock_filter`.
pub use libc::sock_filter as Instruction;

/// The kernel takes no longer programs (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Flags of a filter. See seccomp(2).
pub mod flag {
    /// Apply the filter to all threads.
    pub const TSYNC: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_TSYNC;
    /// Log what is not allowed.
    pub const LOG: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_LOG;
    /// Leave speculative store bypass enabled.
    pub const SPEC_ALLOW: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    /// Return a descriptor on which a supervisor is notified.
    pub const NEW_LISTENER: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    /// Report a thread that cannot be synchronised by `ESRCH`; needed for both of the above at once.
    pub const TSYNC_ESRCH: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    /// Let only fatal signals interrupt a process whose notification was received (Linux 5.19).
    pub const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
}

/// Loads a filter for this process. With [`flag::NEW_LISTENER`] the result is the descriptor on which
/// a supervisor receives notifications.
///
/// # Errors
/// `EACCES` if the process has neither no_new_privs nor CAP_SYS_ADMIN, `EINVAL` for a program or a
/// flag that the kernel does not take, `ENOMEM` if all filters together are too long.
pub fn load(program: &[Instruction], flags: libc::c_ulong) -> Result<Option<OwnedFd>, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions at `filter`, which is the length of the borrowed
    // slice, and copies them before it returns; it writes nothing there, in spite of the pointer's type.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    };
    let result = Errno::result(result)?;
    if flags & flag::NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = libc::c_int::try_from(result).map_err(|_| Errno::EBADF)?;
    // SAFETY: with NEW_LISTENER a successful call returns a descriptor that it has just opened, of
    // which nobody else knows.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether the kernel knows all of these flags.
pub fn knows_flags(flags: libc::c_ulong) -> bool {
    // SAFETY: with a null program the call fails before it changes anything: with EFAULT where it
    // got past the flags, with EINVAL where it did not.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    Errno::result(result) == Err(Errno::EFAULT)
}

/// Whether the kernel knows a filter's action.
pub fn knows_action(action: u32) -> bool {
    // SAFETY: the kernel reads one u32 at the address of a local that lives across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            std::ptr::from_ref(&action),
        )
    };
    result == 0
}
