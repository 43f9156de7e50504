//! A `create` that stays until the `start`: another execution of keg-runtime is saved.
//!
//! ```text
//! shim                                    keg-runtime create
//!   ├─ KEG_STANDBY_FD=N, a socket ─────────▶ makes the container
//!   │ ◀────────────────────────── created ──┤ it waits, and has let go of the streams
//!   ├─ start ──────────────────────────────▶ what `keg-runtime start` does
//!   │ ◀────────────────────────── started ──┤ ends; without it, log and exit code say why
//! ```
//!
//! It ends by itself when the shim does, when the shim closes the socket, and when the container's
//! process ends. Then, and with runtimes that know nothing of this, `start` is a call like any other.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::{ChildEnds, DEFAULT_RUNTIME, Runtime, RuntimeError, explain};
use crate::reaper::{Cause, Exit};
use crate::stdio::nonblocking;
use crate::sys::Passed;

/// Tells the runtime the socket's number.
const VARIABLE: &str = "KEG_STANDBY_FD";

/// Tells the runtime which descriptor is the root file system, a mount that is nowhere yet.
const ROOT_VARIABLE: &str = "KEG_ROOTFS_FD";

/// What the two say.
const CREATED: u8 = b'c';
const START: u8 = b's';
const STARTED: u8 = b'r';

/// A runtime that has made the container and waits to start it.
#[derive(Debug)]
pub(super) struct Standby {
    socket: AsyncFd<OwnedFd>,
    exited: oneshot::Receiver<Exit>,
    log: PathBuf,
    binary: PathBuf,
}

impl Runtime {
    /// Whether the runtime is one that knows of this, and of a root that is passed: others are given no
    /// descriptor that they do not expect.
    pub(crate) fn takes_descriptors(&self) -> bool {
        self.binary.file_name() == Some(OsStr::new(DEFAULT_RUNTIME))
    }

    /// Runs a `create` until the container is made; what is returned waits, if it does.
    pub(super) async fn create_and_stay(
        &self,
        operation: &'static str,
        args: Vec<OsString>,
        ends: ChildEnds,
        root: Option<OwnedFd>,
    ) -> Result<Option<Standby>, RuntimeError> {
        let log = self.new_log();
        let (ours, theirs) = UnixStream::pair().map_err(RuntimeError::Output)?;
        let socket = nonblocking(OwnedFd::from(ours)).map_err(RuntimeError::Output)?;
        let socket_and_root: Vec<Passed<'_>> = std::iter::once((VARIABLE, theirs.as_fd()))
            .chain(root.as_ref().map(|root| (ROOT_VARIABLE, root.as_fd())))
            .collect();
        let pid = self.spawn(self.command_line(&log, args), &ends, &socket_and_root, true)?;
        // With the children's ends of all pipes: their closing is to be seen.
        drop((ends, theirs, root));
        let exited = self.reaper.watch(pid);
        let mut standby = Standby { socket, exited, log, binary: self.binary.clone() };
        match standby.answer(CREATED).await? {
            Answer::Said => Ok(Some(standby)),
            Answer::Ended(exit) => standby.judge(operation, exit).map(|()| None),
        }
    }
}

/// What came first.
enum Answer {
    /// The word that was waited for.
    Said,
    /// The process's end.
    Ended(Exit),
}

impl Standby {
    /// Has the container started. Returns whether it is: the runtime may have gone before it was asked.
    pub(super) async fn start(mut self, operation: &'static str) -> Result<bool, RuntimeError> {
        let gone = self.exited.try_recv().is_ok();
        if gone || send(self.socket.get_ref(), &[START], SendFlags::NOSIGNAL).is_err() {
            return Ok(false);
        }
        match self.answer(STARTED).await? {
            Answer::Said => {
                let _ = fs::remove_file(&self.log);
                Ok(true)
            }
            // It had seen the container's process end, and not the word.
            Answer::Ended(exit) => self.judge(operation, exit).map(|()| false),
        }
    }

    /// Has it end, and waits for that.
    pub(super) async fn dismiss(self) {
        let Self { socket, exited, log, .. } = self;
        drop(socket);
        // Whether it was seen or not: it is gone.
        let _ = exited.await;
        let _ = fs::remove_file(log);
    }

    async fn answer(&mut self, wanted: u8) -> Result<Answer, RuntimeError> {
        let Self { socket, exited, binary, .. } = self;
        let said = async {
            let mut word = [0];
            let read = |fd: &OwnedFd| Ok(nix::unistd::read(fd, &mut word)?);
            match socket.async_io(Interest::READABLE, read).await {
                Ok(1) if word == [wanted] => {}
                // Its end is on its way, and says more.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = said => Ok(Answer::Said),
            exit = exited => match exit {
                Ok(exit) => Ok(Answer::Ended(exit)),
                Err(_) => Err(RuntimeError::Lost { binary: binary.clone() }),
            },
        }
    }

    fn judge(self, operation: &'static str, exit: Exit) -> Result<(), RuntimeError> {
        let failure = match exit.cause {
            Cause::Code(0) => None,
            _ => Some(explain(operation, &self.log, &[], exit)),
        };
        let _ = fs::remove_file(&self.log);
        failure.map_or(Ok(()), Err)
    }
}
