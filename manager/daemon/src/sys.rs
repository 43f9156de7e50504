//! The allocator's settings, which no library in use wraps: the only unsafe code of the daemon.

use nix::libc;

/// Heaps that the allocator may have, whatever the number of threads.
///
/// By default each thread that waits for the disk brings one of its own, up to eight for each processor,
/// and what is freed in one is of no use to the others: loading and removing ten thousand blobs ten times
/// left 60 MB behind, with two heaps 14.
const HEAPS: i32 = 2;

/// Blocks from this size on are the kernel's again as soon as they are freed. That is glibc's default,
/// which it would raise by itself to 32 MiB.
const LARGE_BYTES: i32 = 128 << 10;

/// Free memory that the end of the heap may have.
const SPARE_BYTES: i32 = 1 << 20;

/// Keeps the memory of a daemon that did much small.
pub(crate) fn bound_allocator() {
    for (parameter, value) in [
        (libc::M_ARENA_MAX, HEAPS),
        (libc::M_MMAP_THRESHOLD, LARGE_BYTES),
        (libc::M_TRIM_THRESHOLD, SPARE_BYTES),
    ] {
        // SAFETY: takes integers and changes the allocator's own settings, under its own lock.
        // Failure leaves the defaults, which are correct.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}
