//! What came of a command: exit code, output, error.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::wait;

/// What a command that has ended left.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit code, or 128 + n if signal n ended it.
    pub exit_code: i32,
    /// What it wrote to descriptor 1.
    pub stdout: String,
    /// What it wrote to descriptor 2.
    pub stderr: String,
    /// Its error: the last message of level "error" in the log of a runtime, else the last line of
    /// `stderr`, else empty.
    pub error: String,
}

impl Outcome {
    /// Runs `command` to its end.
    ///
    /// Its output goes to files, not pipes, so that a process it leaves behind holds nobody up.
    ///
    /// # Panics
    /// If it cannot be started, or has not ended after `deadline`; it is killed then.
    #[must_use]
    #[track_caller]
    pub fn of(command: &mut Command, deadline: Duration) -> Self {
        Self::with_stdin(command, Stdio::null(), deadline)
    }

    /// The same, with something on its standard input.
    ///
    /// # Panics
    /// As [`Outcome::of`].
    #[must_use]
    #[track_caller]
    pub fn with_stdin(command: &mut Command, stdin: impl Into<Stdio>, deadline: Duration) -> Self {
        let stdout = tempfile::tempfile().expect("make a file for the output");
        let stderr = tempfile::tempfile().expect("make a file for the errors");
        let child = command
            .stdin(stdin)
            .stdout(stdout.try_clone().expect("duplicate a descriptor"))
            .stderr(stderr.try_clone().expect("duplicate a descriptor"))
            .spawn();
        let mut child = child.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let status = wait_for_exit(&mut child, deadline).unwrap_or_else(|| {
            panic!(
                "{command:?} has not ended after {deadline:?}; output {:?}, errors {:?}",
                content(&stdout),
                content(&stderr)
            )
        });
        let (stdout, stderr) = (content(&stdout), content(&stderr));
        let error = stderr.trim_end().lines().last().unwrap_or_default().to_owned();
        Self { exit_code: code(status), stdout, stderr, error }
    }

    /// Returns itself if the command succeeded.
    ///
    /// # Panics
    /// If it did not, with all it wrote.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.exit_code, 0, "command failed: {self:#?}");
        self
    }

    /// Parses its output as JSON.
    ///
    /// # Panics
    /// If it is something else.
    #[must_use]
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("output is not the JSON expected: {error}: {self:#?}"))
    }

    /// Parses its output as the probe's report.
    ///
    /// # Panics
    /// If it is something else.
    #[must_use]
    #[track_caller]
    pub fn report(&self) -> crate::Report {
        self.json()
    }

    /// Returns output and errors together, for searching.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// Waits for a child; kills it and returns `None` after `deadline`.
pub fn wait_for_exit(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let status = wait::poll(deadline, || child.try_wait().expect("wait for a child"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// Returns an exit status as a shell shows it.
#[must_use]
pub fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

fn content(file: &File) -> String {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = Vec::new();
    let mut at = ReadAt { file, offset: 0 };
    at.read_to_end(&mut bytes).expect("read what the command wrote");
    return String::from_utf8_lossy(&bytes).into_owned();

    /// The command may share our descriptor's offset, so we keep our own.
    struct ReadAt<'f> {
        file: &'f File,
        offset: u64,
    }

    impl std::io::Read for ReadAt<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.file.read_at(buffer, self.offset)?;
            self.offset += count as u64;
            Ok(count)
        }
    }
}
