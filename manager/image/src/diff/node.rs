//! One name in a directory that is open: what it is, and all that an archive has to say of it.
//!
//! Nothing here follows a link, and nothing opens what is not a directory or a regular file: a tree
//! that a container is still writing to can at most make an archive out of date.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::DiffError;

/// Longest list of attribute names, and longest attribute, that the kernel has.
const XATTR_MAX_BYTES: usize = 64 * 1024;

/// Attributes by which overlayfs marks a directory that hides those below it.
const OPAQUE: [&CStr; 2] = [c"trusted.overlay.opaque", c"user.overlay.opaque"];

/// Flags of every opened directory.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Extended attributes: names and values.
pub(super) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// One name in an open directory.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) parent: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    pub(super) stat: Stat,
}

impl<'a> Node<'a> {
    /// Looks at a name; `None` if nothing is there.
    pub(super) fn look(parent: BorrowedFd<'a>, name: &'a CStr) -> Result<Option<Self>, Errno> {
        match rfs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Self { parent, name, stat })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Tells whether it is overlayfs' mark of a deletion.
    pub(super) fn is_whiteout(&self) -> bool {
        self.kind() == FileType::CharacterDevice && self.stat.st_rdev == 0
    }

    /// Which inode it is, if that has several names.
    pub(super) fn shared_inode(&self) -> Option<(u64, u64)> {
        (!self.is_dir() && self.stat.st_nlink > 1).then_some((self.stat.st_dev, self.stat.st_ino))
    }

    /// Opens a directory.
    pub(super) fn open_dir(&self) -> Result<OwnedFd, Errno> {
        rfs::openat(self.parent, self.name, DIRECTORY, Mode::empty())
    }

    /// Opens a regular file. What has become something else meanwhile does not block.
    pub(super) fn open_file(&self) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rfs::openat(self.parent, self.name, flags, Mode::empty()).map(File::from)
    }

    /// Reads a symbolic link.
    pub(super) fn link_target(&self) -> Result<Vec<u8>, Errno> {
        rfs::readlinkat(self.parent, self.name, Vec::new()).map(CString::into_bytes)
    }

    /// Returns the attributes that belong to the file and not to this host, sorted by name.
    pub(super) fn xattrs(&self) -> Result<Attributes, Errno> {
        // By name, since a link or a device is not to be opened; the directory is a descriptor.
        let mut path = format!("/proc/self/fd/{}/", self.parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.to_bytes());
        // Most have none, and it is asked of each file.
        match rfs::llistxattr(&path[..], &mut [0_u8; 1]) {
            Ok(0) | Err(Errno::NOTSUP | Errno::NOENT) => return Ok(Vec::new()),
            Ok(_) | Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
        let mut names = vec![0_u8; XATTR_MAX_BYTES];
        let length = match rfs::llistxattr(&path[..], names.as_mut_slice()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut found = Vec::new();
        for name in names[..length].split(|&byte| byte == 0).filter(|name| is_portable(name)) {
            let mut value = vec![0_u8; XATTR_MAX_BYTES];
            match rfs::lgetxattr(&path[..], name, value.as_mut_slice()) {
                Ok(length) => {
                    value.truncate(length);
                    found.push((name.to_vec(), value));
                }
                Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Tells whether an attribute is one of the file, and not a mark of overlayfs or a label of the
/// host's security module.
fn is_portable(name: &[u8]) -> bool {
    match name {
        b"" => false,
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        name => {
            (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
                || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."))
        }
    }
}

/// Opens the root of a tree.
pub(super) fn open_root(path: &std::path::Path) -> Result<OwnedFd, DiffError> {
    use std::os::unix::ffi::OsStrExt;

    rfs::open(path, DIRECTORY, Mode::empty())
        .map_err(DiffError::read(path.as_os_str().as_bytes(), "open"))
}

/// Returns the names in a directory, sorted by their bytes.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in rfs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Tells whether a directory hides those below it.
pub(super) fn is_opaque(dir: impl AsFd) -> bool {
    let mut value = [0_u8; 1];
    OPAQUE
        .iter()
        .any(|key| matches!(rfs::fgetxattr(&dir, *key, &mut value[..]), Ok(1) if value == *b"y"))
}
