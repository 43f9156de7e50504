//! What the meter asks of the kernel that no crate in use offers.
#![allow(unsafe_code, reason = "wait4(2) has no safe wrapper in use")]

use std::io;
use std::mem::MaybeUninit;
use std::process::Child;
use std::time::Duration;

/// What a process used, its awaited children included (getrusage(2)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Exit code, or 128 + signal.
    pub(crate) code: i32,
    /// Time on processors, user and system.
    pub(crate) cpu: Duration,
    /// Largest resident set of any one process, in KiB.
    pub(crate) peak_kib: i64,
}

/// Waits for `child` and returns what it used.
///
/// # Errors
/// `ECHILD` if it was waited for already.
pub(crate) fn wait_with_usage(child: &Child) -> io::Result<Usage> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: both pointers are to live locals of the types that wait4 writes; `pid` is our child's,
    // which std has not waited for, since `Child` is borrowed and only we wait.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    if reaped < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: wait4 returned a pid, and then it has filled the structure.
    let usage = unsafe { usage.assume_init() };
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    };
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.unsigned_abs())
            + Duration::from_micros(value.tv_usec.unsigned_abs())
    };
    Ok(Usage { code, cpu: time(usage.ru_utime) + time(usage.ru_stime), peak_kib: usage.ru_maxrss })
}
