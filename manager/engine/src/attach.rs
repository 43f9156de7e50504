//! Connects clients to the standard streams of a container's process.
//!
//! A client that attaches before the start is connected by the start itself, between the making of
//! the process and its first instruction, so that it misses nothing. One that attaches later is
//! connected at once. Bytes do not pass through the engine: a client's half of the connection is
//! the shim's socket.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::Exit;
use crate::model::TerminalSize;
use crate::shim::io::{IoError, Streams, StreamsWanted, connect};
use crate::shim::task::TaskError;

/// What a client wants of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// Sends standard input; it must be open.
    pub stdin: bool,
    /// Wants standard output.
    pub stdout: bool,
    /// Wants standard error.
    pub stderr: bool,
}

/// A client's place at a container: connected, or waiting for the start.
#[derive(Debug)]
pub struct Attachment {
    container: Arc<Container>,
    place: Place,
    /// How its process had ended before: the end that is waited for is another one.
    last_exit: Option<Exit>,
}

#[derive(Debug)]
enum Place {
    Connected(Box<Streams>),
    Waiting(oneshot::Receiver<Result<Streams, IoError>>),
}

/// How an attachment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachEnd {
    /// The process ended, or did not start.
    Exited(Exit),
    /// The container is gone, and nobody knows how its process ended.
    Gone,
}

impl Engine {
    /// Takes a place at a container's streams. Once this returns, nothing that the process writes
    /// is missed.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if standard input is wanted and not open,
    /// [`EngineError::Streams`] if the shim cannot be connected to.
    pub async fn attach(
        &self,
        name: &str,
        options: AttachOptions,
    ) -> Result<Attachment, EngineError> {
        let container = self.find(name)?;
        let record = container.record();
        if options.stdin && !record.config.open_stdin {
            return Err(EngineError::InvalidField {
                field: "stdin",
                problem: format!("container {} was made without -i", record.name),
            });
        }
        let wanted = StreamsWanted {
            exec_id: String::new(),
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            stdin_once: options.stdin && record.config.stdin_once,
        };
        let last_exit = container.watch().borrow().last_exit.clone();
        let place = match container.task_or_wait(&wanted) {
            Ok(task) => {
                let streams = connect(&task.io_socket(""), &wanted).await.map_err(|source| {
                    EngineError::Streams { container: container.label(), source }
                })?;
                Place::Connected(Box::new(streams))
            }
            Err(promise) => Place::Waiting(promise),
        };
        Ok(Attachment { container, place, last_exit })
    }

    /// Sets the size of a container's terminal. One that does not run has none, which is no error:
    /// it may have ended a moment ago.
    ///
    /// # Errors
    /// [`EngineError::Task`] if the shim refuses.
    pub async fn resize(&self, name: &str, size: TerminalSize) -> Result<(), EngineError> {
        let container = self.find(name)?;
        resize(&container, size).await
    }
}

impl Attachment {
    /// Waits for the connection; `None` if the container did not start.
    ///
    /// # Errors
    /// [`EngineError::Streams`] if it started and could not be connected to.
    pub async fn streams(&mut self) -> Result<Option<Streams>, EngineError> {
        let (_, never) = oneshot::channel();
        match std::mem::replace(&mut self.place, Place::Waiting(never)) {
            Place::Connected(streams) => Ok(Some(*streams)),
            Place::Waiting(promise) => match promise.await {
                Ok(Ok(streams)) => Ok(Some(streams)),
                Ok(Err(source)) => {
                    Err(EngineError::Streams { container: self.container.label(), source })
                }
                Err(_) => Ok(None),
            },
        }
    }

    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// As [`Engine::resize`].
    pub async fn resize(&self, size: TerminalSize) -> Result<(), EngineError> {
        resize(&self.container, size).await
    }

    /// A handle for [`Self::resize`] that does not need the attachment.
    pub fn resizer(&self) -> Resizer {
        Resizer { container: Arc::clone(&self.container) }
    }

    /// Waits until the process has ended, after its output has. A short one has done so before the
    /// start is stored, so that "does not run" is no sign of an end.
    pub async fn end(self) -> AttachEnd {
        let mut watch = self.container.watch();
        let before = self.last_exit;
        let ended =
            watch.wait_for(|progress| progress.last_exit != before || progress.removed).await;
        match ended.ok().and_then(|progress| progress.last_exit.clone()) {
            Some(exit) => AttachEnd::Exited(exit),
            None => AttachEnd::Gone,
        }
    }
}

/// Sets the size of one container's terminal.
#[derive(Debug, Clone)]
pub struct Resizer {
    container: Arc<Container>,
}

impl Resizer {
    /// Sets it.
    ///
    /// # Errors
    /// As [`Engine::resize`].
    pub async fn resize(&self, size: TerminalSize) -> Result<(), EngineError> {
        resize(&self.container, size).await
    }
}

async fn resize(container: &Container, size: TerminalSize) -> Result<(), EngineError> {
    let Some(task) = container.task() else { return Ok(()) };
    match task.resize("", size).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_not_found() || !error.was_answered() => Ok(()),
        Err(source) => Err(refused(container, source)),
    }
}

fn refused(container: &Container, source: TaskError) -> EngineError {
    EngineError::Task { container: container.label(), source }
}
