//! Properties of the calling process that a container's process is given.

use std::ffi::CStr;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::resource::Resource;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;

/// The argument of sched_setattr(2), version 1 (Linux 5.3, with utilisation clamps).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SchedAttr {
    /// Size of this structure in bytes.
    pub size_bytes: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value of `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// Priority of `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds; `SCHED_DEADLINE`.
    pub runtime_nsec: u64,
    /// Nanoseconds; `SCHED_DEADLINE`.
    pub deadline_nsec: u64,
    /// Nanoseconds; `SCHED_DEADLINE`.
    pub period_nsec: u64,
}

fn check(ret: libc::c_long) -> Result<libc::c_long, Errno> {
    if ret == -1 { Err(Errno::last()) } else { Ok(ret) }
}

/// Sets the scheduling policy of the calling thread. See sched_setattr(2).
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE, `EINVAL` for an inconsistent request.
pub fn sched_setattr(attr: &SchedAttr) -> Result<(), Errno> {
    let mut attr = *attr;
    attr.size_bytes = u32::try_from(size_of::<SchedAttr>()).map_err(|_| Errno::E2BIG)?;
    // SAFETY: `attr` outlives the call and states its own size, which is that of the version 0
    // structure that every kernel since 3.14 reads.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })?;
    Ok(())
}

/// Sets the I/O priority of the calling thread: a class in bits 13 to 15, data below. See
/// ioprio_set(2).
///
/// # Errors
/// `EPERM` without the privilege that the real-time class needs.
pub fn ioprio_set(value: libc::c_int) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: the call takes integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })?;
    Ok(())
}

/// Sets the NUMA memory policy of the calling thread. `nodes` is a bit mask, lowest node first.
/// See set_mempolicy(2).
///
/// # Errors
/// `EINVAL` for a node that does not exist or an empty mask where one is needed.
pub fn set_mempolicy(mode_and_flags: libc::c_int, nodes: &[u64]) -> Result<(), Errno> {
    let bits = nodes.len() * 64;
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // The kernel reads one bit less than it is told.
    let max_node = if bits == 0 { 0 } else { bits + 1 };
    // SAFETY: `mask` is null with a count of zero, or points to `bits` bits that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode_and_flags, mask, max_node) })?;
    Ok(())
}

/// Sets the CPUs that `pid` (0: the caller) may run on. See sched_setaffinity(2).
///
/// # Errors
/// `EINVAL` if no CPU of the mask exists or is allowed by the cpuset.
pub fn sched_setaffinity(pid: Pid, mask: &[u64]) -> Result<(), Errno> {
    // SAFETY: `mask` outlives the call and its size in bytes is stated.
    check(unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, pid.as_raw(), size_of_val(mask), mask.as_ptr())
    })?;
    Ok(())
}

/// Gives the calling process a fresh session keyring named `name`, with search permission for its
/// possessor's user. See keyctl(2).
///
/// # Errors
/// `ENOSYS` where the kernel has no key management, `EDQUOT` where the user has too many keys.
pub fn join_session_keyring(name: &CStr) -> Result<i32, Errno> {
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let id = check(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })?;
    i32::try_from(id).map_err(|_| Errno::EOVERFLOW)
}

/// Returns the permission mask of key `id` out of keyctl(2)'s description.
///
/// # Errors
/// `EACCES` or `ENOKEY`; `EINVAL` if the description cannot be read.
pub fn key_permissions(id: i32) -> Result<u32, Errno> {
    let mut description = [0_u8; 256];
    // SAFETY: the buffer outlives the call and its size is stated; the kernel writes no more.
    let length = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_DESCRIBE,
            id,
            description.as_mut_ptr(),
            description.len(),
        )
    })?;
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
    // "type;uid;gid;permissions;description", the permissions in hexadecimal.
    description
        .get(..length)
        .and_then(|bytes| bytes.split(|byte| *byte == b';').nth(3))
        .and_then(|field| std::str::from_utf8(field).ok())
        .and_then(|field| u32::from_str_radix(field, 16).ok())
        .ok_or(Errno::EINVAL)
}

/// Sets the permission mask of key `id`. See keyctl(2).
///
/// # Errors
/// `EACCES` if the caller may not.
pub fn set_key_permissions(id: i32, permissions: u32) -> Result<(), Errno> {
    // SAFETY: the call takes integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, id, permissions) })?;
    Ok(())
}

/// Sets a resource limit of `pid`. See prlimit(2).
///
/// # Errors
/// `EPERM` for a hard limit that only CAP_SYS_RESOURCE may raise, `ESRCH` if there is no process.
pub fn set_limit(pid: Pid, resource: Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call, which reads it and writes no old value to the null pointer.
    let ret = unsafe {
        libc::prlimit64(pid.as_raw(), resource as _, &raw const limit, std::ptr::null_mut())
    };
    Errno::result(ret).map(drop)
}

/// Sends SIGKILL to the process behind `pidfd`; one that has ended already is no error. See
/// pidfd_send_signal(2).
///
/// # Errors
/// `EPERM` if the caller may not.
pub fn kill_by_pidfd(pidfd: impl AsFd) -> Result<(), Errno> {
    signal_by_pidfd(pidfd, libc::SIGKILL).or_else(|errno| match errno {
        Errno::ESRCH => Ok(()),
        errno => Err(errno),
    })
}

/// Sends `signal`, a number, to the process behind `pidfd`: never to another that has got its
/// number. See pidfd_send_signal(2).
///
/// # Errors
/// `ESRCH` if the process has ended, `EPERM` if the caller may not, `EINVAL` for no signal.
pub fn signal_by_pidfd(pidfd: impl AsFd, signal: libc::c_int) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed and therefore open; a null `info` asks for the same
    // information that kill(2) would send.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, info, 0)
    })?;
    Ok(())
}

/// Gives each signal its default action, those that the C library keeps for itself (32 and 33) too. See
/// sigaction(2).
///
/// # Errors
/// None that is known: the two signals whose action cannot be changed are left out.
pub fn default_actions() -> Result<(), Errno> {
    /// `struct sigaction` of the kernel, as long as it is anywhere, and its `sigset_t`.
    const ACTION_BYTES: usize = 32;
    const SIGSET_BYTES: usize = 8;
    let default = [0_u64; ACTION_BYTES / size_of::<u64>()];
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        let old = std::ptr::null_mut::<u64>();
        // SAFETY: `default` is a whole kernel action of zeros, which is the default action without flags
        // and runs no code of this process; nothing is written back.
        check(unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, SIGSET_BYTES)
        })?;
    }
    Ok(())
}

/// Ignores `signal`. See sigaction(2).
///
/// # Errors
/// `EINVAL` for a signal whose action cannot be changed.
pub fn ignore(signal: Signal) -> Result<(), Errno> {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: an ignored signal runs no code of this process, so nothing is interrupted.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Ends the calling process at once: no destructor, no handler registered with atexit(3). For
/// cloned children, whose handlers belong to the parent. See _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: the call takes an integer and does not return; the process shares no memory.
    unsafe { libc::_exit(code) }
}
