//! Extraction: a layer's archive becomes a directory, whatever the archive tries.
//!
//! What is kept: contents, modes with set-id bits, owners, times, extended attributes with
//! capabilities, hard links, symbolic links, devices, FIFOs, holes. What is refused: names that climb out
//! by `..`, hard links to what the layer does not have, damaged or endless archives. What is confined:
//! absolute names and links, which begin at the layer's root.
//!
//! Deletions (OCI image-spec, layer.md, "Whiteouts") become overlayfs' own marks, or are done at once
//! where a directory holds everything: [`Whiteouts`].

mod attributes;
mod data;
mod error;
mod tar;
mod tree;
mod whiteouts;

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use keg_store::Usage;
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Timestamps};
use rustix::io::Errno;

use attributes::settle_xattr;
use data::{drain, write_plain, write_sparse};
pub use error::ExtractError;
use tar::{Entry, Kind, TarReader};
use tree::{Tree, c_name, split};
use whiteouts::{WHITEOUT, mark_opaque};

use crate::diff::Owners;

/// Size of what is decompressed at once where no pipeline does it.
const UNPACK_BUFFER_BYTES: usize = 128 * 1024;

/// How deletions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// As overlayfs' marks, in a directory that holds only the difference. With `user_xattrs`, marks
    /// are kept in `user.` attributes.
    Overlay {
        /// Whether overlayfs is mounted with `userxattr`.
        user_xattrs: bool,
    },
    /// By deleting, in a directory that holds everything.
    Delete,
    /// Not at all: the archive is no layer, and its names mean nothing but themselves.
    Literal,
}

/// Whom the files belong to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ownership {
    /// Whom the archive says.
    #[default]
    Archive,
    /// Whom the archive says, as these maps tell it on the disk.
    Mapped(Owners),
    /// Root, as these maps tell it on the disk.
    Root(Owners),
}

/// How an archive that is no layer is extracted into a directory that somebody may be using.
#[derive(Debug)]
pub struct Unpacking {
    /// Directory that nothing leaves, links and all.
    pub root: OwnedFd,
    /// Where the archive begins, below that; it must be there.
    pub path: PathBuf,
    /// Whom the files belong to.
    pub ownership: Ownership,
    /// First part of the archive's names, and what stands in its place; the second may be empty.
    pub rename: Option<(Vec<u8>, Vec<u8>)>,
}

/// How much an archive may hold.
#[derive(Debug, Clone)]
pub struct ExtractLimits {
    /// Entries.
    pub max_entries: u64,
    /// Bytes after decompression that are always allowed.
    pub free_bytes: u64,
    /// Bytes after decompression for each byte before, beyond `free_bytes`.
    pub max_ratio: u64,
}

impl Default for ExtractLimits {
    fn default() -> Self {
        Self { max_entries: 10_000_000, free_bytes: 4 << 30, max_ratio: 200 }
    }
}

impl ExtractLimits {
    /// Returns how many bytes an archive of `compressed_bytes` may have after decompression.
    #[must_use]
    pub fn max_bytes(&self, compressed_bytes: u64) -> u64 {
        self.free_bytes.max(compressed_bytes.saturating_mul(self.max_ratio))
    }
}

/// Reads an archive without extracting it.
pub(crate) use tar::{Entry as ArchiveEntry, TarReader as ArchiveReader};

/// What an extraction made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extracted {
    /// Bytes and inodes, the root included.
    pub usage: Usage,
    /// Directories that the archive does not list, relative to the root, parents first. They have
    /// mode 0755 and belong to root; in an overlay they should look as in the layers below.
    pub implicit_dirs: Vec<PathBuf>,
    /// The comment on the whole archive (POSIX, pax, "comment" of a global header).
    pub comment: Option<Vec<u8>>,
}

/// Extracts an archive, decompressed already, into the directory `root`, and reads it to its end.
///
/// # Errors
/// [`ExtractError`]; `root` is then half filled.
pub fn extract<R: BufRead>(
    archive: R,
    root: &Path,
    whiteouts: Whiteouts,
    max_entries: u64,
) -> Result<Extracted, ExtractError> {
    let tree = Tree::open(root).map_err(|source| ExtractError::Io {
        entry: String::new(),
        operation: "open the directory",
        source,
    })?;
    let extractor = Extractor::new(tree, whiteouts);
    extractor.run(archive, max_entries)
}

