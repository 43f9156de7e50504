//! Puts sources into a tree, by `COPY`'s rules.
//!
//! | source | destination | becomes |
//! | --- | --- | --- |
//! | a directory | a directory, made if missing | its content there; names that are there merge |
//! | a file | `…/`, a directory, or one of several sources | a file of its name in it |
//! | a file | anything else | that file |
//!
//! Links in the destination are followed below the tree's root; links that are copied are not. A file
//! that is there is replaced and not written into, since it may have other names.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, RawMode, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use crate::chmod::ModeChange;
use crate::context::join;
use crate::earlier::{Earlier, Wanted};
use crate::sources::{Item, ItemKind, Origin, Source};
use crate::tree::{self, Tree, TreeError};

/// Links followed on the way to one directory, as in the kernel.
const MAX_LINKS: usize = 40;
/// Bytes of a file that are copied at once before the kernel is asked to copy the rest.
const BUFFER_BYTES: usize = 128 * 1024;

/// Where sources go, and how they look there.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    /// Path from the root.
    pub(crate) destination: String,
    /// Whether it is certainly a directory.
    pub(crate) is_directory: bool,
    /// Owner of everything; `None`: as in the source.
    pub(crate) owner: Option<(u32, u32)>,
    /// Mode of everything.
    pub(crate) mode: Option<ModeChange>,
    /// Time of everything, seconds since 1970.
    pub(crate) mtime_secs: Option<i64>,
}

impl Placement {
    /// How directories look that a copy makes on its way.
    fn new_dirs(&self) -> NewDirs {
        NewDirs { owner: self.owner.unwrap_or((0, 0)), mtime_secs: self.mtime_secs }
    }

    fn owner_of(&self, item: &Item) -> (u32, u32) {
        self.owner.unwrap_or((item.uid, item.gid))
    }

    fn mode_of(&self, item: &Item, is_dir: bool) -> RawMode {
        match &self.mode {
            Some(change) => change.apply(item.mode, is_dir),
            None => item.mode,
        }
    }

    fn times_of(&self, item: &Item) -> Timestamps {
        let nsec = match self.mtime_secs {
            Some(secs) => secs.saturating_mul(1_000_000_000),
            None => item.mtime_nsec,
        };
        times(nsec)
    }

    /// How a file is to look.
    pub(crate) fn wanted<'a>(&self, item: &Item, digest: &'a str) -> Wanted<'a> {
        Wanted {
            digest,
            owner: self.owner_of(item),
            mode: self.mode_of(item, false),
            times: self.times_of(item),
        }
    }
}

/// How directories look that are made because they are missing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewDirs {
    /// User and group.
    pub(crate) owner: (u32, u32),
    /// Seconds since 1970; `None`: now.
    pub(crate) mtime_secs: Option<i64>,
}

/// Puts sources into a tree. What `earlier` has just so gets a further name there, and no copy: the tree is
/// then a directory of the same file system.
///
/// # Errors
/// [`TreeError`]; a part of the sources is then there.
pub(crate) fn place(
    target: &Tree,
    sources: &[Source],
    placement: &Placement,
    mut earlier: Option<Earlier>,
) -> Result<(), TreeError> {
    for source in sources {
        place_one(target, source, placement, earlier.as_mut())?;
    }
    Ok(())
}

fn place_one(
    target: &Tree,
    source: &Source,
    placement: &Placement,
    earlier: Option<&mut Earlier>,
) -> Result<(), TreeError> {
    let (links, buffer) = (HashMap::new(), Vec::new());
    let mut writer = Writer { target, source, placement, earlier, links, buffer };
    let destination = if source.parents.is_empty() {
        placement.destination.clone()
    } else {
        join(placement.destination.trim_end_matches('/'), &source.parents)
    };
    if source.is_dir() {
        let directory =
            if source.parents.is_empty() { destination } else { join(&destination, &source.name) };
        return writer.directory(&directory);
    }
    let is_dir = placement.is_directory
        || !source.parents.is_empty()
        || matches!(target.stat(&destination), Ok(Some(stat))
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    let (parent, name) = if is_dir {
        (destination.as_str(), source.name.as_str())
    } else {
        let path = destination.trim_end_matches('/');
        path.rsplit_once('/').unwrap_or(("", path))
    };
    let dir = make_dirs(target, parent, &placement.new_dirs())?;
    match source.items.first() {
        Some(item) => writer.item(dir.as_fd(), &join(parent, name), name, item),
        None => Ok(()),
    }
}

struct Writer<'a> {
    target: &'a Tree,
    source: &'a Source,
    placement: &'a Placement,
    earlier: Option<&'a mut Earlier>,
    /// The first name in the target of each file that has several.
    links: HashMap<(u64, u64), String>,
    buffer: Vec<u8>,
}

