//! The log that `--log` and `--log-format` ask for, in runc's two formats.
//!
//! Callers read the last error out of it: containerd and Docker show its `msg` to their users, and
//! Keg's shim passes its `reason` on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `time="…" level=error msg="…"`.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Only with `--debug`.
    Debug,
    /// Something that the user may not have meant.
    Warning,
    /// The command has failed.
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("open the log {path:?} (--log)")]
pub struct LogError {
    /// The file.
    path: PathBuf,
    /// Why not.
    #[source]
    source: std::io::Error,
}

/// Where lines go.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'a str,
    msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    time: &'a str,
}

impl Log {
    /// Opens `path` for appending; without one, lines go to standard error.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(path: Option<&Path>, format: LogFormat, debug: bool) -> Result<Self, LogError> {
        let file = path
            .filter(|path| !path.as_os_str().is_empty() && *path != Path::new("/dev/stderr"))
            .map(|path| {
                File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|source| LogError { path: path.to_owned(), source })
            })
            .transpose()?;
        Ok(Self { file, format, debug })
    }

    /// Returns whether lines go to standard error.
    #[must_use]
    pub fn is_stderr(&self) -> bool {
        self.file.is_none()
    }

    /// Returns whether lines of [`Level::Debug`] are written.
    #[must_use]
    pub fn is_debug(&self) -> bool {
        self.debug
    }

    /// Writes a line. `reason` is for programs: why the command failed, from a closed list.
    ///
    /// A log that cannot be written has no one who could be told.
    pub fn write(&mut self, level: Level, message: &str, reason: Option<&str>) {
        if level == Level::Debug && !self.debug {
            return;
        }
        let time = rfc3339(SystemTime::now());
        let mut line = match self.format {
            LogFormat::Json => {
                let line = Line { level: level.word(), msg: message, reason, time: &time[..] };
                serde_json::to_string(&line).unwrap_or_default()
            }
            LogFormat::Text => {
                let reason = reason.map(|reason| format!(" reason={reason}")).unwrap_or_default();
                format!("time={time:?} level={} msg={message:?}{reason}", level.word())
            }
        };
        line.push('\n');
        let _ = match &mut self.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

impl Log {
    /// Warns of limits that cgroup v2 does not know.
    pub fn warn_limits(&mut self, fields: &[&str]) {
        for field in fields {
            let message =
                format!("linux.resources.{field} has no effect: cgroup v2 has no such limit");
            self.write(Level::Warning, &message, None);
        }
    }

    /// Warns of capabilities that are left out since nobody knows them.
    pub fn warn_capabilities(&mut self, names: &[String]) {
        if !names.is_empty() {
            let message = format!("ignoring unknown or unavailable capabilities: {names:?}");
            self.write(Level::Warning, &message, None);
        }
    }

    /// Warns of ambient capabilities that cannot be had. Standard error shows that only with
    /// `--debug`: Buildah asks for such ones at each step of a build, and passes it on as the step's.
    pub fn warn_ambient(&mut self, names: &[String]) {
        if !names.is_empty() {
            let level = if self.is_stderr() { Level::Debug } else { Level::Warning };
            let why = "they are not both permitted and inheritable";
            let message = format!("can't raise ambient capabilities {names:?}: {why}");
            self.write(level, &message, None);
        }
    }
}

/// Formats a time in UTC with nanoseconds, as `2026-11-22T01:54:10.123456789Z`.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Returns year, month and day of the `days`th day after 1970-01-01. Years are counted from March,
/// so that the leap day is the last of them.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_formatted_in_utc() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (1_795_312_450, "2026-11-22T01:54:10.000000007Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ];
        for (secs, text) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::new(secs, 7)), text);
        }
    }

    #[test]
    fn a_json_line_has_what_callers_look_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let mut log = Log::open(Some(&path), LogFormat::Json, false).unwrap();

        log.write(Level::Debug, "not asked for", None);
        log.write(Level::Error, "it \"broke\"\n", Some("COMMAND_NOT_FOUND"));

        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "error");
        assert_eq!(line["msg"], "it \"broke\"\n");
        assert_eq!(line["reason"], "COMMAND_NOT_FOUND");
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }
}
