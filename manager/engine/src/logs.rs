//! Streams a container's log to a client.
//!
//! A task reads on a thread made for waiting, in batches, and sends them through a bounded queue:
//! a client that reads slowly slows down its own reader and nothing else. Following waits for the
//! kernel to tell that the directory changed (inotify(7)).
//!
//! The shim writes the log before it tells of the exit, so one more read after the end is the last.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::log::{LogEntry, LogError, LogQuery, LogReader};

/// Entries that are read and sent at once.
const BATCH_ENTRIES: usize = 256;
/// Batches that may wait for a client.
const QUEUE_BATCHES: usize = 8;
/// How long at most until the log is looked at again if the kernel tells nothing: on file systems
/// where changes are made behind its back.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What a client wants of a log.
#[derive(Debug, Clone, Default)]
pub struct LogsRequest {
    /// Which part.
    pub query: LogQuery,
    /// Goes on until the container ends.
    pub follow: bool,
    /// Wants the labels and variables that `--log-opt` has chosen.
    pub details: bool,
}

/// A log on its way to a client.
#[derive(Debug)]
pub struct LogStreamReceiver {
    batches: mpsc::Receiver<Result<Vec<LogEntry>, EngineError>>,
    details: String,
}

impl LogStreamReceiver {
    /// What goes with each entry, if it was asked for: labels and variables of the container.
    pub fn details(&self) -> &str {
        &self.details
    }

    /// Waits for the next entries; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Vec<LogEntry>, EngineError>> {
        self.batches.recv().await
    }
}

impl Engine {
    /// Opens a container's log.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::Log`].
    pub async fn logs(
        &self,
        name: &str,
        request: LogsRequest,
    ) -> Result<LogStreamReceiver, EngineError> {
        let container = self.find(name)?;
        let record = container.record();
        if !record.host.log.is_kept() {
            return Err(EngineError::NoLog { container: container.label() });
        }
        let details = match request.details {
            true => {
                let env = &record.process.env;
                record.host.log.details(self.shared.settings.log, &record.config, env)?
            }
            false => String::new(),
        };
        let dir = self.shared.dir(container.id());
        let label = container.label();
        let query = request.query.clone();
        let log = dir.log();
        let reader = self
            .blocking("a log", move |_| {
                LogReader::open(&log, query)
                    .map_err(|source| EngineError::Log { container: label, source })
            })
            .await?;
        let (sender, batches) = mpsc::channel(QUEUE_BATCHES);
        tokio::spawn(async move {
            let mut watch = container.watch();
            // Before the first read: what comes after it is told.
            let mut changes = if request.follow { Changes::of(dir.path()) } else { None };
            let mut reader = Some(reader);
            loop {
                let alive = watch.borrow_and_update().alive;
                let Some(taken) = reader.take() else { return };
                let outcome = tokio::task::spawn_blocking(move || read_batch(taken)).await;
                let (back, batch) = match outcome {
                    Ok(Ok(read)) => read,
                    Ok(Err(source)) => {
                        let error = EngineError::Log { container: container.label(), source };
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                    Err(source) => {
                        let error = EngineError::Panicked { what: "a log", source };
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                };
                reader = Some(back);
                let more = batch.len() == BATCH_ENTRIES;
                if !batch.is_empty() && sender.send(Ok(batch)).await.is_err() {
                    return;
                }
                if more {
                    continue;
                }
                let over = request.query.until.is_some_and(|until| until <= Timestamp::now());
                if !request.follow || !alive || over {
                    return;
                }
                tokio::select! {
                    () = changed(changes.as_mut()) => {}
                    _ = watch.changed() => {}
                    () = sender.closed() => return,
                    () = tokio::time::sleep(until_next_look(request.query.until)) => {}
                }
            }
        });
        Ok(LogStreamReceiver { batches, details })
    }
}

/// How long to wait at most: not beyond the moment that the client asked for.
fn until_next_look(until: Option<Timestamp>) -> Duration {
    let left = until.map(|until| until.duration_since(Timestamp::now()));
    left.and_then(|left| Duration::try_from(left).ok())
        .map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN))
}

fn read_batch(mut reader: LogReader) -> Result<(LogReader, Vec<LogEntry>), LogError> {
    let mut batch = Vec::new();
    while batch.len() < BATCH_ENTRIES {
        match reader.next_entry()? {
            Some(entry) => batch.push(entry),
            None => break,
        }
    }
    Ok((reader, batch))
}

/// What the kernel tells of a directory.
#[derive(Debug)]
struct Changes {
    /// The kernel's queue of notices: read as a pipe is, with what epoll(7) tells of it.
    queue: pipe::Receiver,
}

impl Changes {
    /// Begins to watch; `None` if the kernel has no more watches to give, and then the log is
    /// looked at every two seconds.
    fn of(dir: &Path) -> Option<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let queue = inotify::init(flags).ok()?;
        let what = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&queue, dir, what).ok()?;
        Some(Self { queue: pipe::Receiver::from_owned_fd_unchecked(queue).ok()? })
    }
}

/// Waits for a change; for ever if nothing is watched.
async fn changed(changes: Option<&mut Changes>) {
    let Some(changes) = changes else { return std::future::pending().await };
    if changes.queue.readable().await.is_err() {
        return std::future::pending().await;
    }
    // What is told does not matter, only that it is taken.
    let mut buffer = [0_u8; 4096];
    while changes.queue.try_read(&mut buffer).is_ok_and(|read| read > 0) {}
}
