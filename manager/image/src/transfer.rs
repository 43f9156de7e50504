//! One blob on its way from a registry into the store.
//!
//! ```text
//! network ──▶ pump ──queue──▶ store: hash, write ──▶ a blob
//!             (a task)        (a thread) └──────────▶ whoever extracts it at the same time
//! ```

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use keg_store::{ContentError, Descriptor, Ingest, Labels};
use tokio::sync::mpsc;

use crate::extract::ExtractError;
use crate::layer::LayerError;
use crate::pipeline::Wanted;
use crate::progress::{LayerPhase, LayerProgress};
use crate::registry::Repository;
use crate::shared::Shared;

/// Pieces that may wait between the network and the disk.
const QUEUE_LENGTH: usize = 4;

/// How many bytes go by between two reports of progress.
const REPORT_BYTES: u64 = 512 * 1024;

/// A blob, and what is to become of it.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) blob: Descriptor,
    /// Lease that keeps it until the image has a name.
    pub(crate) lease: String,
    pub(crate) progress: LayerProgress,
    /// Labels that it gets.
    pub(crate) labels: Labels,
}

/// What comes to the thread that stores a blob. A queue that closes without an `End` was cut.
enum Feed {
    Piece(Bytes),
    End,
}

/// The end of the queue where a blob's pieces come out.
pub(crate) struct Incoming(mpsc::Receiver<Feed>);

impl Transfer {
    /// Sees to it that the blob is here, and does nothing else with it.
    pub(crate) async fn fetch(&self, repository: &Repository) -> Result<(), LayerError> {
        self.progress.tell(LayerPhase::Waiting, 0);
        // The semaphore is never closed.
        let _permit = self.shared.permits.acquire().await.ok();
        let _guard = self.shared.locks.lock(&format!("blob {}", self.blob.digest)).await;
        if self.blocking(Self::adopt).await? {
            self.progress.tell_all(LayerPhase::Exists);
            return Ok(());
        }
        let transfer = self.clone();
        self.receive(repository, move |ingest, incoming| {
            transfer.store(ingest, incoming, &mut |_| Wanted::NoMore)
        })
        .await?;
        self.progress.tell_all(LayerPhase::Complete);
        Ok(())
    }

    /// Finds out whether the blob is here, and lets the lease keep it if it is.
    pub(crate) fn adopt(&self) -> Result<bool, LayerError> {
        let content = self.shared.store.content();
        content
            .adopt(&self.shared.ns, &self.blob.digest, &self.labels, Some(&self.lease))
            .map_err(self.content())
    }