impl Writer<'_> {
    /// Merges the source's content into a directory.
    fn directory(&mut self, path: &str) -> Result<(), TreeError> {
        let existed = self.target.stat(path).map_err(TreeError::io("look at", path))?.is_some();
        let root = make_dirs(self.target, path, &self.placement.new_dirs())?;
        let mut items = self.source.items.iter();
        let Some(first) = items.next() else { return Ok(()) };
        // Open directories from the destination down to where the last item went, and what they
        // are to look like once they are full.
        let mut open: Vec<(String, OwnedFd, &Item)> = Vec::new();
        for item in items {
            let (parent, name) = item.path.rsplit_once('/').unwrap_or(("", &item.path));
            while open.last().is_some_and(|(at, ..)| at != parent && !is_below(parent, at)) {
                self.close(path, open.pop())?;
            }
            let dir = open.last().map_or(root.as_fd(), |(_, dir, _)| dir.as_fd());
            let shown = join(path, &item.path);
            if item.kind == ItemKind::Directory {
                let made = self.make_dir(dir, &shown, name)?;
                open.push((item.path.clone(), made, item));
            } else {
                self.item(dir, &shown, name, item)?;
            }
        }
        while let Some(last) = open.pop() {
            self.close(path, Some(last))?;
        }
        // A destination is a directory like others, in which the source's content is; a directory that
        // `--parents` brings is the source itself.
        if existed {
            return Ok(());
        }
        if !self.source.parents.is_empty() {
            return self.finish_dir(root.as_fd(), path, first);
        }
        match self.placement.mode {
            Some(ModeChange::Set(mode)) => rfs::fchmod(root, Mode::from_raw_mode(mode))
                .map_err(TreeError::io("set the mode of", path)),
            _ => Ok(()),
        }
    }

    fn close(
        &self,
        base: &str,
        directory: Option<(String, OwnedFd, &Item)>,
    ) -> Result<(), TreeError> {
        match directory {
            Some((path, fd, item)) => self.finish_dir(fd.as_fd(), &join(base, &path), item),
            None => Ok(()),
        }
    }

    fn make_dir(&self, dir: BorrowedFd<'_>, path: &str, name: &str) -> Result<OwnedFd, TreeError> {
        match rfs::mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(TreeError::io("make the directory", path)(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rfs::openat(dir, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOTDIR | Errno::LOOP => TreeError::NotADirectory { path: path.to_owned() },
            errno => TreeError::io("open", path)(errno),
        })
    }

    /// Lets a directory look as its source does.
    fn finish_dir(&self, fd: BorrowedFd<'_>, path: &str, item: &Item) -> Result<(), TreeError> {
        if let Some(tree) = &self.source.tree {
            let from = tree.open_dir(&join(&self.source.path, &item.path));
            let attributes = from.and_then(|from| tree::xattrs(from.as_fd()));
            attributes
                .and_then(|attributes| tree::set_xattrs(fd, &attributes))
                .map_err(TreeError::io("copy the attributes of", path))?;
        }
        self.finish(fd, path, item, true)
    }

    fn finish(
        &self,
        fd: BorrowedFd<'_>,
        path: &str,
        item: &Item,
        is_dir: bool,
    ) -> Result<(), TreeError> {
        let (uid, gid) = self.placement.owner_of(item);
        let mode = self.placement.mode_of(item, is_dir);
        rfs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            // After the owner, which takes set-user-id bits away.
            .and_then(|()| rfs::fchmod(fd, Mode::from_raw_mode(mode)))
            .and_then(|()| rfs::futimens(fd, &self.placement.times_of(item)))
            .map_err(TreeError::io("set owner, mode and time of", path))
    }

    /// Writes a file, a link or a node.
    fn item(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &str,
        name: &str,
        item: &Item,
    ) -> Result<(), TreeError> {
        match &item.kind {
            ItemKind::Directory => self.make_dir(dir, path, name).map(drop),
            ItemKind::Link { target } => {
                remove(dir, path, name)?;
                rfs::symlinkat(target.as_str(), dir, name)
                    .map_err(TreeError::io("make the link", path))?;
                self.finish_name(dir, path, name, item)
            }
            ItemKind::Node { mode, device } => {
                remove(dir, path, name)?;
                let kind = FileType::from_raw_mode(*mode);
                let mode = Mode::from_raw_mode(item.mode);
                rfs::mknodat(dir, name, kind, mode, *device)
                    .map_err(TreeError::io("make the device", path))?;
                self.finish_name(dir, path, name, item)
            }
            ItemKind::File { origin, inode, digest } => {
                if let Some(first) = inode.and_then(|inode| self.links.get(&inode)) {
                    remove(dir, path, name)?;
                    let (parent, first) = first.rsplit_once('/').unwrap_or(("", first));
                    let parent = self.target.open_dir(parent);
                    return parent
                        .and_then(|parent| rfs::linkat(parent, first, dir, name, AtFlags::empty()))
                        .map_err(TreeError::io("link", path));
                }
                let is_sent = matches!(origin, Origin::Stored(_));
                if let Some(earlier) = self.earlier.as_mut().filter(|_| is_sent)
                    && earlier.link(path, &self.placement.wanted(item, digest), dir, name)
                {
                    return Ok(());
                }
                self.file(dir, path, name, item, origin)?;
                if let Some(inode) = inode {
                    self.links.insert(*inode, path.to_owned());
                }
                Ok(())
            }
        }
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &str,
        name: &str,
        item: &Item,
        origin: &Origin,
    ) -> Result<(), TreeError> {
        let (owner, mode) = (self.placement.owner_of(item), self.placement.mode_of(item, false));
        let mut to = File::from(make_file(dir, path, name, mode)?);
        let unreadable = |source| TreeError::Content { path: path.to_owned(), source };
        match origin {
            Origin::Inline(bytes) => {
                to.write_all(bytes).map_err(unreadable)?;
            }
            Origin::Stored(stored) => {
                let mut from = File::open(stored).map_err(unreadable)?;
                copy_content(&mut from, &mut to, &mut self.buffer).map_err(unreadable)?;
            }
            Origin::InTree => {
                let tree = self.source.tree.as_deref().ok_or(Errno::NOENT);
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let from =
                    tree.and_then(|tree| tree.open(&join(&self.source.path, &item.path), flags));
                let mut from = File::from(from.map_err(TreeError::io("open", path))?);
                copy_content(&mut from, &mut to, &mut self.buffer).map_err(unreadable)?;
                let (uid, gid) = self.placement.owner_of(item);
                // Capabilities go when the owner changes, so they come after.
                rfs::fchown(&to, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                    .and_then(|()| tree::xattrs(from.as_fd()))
                    .and_then(|attributes| tree::set_xattrs(to.as_fd(), &attributes))
                    .map_err(TreeError::io("copy the attributes of", path))?;
                return self.finish_owned(to.as_fd(), path, item);
            }
        }
        // Most look as they should already, and each call that finds it so is saved.
        rfs::fstat(&to)
            .and_then(|stat| {
                let is_owned = (stat.st_uid, stat.st_gid) == owner;
                if !is_owned {
                    let (uid, gid) = owner;
                    rfs::fchown(&to, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                }
                // The owner takes set-user-id bits away.
                if !is_owned || stat.st_mode & 0o7777 != mode {
                    rfs::fchmod(&to, Mode::from_raw_mode(mode))?;
                }
                rfs::futimens(&to, &self.placement.times_of(item))
            })
            .map_err(TreeError::io("set owner, mode and time of", path))
    }

    fn finish_owned(&self, fd: BorrowedFd<'_>, path: &str, item: &Item) -> Result<(), TreeError> {
        rfs::fchmod(fd, Mode::from_raw_mode(self.placement.mode_of(item, false)))
            .and_then(|()| rfs::futimens(fd, &self.placement.times_of(item)))
            .map_err(TreeError::io("set mode and time of", path))
    }

    /// Sets owner and time of what cannot be opened.
    fn finish_name(
        &self,
        dir: BorrowedFd<'_>,
        path: &str,
        name: &str,
        item: &Item,
    ) -> Result<(), TreeError> {
        let (uid, gid) = self.placement.owner_of(item);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rfs::chownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
            .and_then(|()| rfs::utimensat(dir, name, &self.placement.times_of(item), flags))
            .map_err(TreeError::io("set owner and time of", path))
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

pub(crate) fn times(nsec: i64) -> Timestamps {
    let at = Timespec {
        tv_sec: nsec.div_euclid(1_000_000_000),
        tv_nsec: nsec.rem_euclid(1_000_000_000),
    };
    Timestamps { last_access: at, last_modification: at }
}

/// Makes a file, in place of what is there. Its mode may have less than `mode`, and has nothing more.
fn make_file(
    dir: BorrowedFd<'_>,
    path: &str,
    name: &str,
    mode: RawMode,
) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = || rfs::openat(dir, name, flags, Mode::from_raw_mode(mode & 0o777));
    match make() {
        Err(Errno::EXIST) => remove(dir, path, name).and_then(|()| {
            // What is gone is not there again: nobody else writes here.
            make().map_err(TreeError::io("make", path))
        }),
        made => made.map_err(TreeError::io("make", path)),
    }
}

/// Copies the bytes of a file. Most files of a context fit into the buffer, and the kernel's own ways of
/// copying ask more of it than to read and write once.
fn copy_content(from: &mut File, to: &mut File, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(BUFFER_BYTES, 0);
    loop {
        let length = from.read(buffer)?;
        to.write_all(&buffer[..length])?;
        match length {
            0 => return Ok(()),
            BUFFER_BYTES => return io::copy(from, to).map(drop),
            _ => {}
        }
    }
}

/// Removes what is not a directory.
fn remove(dir: BorrowedFd<'_>, path: &str, name: &str) -> Result<(), TreeError> {
    match rfs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => Err(TreeError::IsADirectory { path: path.to_owned() }),
        Err(errno) => Err(TreeError::io("replace", path)(errno)),
    }
}

/// Makes a directory and those above it that are missing, links in the tree followed. What is there
/// stays as it is.
pub(crate) fn make_dirs(target: &Tree, path: &str, look: &NewDirs) -> Result<OwnedFd, TreeError> {
    match target.open_dir(path) {
        Ok(dir) => return Ok(dir),
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR) => return Err(TreeError::NotADirectory { path: path.to_owned() }),
        Err(errno) => return Err(TreeError::io("open", path)(errno)),
    }
    // Something is missing, perhaps behind a link, which is followed as if its target were there. `at`
    // has no links in it.
    let mut pending: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut at = String::new();
    let mut links = 0;
    while let Some(component) = pending.pop() {
        match component.as_str() {
            "" | "." => continue,
            ".." => {
                at = at.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default();
                continue;
            }
            _ => {}
        }
        let parent = target.open_dir(&at).map_err(TreeError::io("open", &at))?;
        let next = join(&at, &component);
        match tree::read_link(parent.as_fd(), &component) {
            Ok(_) if links == MAX_LINKS => return Err(TreeError::io("follow", path)(Errno::LOOP)),
            Ok(leads_to) => {
                links += 1;
                if leads_to.starts_with('/') {
                    at = String::new();
                }
                pending.extend(leads_to.split('/').rev().map(str::to_owned));
            }
            Err(Errno::NOENT) => {
                make_one(target, &parent, &next, &component, look)?;
                at = next;
            }
            // It is something else than a link.
            Err(Errno::INVAL) => match target.open_dir(&next) {
                Ok(_) => at = next,
                Err(Errno::NOTDIR) => return Err(TreeError::NotADirectory { path: next }),
                Err(errno) => return Err(TreeError::io("open", &next)(errno)),
            },
            Err(errno) => return Err(TreeError::io("look at", &next)(errno)),
        }
    }
    target.open_dir(&at).map_err(TreeError::io("open", &at))
}

/// Makes a directory as `COPY` and `WORKDIR` do.
fn make_one(
    target: &Tree,
    parent: &OwnedFd,
    path: &str,
    name: &str,
    look: &NewDirs,
) -> Result<(), TreeError> {
    let mode: RawMode = 0o755;
    rfs::mkdirat(parent, name, Mode::from_raw_mode(mode))
        .map_err(TreeError::io("make the directory", path))?;
    let made = target.open_dir(path).map_err(TreeError::io("open", path))?;
    let (uid, gid) = look.owner;
    rfs::fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .and_then(|()| rfs::fchmod(&made, Mode::from_raw_mode(mode)))
        .and_then(|()| match look.mtime_secs {
            Some(secs) => rfs::futimens(&made, &times(secs.saturating_mul(1_000_000_000))),
            None => Ok(()),
        })
        .map_err(TreeError::io("set the owner of", path))
}
