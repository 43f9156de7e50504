//! The C library's allocator, kept small.
//!
//! It makes a heap for nearly every thread, up to eight for each processor, and what is freed in one is of no
//! use to the others: loading and removing ten thousand blobs ten times left 60 MB behind, with two heaps
//! 14. It takes settings from the environment of a program that begins, so the daemon begins once more.

use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// How many heaps there may be; whoever sets it has chosen.
const HEAPS: (&str, &str) = ("MALLOC_ARENA_MAX", "2");
/// Free bytes at the end of a heap from which on they are the kernel's again. That is the default, which the
/// allocator raises by itself as long as nobody sets it.
const SPARE_BYTES: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "131072");

/// Executes this program again with settings that bound what it keeps, unless it has them.
///
/// # Errors
/// The kernel's; the program can go on without.
pub(crate) fn bound() -> io::Result<()> {
    if env::var_os(HEAPS.0).is_some() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut again = Command::new(env::current_exe()?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let settings = [HEAPS, SPARE_BYTES];
    Err(again.args(arguments).envs(settings).exec())
}
