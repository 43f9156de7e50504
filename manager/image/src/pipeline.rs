//! The way of a layer's bytes, each stage on a thread of its own.
//!
//! ```text
//!                                                         ┌──▶ diff id (thread)
//!  pieces ──▶ sink: hash, write the blob ──▶ decompress ──┴──▶ extract ──▶ directory
//!  (network,   the caller's thread            thread            thread
//!   or a file)
//! ```
//!
//! The stages are connected by short queues, so that all run at once and memory stays bounded. If one
//! fails, its queues close and the others end: the first cause is what is reported.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use keg_store::{Algorithm, Digest, Hasher};

use crate::compression::{Decoder, window_bytes};
use crate::extract::{ExtractError, ExtractLimits, Extracted, Whiteouts, extract};
use crate::room::Room;

/// Pieces that may wait between two stages.
const QUEUE_LENGTH: usize = 2;

/// What became of a layer.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// What was made.
    pub(crate) extracted: Extracted,
    /// Digest of the archive after decompression.
    pub(crate) diff_id: Digest,
}

/// Where and how to extract.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) whiteouts: Whiteouts,
    pub(crate) limits: &'a ExtractLimits,
    /// Size of the archive as stored, from which the limit after decompression follows.
    pub(crate) compressed_bytes: u64,
    /// Hash function of the diff id.
    pub(crate) algorithm: Algorithm,
    /// Memory for what is on its way.
    pub(crate) room: &'a Room,
}

/// Passes what `produce` gives it through all stages and waits for them. `produce` ends early when a
/// piece is not wanted any more.
///
/// # Errors
/// What `produce` failed with, before anything that follows from it; else what the later stages did.
pub(crate) fn run<E>(
    target: &Target<'_>,
    produce: impl FnOnce(&mut dyn FnMut(Bytes) -> Wanted) -> Result<(), E>,
) -> Result<Unpacked, RunError<E>> {
    std::thread::scope(|scope| {
        let (compressed, for_decoder) = sync_channel(QUEUE_LENGTH);
        let (plain, for_extractor) = sync_channel(QUEUE_LENGTH);
        let (hashed, for_hasher) = sync_channel(QUEUE_LENGTH);
        let limit_bytes = target.limits.max_bytes(target.compressed_bytes);
        let decoder = scope.spawn(move || {
            decompress(for_decoder, &Outputs { plain, hashed }, limit_bytes, target.room)
        });
        // Extraction takes longest of all where files are small, so it has a thread without this.
        let hasher = scope.spawn(move || {
            let mut hasher = Hasher::new(target.algorithm);
            for_hasher.iter().for_each(|piece: Bytes| hasher.update(&piece));
            hasher.finish()
        });
        let extractor = scope.spawn(move || {
            let pieces = Pieces::new(for_extractor);
            extract(pieces, target.dir, target.whiteouts, target.limits.max_entries)
        });
        let produced = produce(&mut |piece| match compressed.send(Ok(piece)) {
            Ok(()) => Wanted::More,
            Err(_) => Wanted::NoMore,
        });
        if produced.is_err() {
            // Tells the end from a break.
            let _ = compressed.send(Err(()));
        }
        drop(compressed);
        let decoded = decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let extracted = extractor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let diff_id = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        produced.map_err(RunError::Produce)?;
        decoded.map_err(RunError::Extract)?;
        let extracted = extracted.map_err(RunError::Extract)?;
        Ok(Unpacked { extracted, diff_id })
    })
}

/// Whether a producer should go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    More,
    NoMore,
}

/// Which end of the pipeline failed.
#[derive(Debug)]
pub(crate) enum RunError<E> {
    Produce(E),
    Extract(ExtractError),
}

/// Where goes what is decompressed.
struct Outputs {
    plain: SyncSender<Result<Bytes, ()>>,
    hashed: SyncSender<Bytes>,
}

fn decompress(
    input: Receiver<Result<Bytes, ()>>,
    output: &Outputs,
    limit_bytes: u64,
    room: &Room,
) -> Result<(), ExtractError> {
    let outcome = decompress_all(input, output, limit_bytes, room);
    if outcome.is_err() {
        let _ = output.plain.send(Err(()));
    }
    outcome
}

