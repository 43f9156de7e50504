//! Writes entries to a file, rotates it, and survives a full disk.
//!
//! ```text
//! LOG.2 ◀─ LOG.1 ◀─ LOG        a rotation: the oldest goes, the rest moves on, LOG starts empty
//! ```
//!
//! Appending is synchronous: the page cache takes it. Only a full disk makes a writer wait, if its
//! settings say so: then [`LogWriter::append`] answers [`Outcome::Blocked`], keeps what is left, and
//! takes nothing more until [`LogWriter::retry`] got rid of it.

mod rotation;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::format::{Format, Frame};
use super::lines::{Lines, Stream};
use super::rate::RateLimit;
use crate::self_log;
use rotation::Compression;
pub(super) use rotation::numbered;

/// Permissions of a log: as Docker's, nobody else reads what containers print.
pub(super) const MODE: u32 = 0o640;

/// What stands for a reached rate limit where an error is needed.
const RATE_REACHED: io::ErrorKind = io::ErrorKind::QuotaExceeded;

/// How close to its limit a raw file may come with a line whose end is not known.
const RAW_MARGIN_BYTES: usize = 4096;

/// What a log is and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    /// Size at which a file is rotated; `None`: never.
    pub(crate) max_size_bytes: Option<NonZeroU64>,
    /// Files to keep, the current one included.
    pub(crate) max_files: NonZeroU32,
    pub(crate) when_full: WhenFull,
    /// Whether rotated files are compressed (gzip).
    pub(crate) compress: bool,
    /// Most bytes per second; `None`: as many as come.
    pub(crate) max_bytes_per_sec: Option<NonZeroU64>,
}

/// What to do when the disk takes no more, or the rate limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Lose output and count it.
    Drop,
    /// Let the container wait.
    Block,
}

/// Whether output was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Outcome {
    /// It is in the file, or lost and counted.
    Done,
    /// It waits for the disk: call [`LogWriter::retry`] later, and append nothing until then.
    Blocked,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("open log {path:?}")]
pub(crate) struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// An open log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    settings: LogSettings,
    file: File,
    /// The same file, not for appending: see [`LogWriter::move_from`].
    target: Option<File>,
    size_bytes: u64,
    stdout: Lines,
    stderr: Lines,
    pending: Pending,
    rate: Option<RateLimit>,
    compression: Compression,
    /// Whether raw output ended with a newline.
    at_line_start: bool,
    lost_bytes: u64,
}

/// Encoded entries that are not yet in a file.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Offsets into `bytes` before which the file is rotated, ascending.
    cuts: Vec<usize>,
    /// Whether the rate limit let them pass.
    admitted: bool,
}

impl LogWriter {
    /// Opens or creates a log, and its directory.
    pub(crate) fn open(settings: LogSettings) -> Result<Self, LogError> {
        let failed = |source| LogError { path: settings.path.clone(), source };
        if let Some(dir) = settings.path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let file = open_append(&settings.path).map_err(failed)?;
        let size_bytes = file.metadata().map_err(failed)?.len();
        let rate = settings.max_bytes_per_sec.map(|rate| RateLimit::new(rate, Instant::now()));
        Ok(Self {
            rate,
            compression: Compression::Idle,
            settings,
            file,
            target: None,
            size_bytes,
            stdout: Lines::default(),
            stderr: Lines::default(),
            pending: Pending::default(),
            at_line_start: true,
            lost_bytes: 0,
        })
    }

    /// Appends what `stream` wrote.
    pub(crate) fn append(&mut self, stream: Stream, bytes: &[u8]) -> Outcome {
        if self.settings.format == Format::Raw {
            let rest = self.write_through(bytes);
            self.take_raw(rest);
        } else {
            self.encode(stream, |lines, emit| lines.push(bytes, emit));
        }
        self.retry()
    }

    /// Appends what is held back of `stream`, which ended or pauses for long.
    pub(crate) fn finish(&mut self, stream: Stream) -> Outcome {
        self.encode(stream, |lines, emit| lines.finish(emit));
        self.retry()
    }

    /// Writes what waits.
    pub(crate) fn retry(&mut self) -> Outcome {
        if self.pending.bytes.is_empty() {
            return Outcome::Done;
        }
        let written = if self.admit() { self.flush() } else { Err(RATE_REACHED.into()) };
        match written {
            Ok(()) => self.report_loss(),
            Err(_) if self.settings.when_full == WhenFull::Block => return Outcome::Blocked,
            Err(error) => self.lose(&error),
        }
        self.pending.bytes.clear();
        self.pending.cuts.clear();
        self.pending.admitted = false;
        Outcome::Done
    }

