//! Logging programs of containerd's `binary://` protocol.
//!
//! The program gets standard output as descriptor 3, standard error as 4, and 5 to close when it
//! is ready; `CONTAINER_ID` and `CONTAINER_NAMESPACE` are its whole environment. It ends when the
//! streams end.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::Interest;

use super::uri::LoggerUri;
use super::{Context, StdioError, nonblocking, pipe};
use crate::sys;

/// How long a program may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// The ends into which the container writes.
#[derive(Debug)]
pub(super) struct LoggerPipes {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl LoggerPipes {
    pub(super) fn take_child_ends(&mut self) -> (Option<OwnedFd>, Option<OwnedFd>) {
        (self.stdout.take(), self.stderr.take())
    }

    pub(super) fn take_stdout(&mut self) -> Option<OwnedFd> {
        self.stdout.take()
    }
}

/// Starts a logging program and waits until it is ready. The reaper reaps it.
pub(super) async fn start(
    uri: &LoggerUri,
    context: Context<'_>,
) -> Result<LoggerPipes, StdioError> {
    let (stdout_reader, stdout) = pipe("stdout", context.owner)?;
    let (stderr_reader, stderr) = pipe("stderr", context.owner)?;
    let failed = |source: io::Error| StdioError::Logger { path: uri.path.clone(), source };
    let (ready_reader, ready) = io::pipe().map_err(failed)?;
    let mut command = Command::new(&uri.path);
    command
        .args(&uri.args)
        .env_clear()
        .env("CONTAINER_ID", context.id)
        .env("CONTAINER_NAMESPACE", context.namespace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::pass_descriptors(&mut command, vec![stdout_reader, stderr_reader, ready.into()]);
    command.spawn().map_err(failed)?;
    // Only the program may hold the other ends, or their closing would not be seen.
    drop(command);

    let ready = nonblocking(ready_reader.into()).map_err(failed)?;
    let mut said = [0; 1];
    let read = ready.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut said)?));
    match tokio::time::timeout(READY_LIMIT, read).await {
        Ok(Ok(count)) if count > 0 || !uri.must_say_ready => {
            Ok(LoggerPipes { stdout: Some(stdout), stderr: Some(stderr) })
        }
        _ => Err(StdioError::LoggerNotReady { path: uri.path.clone() }),
    }
}
