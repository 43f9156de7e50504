//! Archives on their way between a thread that reads or writes files and a client.
//!
//! Both directions hold a few pieces and no more, and give up on a client that does not move: while
//! one copies, a container that does not run cannot be started.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::EngineError;

/// Pieces that may wait.
const QUEUE_LENGTH: usize = 4;

/// Size of a piece.
const PIECE_BYTES: usize = 256 * 1024;

/// How long a client may leave a piece unread, or owe one.
const PATIENCE: Duration = Duration::from_secs(120);

/// An archive as it comes out of a container. An error is the last that comes.
#[derive(Debug)]
pub struct ByteStream(mpsc::Receiver<Result<Bytes, EngineError>>);

impl ByteStream {
    /// Returns the next piece; `None` is the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, EngineError>> {
        self.0.recv().await
    }
}

/// Where a thread writes what a client reads.
pub(super) struct PieceWriter {
    runtime: Handle,
    queue: mpsc::Sender<Result<Bytes, EngineError>>,
    piece: Vec<u8>,
}

/// Makes a way from a thread to a client. To be called by a task.
pub(super) fn outward() -> (PieceWriter, ByteStream) {
    let (queue, receiver) = mpsc::channel(QUEUE_LENGTH);
    let piece = Vec::with_capacity(PIECE_BYTES);
    (PieceWriter { runtime: Handle::current(), queue, piece }, ByteStream(receiver))
}

impl PieceWriter {
    /// Ends the stream, with the error if there is one.
    pub(super) fn end(mut self, outcome: Result<(), EngineError>) {
        let last = match outcome {
            Ok(()) => self.pass_on().map(|()| None),
            Err(error) => Ok(Some(error)),
        };
        if let Ok(Some(error)) = last {
            // A client that is gone need not be told.
            let _ = self.queue.blocking_send(Err(error));
        }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let sent = self.queue.send_timeout(Ok(piece.into()), PATIENCE);
        self.runtime.block_on(sent).map_err(|error| match error {
            mpsc::error::SendTimeoutError::Timeout(_) => io::ErrorKind::TimedOut.into(),
            mpsc::error::SendTimeoutError::Closed(_) => io::ErrorKind::BrokenPipe.into(),
        })
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.pass_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()
    }
}

/// What a thread reads of what a client sends. A queue that closes without an end was cut.
pub(super) struct PieceReader {
    runtime: Handle,
    queue: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    is_ended: bool,
}

/// Where what a client sends is put; `None` is the end.
pub(super) type PieceSender = mpsc::Sender<Option<Bytes>>;

/// Makes a way from a client to a thread. To be called by a task.
pub(super) fn inward() -> (PieceSender, PieceReader) {
    let (sender, queue) = mpsc::channel(QUEUE_LENGTH);
    let runtime = Handle::current();
    (sender, PieceReader { runtime, queue, current: Bytes::new(), is_ended: false })
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.is_ended {
                return Ok(0);
            }
            let next = self
                .runtime
                .block_on(async { tokio::time::timeout(PATIENCE, self.queue.recv()).await });
            match next {
                Ok(Some(Some(piece))) => self.current = piece,
                Ok(Some(None)) => self.is_ended = true,
                Ok(None) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}
