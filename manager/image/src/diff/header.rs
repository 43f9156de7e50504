//! Headers of archives: `ustar`, with PAX records for what that cannot say (POSIX, pax).
//!
//! The same fields give the same bytes: no user names, no times of writing, records sorted by key,
//! and none where the plain header is enough.

use std::io::{self, Write};

/// Size of a block.
pub(super) const BLOCK: usize = 512;

/// Highest number in an octal field of seven digits, and of eleven.
const OCTAL_7_MAX: u64 = 0o7_777_777;
const OCTAL_11_MAX: u64 = 0o77_777_777_777;

/// Longest name, and longest link target, in a plain header.
const NAME_BYTES: usize = 100;

/// What an entry is: the type flag of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum EntryKind {
    File = b'0',
    HardLink = b'1',
    Symlink = b'2',
    CharDevice = b'3',
    BlockDevice = b'4',
    Directory = b'5',
    Fifo = b'6',
}

/// Where the data of a file with holes is: offset and length of each segment, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    pub(super) size_bytes: u64,
    pub(super) segments: Vec<(u64, u64)>,
}

impl SparseMap {
    /// Bytes of data in it.
    pub(super) fn data_bytes(&self) -> u64 {
        self.segments.iter().map(|(_, length)| length).sum()
    }

    /// The map as it stands before the data (GNU tar, "PAX Format, Version 1.0"), padded.
    fn text(&self) -> Vec<u8> {
        let mut text = format!("{}\n", self.segments.len());
        for (offset, length) in &self.segments {
            text.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut text = text.into_bytes();
        text.resize(text.len().next_multiple_of(BLOCK), 0);
        text
    }
}

/// Everything that a header says.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) kind: EntryKind,
    /// A directory's ends in a slash.
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size_bytes: u64,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    pub(super) device: (u32, u32),
    /// Names without an equals sign.
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    pub(super) sparse: Option<&'a SparseMap>,
}

impl Entry<'_> {
    /// Writes the header, and before it the records that it needs; behind it, a sparse file's map.
    pub(super) fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let map = self.sparse.map(SparseMap::text).unwrap_or_default();
        let size = match self.sparse {
            Some(sparse) => map.len() as u64 + sparse.data_bytes(),
            None => self.size_bytes,
        };
        let records = self.records(size);
        if !records.is_empty() {
            let fields = Plain {
                flag: b'x',
                name: b"PaxHeaders.0/entry",
                mode: 0o644,
                size: records.len() as u64,
                ..Plain::default()
            };
            output.write_all(&fields.block())?;
            output.write_all(&records)?;
            pad(output, records.len() as u64)?;
        }
        let seconds = u64::try_from(self.mtime.0).unwrap_or(0);
        let fields = Plain {
            flag: self.kind as u8,
            name: if self.sparse.is_some() { b"GNUSparseFile.0/entry" } else { self.path },
            link: self.link,
            mode: self.mode & 0o7777,
            uid: self.uid.into(),
            gid: self.gid.into(),
            size,
            mtime: seconds,
            device: self.device,
        };
        output.write_all(&fields.block())?;
        output.write_all(&map)
    }

    fn records(&self, size: u64) -> Vec<u8> {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut add = |key: &[u8], value: &[u8]| records.push((key.to_vec(), value.to_vec()));
        match self.sparse {
            Some(sparse) => {
                add(b"GNU.sparse.major", b"1");
                add(b"GNU.sparse.minor", b"0");
                add(b"GNU.sparse.name", self.path);
                add(b"GNU.sparse.realsize", sparse.size_bytes.to_string().as_bytes());
            }
            None if needs_record(self.path) => add(b"path", self.path),
            None => {}
        }
        if needs_record(self.link) {
            add(b"linkpath", self.link);
        }
        for (key, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if u64::from(id) > OCTAL_7_MAX {
                add(key, id.to_string().as_bytes());
            }
        }
        if size > OCTAL_11_MAX {
            add(b"size", size.to_string().as_bytes());
        }
        let (seconds, nanos) = self.mtime;
        let is_plain = u64::try_from(seconds).is_ok_and(|seconds| seconds <= OCTAL_11_MAX);
        if nanos != 0 || !is_plain {
            add(b"mtime", decimal_time(seconds, nanos).as_bytes());
        }
        for (name, value) in self.xattrs {
            add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        records.sort();
        records.iter().flat_map(|(key, value)| record(key, value)).collect()
    }
}