    /// Receives the blob: `store` gets what earlier attempts left and what comes, and passes both to
    /// [`Self::store`].
    pub(crate) async fn receive<T: Send + 'static>(
        &self,
        repository: &Repository,
        store: impl FnOnce(Ingest, Incoming) -> Result<T, LayerError> + Send + 'static,
    ) -> Result<T, LayerError> {
        let ingest = self
            .blocking(|transfer| {
                let content = transfer.shared.store.content();
                let reference = transfer.blob.digest.as_str();
                let algorithm = transfer.blob.digest.algorithm();
                let mut ingest = content
                    .ingest(&transfer.shared.ns, reference, algorithm)
                    .map_err(transfer.content())?;
                if ingest.offset_bytes() > transfer.blob.size_bytes {
                    ingest.restart().map_err(transfer.content())?;
                }
                Ok(ingest)
            })
            .await?;
        let offset_bytes = ingest.offset_bytes();
        let (feed, fed) = mpsc::channel(QUEUE_LENGTH);
        let storing = tokio::task::spawn_blocking(move || store(ingest, Incoming(fed)));
        let pumped = self.pump(repository, offset_bytes, feed).await;
        let stored = storing.await.unwrap_or_else(|error| Err(self.join_failure(error)));
        // A cut is the cause, and that the queue closed follows from it.
        pumped?;
        stored
    }

    /// Passes the blob's bytes from the network on.
    async fn pump(
        &self,
        repository: &Repository,
        offset_bytes: u64,
        feed: mpsc::Sender<Feed>,
    ) -> Result<(), LayerError> {
        let mut stream = repository.blob(&self.blob, offset_bytes);
        let mut done_bytes = offset_bytes;
        let mut told_bytes = 0;
        self.progress.tell(LayerPhase::Downloading, done_bytes);
        loop {
            let mut on_retry = || self.progress.tell(LayerPhase::Retrying, done_bytes);
            let piece = stream.next(&mut on_retry).await.map_err(|source| {
                LayerError::Registry { digest: self.blob.digest.clone(), source: Box::new(source) }
            })?;
            let message = piece.map_or(Feed::End, Feed::Piece);
            let (is_end, length) = match &message {
                Feed::Piece(piece) => (false, piece.len() as u64),
                Feed::End => (true, 0),
            };
            // Storing failed, and says why.
            if feed.send(message).await.is_err() || is_end {
                return Ok(());
            }
            done_bytes += length;
            if done_bytes - told_bytes >= REPORT_BYTES {
                told_bytes = done_bytes;
                self.progress.tell(LayerPhase::Downloading, done_bytes);
            }
        }
    }

    /// Writes and hashes everything, and passes it on as long as it is wanted: a damaged blob is told
    /// by its digest, not by what damage does to an archive.
    pub(crate) fn store(
        &self,
        mut ingest: Ingest,
        Incoming(mut fed): Incoming,
        send: &mut dyn FnMut(Bytes) -> Wanted,
    ) -> Result<(), LayerError> {
        let mut wanted = Wanted::More;
        if ingest.offset_bytes() > 0 {
            wanted = self.replay(&ingest, send)?;
        }
        loop {
            match fed.blocking_recv() {
                Some(Feed::Piece(piece)) => {
                    ingest.write(&piece).map_err(self.content())?;
                    if wanted == Wanted::More {
                        wanted = send(piece);
                    }
                }
                Some(Feed::End) => break,
                None => return Err(self.called_off()),
            }
        }
        ingest
            .commit(
                Some(self.blob.size_bytes),
                Some(&self.blob.digest),
                &self.labels,
                Some(&self.lease),
            )
            .map_err(self.content())?;
        self.progress.tell_all(LayerPhase::Downloaded);
        if wanted == Wanted::More {
            self.progress.tell_all(LayerPhase::Extracting);
        }
        Ok(())
    }

    /// Passes on what an earlier attempt received.
    fn replay(
        &self,
        ingest: &Ingest,
        send: &mut dyn FnMut(Bytes) -> Wanted,
    ) -> Result<Wanted, LayerError> {
        let mut file = ingest.reader().map_err(self.content())?.take(ingest.offset_bytes());
        loop {
            let mut piece = self.shared.room.piece();
            piece.fill(&mut file).map_err(|source| LayerError::Extract {
                digest: self.blob.digest.clone(),
                source: ExtractError::Read { source },
            })?;
            let piece = piece.freeze();
            if piece.is_empty() {
                return Ok(Wanted::More);
            }
            if send(piece) == Wanted::NoMore {
                return Ok(Wanted::NoMore);
            }
        }
    }

    /// Runs a step that blocks on a thread where it may.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Self) -> Result<T, LayerError> + Send + 'static,
    ) -> Result<T, LayerError> {
        let transfer = self.clone();
        tokio::task::spawn_blocking(move || step(&transfer))
            .await
            .unwrap_or_else(|error| Err(self.join_failure(error)))
    }

    /// A panic goes on in the task that waits; otherwise the runtime is shutting down.
    pub(crate) fn join_failure(&self, error: tokio::task::JoinError) -> LayerError {
        match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => self.called_off(),
        }
    }

    pub(crate) fn called_off(&self) -> LayerError {
        LayerError::CalledOff { digest: self.blob.digest.clone() }
    }

    pub(crate) fn content(&self) -> impl FnOnce(ContentError) -> LayerError + use<> {
        let digest = self.blob.digest.clone();
        move |source| LayerError::Content { digest, source }
    }
}