fn decompress_all(
    input: Receiver<Result<Bytes, ()>>,
    output: &Outputs,
    limit_bytes: u64,
    room: &Room,
) -> Result<(), ExtractError> {
    let read = |source| ExtractError::Read { source };
    let mut input = Pieces::new(input);
    let _window = room.window(window_bytes(input.fill_buf().map_err(read)?));
    let mut decoder = Decoder::new(input)?;
    let mut total_bytes = 0;
    loop {
        let mut piece = room.piece();
        piece.fill(&mut decoder).map_err(read)?;
        let piece = piece.freeze();
        if piece.is_empty() {
            return Ok(());
        }
        total_bytes += piece.len() as u64;
        if total_bytes > limit_bytes {
            return Err(ExtractError::Limit {
                limit: limit_bytes,
                of: "bytes after decompression",
            });
        }
        // It ends no sooner than its input.
        let _ = output.hashed.send(piece.clone());
        if output.plain.send(Ok(piece)).is_err() {
            // The extractor failed, and says why.
            return Ok(());
        }
    }
}

/// Reads what comes through a queue.
struct Pieces {
    input: Receiver<Result<Bytes, ()>>,
    current: Bytes,
}

impl Pieces {
    fn new(input: Receiver<Result<Bytes, ()>>) -> Self {
        Self { input, current: Bytes::new() }
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.input.recv() {
                Ok(Ok(piece)) => self.current = piece,
                Ok(Err(())) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Err(_) => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        let _ = self.current.split_to(count);
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(size: usize) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_path("file").unwrap();
        header.set_mode(0o644);
        header.set_size(size as u64);
        header.set_cksum();
        builder.append(&header, &vec![7; size][..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn run_on(
        pieces: &[&[u8]],
        limits: &ExtractLimits,
    ) -> (Result<Unpacked, RunError<&'static str>>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::default();
        let target = Target {
            dir: dir.path(),
            whiteouts: Whiteouts::Delete,
            limits,
            compressed_bytes: pieces.iter().map(|piece| piece.len() as u64).sum(),
            algorithm: Algorithm::Sha256,
            room: &room,
        };
        let outcome = run(&target, |send| {
            for piece in pieces {
                if *piece == b"break" {
                    return Err("broken");
                }
                if send(Bytes::copy_from_slice(piece)) == Wanted::NoMore {
                    break;
                }
            }
            Ok(())
        });
        (outcome, dir)
    }

    #[test]
    fn the_diff_id_is_that_of_the_plain_archive_padding_included() {
        let mut plain = archive(3_000_000);
        plain.extend([0; 10_240]);
        let zstd = zstd::stream::encode_all(&plain[..], 3).unwrap();
        let pieces: Vec<&[u8]> = zstd.chunks(100).collect();

        let (outcome, dir) = run_on(&pieces, &ExtractLimits::default());

        let unpacked = outcome.unwrap();
        assert_eq!(unpacked.diff_id, Digest::sha256(&plain));
        assert_eq!(unpacked.extracted.usage.size_bytes, 3_000_000);
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), vec![7; 3_000_000]);
    }

    #[test]
    fn the_producers_failure_is_told_and_not_what_follows_from_it() {
        let plain = archive(100);

        let (outcome, _dir) = run_on(&[&plain[..600], b"break"], &ExtractLimits::default());

        assert!(matches!(outcome, Err(RunError::Produce("broken"))));
    }

    #[test]
    fn a_break_is_not_taken_for_the_end_of_an_archive() {
        // Cut between two blocks, where a plain archive could end.
        let plain = archive(0);

        let (outcome, _dir) = run_on(&[&plain[..512], b"break"], &ExtractLimits::default());

        assert!(matches!(outcome, Err(RunError::Produce("broken"))));
    }

    #[test]
    fn an_archive_that_grows_too_much_is_stopped() {
        let bomb = zstd::stream::encode_all(&archive(50_000_000)[..], 3).unwrap();
        let limits = ExtractLimits { free_bytes: 1 << 20, max_ratio: 10, ..Default::default() };

        let (outcome, dir) = run_on(&[&bomb], &limits);

        assert!(matches!(outcome, Err(RunError::Extract(ExtractError::Limit { .. }))));
        let written = std::fs::metadata(dir.path().join("file")).unwrap().len();
        assert!(written <= 2 << 20, "{written}");
    }

    #[test]
    fn garbage_after_a_compressed_archive_is_an_error() {
        let mut zstd = zstd::stream::encode_all(&archive(10)[..], 3).unwrap();
        zstd.extend(b"garbage");

        let (outcome, _dir) = run_on(&[&zstd], &ExtractLimits::default());

        assert!(matches!(outcome, Err(RunError::Extract(_))));
    }
}
