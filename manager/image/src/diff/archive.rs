//! Changes become an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{self as rfs, FileType, SeekFrom};
use rustix::io::Errno;

use super::header::{self, BLOCK, Entry, EntryKind, SparseMap, pad};
use super::node::Node;
use super::walk::{Change, Visitor};
use super::{ChangeKind, DiffError, DiffOptions, Timestamps};

/// Prefix of a name that deletes another (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// Name that deletes everything that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Size of what is read at once.
const PIECE_BYTES: usize = 128 * 1024;

/// Holes are told at this grain: what every file system can have.
const HOLE_BYTES: usize = 4096;

/// Most data segments of a sparse file; one with more is written out.
const MAX_SEGMENTS: usize = 65_536;

/// Writes changes into an archive.
pub(super) struct Archiver<'a, W> {
    output: W,
    options: &'a DiffOptions,
    /// Where names of the tree are in the archive: the prefix that is replaced, and by what.
    rebase: Option<(&'a [u8], &'a [u8])>,
    /// Whether names that delete others are only names here.
    is_layer: bool,
    /// The first name of each inode that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Archiver<'a, W> {
    /// Writes a layer.
    pub(super) fn layer(output: W, options: &'a DiffOptions) -> Self {
        Self::new(output, options, true, None)
    }

    /// Writes files as they are; names that begin with the first text of `rebase` begin with the
    /// second instead.
    pub(super) fn files(
        output: W,
        options: &'a DiffOptions,
        rebase: Option<(&'a [u8], &'a [u8])>,
    ) -> Self {
        Self::new(output, options, false, rebase)
    }

    fn new(
        output: W,
        options: &'a DiffOptions,
        is_layer: bool,
        rebase: Option<(&'a [u8], &'a [u8])>,
    ) -> Self {
        let (links, buffer) = (HashMap::new(), vec![0; PIECE_BYTES]);
        Self { output, options, rebase, is_layer, links, buffer }
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<W, DiffError> {
        header::end(&mut self.output).map_err(DiffError::write)?;
        Ok(self.output)
    }

    /// Returns the output, for an archive that goes on.
    pub(super) fn into_output(self) -> W {
        self.output
    }

    /// Writes the entry of a directory that has no name of its own: the root of a layer.
    pub(super) fn root(&mut self, node: &Node<'_>) -> Result<(), DiffError> {
        self.entry(b"./", EntryKind::Directory, b"", node, 0, None)
    }

    fn name(&self, path: &[u8]) -> Vec<u8> {
        match self.rebase {
            Some((from, to)) if path.starts_with(from) => [to, &path[from.len()..]].concat(),
            _ => path.to_vec(),
        }
    }

    /// Writes an empty file of a name that means a deletion.
    fn mark(&mut self, path: &[u8]) -> Result<(), DiffError> {
        let entry = Entry {
            kind: EntryKind::File,
            path,
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            size_bytes: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: &[],
            sparse: None,
        };
        entry.write(&mut self.output).map_err(DiffError::write)
    }

    fn entry(
        &mut self,
        path: &[u8],
        kind: EntryKind,
        link: &[u8],
        node: &Node<'_>,
        size_bytes: u64,
        sparse: Option<&SparseMap>,
    ) -> Result<(), DiffError> {
        let mut xattrs = match kind {
            // Its first name has them.
            EntryKind::HardLink => Vec::new(),
            _ => node.xattrs().map_err(DiffError::read(path, "read the attributes of"))?,
        };
        for (key, value) in &mut xattrs {
            if key.contains(&b'=') {
                let problem = "the name of an attribute has an equals sign in it";
                return Err(DiffError::refused(path, problem));
            }
            self.options.owners.attribute_to_archive(key, value);
        }
        let stat = &node.stat;
        let device = match kind {
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                (rfs::major(stat.st_rdev), rfs::minor(stat.st_rdev))
            }
            _ => (0, 0),
        };
        let entry = Entry {
            kind,
            path,
            link,
            mode: stat.st_mode,
            uid: self.options.owners.user_to_archive(stat.st_uid),
            gid: self.options.owners.group_to_archive(stat.st_gid),
            size_bytes,
            mtime: self.mtime(stat),
            device,
            xattrs: &xattrs,
            sparse,
        };
        entry.write(&mut self.output).map_err(DiffError::write)
    }

    fn mtime(&self, stat: &rfs::Stat) -> (i64, u32) {
        let own = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        match self.options.timestamps {
            Timestamps::Keep => own,
            Timestamps::Clamp { latest_secs } => own.min((latest_secs, 0)),
            Timestamps::Rewrite { secs } => (secs, 0),
        }
    }

    fn file(&mut self, path: &[u8], node: &Node<'_>) -> Result<(), DiffError> {
        let size = u64::try_from(node.stat.st_size).unwrap_or(0);
        let mut file = match node.open_file() {
            Ok(file) => file,
            // Deleted, or something else by now.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(DiffError::read(path, "open")(errno)),
        };
        let sparse = self.sparse_map(&mut file, size).map_err(DiffError::read(path, "read"))?;
        self.entry(path, EntryKind::File, b"", node, size, sparse.as_ref())?;
        let segments = match &sparse {
            Some(sparse) => sparse.segments.clone(),
            None => vec![(0, size)],
        };
        let mut written = 0;
        for (offset, length) in segments {
            self.copy(&file, offset, length, path)?;
            written += length;
        }
        pad(&mut self.output, written).map_err(DiffError::write)
    }

    /// Copies exactly so many bytes: what a container cuts off meanwhile is zeros.
    fn copy(
        &mut self,
        file: &File,
        offset: u64,
        length: u64,
        path: &[u8],
    ) -> Result<(), DiffError> {
        let (mut at, mut left) = (offset, length);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = file
                .read_at(&mut self.buffer[..want], at)
                .map_err(DiffError::read(path, "read"))?;
            let count = if read == 0 {
                self.buffer[..want].fill(0);
                want
            } else {
                read
            };
            self.output.write_all(&self.buffer[..count]).map_err(DiffError::write)?;
            at += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// Finds the data of a file that has holes, by what is in it: how a file system lays it out does
    /// not show in the archive.
    fn sparse_map(&mut self, file: &mut File, size: u64) -> std::io::Result<Option<SparseMap>> {
        let first_hole = match rfs::seek(&*file, SeekFrom::Hole(0)) {
            Ok(hole) => hole,
            Err(Errno::INVAL | Errno::NXIO) => size,
            Err(errno) => return Err(errno.into()),
        };
        if size == 0 || first_hole >= size || self.options.fills_holes {
            return Ok(None);
        }
        let mut segments: Vec<(u64, u64)> = Vec::new();
        let mut offset = 0;
        while let Some(start) = next_data(file, offset, size)? {
            let end = rfs::seek(&*file, SeekFrom::Hole(start))?.min(size);
            let mut at = start - start % HOLE_BYTES as u64;
            rfs::seek(&*file, SeekFrom::Start(at))?;
            while at < end {
                let want = usize::try_from(size - at).unwrap_or(usize::MAX).min(HOLE_BYTES);
                let block = &mut self.buffer[..want];
                let mut filled = 0;
                while filled < want {
                    match file.read(&mut block[filled..])? {
                        0 => break,
                        count => filled += count,
                    }
                }
                if block[..filled].iter().any(|&byte| byte != 0) {
                    match segments.last_mut() {
                        Some((begin, length)) if *begin + *length == at => *length += want as u64,
                        _ => segments.push((at, want as u64)),
                    }
                }
                at += want as u64;
            }
            offset = at;
        }
        if segments.len() > MAX_SEGMENTS {
            return Ok(None);
        }
        // The last segment reaches the end, as readers of old expect.
        if segments.last().is_none_or(|(offset, length)| offset + length < size) {
            segments.push((size, 0));
        }
        Ok(Some(SparseMap { size_bytes: size, segments }))
    }
}

