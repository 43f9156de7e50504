//! Lets the disk work while a file still grows.

use std::num::NonZeroU64;
use std::os::fd::AsFd;

use rustix::fs::{Advice, fadvise};

/// Bytes that are worth a request to the disk of their own.
const AHEAD_BYTES: u64 = 4 << 20;

/// Has the kernel begin to write a growing file to the disk, so that the sync at its end has little
/// left to do. The kernel by itself begins only when a good part of all memory is waiting.
#[derive(Debug, Default)]
pub struct Ahead {
    begun_bytes: u64,
}

impl Ahead {
    /// Takes note that the first `written_bytes` bytes of `file` are written.
    pub fn grown(&mut self, file: impl AsFd, written_bytes: u64) {
        let waiting = written_bytes.saturating_sub(self.begun_bytes);
        if let Some(waiting) = NonZeroU64::new(waiting).filter(|it| it.get() >= AHEAD_BYTES) {
            // What the kernel does not do now, the sync does.
            let _ = fadvise(file, self.begun_bytes, Some(waiting), Advice::DontNeed);
            self.begun_bytes = written_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_begun_in_large_parts_and_stays_as_it_is() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut ahead = Ahead::default();
        let part = vec![7_u8; usize::try_from(AHEAD_BYTES / 2).unwrap()];

        let mut begun = Vec::new();
        for count in 1..=4 {
            file.write_all(&part).unwrap();
            ahead.grown(file.as_file(), count * AHEAD_BYTES / 2);
            begun.push(ahead.begun_bytes / AHEAD_BYTES);
        }

        assert_eq!(begun, [0, 1, 1, 2]);
        assert_eq!(std::fs::read(file.path()).unwrap(), part.repeat(4));
    }
}