/// Extracts an archive that is no layer, plain or compressed, and reads it to its end. What is there
/// already is replaced, but no directory by what is none, nor the other way round. Devices are
/// refused.
///
/// # Errors
/// [`ExtractError`]; what came before the entry in question is there then.
pub fn unpack<R: io::Read>(
    archive: R,
    unpacking: Unpacking,
    max_entries: u64,
) -> Result<Extracted, ExtractError> {
    let tree = Tree::below(unpacking.root, &unpacking.path).map_err(|source| ExtractError::Io {
        entry: unpacking.path.to_string_lossy().into_owned(),
        operation: "open the directory",
        source,
    })?;
    let mut extractor = Extractor::new(tree, Whiteouts::Literal);
    extractor.ownership = unpacking.ownership;
    extractor.rename = unpacking.rename;
    let archive = io::BufReader::with_capacity(UNPACK_BUFFER_BYTES, archive);
    let decoder = crate::compression::Decoder::new(archive)?;
    extractor.run(io::BufReader::with_capacity(UNPACK_BUFFER_BYTES, decoder), max_entries)
}

impl Extractor {
    fn new(tree: Tree, whiteouts: Whiteouts) -> Self {
        Self {
            tree,
            whiteouts,
            ownership: Ownership::Archive,
            rename: None,
            usage: Usage { size_bytes: 0, inodes: 1 },
            dir_times: Vec::new(),
            made: HashSet::new(),
        }
    }

    fn run<R: BufRead>(mut self, archive: R, max_entries: u64) -> Result<Extracted, ExtractError> {
        let extractor = &mut self;
        let mut reader = TarReader::new(archive);
        let mut entries = 0;
        while let Some(entry) = reader.next()? {
            extractor.entry(&entry, &mut reader)?;
            entries += 1;
            if entries + extractor.tree.implicit_count() > max_entries {
                return Err(ExtractError::Limit { limit: max_entries, of: "entries" });
            }
        }
        let comment = reader.take_comment();
        // What follows the archive's end belongs to the layer's digests all the same.
        drain(&mut reader.into_inner()).map_err(|source| ExtractError::Read { source })?;
        self.finish(comment)
    }
}

struct Extractor {
    tree: Tree,
    whiteouts: Whiteouts,
    ownership: Ownership,
    rename: Option<(Vec<u8>, Vec<u8>)>,
    usage: Usage,
    /// Times of directories, set at the end: what is made in them changes them.
    dir_times: Vec<(Vec<u8>, Timestamps)>,
    /// Paths that this archive made, where deletions must spare them.
    made: HashSet<Vec<u8>>,
}

