//! Archives on their way from a client to the thread that reads them.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

/// Pieces that may wait between the client and the disk.
const QUEUE_LENGTH: usize = 4;

/// What comes through the queue. One that closes without an `End` was cut.
#[derive(Debug)]
enum Feed {
    Piece(Bytes),
    End,
}

/// The end of a queue where pieces go in.
#[derive(Debug)]
pub(crate) struct Feeder {
    queue: mpsc::Sender<Feed>,
}

/// The end of a queue where pieces come out, for a thread that may block.
#[derive(Debug)]
pub(crate) struct Fed {
    queue: mpsc::Receiver<Feed>,
    current: Bytes,
    is_ended: bool,
}

/// The queue was cut: the client went away, or what it sends failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut;

/// Makes a queue.
pub(crate) fn feed() -> (Feeder, Fed) {
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    (Feeder { queue: sender }, Fed { queue: receiver, current: Bytes::new(), is_ended: false })
}

impl Feeder {
    /// Passes everything on. Ends early, and without an error, when the reader does not want more.
    pub(crate) async fn pass(
        self,
        archive: &mut (impl Stream<Item = io::Result<Bytes>> + Send + Unpin),
    ) -> io::Result<()> {
        while let Some(piece) = archive.next().await {
            let piece = piece?;
            if !piece.is_empty() && self.queue.send(Feed::Piece(piece)).await.is_err() {
                return Ok(());
            }
        }
        let _ = self.queue.send(Feed::End).await;
        Ok(())
    }
}

impl Fed {
    /// Waits for the next piece; `None` is the end.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        if self.is_ended {
            return Ok(None);
        }
        match self.queue.blocking_recv() {
            Some(Feed::Piece(piece)) => Ok(Some(piece)),
            Some(Feed::End) => {
                self.is_ended = true;
                Ok(None)
            }
            None => Err(Cut),
        }
    }
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.next() {
                Ok(Some(piece)) => self.current = piece,
                Ok(None) => return Ok(0),
                Err(Cut) => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}
