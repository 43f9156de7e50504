//! Writes entries to a file, rotates it, and survives a full disk.
//!
//! ```text
//! LOG.2 ◀─ LOG.1 ◀─ LOG        a rotation: the oldest goes, the rest moves on, LOG starts empty
//! ```
//!
//! Appending is synchronous: the page cache takes it. Only a full disk makes a writer wait, if its
//! settings say so: then [`LogWriter::append`] answers [`Outcome::Blocked`], keeps what is left, and
//! takes nothing more until [`LogWriter::retry`] got rid of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::compress::{Job, compressed};
use super::format::{Format, Frame};
use super::lines::{Lines, Stream};
use super::rate::RateLimit;
use crate::self_log;

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

/// What happens to rotated files.
#[derive(Debug)]
enum Compression {
    /// Nothing to do, or not wanted.
    Idle,
    /// A file waits for someone to call [`LogWriter::compress_some`].
    Waiting,
    /// Someone does.
    Running(Option<Box<Job>>),
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

    /// Whether a rotated file waits to be compressed and nobody does it yet: then the caller is to
    /// call [`Self::compress_some`] until there is nothing left.
    pub(super) fn begin_compression(&mut self) -> bool {
        let waiting = matches!(self.compression, Compression::Waiting);
        if waiting {
            self.compression = Compression::Running(None);
        }
        waiting
    }

    /// Compresses a part of a rotated file; `false` when there is nothing left to do.
    pub(super) fn compress_some(&mut self) -> bool {
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

    /// Moves the files on by one. What cannot be moved is written over: a bound is a bound.
    fn rotate(&mut self) {
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

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)
}

pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
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
mod tests {
    use super::*;

    fn settings(dir: &Path, format: Format, max_size: u64, max_files: u32) -> LogSettings {
        LogSettings {
            path: dir.join("sub/c.log"),
            format,
            max_size_bytes: NonZeroU64::new(max_size),
            max_files: NonZeroU32::new(max_files).unwrap(),
            when_full: WhenFull::Drop,
            compress: false,
            max_bytes_per_sec: None,
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir.join("sub")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn rotation_keeps_the_newest_entries_whole_and_files_within_the_limit() {
        for format in [Format::JsonFile, Format::Cri, Format::Raw] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogWriter::open(settings(dir.path(), format, 300, 3)).unwrap();
            let line = |number: u32| format!("line {number:04}\n");

            for number in 0..200 {
                assert_eq!(log.append(Stream::Stdout, line(number).as_bytes()), Outcome::Done);
            }

            assert_eq!(names(dir.path()), ["c.log", "c.log.1", "c.log.2"]);
            let mut all = String::new();
            for name in ["c.log.2", "c.log.1", "c.log"] {
                let text = fs::read_to_string(dir.path().join("sub").join(name)).unwrap();
                assert!(text.len() <= 300 && text.ends_with('\n'), "{format:?} {name}: {text}");
                all.push_str(&text);
            }
            let numbers: Vec<&str> = all
                .lines()
                .map(|line| {
                    let at = line.find("line ").unwrap() + 5;
                    &line[at..at + 4]
                })
                .collect();
            let expected: Vec<String> =
                (200 - numbers.len()..200).map(|number| format!("{number:04}")).collect();
            assert_eq!(numbers, expected);
        }
    }

    #[test]
    fn one_large_append_is_spread_over_several_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(settings(dir.path(), Format::Cri, 500, 100)).unwrap();
        let input: String = (0..100).map(|number| format!("{number}\n")).collect();

        assert_eq!(log.append(Stream::Stderr, input.as_bytes()), Outcome::Done);

        let mut count = 0;
        for name in names(dir.path()) {
            let text = fs::read_to_string(dir.path().join("sub").join(name)).unwrap();
            assert!(text.len() <= 500);
            count += text.lines().count();
        }
        assert_eq!(count, 100);
    }

