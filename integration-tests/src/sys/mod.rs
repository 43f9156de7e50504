//! The fixtures' only unsafe code: one kernel call per function.

pub mod seccomp;

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Makes a system call by number with integer arguments, and returns its result.
///
/// For the probe, which asks whether a filter lets a call through: all arguments are integers that
/// the kernel rejects as pointers or that the call does not take as such.
///
/// # Errors
/// What the kernel returned.
pub fn system_call(number: i64, arguments: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the arguments are small integers from the command line of the probe, a program without
    // other threads that exits right after; where the kernel takes one as an address, it is not mapped
    // and the call fails with EFAULT.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Lets the calling process trace what `command` starts; it stops when it has executed its program.
/// See ptrace(2).
pub fn be_traced(command: &mut Command) {
    let ask = || nix::sys::ptrace::traceme().map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call with integer arguments, and its
    // error is made without an allocation.
    unsafe { command.pre_exec(ask) };
}
