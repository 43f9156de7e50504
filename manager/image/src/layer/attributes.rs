//! Extended attributes of an archive: which are taken, and how they are set.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Whether an attribute may come from an archive.
///
/// Those of overlayfs may not: they redirect, hide and replace what lower layers hold.
pub(super) fn is_taken(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.")
}

/// Sets an attribute of the entry `name` of `parent`, not following a link.
///
/// Returns whether it is there: a file system that has no such attributes, and a link, on which
/// `user.` attributes cannot be, leave it out.
///
/// # Errors
/// The kernel's, for other reasons.
pub(super) fn set(
    parent: impl AsFd,
    name: &OsStr,
    attribute: &OsStr,
    value: &[u8],
) -> Result<bool, Errno> {
    // There is no setxattrat before Linux 6.13; a directory's descriptor under /proc is the same.
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_fd().as_raw_fd()));
    path.push(if name.is_empty() { OsStr::new(".") } else { name });
    match rustix::fs::lsetxattr(path, attribute, value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP) => Ok(false),
        Err(Errno::PERM) if attribute.as_bytes().starts_with(b"user.") => Ok(false),
        Err(errno) => Err(errno),
    }
}