    #[test]
    fn raw_output_is_rotated_between_lines_however_it_arrives() {
        for block in [1, 7, 64, 1000, 5000] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 400, 1000)).unwrap();
            let input: String = (0..500).map(|number| format!("line {number}\n")).collect();

            for piece in input.as_bytes().chunks(block) {
                assert_eq!(log.append(Stream::Stdout, piece), Outcome::Done);
            }

            let count = u32::try_from(names(dir.path()).len()).unwrap();
            let base = dir.path().join("sub/c.log");
            let older = (1..count).rev().map(|number| numbered(&base, number));
            let mut all = String::new();
            for path in older.chain([base.clone()]) {
                let text = fs::read_to_string(&path).unwrap();
                assert!(text.len() <= 400 && text.ends_with('\n'), "{block} {path:?}: {text}");
                all.push_str(&text);
            }
            assert_eq!(all, input);
        }
    }

    #[test]
    fn raw_output_that_the_kernel_moves_is_all_there_and_rotated_between_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 20_000, 1000)).unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        let flags = rustix::fs::fcntl_getfl(&reader).unwrap();
        rustix::fs::fcntl_setfl(&reader, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        let input: String = (0..9000).map(|number| format!("line {number}\n")).collect();
        let (mut moved, mut read) = (0, 0);

        for piece in input.as_bytes().chunks(5000) {
            writer.write_all(piece).unwrap();
            loop {
                match log.move_from(std::os::fd::AsFd::as_fd(&reader), 4096) {
                    Some(Ok(count)) => moved += count,
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Some(Err(error)) => panic!("{error}"),
                    None => {
                        let mut block = [0; 4096];
                        let Ok(count) = io::Read::read(&mut reader, &mut block) else { break };
                        assert_eq!(log.append(Stream::Stdout, &block[..count]), Outcome::Done);
                        read += count;
                    }
                }
            }
        }
        drop(writer);

        assert!(moved > read && read > 0, "{moved} moved, {read} read");
        assert!(matches!(log.move_from(std::os::fd::AsFd::as_fd(&reader), 1), Some(Ok(0)) | None));
        let count = u32::try_from(names(dir.path()).len()).unwrap();
        let base = dir.path().join("sub/c.log");
        let older = (1..count).rev().map(|number| numbered(&base, number));
        let mut all = String::new();
        for path in older.chain([base.clone()]) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.len() <= 20_000 && text.ends_with('\n'), "{path:?}");
            all.push_str(&text);
        }
        assert!(all == input);
    }

    #[test]
    fn a_file_that_someone_empties_begins_anew_also_when_the_kernel_moves() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 0, 1)).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let mut move_all = |text: &str| {
            writer.write_all(text.as_bytes()).unwrap();
            let moved = log.move_from(std::os::fd::AsFd::as_fd(&reader), 4096).unwrap().unwrap();
            assert_eq!(moved, text.len());
        };
        let path = dir.path().join("sub/c.log");

        move_all("before\n");
        File::options().write(true).truncate(true).open(&path).unwrap();
        move_all("after\n");

        assert_eq!(fs::read_to_string(path).unwrap(), "after\n");
    }

    #[test]
    fn a_raw_line_longer_than_a_file_is_cut_rather_than_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 100, 1000)).unwrap();

        assert_eq!(log.append(Stream::Stdout, &[b'x'; 950]), Outcome::Done);

        let sizes = names(dir.path())
            .into_iter()
            .map(|name| fs::metadata(dir.path().join("sub").join(name)).unwrap().len());
        let sizes: Vec<u64> = sizes.collect();
        assert_eq!(sizes.iter().sum::<u64>(), 950);
        assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    }

    /// Unpacks a gzip file.
    fn unpacked(path: &Path) -> String {
        let mut text = String::new();
        let file = File::open(path).unwrap();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
        text
    }

    #[test]
    fn rotated_files_are_compressed_also_when_rotations_overtake() {
        let dir = tempfile::tempdir().unwrap();
        let settings = LogSettings { compress: true, ..settings(dir.path(), Format::Raw, 1000, 4) };
        let mut log = LogWriter::open(settings).unwrap();
        let input: Vec<String> = (0..400).map(|number| format!("line {number:04}\n")).collect();

        for (count, line) in input.iter().enumerate() {
            assert_eq!(log.append(Stream::Stdout, line.as_bytes()), Outcome::Done);
            // One small step now and then: the next rotation comes before the end.
            if log.begin_compression() || count % 60 == 0 {
                log.compress_some();
            }
        }
        while log.compress_some() {}

        let gz = |number| compressed(&dir.path().join("sub/c.log"), number);
        assert_eq!(names(dir.path()), ["c.log", "c.log.1.gz", "c.log.2.gz", "c.log.3.gz"]);
        let current = fs::read_to_string(dir.path().join("sub/c.log")).unwrap();
        let all = [unpacked(&gz(3)), unpacked(&gz(2)), unpacked(&gz(1)), current].concat();
        assert!(input.concat().ends_with(&all), "{all}");
        assert!(all.len() > 2000);
    }

    #[test]
    fn a_reached_rate_limit_loses_or_holds_whole_entries() {
        for (when_full, expected) in
            [(WhenFull::Drop, Outcome::Done), (WhenFull::Block, Outcome::Blocked)]
        {
            let dir = tempfile::tempdir().unwrap();
            let settings = LogSettings {
                when_full,
                max_bytes_per_sec: NonZeroU64::new(10),
                ..settings(dir.path(), Format::Raw, 0, 1)
            };
            let mut log = LogWriter::open(settings).unwrap();

            assert_eq!(log.append(Stream::Stdout, &[b'x'; 100]), Outcome::Done);
            assert_eq!(log.append(Stream::Stdout, b"more"), expected);

            let written = fs::read(dir.path().join("sub/c.log")).unwrap();
            assert_eq!(written.len(), 100);
            assert_eq!(log.lost_bytes, if when_full == WhenFull::Drop { 4 } else { 0 });
        }
    }

    #[test]
    fn a_single_file_is_emptied_instead_of_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 10, 1)).unwrap();

        for _ in 0..5 {
            assert_eq!(log.append(Stream::Stdout, b"1234567\n"), Outcome::Done);
        }

        assert_eq!(names(dir.path()), ["c.log"]);
        assert_eq!(fs::read(dir.path().join("sub/c.log")).unwrap(), b"1234567\n");
    }

    #[test]
    fn half_lines_of_two_streams_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(settings(dir.path(), Format::Cri, 0, 1)).unwrap();

        assert_eq!(log.append(Stream::Stdout, b"out"), Outcome::Done);
        assert_eq!(log.append(Stream::Stderr, b"err\n"), Outcome::Done);
        assert_eq!(log.append(Stream::Stdout, b"put\nrest"), Outcome::Done);
        assert_eq!(log.finish(Stream::Stdout), Outcome::Done);

        let text = fs::read_to_string(dir.path().join("sub/c.log")).unwrap();
        let entries: Vec<&str> = text.lines().map(|line| &line[31..]).collect();
        assert_eq!(entries, ["stderr F err", "stdout F output", "stdout P rest"]);
    }

    #[test]
    fn a_reopened_log_goes_on_at_its_end_and_counts_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 12, 2)).unwrap();
            assert_eq!(log.append(Stream::Stdout, b"1234567\n"), Outcome::Done);
        }

        assert_eq!(names(dir.path()), ["c.log", "c.log.1"]);
    }

    #[test]
    fn whole_entries_end_at_the_last_newline() {
        let mut file = tempfile::tempfile().unwrap();
        for (text, whole) in [("", 0), ("half", 0), ("one\nhal", 4), ("one\ntwo\n", 8)] {
            file.set_len(0).unwrap();
            io::Seek::rewind(&mut file).unwrap();
            file.write_all(text.as_bytes()).unwrap();

            assert_eq!(whole_entries(&file, text.len() as u64), Some(whole), "{text:?}");
        }
    }
}
