//! Files with holes (GNU tar, "Storing Sparse Files").

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

/// Data regions of one file at most: more would be an attack on memory.
const MAX_REGIONS: usize = 1 << 20;

/// Octets that the map before the data is padded to.
const BLOCK_BYTES: u64 = 512;

/// Where the data of a file lies: regions in ascending order that do not overlap.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SparseMap {
    regions: Vec<(u64, u64)>,
    real_bytes: u64,
}

impl SparseMap {
    /// Checks a list of offset, length, offset, length, …
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(numbers: &[u64], real_bytes: u64) -> Result<Self, &'static str> {
        if !numbers.len().is_multiple_of(2) {
            return Err("has an offset without a length");
        }
        let mut end = 0;
        let mut regions = Vec::with_capacity(numbers.len() / 2);
        for pair in numbers.chunks_exact(2) {
            let (offset, length) = (pair[0], pair[1]);
            if offset < end {
                return Err("has regions that overlap or go backwards");
            }
            end = offset.checked_add(length).ok_or("has a region beyond every file")?;
            regions.push((offset, length));
        }
        if end > real_bytes {
            return Err("has a region beyond the end of the file");
        }
        Ok(Self { regions, real_bytes })
    }

    /// Reads the map that precedes the data in version 1.0: decimal numbers, a line each, the first
    /// the number of regions, padded to a multiple of 512 octets.
    ///
    /// # Errors
    /// Outer: the reader's. Inner: what is wrong with the map.
    pub(super) fn read(
        reader: &mut impl Read,
        real_bytes: u64,
    ) -> io::Result<Result<Self, &'static str>> {
        let mut lines = Lines { reader, octets: 0 };
        let Some(count) = lines.number()?.and_then(|count| usize::try_from(count).ok()) else {
            return Ok(Err("does not begin with a number"));
        };
        if count > MAX_REGIONS {
            return Ok(Err("has more than 1048576 regions"));
        }
        let mut numbers = Vec::new();
        for _ in 0..count * 2 {
            let Some(number) = lines.number()? else { return Ok(Err("holds what is no number")) };
            numbers.push(number);
        }
        let padding = lines.octets.next_multiple_of(BLOCK_BYTES) - lines.octets;
        io::copy(&mut lines.reader.take(padding), &mut io::sink())?;
        Ok(Self::new(&numbers, real_bytes))
    }

    /// Writes the regions' data from `reader` to their places in `file`, leaving holes between.
    ///
    /// # Errors
    /// The reader's or the file's; `UnexpectedEof` if the data ends before the map does.
    pub(super) fn write(&self, reader: &mut impl Read, file: &mut File) -> io::Result<()> {
        file.set_len(self.real_bytes)?;
        for &(offset, length) in &self.regions {
            file.seek(SeekFrom::Start(offset))?;
            if io::copy(&mut reader.take(length), file)? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Bytes of data, holes not counted.
    pub(super) fn data_bytes(&self) -> u64 {
        self.regions.iter().map(|(_, length)| length).sum()
    }
}

struct Lines<'a, R> {
    reader: &'a mut R,
    octets: u64,
}

impl<R: Read> Lines<'_, R> {
    /// Reads one line; `None` if it is no number.
    fn number(&mut self) -> io::Result<Option<u64>> {
        let mut value: Option<u64> = None;
        loop {
            let mut octet = [0];
            self.reader.read_exact(&mut octet)?;
            self.octets += 1;
            match octet[0] {
                b'\n' => return Ok(value),
                digit @ b'0'..=b'9' => {
                    let shifted = value.unwrap_or(0).checked_mul(10);
                    let Some(next) = shifted.and_then(|it| it.checked_add(u64::from(digit - b'0')))
                    else {
                        return Ok(None);
                    };
                    value = Some(next);
                }
                _ => return Ok(None),
            }
        }
    }
}

/// Copies `reader` to `file`, making holes of long runs of zeros: GNU tar's older form of sparse
/// files reaches us expanded.
///
/// # Errors
/// The reader's or the file's.
pub(super) fn copy_with_holes(
    reader: &mut impl Read,
    file: &mut File,
    buffer: &mut [u8],
) -> io::Result<u64> {
    let mut length = 0;
    loop {
        let read = reader.read(buffer)?;
        if read == 0 {
            file.set_len(length)?;
            return Ok(length);
        }
        length += read as u64;
        if buffer[..read].iter().all(|octet| *octet == 0) {
            file.seek(SeekFrom::Start(length))?;
        } else {
            file.write_all(&buffer[..read])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_overlaps_or_leaves_the_file_is_refused() {
        assert!(SparseMap::new(&[0, 10, 5, 10], 100).is_err());
        assert!(SparseMap::new(&[0, 10, 90, 11], 100).is_err());
        assert!(SparseMap::new(&[0, 10, 90], 100).is_err());
        assert!(SparseMap::new(&[u64::MAX, 2], u64::MAX).is_err());
        assert!(SparseMap::new(&[0, 10, 90, 10], 100).is_ok());
    }

    #[test]
    fn the_leading_map_is_read_to_the_end_of_its_block() {
        let mut blob = b"2\n0\n3\n100\n2\n".to_vec();
        blob.resize(512, 0);
        blob.extend_from_slice(b"abcde");
        let mut reader = &blob[..];

        let map = SparseMap::read(&mut reader, 102).unwrap().unwrap();

        assert_eq!(map, SparseMap::new(&[0, 3, 100, 2], 102).unwrap());
        assert_eq!(map.data_bytes(), 5);
        assert_eq!(reader, b"abcde");
    }

    #[test]
    fn data_is_put_between_holes() {
        let map = SparseMap::new(&[2, 3, 100_000, 2], 200_000).unwrap();
        let mut file = tempfile::tempfile().unwrap();

        map.write(&mut &b"abcde"[..], &mut file).unwrap();

        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len(), 200_000);
        assert_eq!(&content[..6], b"\0\0abc\0");
        assert_eq!(&content[100_000..100_003], b"de\0");
    }
}
