//! What becomes of a file that is full: its number grows, it is compressed, it goes.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::{LogWriter, open_append};
use crate::log::compress::{Job, compressed};
use crate::self_log;

/// What happens to rotated files.
#[derive(Debug)]
pub(super) enum Compression {
    /// Nothing to do, or not wanted.
    Idle,
    /// A file waits for someone to call [`LogWriter::compress_some`].
    Waiting,
    /// Someone does.
    Running(Option<Box<Job>>),
}

impl LogWriter {
    /// Whether a rotated file waits to be compressed and nobody does it yet: then the caller is to
    /// call [`Self::compress_some`] until there is nothing left.
    pub(in crate::log) fn begin_compression(&mut self) -> bool {
        let waiting = matches!(self.compression, Compression::Waiting);
        if waiting {
            self.compression = Compression::Running(None);
        }
        waiting
    }

    /// Compresses a part of a rotated file; `false` when there is nothing left to do.
    pub(in crate::log) fn compress_some(&mut self) -> bool {
        let Compression::Running(job) = &mut self.compression else { return false };
        let base = &self.settings.path;
        let stepped = match job {
            Some(job) => job.step(),
            None => match oldest_plain(base, self.settings.max_files)
                .map(|number| Job::start(base, number))
            {
                Some(Ok(started)) => {
                    *job = Some(Box::new(started));
                    Ok(false)
                }
                Some(Err(error)) => Err(error),
                None => {
                    self.compression = Compression::Idle;
                    return false;
                }
            },
        };
        let finished = match stepped {
            Ok(false) => return true,
            Ok(true) => job.take().map_or(Ok(()), |job| job.finish(base)),
            Err(error) => Err(error),
        };
        if let Err(error) = finished {
            // The file stays as it is, and goes in its turn.
            self_log::warn("compress a rotated log", &error);
            self.compression = Compression::Idle;
            return false;
        }
        true
    }

    /// Moves the files on by one. What cannot be moved is written over: a bound is a bound.
    pub(super) fn rotate(&mut self) {
        let path = &self.settings.path;
        let oldest = self.settings.max_files.get() - 1;
        if oldest > 0 {
            // Either of the two is there, or none.
            let _ = fs::remove_file(numbered(path, oldest));
            let _ = fs::remove_file(compressed(path, oldest));
        }
        for number in (1..oldest).rev() {
            // A file that is not there yet needs no place.
            let _ = fs::rename(numbered(path, number), numbered(path, number + 1));
            let _ = fs::rename(compressed(path, number), compressed(path, number + 1));
        }
        if let Compression::Running(job) = &mut self.compression {
            match job {
                Some(running) if running.number >= oldest => *job = None,
                Some(running) => running.number += 1,
                None => {}
            }
        }
        let renamed = oldest > 0 && fs::rename(path, numbered(path, 1)).is_ok();
        match if renamed { open_append(path) } else { Err(io::ErrorKind::Unsupported.into()) } {
            Ok(file) => {
                self.file = file;
                self.target = None;
            }
            // The file that is open stays in use, emptied, under whatever name it has.
            Err(_) => {
                if self.file.set_len(0).is_err() {
                    return;
                }
            }
        }
        self.size_bytes = 0;
        if self.settings.compress && renamed && matches!(self.compression, Compression::Idle) {
            self.compression = Compression::Waiting;
        }
    }
}

/// Finds the oldest rotated file that is not compressed.
fn oldest_plain(base: &Path, max_files: NonZeroU32) -> Option<u32> {
    (1..max_files.get()).rev().find(|number| numbered(base, *number).exists())
}

pub(in crate::log) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}
