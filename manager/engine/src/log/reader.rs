//! The files of a log in order, from a place in the past, following what comes.
//!
//! Reading blocks on the disk, so a reader runs on a thread of its own (`spawn_blocking`). The
//! outcome of [`LogReader::next_entry`] tells when there is nothing more for now, and the engine
//! asks again when the files have changed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::entry::{LogEntry, LogStream};

/// Rotated files that are looked for; far more than anybody keeps.
const FILES_MAX: usize = 1000;
/// Bytes that are read at once when the beginning of the last lines is looked for.
const BLOCK_BYTES: usize = 64 << 10;
/// Longest line; what is longer is damage, and not kept in memory.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read the log {path:?}")]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Which part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last so many lines; `None`: all.
    pub tail: Option<u64>,
    /// Only from this moment on.
    pub since: Option<Timestamp>,
    /// Only up to this moment.
    pub until: Option<Timestamp>,
    /// Leaves standard output out.
    pub without_stdout: bool,
    /// Leaves standard error out.
    pub without_stderr: bool,
}

impl LogQuery {
    fn wants(&self, entry: &LogEntry) -> bool {
        let stream = match entry.stream {
            LogStream::Stdout => !self.without_stdout,
            LogStream::Stderr => !self.without_stderr,
        };
        stream
            && self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time <= until)
    }
}

/// An open file of the log.
#[derive(Debug)]
struct OpenFile {
    reader: BufReader<File>,
    inode: u64,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

/// Reads a log from some place to its end, and on as it grows.
#[derive(Debug)]
pub struct LogReader {
    /// The newest file; older ones have `.1`, `.2`, … appended.
    path: PathBuf,
    query: LogQuery,
    current: Option<OpenFile>,
    /// Whether a file was ever open.
    started: bool,
    /// The last lines, read ahead.
    ready: VecDeque<LogEntry>,
}

impl LogReader {
    /// Opens the log. A log that does not exist yet is an empty one.
    ///
    /// # Errors
    /// [`LogError`] if a file is there and cannot be read.
    pub fn open(path: &Path, query: LogQuery) -> Result<Self, LogError> {
        let mut reader = Self {
            path: path.to_owned(),
            query,
            current: None,
            started: false,
            ready: VecDeque::new(),
        };
        if let Some(lines) = reader.query.tail {
            reader.seek_to_tail(lines)?;
        }
        Ok(reader)
    }

    /// Returns the next entry, or `None` if there is nothing more for now.
    ///
    /// # Errors
    /// [`LogError`] if a file cannot be read.
    pub fn next_entry(&mut self) -> Result<Option<LogEntry>, LogError> {
        if let Some(entry) = self.ready.pop_front() {
            return Ok(Some(entry));
        }
        loop {
            let Some(line) = self.next_line()? else { return Ok(None) };
            match LogEntry::parse(&line) {
                Some(entry) if self.query.wants(&entry) => return Ok(Some(entry)),
                Some(_) | None => {}
            }
        }
    }

    /// Returns the next whole line, going over to the next file where one ends.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        loop {
            let Some(current) = &mut self.current else {
                let first = if self.started { None } else { self.files()?.into_iter().next() };
                let Some((inode, path)) = first else { return Ok(None) };
                self.enter(inode, path)?;
                continue;
            };
            if let Some(line) = read_line(current).map_err(|source| self.error(source))? {
                return Ok(Some(line));
            }
            let Some((inode, path)) = self.successor()? else { return Ok(None) };
            // The writer renames a file when it is done with it. There is a newer one, so what
            // can be read now is the last of this one.
            let Some(current) = &mut self.current else { return Ok(None) };
            if let Some(line) = read_line(current).map_err(|source| self.error(source))? {
                return Ok(Some(line));
            }
            self.enter(inode, path)?;
        }
    }

    /// The file after the current one, if there is one.
    fn successor(&self) -> Result<Option<(u64, PathBuf)>, LogError> {
        let Some(current) = &self.current else { return Ok(None) };
        let files = self.files()?;
        let next = match files.iter().position(|(inode, _)| *inode == current.inode) {
            Some(at) => files.get(at + 1),
            // It was deleted while it was read; the oldest that is left comes next.
            None => files.first(),
        };
        Ok(next.cloned())
    }

    fn enter(&mut self, inode: u64, path: PathBuf) -> Result<(), LogError> {
        let file = File::open(&path).map_err(|source| LogError { path, source })?;
        let reader = BufReader::with_capacity(BLOCK_BYTES, file);
        self.current = Some(OpenFile { reader, inode, partial: Vec::new() });
        self.started = true;
        Ok(())
    }

    /// The files that exist, oldest first, by inode.
    fn files(&self) -> Result<Vec<(u64, PathBuf)>, LogError> {
        let mut files = Vec::new();
        for index in 0..FILES_MAX {
            let path = match index {
                0 => self.path.clone(),
                _ => {
                    let mut name = self.path.clone().into_os_string();
                    name.push(format!(".{index}"));
                    PathBuf::from(name)
                }
            };
            match std::fs::metadata(&path) {
                Ok(metadata) => files.push((metadata.ino(), path)),
                // The newest may be missing for a moment, between its renaming and its successor.
                Err(error) if error.kind() == io::ErrorKind::NotFound && index == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(source) => return Err(LogError { path, source }),
            }
        }
        files.reverse();
        Ok(files)
    }

    /// Goes to the beginning of the last `lines` lines that the query wants, newest file first.
    fn seek_to_tail(&mut self, lines: u64) -> Result<(), LogError> {
        let files = self.files()?;
        let mut found: VecDeque<LogEntry> = VecDeque::new();
        let mut counted = 0;
        let mut end_of_newest = None;
        for (inode, path) in files.iter().rev() {
            let fail = |source| LogError { path: path.clone(), source };
            let mut backwards = Backwards::open(path).map_err(fail)?;
            if end_of_newest.is_none() {
                end_of_newest = Some((*inode, path.clone(), backwards.end));
            }
            while counted <= lines {
                let Some(line) = backwards.line_before().map_err(fail)? else { break };
                let Some(entry) = LogEntry::parse(&line).filter(|entry| self.query.wants(entry))
                else {
                    continue;
                };
                // A line's last part comes first here; its earlier parts belong to the same line.
                if entry.ends_line() || found.is_empty() {
                    counted += 1;
                }
                if counted <= lines {
                    found.push_front(entry);
                }
            }
            if counted > lines {
                break;
            }
        }
        self.ready = found;
        if let Some((inode, path, end)) = end_of_newest {
            let fail = |source| LogError { path: path.clone(), source };
            let mut file = File::open(&path).map_err(fail)?;
            file.seek(SeekFrom::Start(end)).map_err(fail)?;
            let reader = BufReader::with_capacity(BLOCK_BYTES, file);
            self.current = Some(OpenFile { reader, inode, partial: Vec::new() });
            self.started = true;
        }
        Ok(())
    }

    fn error(&self, source: io::Error) -> LogError {
        LogError { path: self.path.clone(), source }
    }
}

