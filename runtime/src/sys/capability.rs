//! The capability bounding set. See prctl(2) and capabilities(7).

use nix::errno::Errno;

/// Takes a capability from the bounding set of the calling thread, by its number, so that also those
/// are dropped which no library knows yet.
///
/// # Errors
/// `EINVAL` for a number that the kernel does not know, `EPERM` without CAP_SETPCAP.
pub fn drop_from_bounding_set(number: u8) -> Result<(), Errno> {
    // SAFETY: PR_CAPBSET_DROP takes an integer, reads no memory, and changes nothing but the
    // credentials of the calling thread.
    let result =
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
    Errno::result(result).map(drop)
}
