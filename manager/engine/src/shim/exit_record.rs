//! The exit record: a file that the shim syncs before it tells anybody that a container has ended.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::lifecycle::Exit;

/// Why there is no exit record.
#[derive(Debug, thiserror::Error)]
pub enum ExitRecordError {
    /// It is there and cannot be read.
    #[error("read the exit record {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what a shim writes.
    #[error("the exit record {path:?} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What the shim wrote; or, where that is another's, kegd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The process's own code, or 128 + n if signal n killed it.
    pub status: u32,
    /// Whether the kernel killed a process of the container for lack of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When it started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub exited_at: Timestamp,
}

impl ExitRecord {
    /// Reads a record; `None` if there is none.
    ///
    /// # Errors
    /// [`ExitRecordError`] if there is one that cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, ExitRecordError> {
        let content = match std::fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ExitRecordError::Read { path: path.to_owned(), source }),
        };
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|source| ExitRecordError::Damaged { path: path.to_owned(), source })
    }

    /// How the process ended.
    pub fn exit(&self) -> Exit {
        Exit {
            code: self.status,
            exited_at: self.exited_at,
            oom_killed: self.oom_killed,
            error: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_and_its_absence_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        assert_eq!(ExitRecord::read(&path).unwrap(), None);

        let text = r#"{"id":"a","exec_id":"","pid":7,"status":137,"signal":9,"oom_killed":true,
            "started_at":"2026-01-01T00:00:00.5Z","exited_at":"2026-01-01T00:00:01.000000001Z"}"#;
        std::fs::write(&path, text).unwrap();

        let record = ExitRecord::read(&path).unwrap().unwrap();
        assert_eq!((record.status, record.oom_killed), (137, true));
        assert_eq!(record.exit().exited_at.subsec_nanosecond(), 1);
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_an_exit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        std::fs::write(&path, r#"{"id":"a","status"#).unwrap();

        assert!(matches!(ExitRecord::read(&path), Err(ExitRecordError::Damaged { .. })));
    }
}
