//! The directory that an archive is extracted into, as nobody can leave it.
//!
//! Every path is resolved by the kernel with `openat2` below the root, as if the process had made it its
//! own root: `..` and symbolic links, absolute ones too, end inside. Only a parent directory is ever
//! resolved; the last component is made or removed by calls that do not follow links. Descriptors of
//! parents are kept, since entries of one directory mostly follow each other.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    self as rfs, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timestamps, XattrFlags,
};
use rustix::io::Errno;

/// Most descriptors that are kept.
const MAX_KEPT_DIRS: usize = 128;

/// Mode of directories that the archive does not list.
const IMPLICIT_MODE: u32 = 0o755;

/// Flags of every opened directory.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory, and everything below it.
#[derive(Debug)]
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    kept: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Directories that were made because something in them was, parents before children.
    implicit: BTreeSet<Vec<u8>>,
    /// Path of the tree below `root`, which links may lead back to; empty if they are the same.
    prefix: Vec<u8>,
    resolve: ResolveFlags,
}

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let root = Rc::new(rfs::open(root, DIRECTORY, Mode::empty())?);
        Ok(Self {
            root,
            kept: HashMap::new(),
            implicit: BTreeSet::new(),
            prefix: Vec::new(),
            resolve: ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        })
    }

    /// Opens the directory at `path` below `root`; links may lead anywhere below `root`, also into
    /// what is mounted there.
    pub(super) fn below(root: OwnedFd, path: &Path) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt;

        let mut tree = Self {
            root: Rc::new(root),
            kept: HashMap::new(),
            implicit: BTreeSet::new(),
            prefix: path.as_os_str().as_bytes().to_vec(),
            resolve: ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        };
        tree.existing_dir(b"").map(|_| tree)
    }

    pub(super) fn root(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.root)
    }

    /// Returns the directories that were made implicitly and not listed since.
    pub(super) fn into_implicit(self) -> Vec<Vec<u8>> {
        self.implicit.into_iter().collect()
    }

    /// Returns how many directories were made implicitly.
    pub(super) fn implicit_count(&self) -> u64 {
        self.implicit.len() as u64
    }

    /// Forgets that a directory was made implicitly: the archive lists it after all.
    pub(super) fn is_listed(&mut self, path: &[u8]) {
        self.implicit.remove(path);
    }

    /// Opens the directory at a clean relative path, if it exists.
    pub(super) fn existing_dir(&mut self, path: &[u8]) -> io::Result<Rc<OwnedFd>> {
        if path.is_empty() && self.prefix.is_empty() {
            return Ok(self.root());
        }
        if let Some(dir) = self.kept.get(path) {
            return Ok(Rc::clone(dir));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let below = match self.prefix.as_slice() {
            b"" => path.to_vec(),
            prefix => [prefix, b"/", path].concat(),
        };
        let dir = loop {
            match rfs::openat2(&self.root, &below[..], flags, Mode::empty(), self.resolve) {
                // A rename anywhere on the system can make the kernel unsure about `..`.
                Err(Errno::AGAIN) => {}
                other => break other?,
            }
        };
        if self.kept.len() >= MAX_KEPT_DIRS {
            self.kept.clear();
        }
        let dir = Rc::new(dir);
        self.kept.insert(path.to_vec(), Rc::clone(&dir));
        Ok(dir)
    }

    /// Opens the directory at a clean relative path, and makes what is missing of it.
    pub(super) fn dir(
        &mut self,
        path: &[u8],
        on_whiteout: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<Rc<OwnedFd>> {
        match self.existing_dir(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            other => return other,
        }
        let (above, name) = split(path);
        let parent = self.dir(above, on_whiteout)?;
        let name = c_name(name)?;
        let mut was_whiteout = false;
        if is_whiteout(&parent, &name)? {
            rfs::unlinkat(&parent, &name, AtFlags::empty())?;
            was_whiteout = true;
        }
        match rfs::mkdirat(&parent, &name, Mode::RWXU) {
            Ok(()) => {
                let made = rfs::openat(&parent, &name, DIRECTORY, Mode::empty())?;
                rfs::fchmod(&made, Mode::from_raw_mode(IMPLICIT_MODE))?;
                if was_whiteout {
                    on_whiteout(made.as_fd())?;
                }
                self.implicit.insert(path.to_vec());
            }
            // A link to nothing, or a file: opening it tells.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.existing_dir(path)
    }

    /// Removes whatever is at a name, a whole tree if need be.
    pub(super) fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        self.kept.clear();
        remove_at(parent, name)
    }
}

/// Removes what is at a name without following links.
fn remove_at(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rfs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let dir = rfs::openat(parent, name, DIRECTORY, Mode::empty())?;
    for name in names(&dir)? {
        remove_at(dir.as_fd(), &name)?;
    }
    Ok(rfs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Returns the names in a directory.
pub(super) fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rfs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Tells whether a name is overlayfs' mark of a deletion.
pub(super) fn is_whiteout(parent: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match stat(parent, name) {
        Ok(stat) => {
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && stat.st_rdev == 0)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Looks at a name without following it.
pub(super) fn stat(parent: &OwnedFd, name: &CStr) -> io::Result<Stat> {
    Ok(rfs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the times of a name without following it.
pub(super) fn set_times(parent: &OwnedFd, name: &CStr, times: &Timestamps) -> io::Result<()> {
    Ok(rfs::utimensat(parent, name, times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the mode of what is no link; a link that is there by now is not followed.
pub(super) fn set_mode(parent: &OwnedFd, name: &CStr, mode: Mode) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pinned = rfs::openat(parent, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rfs::fstat(&pinned)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    Ok(rfs::chmod(format!("/proc/self/fd/{}", pinned.as_raw_fd()), mode)?)
}

/// Sets an attribute of a name that cannot be opened, without following it.
pub(super) fn set_xattr_at(
    parent: &OwnedFd,
    name: &CStr,
    key: &CStr,
    value: &[u8],
) -> rustix::io::Result<()> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    rfs::lsetxattr(path, key, value, XattrFlags::empty())
}

/// Splits a clean path into its parent and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Makes a name of one component fit for the kernel.
pub(super) fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::ErrorKind::InvalidInput.into())
}