/// Reads to the next line feed; `None` if the file ends before one, and what there is is kept.
fn read_line(file: &mut OpenFile) -> io::Result<Option<Vec<u8>>> {
    loop {
        let buffer = file.reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let (taken, whole) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        if file.partial.len() + taken <= LINE_BYTES_MAX {
            file.partial.extend_from_slice(&buffer[..taken]);
        }
        file.reader.consume(taken);
        if whole {
            return Ok(Some(std::mem::take(&mut file.partial)));
        }
    }
}

/// Reads a file line by line from its end.
#[derive(Debug)]
struct Backwards {
    file: File,
    /// End of the last whole line.
    end: u64,
    /// Where `buffer` begins in the file.
    start: u64,
    /// What is read and not told yet; ends with the line feed of the next line to tell.
    buffer: Vec<u8>,
}

impl Backwards {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        let mut backwards = Self { file, end: length, start: length, buffer: Vec::new() };
        // What follows the last line feed is a line that is still being written.
        loop {
            if let Some(at) = backwards.buffer.iter().rposition(|byte| *byte == b'\n') {
                backwards.buffer.truncate(at + 1);
                backwards.end = backwards.start + at as u64 + 1;
                return Ok(backwards);
            }
            if backwards.start == 0 {
                backwards.buffer.clear();
                backwards.end = 0;
                return Ok(backwards);
            }
            backwards.read_block()?;
        }
    }

    /// Puts the block before what is read in front of it.
    fn read_block(&mut self) -> io::Result<()> {
        let size = self.start.min(BLOCK_BYTES as u64);
        self.start -= size;
        self.file.seek(SeekFrom::Start(self.start))?;
        let mut block = Vec::with_capacity(self.buffer.len() + BLOCK_BYTES);
        (&self.file).take(size).read_to_end(&mut block)?;
        block.append(&mut self.buffer);
        self.buffer = block;
        Ok(())
    }

    /// Returns the line before those that were told.
    fn line_before(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let body = self.buffer.len().saturating_sub(1);
            if let Some(at) = self.buffer[..body].iter().rposition(|byte| *byte == b'\n') {
                return Ok(Some(self.buffer.split_off(at + 1)));
            }
            if self.start == 0 {
                let first = std::mem::take(&mut self.buffer);
                return Ok(Some(first).filter(|line| !line.is_empty()));
            }
            self.read_block()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    struct Log {
        dir: tempfile::TempDir,
    }

    impl Log {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("log.json")
        }

        fn append(&self, text: &str) {
            let mut file = OpenOptions::new().create(true).append(true).open(self.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn rotate(&self, keep: usize) {
            let path = |index: usize| match index {
                0 => self.path(),
                _ => self.dir.path().join(format!("log.json.{index}")),
            };
            let _ = fs::remove_file(path(keep));
            for index in (0..keep).rev() {
                let _ = fs::rename(path(index), path(index + 1));
            }
        }

        fn read(&self, query: LogQuery) -> Vec<String> {
            drain(&mut LogReader::open(&self.path(), query).unwrap())
        }
    }

    fn drain(reader: &mut LogReader) -> Vec<String> {
        std::iter::from_fn(|| reader.next_entry().unwrap())
            .map(|entry| String::from_utf8(entry.data).unwrap())
            .collect()
    }

    fn line(text: &str, stream: &str, second: u32) -> String {
        let log = serde_json::to_string(text).unwrap();
        format!(
            "{{\"log\":{log},\"stream\":\"{stream}\",\"time\":\"2026-01-01T00:00:{second:02}Z\"}}\n"
        )
    }

    fn numbered(range: std::ops::Range<u32>) -> String {
        range.map(|number| line(&format!("{number}\n"), "stdout", number % 60)).collect()
    }

    fn tail(lines: u64) -> LogQuery {
        LogQuery { tail: Some(lines), ..LogQuery::default() }
    }

    #[test]
    fn a_log_that_does_not_exist_is_empty_and_then_grows() {
        let log = Log::new();
        let mut reader = LogReader::open(&log.path(), LogQuery::default()).unwrap();
        assert!(drain(&mut reader).is_empty());

        log.append(&numbered(0..2));

        assert_eq!(drain(&mut reader), ["0\n", "1\n"]);
    }

    #[test]
    fn rotated_files_are_read_oldest_first() {
        let log = Log::new();
        log.append(&numbered(0..3));
        log.rotate(5);
        log.append(&numbered(3..5));
        log.rotate(5);
        log.append(&numbered(5..6));

        assert_eq!(log.read(LogQuery::default()), ["0\n", "1\n", "2\n", "3\n", "4\n", "5\n"]);
        assert_eq!(log.read(tail(4)), ["2\n", "3\n", "4\n", "5\n"]);
        assert_eq!(log.read(tail(0)), [""; 0]);
        assert_eq!(log.read(tail(99)).len(), 6);
    }

    #[test]
    fn following_survives_rotations() {
        let log = Log::new();
        log.append(&numbered(0..2));
        let mut reader = LogReader::open(&log.path(), tail(1)).unwrap();
        assert_eq!(drain(&mut reader), ["1\n"]);

        log.append(&numbered(2..3));
        log.rotate(5);
        assert_eq!(drain(&mut reader), ["2\n"]);
        log.append(&numbered(3..4));
        log.rotate(5);
        log.append(&numbered(4..5));

        assert_eq!(drain(&mut reader), ["3\n", "4\n"]);
    }

    #[test]
    fn what_is_not_finished_is_not_told_and_damage_is_passed_over() {
        let log = Log::new();
        let torn = line("torn\n", "stdout", 1);
        log.append(&numbered(0..1));
        log.append(&torn[..20]);
        let mut reader = LogReader::open(&log.path(), LogQuery::default()).unwrap();
        assert_eq!(drain(&mut reader), ["0\n"]);
        assert_eq!(log.read(tail(5)), ["0\n"]);

        log.append("\n");
        log.append(&numbered(1..2));

        assert_eq!(drain(&mut reader), ["1\n"]);
        assert_eq!(log.read(tail(2)), ["0\n", "1\n"]);
    }

    #[test]
    fn parts_of_one_long_line_count_as_one() {
        let log = Log::new();
        log.append(&numbered(0..1));
        for part in ["a", "b", "c\n"] {
            log.append(&line(part, "stdout", 1));
        }

        assert_eq!(log.read(tail(1)), ["a", "b", "c\n"]);
        assert_eq!(log.read(tail(2)), ["0\n", "a", "b", "c\n"]);
    }

    #[test]
    fn streams_and_times_are_filtered() {
        let log = Log::new();
        log.append(&line("out\n", "stdout", 1));
        log.append(&line("err\n", "stderr", 2));
        log.append(&line("late\n", "stdout", 3));
        let at = |second: i64| {
            let base: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            Some(base + jiff::SignedDuration::from_secs(second))
        };

        let query = LogQuery { without_stdout: true, ..LogQuery::default() };
        assert_eq!(log.read(query), ["err\n"]);
        let query = LogQuery { since: at(2), ..LogQuery::default() };
        assert_eq!(log.read(query), ["err\n", "late\n"]);
        let query = LogQuery { until: at(2), tail: Some(1), ..LogQuery::default() };
        assert_eq!(log.read(query), ["err\n"]);
    }

    proptest! {
        #[test]
        fn the_tail_is_the_end_of_the_whole(sizes in prop::collection::vec(0_u32..40, 1..6), lines in 0_u64..100) {
            let log = Log::new();
            let mut next = 0;
            for (index, size) in sizes.iter().enumerate() {
                if index > 0 {
                    log.rotate(9);
                }
                log.append(&numbered(next..next + size));
                next += size;
            }

            let whole = log.read(LogQuery::default());
            let last = log.read(tail(lines));

            let skipped = whole.len().saturating_sub(usize::try_from(lines).unwrap());
            prop_assert_eq!(&whole[skipped..], &last[..]);
            prop_assert_eq!(whole.len(), usize::try_from(next).unwrap());
        }
    }
}
