//! The exit record: how a process ended, on disk before anyone is told.
//!
//! A daemon that comes back to a shim that is gone reads it. It is written under a temporary name and
//! renamed, so that whoever reads finds no record or a whole one, and then synced: what is on the
//! disk after a power cut is the record, or nothing that can be read as one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock::{Fraction, rfc3339};
use crate::reaper::{Exit, Pid};

/// What is recorded.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    /// The container.
    pub(crate) id: String,
    /// The exec; empty for the first process.
    pub(crate) exec_id: String,
    /// The process.
    pub(crate) pid: u32,
    /// Exit code, or 128 + signal.
    pub(crate) status: u32,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// Whether the kernel killed a process of the container for lack of memory.
    pub(crate) oom_killed: bool,
    /// When its program was executed; empty if it never was.
    pub(crate) started_at: String,
    /// When it ended.
    pub(crate) exited_at: String,
}

/// Where an exit is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file.
    pub(crate) path: PathBuf,
    /// Whether the exit is told of only after the record is on the disk.
    pub(crate) outlives_power_cut: bool,
}

/// Why an exit could not be recorded.
#[derive(Debug, thiserror::Error)]
#[error("record the exit in {path:?}")]
pub(crate) struct RecordError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl ExitRecord {
    pub(crate) fn new(id: &str, exec_id: &str, pid: Pid, exit: Exit) -> Self {
        Self {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            pid: pid.number(),
            status: exit.status(),
            signal: exit.signal(),
            oom_killed: false,
            started_at: String::new(),
            exited_at: rfc3339(exit.at, Fraction::Nanoseconds),
        }
    }

    pub(crate) fn started(mut self, at: Option<SystemTime>) -> Self {
        self.started_at = at.map(|at| rfc3339(at, Fraction::Nanoseconds)).unwrap_or_default();
        self
    }

    /// Writes the record over an older one.
    pub(crate) fn write(&self, place: &Place) -> Result<(), RecordError> {
        self.write_or_io_error(place)
            .map_err(|source| RecordError { path: place.path.clone(), source })
    }

    fn write_or_io_error(&self, Place { path, outlives_power_cut }: &Place) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = self.write_whole(&temporary).and_then(|file| {
            fs::rename(&temporary, path)?;
            Ok(file)
        });
        let file = file.inspect_err(|_| {
            // A part of a record is of no use; it may not even be there.
            let _ = fs::remove_file(&temporary);
        })?;
        if *outlives_power_cut {
            // One sync for bytes and name: Linux's file systems write a file's name with it, if the
            // file is new.
            file.sync_all()?;
        }
        Ok(())
    }

    fn write_whole(&self, path: &Path) -> io::Result<File> {
        let mut file = File::create(path)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file)
    }

    /// Reads a record; `None` if there is none.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::reaper::Cause;

    #[test]
    fn the_record_has_the_fields_of_the_seam() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let exit = Exit { cause: Cause::Signal(9), at: start + Duration::from_nanos(1) };

        ExitRecord::new("c", "", Pid(42), exit)
            .started(Some(start))
            .write(&Place { path: path.clone(), outlives_power_cut: true })
            .unwrap();

        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            concat!(
                r#"{"id":"c","exec_id":"","pid":42,"status":137,"signal":9,"oom_killed":false,"#,
                r#""started_at":"1970-01-01T00:00:01.000000000Z","#,
                r#""exited_at":"1970-01-01T00:00:01.000000001Z"}"#
            )
        );
        assert_eq!(ExitRecord::read(&path).unwrap().status, 137);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
