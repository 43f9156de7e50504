//! Archives: a stream of entries, read with limits.
//!
//! Header blocks are parsed by the `tar` crate. What lies between them is read here, because that
//! crate reads extension headers of any length into memory, splits binary attributes at newlines and
//! does not know PAX's sparse files.

mod records;

use std::io::{self, BufRead};
use std::ops::Range;

use rustix::fs::Timespec;
use tar::{EntryType, GnuExtSparseHeader, Header};

use self::records::{Extensions, PaxSparse, parse_records};
use super::ExtractError;

/// Size of a block.
const BLOCK: usize = 512;

/// Longest extension header (PAX records, a GNU long name), in bytes.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Longest name or link target, in bytes: the kernel's.
const MAX_PATH_BYTES: usize = 4096;

/// Most data segments of a sparse file.
const MAX_SEGMENTS: usize = 1 << 20;

/// Where a header has the numbers that some writers leave blank.
const MODE_FIELD: Range<usize> = 100..108;
const UID_FIELD: Range<usize> = 108..116;
const GID_FIELD: Range<usize> = 116..124;
const SIZE_FIELD: Range<usize> = 124..136;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// Something that no layer has.
    Other,
}

/// One entry, its data not yet read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: Timespec,
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes, if the file has holes.
    pub(super) sparse: Option<Sparse>,
}

/// A file with holes: its size, and where its data goes, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sparse {
    pub(super) size_bytes: u64,
    /// Offset and length of each segment.
    pub(super) segments: Vec<(u64, u64)>,
}

/// Reads an archive entry by entry.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    /// Data of the current entry not read yet.
    data_bytes: u64,
    /// Padding behind that.
    padding_bytes: u64,
    /// Comment on the whole archive.
    comment: Option<Vec<u8>>,
}

impl Entry {
    /// Returns the name as a relative path, `.` and inner `..` resolved as text, if it is one.
    pub(crate) fn path(&self) -> Option<String> {
        let clean = super::clean(&self.path).ok().filter(|clean| !clean.is_empty())?;
        String::from_utf8(clean).ok()
    }

