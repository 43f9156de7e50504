//! The system calls of the floor that no crate in use offers, one per function.
#![allow(unsafe_code, reason = "clone3, seccomp, capset and two prctl have no safe wrapper here")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::sched::CloneFlags;
use nix::unistd::Pid;

/// Docker's default capabilities, as a mask: chown, dac_override, fowner, fsetid, kill, setgid,
/// setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
pub(crate) const DOCKER_CAPABILITIES: u64 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 27
    | 1 << 29
    | 1 << 31;

const LAST_CAPABILITY: u32 = 40;

/// `CLONE_INTO_CGROUP`; libc's constant does not fit the type that it has there.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts a child in new `namespaces` and in `cgroup`; `None` is the child. See clone3(2).
pub(crate) fn clone3(
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Option<Pid>> {
    // SAFETY: `clone_args` is integers throughout, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(namespaces.bits().cast_unsigned());
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child gets a copy of the address space and runs on a copy of this
    // stack, as after fork(2); this program has one thread, so no lock is held in the copy.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<libc::clone_args>())
    };
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops every capability that is not in `mask`, from all sets. See capabilities(7).
pub(crate) fn keep_capabilities(mask: u64) -> io::Result<()> {
    for capability in 0..=LAST_CAPABILITY {
        if mask & (1 << capability) == 0 {
            // SAFETY: PR_CAPBSET_DROP takes integers only.
            let ret = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            if ret < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    /// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words per set.
    const VERSION: u32 = 0x2008_0522;
    let low = u32::try_from(mask & 0xffff_ffff).unwrap_or(0);
    let high = u32::try_from(mask >> 32).unwrap_or(0);
    let header = [VERSION, 0];
    let data = [low, low, 0, high, high, 0];
    // SAFETY: version 3 reads a header of two words and data of six, which these arrays are.
    let ret = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets no_new_privs. See prctl(2).
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes integers only.
    let ret = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Loads a compiled filter: an array of `sock_filter`, as bytes. See seccomp(2).
pub(crate) fn load_filter(program: &[u8]) -> io::Result<()> {
    let instructions: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|one| libc::sock_filter {
            code: u16::from_ne_bytes([one[0], one[1]]),
            jt: one[2],
            jf: one[3],
            k: u32::from_ne_bytes([one[4], one[5], one[6], one[7]]),
        })
        .collect();
    let len = u16::try_from(instructions.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: `program` points to `len` initialised instructions, alive until the call returns; the
    // kernel only reads them.
    let ret = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
