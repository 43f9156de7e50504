//! Entries, one after the other, become files.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::header::{Extended, Moment, Sparse};
use super::path::EntryPath;
use super::root::{self, LayerRoot, Place};
use super::sparse::{self, SparseMap};
use super::{UnpackError, UnpackOptions, Unpacked, Whiteouts, attributes};

/// A name that begins so deletes what the rest names (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// Deletes everything that lower layers hold in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Other names that begin so are AUFS's own files, which no reader wants.
const AUFS: &[u8] = b".wh..wh.";

const BUFFER_BYTES: usize = 128 * 1024;

/// Times of directories, set last: unpacking into a directory changes them.
struct DirectoryTimes {
    path: EntryPath,
    times: Timestamps,
}

pub(super) struct Unpacker<'a> {
    options: &'a UnpackOptions,
    root: LayerRoot,
    done: Unpacked,
    directories: Vec<DirectoryTimes>,
    /// What this layer has put there, kept only where whiteouts delete: they spare it.
    added: HashSet<EntryPath>,
    buffer: Vec<u8>,
}

/// The owner, mode and times of an entry.
struct Metadata {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    times: Timestamps,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(path: &Path, options: &'a UnpackOptions) -> Result<Self, UnpackError> {
        let opaque = match options.whiteouts {
            Whiteouts::Overlay => Some(OsStr::new("trusted.overlay.opaque")),
            Whiteouts::OverlayUser => Some(OsStr::new("user.overlay.opaque")),
            Whiteouts::Delete => None,
        };
        let root = LayerRoot::open(path, opaque)
            .map_err(|errno| UnpackError::Root { path: path.into(), source: errno.into() })?;
        Ok(Self {
            options,
            root,
            done: Unpacked::default(),
            directories: Vec::new(),
            added: HashSet::new(),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    pub(super) fn run(mut self, reader: impl Read) -> Result<Unpacked, UnpackError> {
        let budget = Budget::default();
        let mut archive = Archive::new(Budgeted { reader, budget: &budget });
        let mut entries = archive.entries().map_err(|source| self.unreadable(source))?;
        loop {
            budget.limit(self.options.max_header_bytes);
            let entry = entries.next();
            budget.lift();
            let Some(entry) = entry else { break };
            let mut entry = entry.map_err(|source| match budget.is_exceeded() {
                true => UnpackError::Limit {
                    what: "octets of headers for one entry",
                    limit: self.options.max_header_bytes,
                },
                false => self.unreadable(source),
            })?;
            self.done.entries += 1;
            if self.done.entries > self.options.max_entries {
                let limit = self.options.max_entries;
                return Err(UnpackError::Limit { what: "entries", limit });
            }
            self.entry(&mut entry)?;
            io::copy(&mut entry, &mut io::sink()).map_err(|source| self.unreadable(source))?;
        }
        self.finish_directories()?;
        Ok(self.done)
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let number = self.done.entries;
        let extended = Extended::of(entry)
            .map_err(|source| self.unreadable(source))?
            .map_err(|(key, why)| UnpackError::Header { entry: number, key, why })?;
        let name = match extended.sparse.as_ref().and_then(Sparse::name) {
            Some(name) => name.to_vec(),
            None => entry.path_bytes().into_owned(),
        };
        let path = self.clean(&name)?;
        match path.name().as_bytes() {
            OPAQUE => return self.opaque(&path.parent()),
            name if name.starts_with(AUFS) => return Ok(()),
            name if name.starts_with(WHITEOUT) => {
                let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]).to_owned();
                return self.whiteout(&path, &hidden);
            }
            _ => {}
        }
        let metadata = self.metadata(entry, &extended)?;
        let place =
            self.root.place(&path, true).map_err(|errno| self.failed("reach", &path, errno))?;
        match kind {
            EntryType::Directory => self.directory(&path, &place)?,
            EntryType::Link => return self.hard_link(entry, &path, &place),
            EntryType::Symlink => self.symlink(entry, &path, &place)?,
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.special(entry, kind, &path, &place)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.regular(entry, kind, &path, &place, &metadata, extended);
            }
            _ => {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(UnpackError::Name { entry: number, name, why: "is of no known kind" });
            }
        }
        self.describe(&path, &place, kind, &metadata, &extended)?;
        if kind == EntryType::Directory {
            self.directories.push(DirectoryTimes { path: path.clone(), times: metadata.times });
        }
        self.remember(path);
        Ok(())
    }