    /// Tells whether it has data.
    pub(crate) fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Returns what it leads to, if it is a symbolic link.
    pub(crate) fn symlink_target(&self) -> Option<String> {
        let target = (self.kind == Kind::Symlink).then(|| self.link.clone())?;
        String::from_utf8(target).ok()
    }
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, data_bytes: 0, padding_bytes: 0, comment: None }
    }

    /// Returns the next entry, or `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ExtractError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = match extensions.size.take() {
                Some(size) => size,
                None => field(&header, SIZE_FIELD, Header::entry_size)?,
            };
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    parse_records(&records, &mut extensions)?;
                }
                EntryType::GNULongName => extensions.path = Some(c_string(self.extension(size)?)),
                EntryType::GNULongLink => extensions.link = Some(c_string(self.extension(size)?)),
                // Defaults for the rest of the archive, which only comments are ever found in.
                EntryType::XGlobalHeader if size <= MAX_EXTENSION_BYTES => {
                    let records = self.extension(size)?;
                    let mut global = Extensions::default();
                    parse_records(&records, &mut global)?;
                    self.comment = global.comment.or(self.comment.take());
                }
                EntryType::XGlobalHeader => self.set_data(size),
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    /// Returns data of the current entry that is at hand; empty at its end. What is used must be told
    /// by [`Self::consume`].
    pub(crate) fn data(&mut self) -> Result<&[u8], ExtractError> {
        if self.data_bytes == 0 {
            return Ok(&[]);
        }
        let buffer = self.input.fill_buf().map_err(read_error)?;
        if buffer.is_empty() {
            return Err(read_error(io::ErrorKind::UnexpectedEof.into()));
        }
        let usable = usize::try_from(self.data_bytes).unwrap_or(usize::MAX).min(buffer.len());
        Ok(&buffer[..usable])
    }

    /// Marks data as used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.data_bytes -= count as u64;
    }

    /// Returns the comment on the whole archive, if one was read by now.
    pub(crate) fn take_comment(&mut self) -> Option<Vec<u8>> {
        self.comment.take()
    }

    /// Returns the input, of which the end may not be reached yet.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, ExtractError> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions
            .link
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        if path.len() > MAX_PATH_BYTES || link.len() > MAX_PATH_BYTES {
            let limit = MAX_PATH_BYTES as u64;
            return Err(ExtractError::Limit { limit, of: "bytes in a name" });
        }
        let kind = kind_of(header, &path);
        // Links and directories of some writers have a size, but never data.
        let has_data = matches!(kind, Kind::File | Kind::Other);
        let mut sparse = None;
        if header.entry_type() == EntryType::GNUSparse {
            sparse = Some(self.gnu_sparse(header)?);
        }
        self.set_data(if has_data { size } else { 0 });
        if let Some(pax) = self.pax_sparse(extensions.sparse)? {
            sparse = Some(pax);
        }
        let device = (
            header.device_major().ok().flatten().unwrap_or(0),
            header.device_minor().ok().flatten().unwrap_or(0),
        );
        let mtime = extensions.mtime.unwrap_or_else(|| Timespec {
            // Times before 1970 have no unsigned form; they become its beginning.
            tv_sec: header.mtime().ok().and_then(|secs| i64::try_from(secs).ok()).unwrap_or(0),
            tv_nsec: 0,
        });
        Ok(Entry {
            kind,
            path,
            link,
            mode: field(header, MODE_FIELD, Header::mode)?,
            uid: extensions.uid.map_or_else(|| field(header, UID_FIELD, Header::uid), Ok)?,
            gid: extensions.gid.map_or_else(|| field(header, GID_FIELD, Header::gid), Ok)?,
            mtime,
            device,
            xattrs: extensions.xattrs,
            sparse,
        })
    }

    fn set_data(&mut self, size: u64) {
        self.data_bytes = size;
        self.padding_bytes = padding(size);
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<(), ExtractError> {
        while self.data_bytes > 0 {
            let count = self.data()?.len();
            self.consume(count);
        }
        self.data_bytes = std::mem::take(&mut self.padding_bytes);
        while self.data_bytes > 0 {
            let count = self.data()?.len();
            self.consume(count);
        }
        Ok(())
    }

    /// Reads a header block; `None` at the archive's end.
    fn header(&mut self) -> Result<Option<Header>, ExtractError> {
        let mut header = Header::new_old();
        if self.input.fill_buf().map_err(read_error)?.is_empty() {
            // Some writers leave the two empty blocks at the end out.
            return Ok(None);
        }
        self.input.read_exact(header.as_mut_bytes()).map_err(read_error)?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let stored = header.cksum().map_err(|_| malformed("a header has no checksum"))?;
        if stored != checksum(bytes) {
            return Err(malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads the data of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ExtractError> {
        if size > MAX_EXTENSION_BYTES {
            let limit = MAX_EXTENSION_BYTES;
            return Err(ExtractError::Limit { limit, of: "bytes in an extension header" });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.input.read_exact(&mut bytes).map_err(read_error)?;
        self.data_bytes = 0;
        self.padding_bytes = padding(size);
        Ok(bytes)
    }

    /// Reads the map of a sparse file of GNU's old kind, whose blocks follow the header.
    fn gnu_sparse(&mut self, header: &Header) -> Result<Sparse, ExtractError> {
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file has no GNU header"))?;
        let mut sparse = Sparse { size_bytes: number(gnu.real_size())?, segments: Vec::new() };
        let add = |sparse: &mut Sparse, part: &tar::GnuSparseHeader| {
            if !part.is_empty() {
                sparse.segments.push((number(part.offset())?, number(part.length())?));
            }
            Ok::<_, ExtractError>(())
        };
        for part in &gnu.sparse {
            add(&mut sparse, part)?;
        }
        let mut is_extended = gnu.is_extended();
        while is_extended {
            if sparse.segments.len() > MAX_SEGMENTS {
                return Err(too_many_segments());
            }
            let mut block = GnuExtSparseHeader::new();
            self.input.read_exact(block.as_mut_bytes()).map_err(read_error)?;
            for part in block.sparse() {
                add(&mut sparse, part)?;
            }
            is_extended = block.is_extended();
        }
        Ok(sparse)
    }

    /// Makes the map of a sparse file that PAX records tell of; version 1.0 begins the data with it.
    fn pax_sparse(&mut self, pax: PaxSparse) -> Result<Option<Sparse>, ExtractError> {
        let Some(size_bytes) = pax.size else { return Ok(None) };
        let mut numbers = pax.numbers;
        if pax.is_version_1 {
            let mut consumed = 0;
            let count = self.decimal_line(&mut consumed)?;
            if count > MAX_SEGMENTS as u64 {
                return Err(too_many_segments());
            }
            numbers.clear();
            for _ in 0..2 * count {
                numbers.push(self.decimal_line(&mut consumed)?);
            }
            let rest = padding(consumed);
            for _ in 0..rest {
                self.data_byte()?;
            }
        }
        let segments = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(Some(Sparse { size_bytes, segments }))
    }

    fn decimal_line(&mut self, consumed: &mut u64) -> Result<u64, ExtractError> {
        let mut value = 0_u64;
        loop {
            let byte = self.data_byte()?;
            *consumed += 1;
            match byte {
                b'\n' => return Ok(value),
                b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                        .ok_or_else(|| malformed("a sparse file's map has a number too large"))?;
                }
                _ => return Err(malformed("a sparse file's map is not a list of numbers")),
            }
        }
    }

    fn data_byte(&mut self) -> Result<u8, ExtractError> {
        let byte =
            *self.data()?.first().ok_or_else(|| malformed("a sparse file's map does not end"))?;
        self.consume(1);
        Ok(byte)
    }
}

fn kind_of(header: &Header, path: &[u8]) -> Kind {
    match header.entry_type() {
        // The oldest archives tell a directory by the slash at the end of its name.
        EntryType::Regular if header.as_bytes()[156] == 0 && path.ends_with(b"/") => {
            Kind::Directory
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Directory => Kind::Directory,
        EntryType::Fifo => Kind::Fifo,
        _ => Kind::Other,
    }
}

/// Cuts a name at its terminating zero.
fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    // The checksum's own field counts as spaces.
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// Reads a numeric field of a header; one that is left blank is zero.
fn field<T: Default>(
    header: &Header,
    range: Range<usize>,
    parse: impl FnOnce(&Header) -> io::Result<T>,
) -> Result<T, ExtractError> {
    if header.as_bytes()[range].iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    number(parse(header))
}

fn number<T>(parsed: io::Result<T>) -> Result<T, ExtractError> {
    parsed.map_err(|_| malformed("a header has a bad number"))
}

fn malformed(problem: &'static str) -> ExtractError {
    ExtractError::Archive { problem }
}

fn too_many_segments() -> ExtractError {
    ExtractError::Limit { limit: MAX_SEGMENTS as u64, of: "segments in a sparse file" }
}

fn read_error(source: io::Error) -> ExtractError {
    ExtractError::Read { source }
}

#[cfg(test)]
mod tests;
