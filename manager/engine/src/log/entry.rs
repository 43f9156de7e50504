//! One line of a log in the json-file format: `{"log":"text\n","stream":"stdout","time":"…"}`.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

/// Standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Descriptor 1; everything, when the process has a terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// What a process wrote: a line, or a part of a very long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was read from the process.
    pub time: Timestamp,
    /// Where the process wrote it.
    pub stream: LogStream,
    /// What, with its line feed if it had one.
    pub data: Vec<u8>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: LogStream,
    time: Timestamp,
}

impl LogEntry {
    /// Parses a line; `None` if it is damaged.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let data = line.log.into_owned().into_bytes();
        Some(Self { time: line.time, stream: line.stream, data })
    }

    /// Whether the entry ends a line; very long lines are several entries.
    pub fn ends_line(&self) -> bool {
        self.data.last() == Some(&b'\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_own_lines_parse() {
        let line = br#"{"log":"a \"b\"\u0007\n","stream":"stderr","time":"2026-11-22T01:02:03.000000004Z"}"#;

        let entry = LogEntry::parse(line).unwrap();

        assert_eq!(entry.data, b"a \"b\"\x07\n");
        assert_eq!(entry.stream, LogStream::Stderr);
        assert_eq!(entry.time.subsec_nanosecond(), 4);
        assert!(entry.ends_line());
    }

    #[test]
    fn torn_and_foreign_lines_are_none() {
        for line in ["", "{", r#"{"log":"a","stream":"stdout"#, "text", r#"{"log":"a"}"#, "\0\0\0"]
        {
            assert_eq!(LogEntry::parse(line.as_bytes()), None, "{line:?}");
        }
    }
}
