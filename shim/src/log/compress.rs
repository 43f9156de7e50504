//! Compresses a rotated file, a little at a time, so that nothing else waits for it.
//!
//! ```text
//! LOG.1 ─▶ LOG.gz.tmp ─▶ LOG.N.gz, and LOG.N goes      N: where later rotations moved the file
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::writer::{MODE, numbered};

/// Bytes that one step compresses: a millisecond's work.
const STEP_BYTES: usize = 128 << 10;

/// A file that is being compressed.
#[derive(Debug)]
pub(super) struct Job {
    /// Where the file is now.
    pub(super) number: u32,
    source: File,
    encoder: GzEncoder<File>,
    temporary: PathBuf,
    block: Vec<u8>,
}

impl Job {
    /// Begins with the file `number` of the log `base`.
    pub(super) fn start(base: &Path, number: u32) -> io::Result<Self> {
        let source = File::open(numbered(base, number))?;
        let mut temporary = base.as_os_str().to_owned();
        temporary.push(".gz.tmp");
        let temporary = PathBuf::from(temporary);
        let mut options = OpenOptions::new();
        let target = options.write(true).create(true).truncate(true).mode(MODE).open(&temporary)?;
        let encoder = GzEncoder::new(target, Compression::fast());
        Ok(Self { number, source, encoder, temporary, block: vec![0; STEP_BYTES] })
    }

    /// Compresses one block; `true` when there is no more.
    pub(super) fn step(&mut self) -> io::Result<bool> {
        match self.source.read(&mut self.block)? {
            0 => Ok(true),
            count => self.encoder.write_all(&self.block[..count]).map(|()| false),
        }
    }

    /// Puts the result in the place of the file.
    pub(super) fn finish(mut self, base: &Path) -> io::Result<()> {
        self.encoder.try_finish()?;
        fs::rename(&self.temporary, compressed(base, self.number))?;
        fs::remove_file(numbered(base, self.number))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // After `finish` there is none.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The name of a rotated file once it is compressed.
pub(super) fn compressed(base: &Path, number: u32) -> PathBuf {
    let mut path = numbered(base, number).into_os_string();
    path.push(".gz");
    path.into()
}
