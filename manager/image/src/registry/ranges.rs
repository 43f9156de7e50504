//! A large blob in several ranges at once.
//!
//! ```text
//! ├── range 1 ──┼── range 2 ──┼── range 3 ──┼── … ──┤
//!   passed on      helper         helper              handed out strictly in order
//!   as it comes    (buffered)     (buffered)
//! ```
//!
//! The first range is asked for alone: a server that sends everything instead does not know ranges, and
//! is read as one stream. Helpers run only while there is room for their buffers, over all transfers
//! together; without room the next range is read as the first was, so that nobody waits for a buffer.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use keg_store::Descriptor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::blob::BlobStream;
use super::{RegistryError, Repository};
use crate::room::Room;

/// Bytes of a range; a blob of less than two is read as one stream.
pub(super) const RANGE_BYTES: u64 = 4 << 20;

/// A range that a helper has fetched, and the room that it takes.
type Fetched = Result<(VecDeque<Bytes>, OwnedSemaphorePermit), RegistryError>;

/// The bytes of a blob, piece by piece and in order, fetched in several ranges where that helps.
#[derive(Debug)]
pub struct BlobTransfer {
    repository: Repository,
    blob: Descriptor,
    /// The range that is passed on as it comes.
    current: Option<Gathered>,
    /// Ranges after it, in order.
    helpers: VecDeque<JoinHandle<Fetched>>,
    /// What a helper brought, and the room that it takes.
    buffered: VecDeque<Bytes>,
    room: Option<OwnedSemaphorePermit>,
    /// Where the next range begins that nobody fetches yet.
    next_bytes: u64,
}

impl BlobTransfer {
    pub(super) fn new(repository: Repository, blob: Descriptor, offset_bytes: u64) -> Self {
        let left_bytes = blob.size_bytes.saturating_sub(offset_bytes);
        let end_bytes = match left_bytes < 2 * RANGE_BYTES {
            true => blob.size_bytes,
            false => offset_bytes + RANGE_BYTES,
        };
        let current = BlobStream::new(repository.clone(), blob.clone(), offset_bytes, end_bytes);
        let current = Gathered::new(current.growing());
        Self {
            repository,
            blob,
            current: Some(current),
            helpers: VecDeque::new(),
            buffered: VecDeque::new(),
            room: None,
            next_bytes: end_bytes,
        }
    }

    /// Returns the next piece, or `None` when all bytes that the descriptor promises have come.
    /// `on_retry` is called when the transfer broke off and is about to be tried again.
    ///
    /// # Errors
    /// [`RegistryError::Size`] if there are more or fewer bytes than promised; otherwise what the last
    /// attempt failed with.
    pub async fn next(
        &mut self,
        on_retry: &mut (dyn FnMut() + Send),
    ) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if let Some(piece) = self.buffered.pop_front() {
                return Ok(Some(piece));
            }
            self.room = None;
            if let Some(current) = &mut self.current {
                let room = &self.repository.transport.room;
                if let Some(piece) = current.next(room, on_retry).await? {
                    self.next_bytes = self.next_bytes.max(current.stream.end_bytes());
                    self.send_helpers();
                    return Ok(Some(piece));
                }
                self.current = None;
            }
            self.send_helpers();
            if let Some(helper) = self.helpers.pop_front() {
                let fetched = helper.await.unwrap_or_else(|error| resume(error, &self.repository));
                let (pieces, room) = fetched?;
                (self.buffered, self.room) = (pieces, Some(room));
            } else if self.next_bytes < self.blob.size_bytes {
                let (start_bytes, end_bytes) = self.next_range();
                let (repository, blob) = (self.repository.clone(), self.blob.clone());
                let range = BlobStream::new(repository, blob, start_bytes, end_bytes);
                self.current = Some(Gathered::new(range));
            } else {
                return Ok(None);
            }
        }
    }

    /// Lets helpers fetch what comes next, as many as there is room for.
    fn send_helpers(&mut self) {
        while self.next_bytes < self.blob.size_bytes {
            let room = Arc::clone(&self.repository.transport.range_room).try_acquire_owned();
            let Ok(room) = room else { return };
            let (start_bytes, end_bytes) = self.next_range();
            let (repository, blob) = (self.repository.clone(), self.blob.clone());
            let pieces_room = repository.transport.room.clone();
            let range = BlobStream::new(repository, blob, start_bytes, end_bytes);
            let mut range = Gathered::new(range);
            self.helpers.push_back(tokio::spawn(async move {
                let mut pieces = VecDeque::new();
                while let Some(piece) = range.next(&pieces_room, &mut || {}).await? {
                    pieces.push_back(piece);
                }
                Ok((pieces, room))
            }));
        }
    }

    /// Takes the next range, which nobody fetches yet.
    fn next_range(&mut self) -> (u64, u64) {
        let start_bytes = self.next_bytes;
        self.next_bytes = self.blob.size_bytes.min(start_bytes + RANGE_BYTES);
        (start_bytes, self.next_bytes)
    }
}

impl Drop for BlobTransfer {
    fn drop(&mut self) {
        for helper in &self.helpers {
            helper.abort();
        }
    }
}

/// A range whose bytes are gathered into pieces of one size.
#[derive(Debug)]
struct Gathered {
    stream: BlobStream,
    /// What came and did not fit into the last piece.
    rest: Bytes,
    /// Why no more comes; told after what came before it, which need not be fetched again then.
    failure: Option<RegistryError>,
}

impl Gathered {
    fn new(stream: BlobStream) -> Self {
        Self { stream, rest: Bytes::new(), failure: None }
    }

    /// Returns the next piece, full unless nothing comes after it; `None` when all bytes of the range have come.
    async fn next(
        &mut self,
        room: &Room,
        on_retry: &mut (dyn FnMut() + Send),
    ) -> Result<Option<Bytes>, RegistryError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut piece = room.piece();
        while !piece.is_full() {
            if self.rest.is_empty() {
                match self.stream.next(on_retry).await {
                    Ok(Some(bytes)) => self.rest = bytes,
                    Ok(None) => break,
                    Err(failure) if piece.is_empty() => return Err(failure),
                    Err(failure) => {
                        self.failure = Some(failure);
                        break;
                    }
                }
            }
            piece.take_from(&mut self.rest);
        }
        let piece = piece.freeze();
        Ok((!piece.is_empty()).then_some(piece))
    }
}

/// Returns the room for helpers' buffers.
pub(super) fn room(ranges: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(ranges))
}

fn resume(error: tokio::task::JoinError, repository: &Repository) -> Fetched {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Only this transfer aborts its helpers, and then nobody asks for what they fetched.
        Err(_) => Err(RegistryError::Protocol {
            registry: repository.registry().to_owned(),
            problem: "a transfer was called off",
        }),
    }
}
