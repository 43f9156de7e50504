//! mount_setattr(2): attributes, propagation and id maps of mounts, by descriptor.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `MOUNT_ATTR_*` values of mount_setattr(2), as the plan carries them.
pub mod attr {
    /// `MOUNT_ATTR_RDONLY`.
    pub const RDONLY: u64 = 0x1;
    /// `MOUNT_ATTR_NOSUID`.
    pub const NOSUID: u64 = 0x2;
    /// `MOUNT_ATTR_NODEV`.
    pub const NODEV: u64 = 0x4;
    /// `MOUNT_ATTR_NOEXEC`.
    pub const NOEXEC: u64 = 0x8;
    /// `MOUNT_ATTR__ATIME`: the field that the three access-time modes share.
    pub const ATIME: u64 = 0x70;
    /// `MOUNT_ATTR_NOATIME`.
    pub const NOATIME: u64 = 0x10;
    /// `MOUNT_ATTR_STRICTATIME`.
    pub const STRICTATIME: u64 = 0x20;
    /// `MOUNT_ATTR_NODIRATIME`.
    pub const NODIRATIME: u64 = 0x80;
    /// `MOUNT_ATTR_IDMAP`.
    pub const IDMAP: u64 = 0x10_0000;
    /// `MOUNT_ATTR_NOSYMFOLLOW`.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// What [`mount_setattr`] changes; the default changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttr<'a> {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear, before the others are set.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
    /// The user namespace whose map applies, with [`attr::IDMAP`].
    pub userns: Option<&'a BorrowedFd<'a>>,
}

/// Changes the mount that `mount` is the root of, or with `recursive` all mounts of its tree.
/// See mount_setattr(2). Needs Linux 5.12.
///
/// # Errors
/// The kernel's; notably `EPERM` for a locked attribute, `EINVAL` for an unknown attribute or a
/// file system that cannot be id-mapped, `ENOSYS` before Linux 5.12.
pub fn mount_setattr(
    mount: impl AsFd,
    recursive: bool,
    change: &MountAttr<'_>,
) -> Result<(), Errno> {
    let flags =
        if recursive { libc::AT_EMPTY_PATH | libc::AT_RECURSIVE } else { libc::AT_EMPTY_PATH };
    let args = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: change.userns.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    // SAFETY: the path is a NUL-terminated constant, `args` outlives the call and its size is
    // stated; both descriptors are borrowed and therefore open.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const args,
            size_of::<libc::mount_attr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(Errno::last()) }
}