/// Writes a comment on the whole archive, which stands before all entries.
pub(super) fn global_comment(output: &mut impl Write, comment: &[u8]) -> io::Result<()> {
    let records = record(b"comment", comment);
    let fields = Plain {
        flag: b'g',
        name: b"pax_global_header",
        mode: 0o644,
        size: records.len() as u64,
        ..Plain::default()
    };
    output.write_all(&fields.block())?;
    output.write_all(&records)?;
    pad(output, records.len() as u64)
}

/// Fills an entry's data up to a whole block.
pub(super) fn pad(output: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0);
    output.write_all(&[0; BLOCK][..rest])
}

/// Writes the two empty blocks at an archive's end.
pub(super) fn end(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&[0; 2 * BLOCK])
}

fn needs_record(name: &[u8]) -> bool {
    name.len() > NAME_BYTES || !name.is_ascii()
}

/// Writes seconds with a fraction; the fraction of a time before 1970 goes the other way.
fn decimal_time(seconds: i64, nanos: u32) -> String {
    let (whole, fraction) = if seconds < 0 && nanos > 0 {
        (seconds + 1, 1_000_000_000 - nanos)
    } else {
        (seconds, nanos)
    };
    let sign = if seconds < 0 { "-" } else { "" };
    let whole = whole.unsigned_abs();
    match fraction {
        0 => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction:09}").trim_end_matches('0').to_owned(),
    }
}

/// Writes one record, whose length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// The fields of a plain header.
#[derive(Debug, Default)]
struct Plain<'a> {
    flag: u8,
    name: &'a [u8],
    link: &'a [u8],
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    device: (u32, u32),
}

impl Plain<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut text = |at: usize, limit: usize, bytes: &[u8]| {
            let length = bytes.len().min(limit);
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        text(0, NAME_BYTES, self.name);
        text(157, NAME_BYTES, self.link);
        text(257, 8, b"ustar\x0000");
        text(156, 1, &[self.flag]);
        // What does not fit stands in a record, and then here only to be read by nobody.
        let mut octal = |at: usize, digits: usize, number: u64, max: u64| {
            text(at, digits, format!("{:0digits$o}", number.min(max)).as_bytes());
        };
        octal(100, 7, self.mode.into(), OCTAL_7_MAX);
        octal(108, 7, self.uid, OCTAL_7_MAX);
        octal(116, 7, self.gid, OCTAL_7_MAX);
        octal(124, 11, self.size, OCTAL_11_MAX);
        octal(136, 11, self.mtime, OCTAL_11_MAX);
        octal(329, 7, self.device.0.into(), OCTAL_7_MAX);
        octal(337, 7, self.device.1.into(), OCTAL_7_MAX);
        let spaces = 8 * u32::from(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum::<u32>() + spaces;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [1, 3, 80, 93, 94, 95, 984, 985, 986, 99_000] {
            let record = record(b"path", &vec![b'a'; length]);

            let digits: Vec<u8> = record.iter().copied().take_while(u8::is_ascii_digit).collect();
            let told: usize = String::from_utf8(digits).unwrap().parse().unwrap();
            assert_eq!(told, record.len());
        }
    }

    #[test]
    fn times_are_written_as_decimal_numbers() {
        assert_eq!(decimal_time(5, 0), "5");
        assert_eq!(decimal_time(5, 500_000_000), "5.5");
        assert_eq!(decimal_time(-2, 750_000_000), "-1.25");
        assert_eq!(decimal_time(-1, 500_000_000), "-0.5");
        assert_eq!(decimal_time(-3, 0), "-3");
    }
}