    /// Asks the rate limit, once for what is pending.
    fn admit(&mut self) -> bool {
        let Some(rate) = &mut self.rate else { return true };
        let pending = &mut self.pending;
        pending.admitted = pending.admitted || rate.admits(pending.bytes.len(), Instant::now());
        pending.admitted
    }

    /// Gives memory back until the next append.
    pub(crate) fn relax(&mut self) {
        if self.pending.bytes.is_empty() {
            self.pending = Pending::default();
        }
        self.target = None;
    }

    fn encode(
        &mut self,
        stream: Stream,
        feed: impl FnOnce(&mut Lines, &mut dyn FnMut(&[u8], bool)),
    ) {
        let frame = Frame::new(self.settings.format, stream, SystemTime::now());
        let mut lines = std::mem::take(match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        });
        feed(&mut lines, &mut |piece, complete| {
            let before = self.pending.bytes.len();
            frame.encode(&mut self.pending.bytes, piece, complete);
            self.plan_cut(before);
        });
        match stream {
            Stream::Stdout => self.stdout = lines,
            Stream::Stderr => self.stderr = lines,
        }
    }

    /// Writes raw output from where it is, if nothing speaks against that. Returns what is left to do
    /// in the other way.
    fn write_through<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if !self.passes_through(bytes.len()) {
            return bytes;
        }
        match self.file.write(bytes) {
            Ok(count) => {
                self.size_bytes += u64::try_from(count).unwrap_or(0);
                if let Some(last) = bytes[..count].last() {
                    self.at_line_start = *last == b'\n';
                }
                &bytes[count..]
            }
            // The other way tries again, and knows what to do.
            Err(_) => bytes,
        }
    }

    /// Moves raw output out of `pipe` into the file within the kernel, at most `most_bytes`.
    ///
    /// `None` if that cannot be done now: then it has to be read and given to [`Self::append`]. An
    /// empty pipe is [`io::ErrorKind::WouldBlock`], and its end 0.
    pub(crate) fn move_from(
        &mut self,
        pipe: BorrowedFd<'_>,
        most_bytes: usize,
    ) -> Option<io::Result<usize>> {
        if self.settings.format != Format::Raw || !self.passes_through(most_bytes) {
            return None;
        }
        // The kernel moves nothing into a file that is open for appending.
        if self.target.is_none() {
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            self.target = Some(OpenOptions::new().write(true).open(path).ok()?);
        }
        let target = self.target.as_ref()?;
        // As when appending, whoever empties the file makes it begin anew.
        let begin = target.metadata().ok()?.len();
        let mut end = begin;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match splice(pipe, None, target, Some(&mut end), most_bytes, flags) {
            Ok(count) => {
                self.size_bytes = begin + u64::try_from(count).unwrap_or(0);
                if self.settings.max_size_bytes.is_some() && count > 0 {
                    self.at_line_start = last_octet(&self.file, self.size_bytes) == Some(b'\n');
                }
                Some(Ok(count))
            }
            Err(Errno::AGAIN) => Some(Err(io::ErrorKind::WouldBlock.into())),
            // The other way meets the same, and knows what to do.
            Err(_) => None,
        }
    }

    /// Whether so many bytes of raw output may go to the file as they are: nothing waits before
    /// them, no limit, no rotation.
    fn passes_through(&self, bytes: usize) -> bool {
        let settings = &self.settings;
        settings.max_bytes_per_sec.is_none()
            && self.pending.bytes.is_empty()
            && self.lost_bytes == 0
            && settings.max_size_bytes.is_none_or(|max| {
                let margin = u64::try_from(bytes + RAW_MARGIN_BYTES).unwrap_or(u64::MAX);
                self.size_bytes.saturating_add(margin) < max.get()
            })
    }

    /// Takes output as it is, and plans rotations between its lines.
    ///
    /// A line whose end is yet to come is begun in the next file if this one is nearly full. Only a
    /// line longer than that margin is ever cut in two.
    fn take_raw(&mut self, mut bytes: &[u8]) {
        let Some(max) = self.settings.max_size_bytes else {
            self.pending.bytes.extend_from_slice(bytes);
            return;
        };
        let max = usize::try_from(max.get()).unwrap_or(usize::MAX);
        let margin = RAW_MARGIN_BYTES.min(max / 4);
        while !bytes.is_empty() {
            let used = usize::try_from(self.planned_size_bytes(self.pending.bytes.len()));
            let used = used.unwrap_or(usize::MAX);
            let room = max.saturating_sub(used);
            if bytes.len() + margin <= room {
                self.push_raw(bytes);
                return;
            }
            let window = &bytes[..room.min(bytes.len())];
            let taken = match memchr::memrchr(b'\n', window) {
                Some(end) => end + 1,
                None if used > 0 && self.at_line_start => 0,
                None => window.len(),
            };
            self.push_raw(&bytes[..taken]);
            bytes = &bytes[taken..];
            let nearly_full = room - taken < margin || taken == 0;
            if nearly_full && !bytes.is_empty() {
                self.pending.cuts.push(self.pending.bytes.len());
            }
        }
    }

    fn push_raw(&mut self, bytes: &[u8]) {
        self.pending.bytes.extend_from_slice(bytes);
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
    }

    /// Plans a rotation before the entry at `before`, if the file would become too large with it.
    fn plan_cut(&mut self, before: usize) {
        let Some(max) = self.settings.max_size_bytes else { return };
        let empty = self.planned_size_bytes(before) == 0;
        if !empty && self.planned_size_bytes(self.pending.bytes.len()) > max.get() {
            self.pending.cuts.push(before);
        }
    }

    /// How large the file will be when what is pending up to `end` is in it.
    fn planned_size_bytes(&self, end: usize) -> u64 {
        let (base, start) = match self.pending.cuts.last() {
            Some(cut) => (0, *cut),
            None => (self.size_bytes, 0),
        };
        base + u64::try_from(end - start).unwrap_or(u64::MAX)
    }

    /// Writes all that is pending, with the planned rotations. What was written is forgotten, also
    /// if the rest cannot be.
    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let outcome = loop {
            let cut = self.pending.cuts.first().copied();
            let end = cut.unwrap_or(self.pending.bytes.len());
            match self.write_some(written, end) {
                Ok(count) => written += count,
                Err((count, error)) => {
                    written += count;
                    break Err(error);
                }
            }
            if cut.is_none() {
                break Ok(());
            }
            self.pending.cuts.remove(0);
            self.rotate();
        };
        self.pending.bytes.drain(..written);
        for cut in &mut self.pending.cuts {
            *cut -= written;
        }
        outcome
    }

    /// Writes `pending[from..to]`; on failure says how much of it is in the file.
    fn write_some(&mut self, from: usize, to: usize) -> Result<usize, (usize, io::Error)> {
        let mut at = from;
        while at < to {
            match self.file.write(&self.pending.bytes[at..to]) {
                Ok(0) => return Err((at - from, io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    at += count;
                    self.size_bytes += u64::try_from(count).unwrap_or(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((at - from, error)),
            }
        }
        Ok(at - from)
    }

    /// Gives up what is pending. If the start of an entry is in the file already, it is taken out
    /// again, so that readers find whole entries only.
    fn lose(&mut self, error: &io::Error) {
        if self.lost_bytes == 0 {
            self_log::warn("the log takes no more: output is lost", error);
        }
        self.lost_bytes += u64::try_from(self.pending.bytes.len()).unwrap_or(0);
        if self.settings.format != Format::Raw
            && let Some(whole) = whole_entries(&self.file, self.size_bytes)
            && self.file.set_len(whole).is_ok()
        {
            self.size_bytes = whole;
        }
    }

    fn report_loss(&mut self) {
        if self.lost_bytes > 0 {
            let lost = std::mem::take(&mut self.lost_bytes);
            self_log::info(&format!("the log is written again: {lost} bytes of it were lost"));
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)
}

fn last_octet(file: &File, size_bytes: u64) -> Option<u8> {
    let mut last = [0];
    file.read_exact_at(&mut last, size_bytes.checked_sub(1)?).ok()?;
    Some(last[0])
}

/// Returns the length of `file` up to the end of its last whole entry, which a newline ends.
fn whole_entries(file: &File, size_bytes: u64) -> Option<u64> {
    let mut end = size_bytes;
    let mut block = [0; 4096];
    while end > 0 {
        let length = end.min(4096);
        let piece = &mut block[..usize::try_from(length).ok()?];
        file.read_exact_at(piece, end - length).ok()?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            return Some(end - length + u64::try_from(at).ok()? + 1);
        }
        end -= length;
    }
    Some(0)
}

#[cfg(test)]
mod tests;
