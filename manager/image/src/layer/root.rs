//! The layer's directory, and the only way to a place in it: [`LayerRoot::place`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::path::EntryPath;

/// Directories that stay open. Archives come in the order of a walk, so few are needed at a time.
const MAX_OPEN: usize = 128;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Links lead to other places of the layer, never out of it, and never to another file system.
const BELOW: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// The directory that a layer is unpacked into.
#[derive(Debug)]
pub(super) struct LayerRoot {
    root: Rc<OwnedFd>,
    open: HashMap<EntryPath, Rc<OwnedFd>>,
    /// The attribute that makes a directory hide what lower layers hold there, where whiteouts are
    /// overlayfs's.
    opaque: Option<&'static OsStr>,
}

/// A place in the layer: a directory, and a name in it that is one component; of the root, none.
#[derive(Debug, Clone)]
pub(super) struct Place {
    parent: Rc<OwnedFd>,
    name: OsString,
}

impl Place {
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// What is there now, links not followed; `None` if nothing is.
    pub(super) fn stat(&self) -> Result<Option<Stat>, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        match rustix::fs::statat(&self.parent, &*self.name, flags) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl LayerRoot {
    /// Opens the directory.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(path: &Path, opaque: Option<&'static OsStr>) -> Result<Self, Errno> {
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self { root: Rc::new(root), open: HashMap::new(), opaque })
    }

    /// Makes the directory at `place` hide what lower layers hold there.
    ///
    /// # Errors
    /// The kernel's; `EOPNOTSUPP` if the file system has no such attributes.
    pub(super) fn make_opaque(&self, place: &Place) -> Result<(), Errno> {
        let Some(opaque) = self.opaque else { return Ok(()) };
        match super::attributes::set(place.parent(), place.name(), opaque, b"y")? {
            true => Ok(()),
            false => Err(Errno::OPNOTSUPP),
        }
    }

    /// Replaces a whiteout that this layer set before by a directory; what lower layers hold there
    /// stays hidden.
    ///
    /// # Errors
    /// The kernel's; `ENOTDIR` if something else is in the way.
    pub(super) fn replace_whiteout(&self, place: &Place) -> Result<(), Errno> {
        if self.opaque.is_none() || !place.stat()?.is_some_and(|stat| is_whiteout(&stat)) {
            return Err(Errno::NOTDIR);
        }
        rustix::fs::unlinkat(place.parent(), place.name(), AtFlags::empty())?;
        rustix::fs::mkdirat(place.parent(), place.name(), Mode::from_raw_mode(0o755))?;
        self.make_opaque(place)
    }

    /// Finds the place of `path`. Directories on the way are resolved by the kernel below the root;
    /// with `make`, missing ones are made, as archives that leave them out expect.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` without `make`, `ENOTDIR` where a file is in the way, `ELOOP`.
    pub(super) fn place(&mut self, path: &EntryPath, make: bool) -> Result<Place, Errno> {
        let parent = path.parent();
        let parent = match self.directory(&parent) {
            Err(Errno::NOENT | Errno::NOTDIR) if make => {
                self.make_directories(&parent)?;
                self.directory(&parent)?
            }
            found => found?,
        };
        Ok(Place { parent, name: path.name().to_owned() })
    }

    /// Forgets open directories at and below `path`, since the name is about to mean another thing.
    pub(super) fn forget(&mut self, path: &EntryPath) {
        // A directory may have been reached through links, under another name: only an empty table
        // is sure to hold none that is gone.
        if self.open.keys().any(|open| open.is_within(path)) || self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
    }

    /// Forgets every open directory.
    pub(super) fn forget_all(&mut self) {
        self.open.clear();
    }

    fn directory(&mut self, path: &EntryPath) -> Result<Rc<OwnedFd>, Errno> {
        if path.is_root() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(open) = self.open.get(path) {
            return Ok(Rc::clone(open));
        }
        let opened =
            rustix::fs::openat2(&*self.root, path.as_path(), DIRECTORY, Mode::empty(), BELOW)?;
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        let opened = Rc::new(opened);
        self.open.insert(path.clone(), Rc::clone(&opened));
        Ok(opened)
    }

    fn make_directories(&mut self, path: &EntryPath) -> Result<(), Errno> {
        for prefix in path.prefixes() {
            match self.directory(&prefix) {
                Err(Errno::NOENT) => {
                    let parent = self.directory(&prefix.parent())?;
                    rustix::fs::mkdirat(&parent, prefix.name(), Mode::from_raw_mode(0o755))?;
                }
                Err(Errno::NOTDIR) => {
                    let parent = self.directory(&prefix.parent())?;
                    let place = Place { parent, name: prefix.name().to_owned() };
                    self.replace_whiteout(&place)?;
                }
                found => drop(found?),
            }
        }
        Ok(())
    }
}

/// Whether a file is overlayfs's mark of a deletion.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes whatever is at `place`, with everything below it. Nothing is followed.
///
/// # Errors
/// The kernel's.
pub(super) fn remove(place: &Place) -> Result<(), Errno> {
    remove_at(place.parent(), place.name())
}

fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        done => return done,
    }
    for child in children(parent, name)? {
        let directory = open_child(parent, name, OFlags::PATH)?;
        remove_at(directory.as_fd(), &child)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// The names in the directory `name` of `parent`.
///
/// # Errors
/// The kernel's.
pub(super) fn children(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<OsString>, Errno> {
    use std::os::unix::ffi::OsStrExt as _;

    let mut names = Vec::new();
    for entry in Dir::new(open_child(parent, name, OFlags::RDONLY)?)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn open_child(parent: BorrowedFd<'_>, name: &OsStr, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = if name.is_empty() { OsStr::new(".") } else { name };
    rustix::fs::openat(parent, name, flags, Mode::empty())
}
