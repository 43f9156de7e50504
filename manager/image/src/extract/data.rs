//! What is in files: plain, or with holes.

use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};

use keg_store::Ahead;

use super::tar::{Entry, Sparse, TarReader};
use super::{ExtractError, failed, refused};

/// Writes the data of an entry; returns how much that was.
pub(super) fn write_plain<R: BufRead>(
    entry: &Entry,
    reader: &mut TarReader<R>,
    file: &mut File,
) -> Result<u64, ExtractError> {
    let mut written = 0;
    let mut ahead = Ahead::default();
    loop {
        let data = reader.data()?;
        if data.is_empty() {
            return Ok(written);
        }
        file.write_all(data).map_err(failed(entry, "write the file"))?;
        let count = data.len();
        written += count as u64;
        ahead.grown(&*file, written);
        reader.consume(count);
    }
}

/// Writes the data of a sparse file between its holes; returns how much that was.
pub(super) fn write_sparse<R: BufRead>(
    entry: &Entry,
    sparse: &Sparse,
    reader: &mut TarReader<R>,
    file: &mut File,
) -> Result<u64, ExtractError> {
    let mut written = 0;
    for &(offset, length) in &sparse.segments {
        if offset.checked_add(length).is_none_or(|end| end > sparse.size_bytes) {
            return Err(refused(entry, "its data goes beyond its end"));
        }
        file.seek(SeekFrom::Start(offset)).map_err(failed(entry, "seek in the file"))?;
        let mut left = length;
        while left > 0 {
            let data = reader.data()?;
            let count = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(refused(entry, "it has less data than its map says"));
            }
            file.write_all(&data[..count]).map_err(failed(entry, "write the file"))?;
            reader.consume(count);
            left -= count as u64;
        }
        written += length;
    }
    file.set_len(sparse.size_bytes).map_err(failed(entry, "set the file's size"))?;
    Ok(written)
}

/// Reads what is left, and forgets it.
pub(super) fn drain(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let count = reader.fill_buf()?.len();
        if count == 0 {
            return Ok(());
        }
        reader.consume(count);
    }
}