impl Extractor {
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), ExtractError> {
        let path = self.clean(&entry.path).map_err(|problem| refused(entry, problem))?;
        if path.is_empty() {
            return match entry.kind {
                // The directory that is extracted into stays its owner's.
                Kind::Directory if self.whiteouts == Whiteouts::Literal => Ok(()),
                Kind::Directory => self.root_attributes(entry),
                _ => Err(refused(entry, "it has no name")),
            };
        }
        let (above, name) = split(&path);
        if name.starts_with(WHITEOUT) && self.whiteouts != Whiteouts::Literal {
            return self.whiteout(entry, above, name);
        }
        let parent = self.parent(entry, above)?;
        let name = c_name(name).map_err(|_| refused(entry, "its name has a zero in it"))?;
        let place = Place { parent: &parent, name: &name, path: &path };
        match entry.kind {
            Kind::Directory => self.directory(entry, place)?,
            Kind::File => self.file(entry, place, reader)?,
            Kind::HardLink => self.hard_link(entry, place)?,
            Kind::CharDevice | Kind::BlockDevice if self.whiteouts == Whiteouts::Literal => {
                return Err(refused(entry, "a device is given to a container by --device only"));
            }
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.special(entry, place)?;
            }
            Kind::Other => return Err(refused(entry, "it is of a kind that no layer has")),
        }
        if self.whiteouts == Whiteouts::Delete {
            self.made.insert(path);
        }
        Ok(())
    }

    fn root_attributes(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        let root = self.tree.root();
        self.attributes(entry, root.as_fd())?;
        self.dir_times.push((Vec::new(), times(entry)));
        Ok(())
    }

    fn parent(&mut self, entry: &Entry, above: &[u8]) -> Result<Rc<OwnedFd>, ExtractError> {
        let whiteouts = self.whiteouts;
        let mut make_opaque = |dir: BorrowedFd<'_>| mark_opaque(dir, whiteouts);
        self.tree.dir(above, &mut make_opaque).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOTDIR | Errno::NOENT | Errno::EXIST) => {
                refused(entry, "what should be its directory is none")
            }
            Some(Errno::LOOP) => refused(entry, "its directory is a circle of symbolic links"),
            _ => failed(entry, "make its directory")(error),
        })
    }

    fn directory(&mut self, entry: &Entry, place: Place<'_>) -> Result<(), ExtractError> {
        let mut was_whiteout = false;
        match rfs::mkdirat(place.parent, place.name, Mode::RWXU) {
            Ok(()) => self.usage.inodes += 1,
            Err(Errno::EXIST) => {
                let stat = tree::stat(place.parent, place.name)
                    .map_err(failed(entry, "look at what is there"))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    was_whiteout = tree::is_whiteout(place.parent, place.name)
                        .map_err(failed(entry, "look at what is there"))?;
                    self.replace(entry, place)?;
                    rfs::mkdirat(place.parent, place.name, Mode::RWXU)
                        .map_err(failed(entry, "make the directory"))?;
                }
            }
            Err(errno) => return Err(failed(entry, "make the directory")(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rfs::openat(place.parent, place.name, flags, Mode::empty())
            .map_err(failed(entry, "open the directory"))?;
        self.attributes(entry, dir.as_fd())?;
        if was_whiteout {
            mark_opaque(dir.as_fd(), self.whiteouts).map_err(failed(entry, "mark it as opaque"))?;
        }
        self.tree.is_listed(place.path);
        self.dir_times.push((place.path.to_vec(), times(entry)));
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        place: Place<'_>,
        reader: &mut TarReader<R>,
    ) -> Result<(), ExtractError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = match rfs::openat(place.parent, place.name, flags, mode) {
            Err(Errno::EXIST) => {
                self.replace(entry, place)?;
                rfs::openat(place.parent, place.name, flags, mode)
            }
            other => other,
        };
        let mut file = File::from(fd.map_err(failed(entry, "make the file"))?);
        self.usage.inodes += 1;
        self.usage.size_bytes += match &entry.sparse {
            None => write_plain(entry, reader, &mut file)?,
            Some(sparse) => write_sparse(entry, sparse, reader, &mut file)?,
        };
        self.attributes(entry, file.as_fd())?;
        rfs::futimens(&file, &times(entry)).map_err(failed(entry, "set its times"))
    }

    /// Makes room in a directory that others use: a whole tree is not what anybody means to lose.
    fn replace_leaf(&mut self, entry: &Entry, place: Place<'_>) -> Result<(), ExtractError> {
        if entry.kind == Kind::Directory {
            return Err(refused(entry, "a directory cannot take the place of what is none"));
        }
        match rfs::unlinkat(place.parent, place.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                Err(refused(entry, "what is no directory cannot take the place of one"))
            }
            Err(errno) => Err(failed(entry, "replace what is there")(errno)),
        }
    }

    fn hard_link(&mut self, entry: &Entry, place: Place<'_>) -> Result<(), ExtractError> {
        const MISSING: &str = "it is a hard link to what the layer does not have";
        let target = self.clean(&entry.link).map_err(|problem| refused(entry, problem))?;
        if target.is_empty() {
            return Err(refused(entry, "it is a hard link to nothing"));
        }
        if target == place.path {
            return Ok(());
        }
        let (above, name) = split(&target);
        let name = c_name(name).map_err(|_| refused(entry, "its target has a zero in it"))?;
        let source = self.tree.existing_dir(above).map_err(|_| refused(entry, MISSING))?;
        let link = || rfs::linkat(&source, &name, place.parent, place.name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => {
                // The target must outlive the removal, which may be of a directory above it.
                tree::stat(&source, &name).map_err(|_| refused(entry, MISSING))?;
                self.replace(entry, place)?;
                link()
            }
            other => other,
        };
        match linked {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(refused(entry, MISSING)),
            Err(Errno::PERM) => Err(refused(entry, "it is a hard link to a directory")),
            Err(errno) => Err(failed(entry, "make the hard link")(errno)),
        }
    }

    /// Makes what cannot be opened: symbolic links, devices, FIFOs.
    fn special(&mut self, entry: &Entry, place: Place<'_>) -> Result<(), ExtractError> {
        let mode = Mode::from_raw_mode(entry.mode & 0o7777);
        let device = match entry.kind {
            Kind::CharDevice | Kind::BlockDevice => rfs::makedev(entry.device.0, entry.device.1),
            _ => 0,
        };
        let make = || match entry.kind {
            Kind::Symlink => rfs::symlinkat(&*entry.link, place.parent, place.name),
            kind => rfs::mknodat(place.parent, place.name, file_type(kind), mode, device),
        };
        let made = match make() {
            Err(Errno::EXIST) => {
                self.replace(entry, place)?;
                make()
            }
            other => other,
        };
        made.map_err(failed(entry, "make it"))?;
        self.usage.inodes += 1;
        let (uid, gid) = self.owner(entry)?;
        rfs::chownat(place.parent, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed(entry, "give it away"))?;
        if entry.kind != Kind::Symlink {
            tree::set_mode(place.parent, place.name, mode)
                .map_err(failed(entry, "set its mode"))?;
        }
        for (key, value) in self.xattrs(entry) {
            let key = c_name(key).map_err(|_| refused(entry, "an attribute's name has a zero"))?;
            settle_xattr(entry, tree::set_xattr_at(place.parent, place.name, &key, &value))?;
        }
        tree::set_times(place.parent, place.name, &times(entry))
            .map_err(failed(entry, "set its times"))
    }

    /// Makes room for an entry that comes a second time.
    fn replace(&mut self, entry: &Entry, place: Place<'_>) -> Result<(), ExtractError> {
        if self.whiteouts == Whiteouts::Literal {
            return self.replace_leaf(entry, place);
        }
        self.tree
            .remove(place.parent.as_fd(), place.name)
            .map_err(failed(entry, "replace what is there"))
    }

    /// Cleans a name, and gives it the beginning that was asked for.
    fn clean(&self, name: &[u8]) -> Result<Vec<u8>, &'static str> {
        let path = clean(name)?;
        let Some((from, to)) = &self.rename else { return Ok(path) };
        let Some(rest) = path.strip_prefix(from.as_slice()) else { return Ok(path) };
        match rest {
            b"" => Ok(to.clone()),
            [b'/', rest @ ..] if to.is_empty() => Ok(rest.to_vec()),
            [b'/', ..] => Ok([to, rest].concat()),
            _ => Ok(path),
        }
    }

    fn finish(mut self, comment: Option<Vec<u8>>) -> Result<Extracted, ExtractError> {
        for (path, times) in &self.dir_times {
            // A later entry may have replaced the directory.
            let Ok(dir) = self.tree.existing_dir(path) else { continue };
            rfs::futimens(&dir, times).map_err(|errno| ExtractError::Io {
                entry: String::from_utf8_lossy(path).into_owned(),
                operation: "set its times",
                source: errno.into(),
            })?;
        }
        let implicit = self.tree.into_implicit();
        self.usage.inodes += implicit.len() as u64;
        let implicit_dirs = implicit.into_iter().map(path_buf).collect();
        Ok(Extracted { usage: self.usage, implicit_dirs, comment })
    }
}

/// Where an entry goes.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: &'a OwnedFd,
    name: &'a CStr,
    path: &'a [u8],
}

/// Makes a name relative and resolves `.` and inner `..` as text, as other tools do.
fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut clean: Vec<&[u8]> = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                clean.pop().ok_or("its name climbs out of the archive")?;
            }
            part => clean.push(part),
        }
    }
    Ok(clean.join(&b'/'))
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps { last_access: entry.mtime, last_modification: entry.mtime }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        _ => FileType::Fifo,
    }
}

fn path_buf(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;

    std::ffi::OsString::from_vec(bytes).into()
}

fn refused(entry: &Entry, problem: &'static str) -> ExtractError {
    ExtractError::Entry { entry: String::from_utf8_lossy(&entry.path).into_owned(), problem }
}

fn failed<E: Into<io::Error>>(
    entry: &Entry,
    operation: &'static str,
) -> impl FnOnce(E) -> ExtractError {
    move |source| {
        let entry = String::from_utf8_lossy(&entry.path).into_owned();
        ExtractError::Io { entry, operation, source: source.into() }
    }
}

#[cfg(test)]
mod tests;