fn next_data(file: &File, offset: u64, size: u64) -> std::io::Result<Option<u64>> {
    if offset >= size {
        return Ok(None);
    }
    match rfs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => Ok(Some(start).filter(|start| *start < size)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl<W: Write> Visitor for Archiver<'_, W> {
    fn visit(&mut self, change: &Change<'_>) -> Result<(), DiffError> {
        let path = self.name(change.path);
        let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => path.split_at(slash + 1),
            None => (&[][..], path.as_slice()),
        };
        if self.is_layer && name.starts_with(WHITEOUT) {
            let problem = "in a layer, a name that begins with .wh. deletes another";
            return Err(DiffError::refused(&path, problem));
        }
        let Some(node) = change.node else {
            debug_assert_eq!(change.kind, ChangeKind::Deleted);
            return self.mark(&[above, WHITEOUT, name].concat());
        };
        if let Some(inode) = node.shared_inode() {
            if let Some(first) = self.links.get(&inode).cloned() {
                return self.entry(&path, EntryKind::HardLink, &first, node, 0, None);
            }
            self.links.insert(inode, path.clone());
        }
        match node.kind() {
            FileType::Directory => {
                let path = [&path[..], b"/"].concat();
                self.entry(&path, EntryKind::Directory, b"", node, 0, None)?;
                if change.is_opaque {
                    self.mark(&[&path, OPAQUE].concat())?;
                }
                Ok(())
            }
            FileType::RegularFile => self.file(&path, node),
            FileType::Symlink => {
                let target = match node.link_target() {
                    Ok(target) => target,
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(errno) => return Err(DiffError::read(&path, "read the link")(errno)),
                };
                self.entry(&path, EntryKind::Symlink, &target, node, 0, None)
            }
            FileType::CharacterDevice => {
                self.entry(&path, EntryKind::CharDevice, b"", node, 0, None)
            }
            FileType::BlockDevice => self.entry(&path, EntryKind::BlockDevice, b"", node, 0, None),
            FileType::Fifo => self.entry(&path, EntryKind::Fifo, b"", node, 0, None),
            // A socket is nothing without the process that listens on it, and no archive has them.
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }
}

// A block holds whole grains of holes, or none.
const _: () = assert!(PIECE_BYTES.is_multiple_of(HOLE_BYTES) && HOLE_BYTES.is_multiple_of(BLOCK));
