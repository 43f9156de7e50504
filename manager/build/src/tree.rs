//! File trees on this machine: an image's layers seen as one, or a directory.
//!
//! Layers become one tree by an overlay that is mounted nowhere: a descriptor is all there is of it, and
//! it goes with the process, however that ends. Every path is resolved by the kernel below the tree's
//! root (`openat2`, `RESOLVE_IN_ROOT`), so that no link leads out.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use keg_store::Mount;
use rustix::fs::{
    self as rfs, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags,
};
use rustix::io::Errno;

use crate::overlay::Layers;

/// Longest list of attribute names, and longest attribute, that the kernel has.
const XATTR_MAX_BYTES: usize = 64 * 1024;

/// Why a tree could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The layers could not be seen as one.
    #[error("cannot put {layers} layers on top of each other")]
    Overlay {
        /// How many.
        layers: usize,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A call failed.
    #[error("cannot {operation} {path:?}")]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// Path in the tree.
        path: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A file where a directory is needed.
    #[error("{path:?} is not a directory, and something is to be copied into it")]
    NotADirectory {
        /// Path in the tree.
        path: String,
    },
    /// A directory where a file is to be.
    #[error("{path:?} is a directory, and a file is to take its place")]
    IsADirectory {
        /// Path in the tree.
        path: String,
    },
    /// Bytes that changed since they were stored.
    #[error("the stored copy of {path:?} cannot be read")]
    Content {
        /// Path in the source.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl TreeError {
    pub(crate) fn io(operation: &'static str, path: &str) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }

    /// Returns what the kernel said, if it was that.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Overlay { source, .. } | Self::Io { source, .. } => Some(*source),
            Self::Content { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }
}

/// A tree.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Opens a directory.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn directory(path: &Path) -> Result<Self, TreeError> {
        let shown = path.display().to_string();
        let root = rfs::open(path, directory_flags(), Mode::empty())
            .map_err(TreeError::io("open", &shown))?;
        Ok(Self { root })
    }

    /// Shows layers, uppermost first, as one tree that cannot be written to.
    ///
    /// # Errors
    /// [`TreeError::Overlay`].
    pub fn layers(layers: &[PathBuf]) -> Result<Self, TreeError> {
        match layers {
            [only] => Self::directory(only),
            layers => overlay(layers, None, &[]),
        }
    }

    /// Shows what `mount` says, an overlay or a directory, as a tree that can be written to. Owners
    /// are not shifted.
    ///
    /// # Errors
    /// [`TreeError::Overlay`], [`TreeError::Io`].
    pub fn mounted(mount: &Mount) -> Result<Self, TreeError> {
        if mount.type_ == "bind" {
            return Self::directory(&mount.source);
        }
        let mut lower = Vec::new();
        let (mut upper, mut work) = (None, None);
        let mut features = Vec::new();
        for option in &mount.options {
            match option.split_once('=') {
                Some(("lowerdir", paths)) => lower.extend(paths.split(':').map(PathBuf::from)),
                Some(("upperdir", path)) => upper = Some(PathBuf::from(path)),
                Some(("workdir", path)) => work = Some(PathBuf::from(path)),
                Some(("uidmap" | "gidmap", _)) => {}
                _ => features.push(option.as_str()),
            }
        }
        overlay(&lower, upper.zip(work), &features)
    }

    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a path below the root, links followed as long as they lead into the tree.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let relative = match path.trim_start_matches('/') {
            "" => ".",
            other => other,
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rfs::openat2(
                &self.root,
                relative,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                // Something was renamed meanwhile.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_dir(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Looks at what a path leads to; `None` if at nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn stat(&self, path: &str) -> Result<Option<Stat>, Errno> {
        match self.open(path, OFlags::PATH) {
            Ok(fd) => rfs::fstat(&fd).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Reads a small file whole; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self, path: &str, limit_bytes: u64) -> std::io::Result<Option<Vec<u8>>> {
        use std::io::Read;

        let file = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit_bytes).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}

/// Returns the flags with which directories are opened for reading.
pub(crate) fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn overlay(
    lower: &[PathBuf],
    upper: Option<(PathBuf, PathBuf)>,
    features: &[&str],
) -> Result<Tree, TreeError> {
    Layers { lower, upper, features }
        .mount()
        .map(|root| Tree { root })
        .map_err(|source| TreeError::Overlay { layers: lower.len(), source })
}

/// A name in a directory of a tree, with what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) name: String,
    pub(crate) stat: Stat,
}

impl Name {
    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Lists a directory, sorted. Names that are not UTF-8 keep what can be kept of them, which leads to an
/// error where they are used.
pub(crate) fn names(dir: BorrowedFd<'_>) -> Result<Vec<Name>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        names.push(Name { name: name.to_string_lossy().into_owned(), stat });
    }
    names.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(names)
}

/// Reads a link.
pub(crate) fn read_link(dir: BorrowedFd<'_>, name: &str) -> Result<String, Errno> {
    let target = rfs::readlinkat(dir, name, Vec::new())?;
    Ok(OsStr::from_bytes(target.to_bytes()).to_string_lossy().into_owned())
}

/// Returns the extended attributes of an open file that belong to it, and not to the overlay.
pub(crate) fn xattrs(fd: BorrowedFd<'_>) -> Result<Vec<(CString, Vec<u8>)>, Errno> {
    let mut names = vec![0_u8; XATTR_MAX_BYTES];
    let length = match rfs::flistxattr(fd, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP | Errno::BADF) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // What a label of SELinux is, the place decides that a file is in.
        if name.starts_with(b"trusted.overlay.")
            || name.starts_with(b"user.overlay.")
            || name == b"security.selinux"
        {
            continue;
        }
        let Ok(name) = CString::new(name) else { continue };
        let mut value = vec![0_u8; XATTR_MAX_BYTES];
        let length = rfs::fgetxattr(fd, &name, value.as_mut_slice())?;
        value.truncate(length);
        found.push((name, value));
    }
    Ok(found)
}

/// Gives extended attributes to an open file.
pub(crate) fn set_xattrs(
    fd: BorrowedFd<'_>,
    attributes: &[(CString, Vec<u8>)],
) -> Result<(), Errno> {
    for (name, value) in attributes {
        rfs::fsetxattr(fd, name, value, XattrFlags::empty())?;
    }
    Ok(())
}
