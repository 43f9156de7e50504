//! bpf(2), as far as filters of devices on cgroup v2 need it. See the kernel's
//! Documentation/bpf/prog_cgroup_device and bpf(2).

use std::mem::size_of_val;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

/// One instruction of eBPF, as the kernel reads it on little-endian machines.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation and source.
    pub code: u8,
    /// Destination register in the lower four bits, source register in the upper four.
    pub registers: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

/// More programs than this on one cgroup are refused by the kernel itself.
const ATTACHED_MAX: u32 = 64;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

// The beginnings of `union bpf_attr`, one per command: the kernel takes what follows as zero. All
// fields are explicit, so there is no padding to leave uninitialised.

#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads a filter of devices into the kernel, which verifies it.
///
/// # Errors
/// `EPERM` without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN), `EINVAL` or `EACCES` for a program
/// that the verifier refuses, `ENOSYS` without bpf(2).
pub fn load_device_filter(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let license = c"Apache-2.0";
    let mut name = [0; 16];
    name[..11].copy_from_slice(b"keg_devices");
    let mut attribute = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attribute)?;
    Ok(own(fd))
}

/// Attaches a filter of devices to a cgroup, beside others, or in the place of `replaced`.
///
/// # Errors
/// `EINVAL` where the kernel is older than 5.6 and `replaced` is given, `EPERM` without permission.
pub fn attach_device_filter(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let flags =
        if replaced.is_some() { BPF_F_ALLOW_MULTI | BPF_F_REPLACE } else { BPF_F_ALLOW_MULTI };
    let mut attribute = Attach {
        target: number(cgroup),
        program: number(program),
        kind: BPF_CGROUP_DEVICE,
        flags,
        replaced: replaced.map_or(0, number),
    };
    bpf(BPF_PROG_ATTACH, &mut attribute).map(drop)
}

/// Takes a filter of devices off a cgroup.
///
/// # Errors
/// `ENOENT` if it is not attached there.
pub fn detach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attribute = Attach {
        target: number(cgroup),
        program: number(program),
        kind: BPF_CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    bpf(BPF_PROG_DETACH, &mut attribute).map(drop)
}

/// The filters of devices that are attached to a cgroup itself, not to its ancestors.
///
/// # Errors
/// `EPERM` without permission, `ENOSPC` if there are more than 64.
pub fn attached_device_filters(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0_u32; ATTACHED_MAX as usize];
    let mut attribute = Query {
        target: number(cgroup),
        kind: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ATTACHED_MAX,
        reserved: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attribute)?;
    ids.iter()
        .take(attribute.count as usize)
        .map(|&id| {
            let mut attribute = ById { id, next_id: 0, open_flags: 0 };
            bpf(BPF_PROG_GET_FD_BY_ID, &mut attribute).map(own)
        })
        .collect()
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // A descriptor that is borrowed is open, so its number is not negative.
    fd.as_raw_fd().unsigned_abs()
}

fn own(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the number is the result of a successful bpf(2) that opened a descriptor, and
    // no one else was told of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf<T>(command: libc::c_int, attribute: &mut T) -> Result<libc::c_int, Errno> {
    // SAFETY: the kernel reads and writes `size` bytes at `attribute`, which is exactly the size of
    // that initialised, exclusively borrowed struct. The addresses inside of it point to slices that
    // each caller keeps borrowed across this call, with their true lengths beside them.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of_val(attribute))
    };
    Errno::result(result).map(|fd| libc::c_int::try_from(fd).unwrap_or(-1))
}
