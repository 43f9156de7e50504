//! What the benchmarks ask of the kernel that no crate in use offers.
#![allow(unsafe_code, reason = "pre_exec is unsafe")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Lets `command` start in the mount namespace that `namespace` is open on.
pub(crate) fn start_in_mount_namespace(command: &mut Command, namespace: &File) {
    let namespace = namespace.as_raw_fd();
    let enter = move || {
        // SAFETY: setns takes integers only. The descriptor is open in the child, since the caller
        // holds the file until the command has started, and close-on-exec acts only after this.
        match unsafe { libc::setns(namespace, libc::CLONE_NEWNS) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and touches no memory that
    // another thread could hold locked.
    unsafe { command.pre_exec(enter) };
}