    /// A directory that is there stays, and takes on the entry's metadata.
    fn directory(&mut self, path: &EntryPath, place: &Place) -> Result<(), UnpackError> {
        let there = place.stat().map_err(|errno| self.failed("look at", path, errno))?;
        match there.map(|stat| (FileType::from_raw_mode(stat.st_mode), root::is_whiteout(&stat))) {
            Some((FileType::Directory, _)) => Ok(()),
            Some((_, true)) if self.options.whiteouts != Whiteouts::Delete => {
                self.root.replace_whiteout(place).map_err(|e| self.failed("replace", path, e))
            }
            there => {
                if there.is_some() {
                    self.clear(path, place)?;
                }
                rustix::fs::mkdirat(place.parent(), place.name(), Mode::from_raw_mode(0o700))
                    .map_err(|errno| self.failed("make the directory", path, errno))
            }
        }
    }

    fn regular<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        path: &EntryPath,
        place: &Place,
        metadata: &Metadata,
        extended: Extended,
    ) -> Result<(), UnpackError> {
        self.clear(path, place)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(
            place.parent(),
            place.name(),
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map_err(|errno| self.failed("make the file", path, errno))?;
        let mut file = File::from(file);
        self.content(entry, kind, path, &mut file, extended.sparse.as_ref())?;
        // Owner before mode and attributes: changing it takes set-id bits and capabilities away.
        rustix::fs::fchown(&file, Some(metadata.uid), Some(metadata.gid))
            .and_then(|()| rustix::fs::fchmod(&file, metadata.mode))
            .map_err(|errno| self.failed("set owner and mode of", path, errno))?;
        self.attributes(path, place, &extended)?;
        rustix::fs::futimens(&file, &metadata.times)
            .map_err(|errno| self.failed("set the times of", path, errno))?;
        self.remember(path.clone());
        Ok(())
    }

    fn content<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        path: &EntryPath,
        file: &mut File,
        sparse: Option<&Sparse>,
    ) -> Result<(), UnpackError> {
        let number = self.done.entries;
        let leading;
        let map = match sparse {
            None => None,
            Some(Sparse::Mapped { map, .. }) => Some(map),
            Some(Sparse::Leading { real_bytes, .. }) => {
                leading = SparseMap::read(entry, *real_bytes)
                    .map_err(|source| self.unreadable(source))?
                    .map_err(|why| {
                        let key = "GNU.sparse map".to_owned();
                        UnpackError::Header { entry: number, key, why }
                    })?;
                Some(&leading)
            }
        };
        let bytes = match map {
            Some(map) => map.data_bytes(),
            None => entry.size(),
        };
        self.done.bytes = self.done.bytes.saturating_add(bytes);
        if self.done.bytes > self.options.max_bytes {
            let limit = self.options.max_bytes;
            return Err(UnpackError::Limit { what: "octets of files", limit });
        }
        let written = match map {
            Some(map) => map.write(entry, file).map(|()| bytes),
            None if kind == EntryType::GNUSparse => {
                sparse::copy_with_holes(entry, file, &mut self.buffer)
            }
            None => copy(entry, file, &mut self.buffer),
        };
        let written = written.map_err(|source| self.failed("write", path, source))?;
        if written < bytes {
            return Err(self.unreadable(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn hard_link<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        path: &EntryPath,
        place: &Place,
    ) -> Result<(), UnpackError> {
        let target = self.clean(&entry.link_name_bytes().unwrap_or_default())?;
        let failed = |this: &Self, errno| this.failed("link to", &target, errno);
        let source = self.root.place(&target, false).map_err(|errno| failed(self, errno))?;
        if target == *path {
            return Ok(());
        }
        self.clear(path, place)?;
        rustix::fs::linkat(
            source.parent(),
            source.name(),
            place.parent(),
            place.name(),
            AtFlags::empty(),
        )
        .map_err(|errno| failed(self, errno))?;
        self.remember(path.clone());
        Ok(())
    }

    fn symlink<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        path: &EntryPath,
        place: &Place,
    ) -> Result<(), UnpackError> {
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        self.clear(path, place)?;
        rustix::fs::symlinkat(OsStr::from_bytes(&target), place.parent(), place.name())
            .map_err(|errno| self.failed("make the symbolic link", path, errno))
    }

    fn special<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        kind: EntryType,
        path: &EntryPath,
        place: &Place,
    ) -> Result<(), UnpackError> {
        let file_type = match kind {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let number = |read: io::Result<Option<u32>>| read.map(Option::unwrap_or_default);
        let device = match kind {
            EntryType::Fifo => 0,
            _ => {
                let major = number(entry.header().device_major());
                let minor = number(entry.header().device_minor());
                let both = major.and_then(|major| Ok((major, minor?)));
                let (major, minor) = both.map_err(|source| self.unreadable(source))?;
                rustix::fs::makedev(major, minor)
            }
        };
        self.clear(path, place)?;
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(place.parent(), place.name(), file_type, mode, device)
            .map_err(|errno| self.failed("make the device", path, errno))
    }

    /// Sets owner, mode, attributes and, of what is no directory, times.
    fn describe(
        &mut self,
        path: &EntryPath,
        place: &Place,
        kind: EntryType,
        metadata: &Metadata,
        extended: &Extended,
    ) -> Result<(), UnpackError> {
        let (parent, name) = (place.parent(), place.name());
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (Some(metadata.uid), Some(metadata.gid));
        rustix::fs::chownat(parent, name, uid, gid, no_follow | AtFlags::EMPTY_PATH)
            .map_err(|errno| self.failed("set the owner of", path, errno))?;
        if kind != EntryType::Symlink {
            // Not a link: it was made or checked here, in a directory that nobody else writes to.
            let name = if name.is_empty() { OsStr::new(".") } else { name };
            rustix::fs::chmodat(parent, name, metadata.mode, AtFlags::empty())
                .map_err(|errno| self.failed("set the mode of", path, errno))?;
        }
        self.attributes(path, place, extended)?;
        if kind != EntryType::Directory {
            rustix::fs::utimensat(parent, name, &metadata.times, no_follow)
                .map_err(|errno| self.failed("set the times of", path, errno))?;
        }
        Ok(())
    }

    fn attributes(
        &mut self,
        path: &EntryPath,
        place: &Place,
        extended: &Extended,
    ) -> Result<(), UnpackError> {
        for (name, value) in &extended.attributes {
            if !attributes::is_taken(name) {
                continue;
            }
            let set = attributes::set(place.parent(), place.name(), name, value)
                .map_err(|errno| self.failed("set an attribute of", path, errno))?;
            self.done.attributes_left_out += u64::from(!set);
        }
        Ok(())
    }

    /// Hides, or deletes, what lower layers hold under `hidden` in the directory of `path`.
    fn whiteout(&mut self, path: &EntryPath, hidden: &OsStr) -> Result<(), UnpackError> {
        let parent = path.parent();
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            let name = path.as_path().display().to_string();
            let entry = self.done.entries;
            return Err(UnpackError::Name { entry, name, why: "deletes what is no name" });
        }
        let target = parent.join(hidden);
        if self.options.whiteouts == Whiteouts::Delete {
            return if self.added.contains(&target) { Ok(()) } else { self.delete(&target) };
        }
        let place =
            self.root.place(&target, true).map_err(|errno| self.failed("reach", &target, errno))?;
        let there = place.stat().map_err(|errno| self.failed("look at", &target, errno))?;
        match there.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            // Of one layer, what is added wins over what is deleted, whichever comes first.
            Some(FileType::Directory) => self.root.make_opaque(&place),
            Some(_) => Ok(()),
            None => rustix::fs::mknodat(
                place.parent(),
                place.name(),
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            ),
        }
        .map_err(|errno| self.failed("hide", &target, errno))
    }

    /// Hides, or deletes, everything that lower layers hold in `directory`.
    fn opaque(&mut self, directory: &EntryPath) -> Result<(), UnpackError> {
        let inside = directory.join(OsStr::new("."));
        let failed =
            |this: &Self, errno| this.failed("hide the lower content of", directory, errno);
        // Reaching a name in it makes the directory, if the archive has not.
        let place = self.root.place(&inside, true).map_err(|errno| failed(self, errno))?;
        if self.options.whiteouts != Whiteouts::Delete {
            return self.root.make_opaque(&place).map_err(|errno| failed(self, errno));
        }
        let children = root::children(place.parent(), OsStr::new("."));
        for name in children.map_err(|errno| failed(self, errno))? {
            let child = directory.join(&name);
            if !self.added.iter().any(|added| added.is_within(&child)) {
                self.delete(&child)?;
            }
        }
        Ok(())
    }

    /// Removes what a lower layer holds at `path`, if it does.
    fn delete(&mut self, path: &EntryPath) -> Result<(), UnpackError> {
        match self.root.place(path, false) {
            Ok(place) => self.clear(path, &place),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(self.failed("reach", path, errno)),
        }
    }

    /// Removes what is at `place`, if anything, so that the entry can take it.
    fn clear(&mut self, path: &EntryPath, place: &Place) -> Result<(), UnpackError> {
        let there = place.stat().map_err(|errno| self.failed("look at", path, errno))?;
        let Some(stat) = there else { return Ok(()) };
        if path.is_root() {
            return Err(self.failed("replace", path, Errno::ISDIR));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.root.forget_all(),
            _ => self.root.forget(path),
        }
        root::remove(place).map_err(|errno| self.failed("replace", path, errno))
    }

    fn remember(&mut self, path: EntryPath) {
        if self.options.whiteouts == Whiteouts::Delete {
            self.added.insert(path);
        }
    }

    /// Sets the times of directories, the innermost first. One that was replaced since has its own.
    fn finish_directories(&mut self) -> Result<(), UnpackError> {
        let mut directories = std::mem::take(&mut self.directories);
        directories.sort_by(|one, other| other.path.cmp(&one.path));
        for DirectoryTimes { path, times } in directories {
            let Ok(place) = self.root.place(&path, false) else { continue };
            let name = if path.is_root() { OsStr::new(".") } else { place.name() };
            let no_follow = AtFlags::SYMLINK_NOFOLLOW;
            match rustix::fs::utimensat(place.parent(), name, &times, no_follow) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.failed("set the times of", &path, errno)),
            }
        }
        Ok(())
    }

    fn metadata<R: Read>(
        &self,
        entry: &Entry<'_, R>,
        extended: &Extended,
    ) -> Result<Metadata, UnpackError> {
        let header = entry.header();
        let number = self.done.entries;
        let id = |value: io::Result<u64>, key: &str| {
            let value = value.map_err(|source| self.unreadable(source))?;
            let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
            let (key, why) = (key.to_owned(), "is no user or group id of Linux");
            id.ok_or(UnpackError::Header { entry: number, key, why })
        };
        let mode = header.mode().map_err(|source| self.unreadable(source))?;
        let modified = match extended.modified {
            Some(moment) => moment,
            None => {
                let secs = header.mtime().map_err(|source| self.unreadable(source))?;
                Moment { secs: i64::try_from(secs).unwrap_or_default(), nanos: 0 }
            }
        };
        let accessed = extended.accessed.unwrap_or(modified);
        let time = |moment: Moment| Timespec { tv_sec: moment.secs, tv_nsec: moment.nanos };
        Ok(Metadata {
            uid: Uid::from_raw(id(header.uid(), "uid")?),
            gid: Gid::from_raw(id(header.gid(), "gid")?),
            mode: Mode::from_raw_mode(mode & 0o7777),
            times: Timestamps { last_access: time(accessed), last_modification: time(modified) },
        })
    }

    fn clean(&self, name: &[u8]) -> Result<EntryPath, UnpackError> {
        EntryPath::clean(name).map_err(|why| UnpackError::Name {
            entry: self.done.entries,
            name: String::from_utf8_lossy(name).into_owned(),
            why,
        })
    }

    fn unreadable(&self, source: io::Error) -> UnpackError {
        UnpackError::Read { entry: self.done.entries, source }
    }

    fn failed(
        &self,
        operation: &'static str,
        path: &EntryPath,
        source: impl Into<io::Error>,
    ) -> UnpackError {
        UnpackError::Apply {
            entry: self.done.entries,
            operation,
            path: path.as_path().into(),
            source: source.into(),
        }
    }
}

fn copy(reader: &mut impl Read, file: &mut File, buffer: &mut [u8]) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let read = reader.read(buffer)?;
        if read == 0 {
            return Ok(total);
        }
        file.write_all(&buffer[..read])?;
        total += read as u64;
    }
}

/// How many octets may be read before the next entry is there: long names and PAX records are held
/// in memory by the parser, however long the archive says they are.
#[derive(Debug, Default)]
struct Budget {
    left: std::cell::Cell<Option<u64>>,
    exceeded: std::cell::Cell<bool>,
}

impl Budget {
    fn limit(&self, octets: u64) {
        self.left.set(Some(octets));
    }

    fn lift(&self) {
        self.left.set(None);
    }

    fn is_exceeded(&self) -> bool {
        self.exceeded.get()
    }
}

struct Budgeted<'a, R> {
    reader: R,
    budget: &'a Budget,
}

impl<R: Read> Read for Budgeted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.budget.left.get() else { return self.reader.read(buffer) };
        if left == 0 {
            self.budget.exceeded.set(true);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let allowed = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.reader.read(&mut buffer[..allowed])?;
        self.budget.left.set(Some(left - read as u64));
        Ok(read)
    }
}
