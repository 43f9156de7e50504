//! Kernel and libc calls that neither nix nor rustix wraps: the only unsafe code of the shim.

mod spawn;

use std::ffi::c_int;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use spawn::{Passed, Program, spawn};

/// Copies this process. Returns the copy's number, and in the copy `None`.
///
/// # Errors
/// `EAGAIN` or `ENOMEM` where no further process may be.
pub(crate) fn fork() -> io::Result<Option<u32>> {
    // SAFETY: the process has one thread (no event loop has been made yet), so the copy lacks no
    // thread that could hold a lock, and may do whatever this process may.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid => u32::try_from(pid).map(Some).map_err(|_| io::Error::last_os_error()),
    }
}

/// Registers a descriptor with the event loop, which then owns it.
///
/// # Errors
/// `EPERM` for files that cannot be waited for, such as regular ones.
pub(crate) fn watch_descriptor(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, names one description and closes only when it is dropped, which
    // happens no sooner than the `AsyncFd`'s drop: the shim never calls `get_mut` on one.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1)
}

/// The eventfd that [`on_child`] signals; -1 before there is one. It is never closed.
static CHILD_NOTICES: AtomicI32 = AtomicI32::new(-1);

/// Returns a descriptor that becomes readable when a child has ended.
///
/// By hand, since the signal driver of the event loop keeps a channel for each of the 64 signals,
/// which is more memory than anything else an idle shim has. Nothing is blocked: children inherit
/// what the shim was started with.
///
/// # Errors
/// What eventfd(2) or sigaction(2) answers.
pub(crate) fn notices_of_children() -> io::Result<OwnedFd> {
    let notices = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    CHILD_NOTICES.store(notices.try_clone()?.into_raw_fd(), Ordering::Release);
    // SAFETY: all fields of the structure are integers or optional pointers, for which zero is a
    // valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_child as *const () as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
    // SAFETY: `action` is initialized and outlives the call, the old action is not asked for, and
    // the handler does nothing that is forbidden in one.
    let ret = unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) };
    if ret == 0 { Ok(notices) } else { Err(io::Error::last_os_error()) }
}

/// Handles SIGCHLD, possibly in the middle of anything.
extern "C" fn on_child(_signal: c_int) {
    let one = 1_u64;
    // SAFETY: returns the address of this thread's errno, which lives as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address is valid, see above; the interrupted code must find what it left there.
    let saved = unsafe { *errno };
    let target = CHILD_NOTICES.load(Ordering::Acquire);
    // SAFETY: write(2) may be called in a handler; it reads eight initialized octets. The
    // descriptor was stored before the handler was installed and is never closed. The counter is
    // full only when it is readable anyway.
    unsafe { libc::write(target, (&raw const one).cast(), size_of::<u64>()) };
    // SAFETY: as for the read of it.
    unsafe { *errno = saved };
}

/// `struct mount_attr` of mount_setattr(2), first version.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Maps the owners of everything below the detached mount `tree` by `user_namespace`.
///
/// # Errors
/// `EINVAL` where the filesystem cannot be mapped, `ENOSYS` before Linux 5.12.
pub(crate) fn mount_set_id_map(
    tree: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(user_namespace.as_raw_fd().unsigned_abs()),
    };
    // SAFETY: the path is a NUL-terminated literal, `attr` is initialized, outlives the call, and
    // its size is passed; the kernel writes to neither. Both descriptors are borrowed, so open.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread a mount namespace of its own, a copy of the one it had.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `ENOSPC` where the limit of mount namespaces is reached.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: it concerns mounts, root and working directory of this thread alone; memory and
    // descriptors stay shared, so nothing that Rust relies on changes.
    let ret = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forks a process that does nothing, in a new user namespace without id maps.
///
/// The caller kills it, and the reaper reaps it. It also ends when its parent does.
///
/// # Errors
/// `ENOSPC` where the limit of user namespaces is reached, `EPERM` where they are forbidden.
pub(crate) fn fork_into_user_namespace() -> io::Result<i32> {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the child continues on a copy
    // of this stack. The process has one thread, so no lock is held by a thread that the child
    // lacks, and the child makes nothing but the system calls below.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(0) => idle_until_killed(),
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

fn idle_until_killed() -> ! {
    // If this fails, the caller kills it all the same.
    let _ = set_parent_death_signal(libc::SIGKILL);
    loop {
        // SAFETY: takes nothing and returns when a signal was handled.
        unsafe { libc::pause() };
    }
}

fn set_parent_death_signal(signal: c_int) -> io::Result<()> {
    // SAFETY: takes integers; only how the calling process ends changes.
    let ret = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives `command`'s process the descriptors `passed` as 3, 4, 5, ….
pub(crate) fn pass_descriptors(command: &mut Command, passed: Vec<OwnedFd>) {
    let place = move || {
        // Upwards in two steps, so that no target overwrites a source that is still needed.
        let mut high = [0; 8];
        for (slot, fd) in high.iter_mut().zip(&passed) {
            *slot = duplicate_above(fd.as_raw_fd(), 64)?;
        }
        for (index, fd) in high.iter().take(passed.len()).enumerate() {
            duplicate_to(*fd, 3 + c_int::try_from(index).unwrap_or(c_int::MAX))?;
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec; it makes system calls only, on descriptors
    // that it owns, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(place) };
}

/// Duplicates `fd` to a free number of at least `floor`, closed on exec.
fn duplicate_above(fd: RawFd, floor: c_int) -> io::Result<RawFd> {
    // SAFETY: takes integers, and makes a new descriptor without touching any other.
    let new = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, floor) };
    if new < 0 { Err(io::Error::last_os_error()) } else { Ok(new) }
}

/// Duplicates `fd` to the number `target`, kept on exec.
fn duplicate_to(fd: RawFd, target: c_int) -> io::Result<()> {
    // SAFETY: takes integers. It closes what `target` was; in a child that is about to execute
    // another program, nothing owns it.
    let new = unsafe { libc::dup2(fd, target) };
    if new < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets a descriptor stay open when another program is executed.
fn keep_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes integers, and changes a flag in the table of this process alone.
    let ret = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the allocator hand large blocks back to the kernel as soon as they are freed.
///
/// glibc would raise both thresholds by itself as blocks come and go, and keep the pages.
pub(crate) fn release_memory_eagerly() {
    for (parameter, bytes) in
        [(libc::M_MMAP_THRESHOLD, 32 << 10), (libc::M_TRIM_THRESHOLD, 16 << 10)]
    {
        // SAFETY: takes integers and changes the allocator's own settings, under its own lock.
        // Failure leaves the defaults, which are correct.
        let _ = unsafe { libc::mallopt(parameter, bytes) };
    }
}

/// Gives free memory at the end of the heap, and free pages within it, back to the kernel.
pub(crate) fn trim_memory() {
    // SAFETY: takes an integer; the allocator releases pages that hold no live block.
    let _ = unsafe { libc::malloc_trim(0) };
}
