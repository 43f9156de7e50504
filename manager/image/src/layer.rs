//! One layer on its way from a registry, or from a blob, into a snapshot.
//!
//! ```text
//!             lock of the chain id ── here already? ──▶ Exists
//!                      │
//!             permit, lock of the blob
//!                      │
//!   blob here? ── yes ─┴──▶ extract from the file ─┐
//!        │                                         ├──▶ Extracted (a prepared snapshot)
//!        └─ no ──▶ receive, store and extract ─────┘
//! ```
//!
//! The lock of the chain id is kept until the snapshot is committed, so that two pulls never unpack
//! the same layer. Nobody waits for ever: who holds the lock of a chain id waits only for layers below it.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keg_store::{
    ContentError, Descriptor, Digest, ErrorClass, Explain, Ingest, Labels, Reason, Resource,
    SnapshotError,
};
use tokio::sync::mpsc;

use crate::extract::{ExtractError, Extracted, Whiteouts};
use crate::locks::NameGuard;
use crate::pipeline::{self, RunError, Target, Unpacked, Wanted};
use crate::prepared::Prepared;
use crate::progress::{LayerPhase, LayerProgress};
use crate::registry::{RegistryError, Repository};
use crate::shared::Shared;

/// Pieces that may wait between the network and the disk.
const QUEUE_LENGTH: usize = 4;

/// How much is read from a blob's file at once.
const FILE_PIECE_BYTES: usize = 256 * 1024;

/// How many bytes go by between two reports of progress.
const REPORT_BYTES: u64 = 512 * 1024;

/// Why a layer did not become a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The registry did not give it.
    #[error("layer {digest} cannot be received")]
    Registry {
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// Its blob could not be stored or read.
    #[error("layer {digest} cannot be stored")]
    Content {
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: ContentError,
    },
    /// Its archive could not be extracted.
    #[error("layer {digest} cannot be unpacked")]
    Extract {
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: ExtractError,
    },
    /// Its archive is not the one that the configuration tells of.
    #[error("layer {digest} has the diff id {found}, and the configuration says {wanted}")]
    DiffId {
        /// Digest of its blob.
        digest: Digest,
        /// The diff id that the configuration has.
        wanted: Digest,
        /// The digest of the archive.
        found: Digest,
    },
    /// Its snapshot could not be made.
    #[error("layer {digest} cannot be made a snapshot")]
    Snapshot {
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// Its blob is in no place where it could be had from.
    #[error("layer {digest} is missing")]
    Missing {
        /// Digest of its blob.
        digest: Digest,
    },
    /// Nobody waits for it any more.
    #[error("the work on layer {digest} was called off")]
    CalledOff {
        /// Digest of its blob.
        digest: Digest,
    },
}

impl LayerError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Registry { source, .. } => Some(source),
            Self::Content { source, .. } => Some(source),
            Self::Extract { source, .. } => Some(source),
            Self::Snapshot { source, .. } => Some(source),
            Self::DiffId { .. } | Self::Missing { .. } | Self::CalledOff { .. } => None,
        }
    }
}

impl Explain for LayerError {
    fn reason(&self) -> Reason {
        match self {
            Self::DiffId { .. } => Reason::DigestMismatch,
            Self::Missing { .. } => Reason::ImageMalformed,
            _ => self.cause().map_or(Reason::Internal, Explain::reason),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::CalledOff { .. } => ErrorClass::Aborted,
            _ => self.cause().map_or_else(|| self.reason().class(), Explain::class),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::DiffId { .. } => Some("tell the image's maker, or push it again".into()),
            Self::Missing { .. } => Some("save or copy the image again, all of it".into()),
            _ => self.cause().and_then(Explain::remedy),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        let mut operands = self.cause().map(Explain::operands).unwrap_or_default();
        if let Self::DiffId { digest, .. } | Self::Missing { digest } = self {
            operands.push(("digest", digest.to_string()));
        }
        operands
    }
}

/// A layer, and what is to become of it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
    /// Lease that keeps its parts until the image has a name.
    pub(crate) lease: String,
    pub(crate) progress: LayerProgress,
    /// Labels of its blob.
    pub(crate) labels: Labels,
}

/// A layer that can be committed as soon as all below it are.
#[derive(Debug)]
pub(crate) enum Readied {
    /// Its snapshot is here.
    Exists,
    /// Its blob is here; to be extracted on top of its parent.
    Stored { guard: NameGuard },
    /// It is extracted.
    Extracted { prepared: Prepared, guard: NameGuard },
}

/// What comes to the thread that stores a blob. A queue that closes without an `End` was cut.
enum Feed {
    Piece(Bytes),
    End,
}

impl Layer {
    /// Makes the layer ready, from `repository` if its blob is not here.
    pub(crate) async fn ready(self, repository: Option<Repository>) -> Result<Readied, LayerError> {
        self.progress.tell(LayerPhase::Waiting, 0);
        let guard = self.shared.locks.lock(&format!("chain {}", self.chain_id)).await;
        let (has_snapshot, has_blob) = self.blocking(Self::look).await?;
        if has_snapshot && has_blob {
            self.progress.tell_all(LayerPhase::Exists);
            return Ok(Readied::Exists);
        }
        let permit = Arc::clone(&self.shared.permits)
            .acquire_owned()
            .await
            .map_err(|_| self.called_off())?;
        let blob_guard = self.shared.locks.lock(&format!("blob {}", self.blob.digest)).await;
        let extracts = !has_snapshot && self.shared.snapshotter.can_rebase();
        let has_blob = has_blob || self.blocking(|layer| layer.adopt()).await?;
        let prepared = if has_blob {
            match extracts {
                true => Some(self.blocking(|layer| layer.extract_stored(None)).await?),
                false => None,
            }
        } else {
            let Some(repository) = repository else {
                return Err(LayerError::Missing { digest: self.blob.digest });
            };
            self.receive(&repository, extracts).await?
        };
        drop((blob_guard, permit));
        Ok(match (has_snapshot, prepared) {
            (true, _) => {
                self.progress.tell_all(LayerPhase::Exists);
                Readied::Exists
            }
            (false, Some(prepared)) => Readied::Extracted { prepared, guard },
            (false, None) => Readied::Stored { guard },
        })
    }

    /// Sees to it that the layer's blob is here, from `repository` if it is not.
    pub(crate) async fn fetch(&self, repository: Option<&Repository>) -> Result<(), LayerError> {
        let _guard = self.shared.locks.lock(&format!("blob {}", self.blob.digest)).await;
        if self.blocking(|layer| layer.adopt()).await? {
            return Ok(());
        }
        match repository {
            Some(repository) => self.receive(repository, false).await.map(drop),
            None => Err(LayerError::Missing { digest: self.blob.digest.clone() }),
        }
    }

    /// Extracts the stored blob into a new snapshot on top of `parent`.
    pub(crate) fn extract_stored(&self, parent: Option<&str>) -> Result<Prepared, LayerError> {
        let mut prepared =
            Prepared::new(&self.shared, &self.lease, parent).map_err(self.snapshot())?;
        let extracted = self.unpack_stored(&prepared.dir, prepared.whiteouts())?;
        prepared.filled(extracted);
        Ok(prepared)
    }

    /// Extracts the stored blob into a directory.
    pub(crate) fn unpack_stored(
        &self,
        dir: &Path,
        whiteouts: Whiteouts,
    ) -> Result<Extracted, LayerError> {
        let content = self.shared.store.content();
        let mut blob =
            content.open_blob(&self.shared.ns, &self.blob.digest).map_err(self.content())?;
        self.unpack(dir, whiteouts, |send| {
            let mut done_bytes = 0;
            loop {
                let mut piece = Vec::with_capacity(FILE_PIECE_BYTES);
                let read = (&mut blob).take(FILE_PIECE_BYTES as u64).read_to_end(&mut piece);
                read.map_err(|source| {
                    let source = ExtractError::Read { source };
                    LayerError::Extract { digest: self.blob.digest.clone(), source }
                })?;
                if piece.is_empty() {
                    return Ok(());
                }
                done_bytes += piece.len() as u64;
                self.progress.tell(LayerPhase::Extracting, done_bytes);
                if send(piece.into()) == Wanted::NoMore {
                    return Ok(());
                }
            }
        })
    }

    /// Finds out whether snapshot and blob are here, and lets the lease keep what is.
    fn look(&self) -> Result<(bool, bool), LayerError> {
        let (shared, key) = (&self.shared, self.chain_id.as_str());
        let has_snapshot = shared
            .store
            .transaction(|tx| {
                match shared.snapshotter.stat_in(tx, &shared.ns, key) {
                    Ok(_) => {}
                    Err(SnapshotError::NotFound { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                }
                let resource = Resource::Snapshot {
                    snapshotter: shared.snapshotter.name().to_owned(),
                    key: key.to_owned(),
                };
                tx.add_to_lease(&shared.ns, &self.lease, &resource)?;
                Ok(true)
            })
            .map_err(self.snapshot())?;
        Ok((has_snapshot, self.adopt()?))
    }

    fn adopt(&self) -> Result<bool, LayerError> {
        let content = self.shared.store.content();
        content
            .adopt(&self.shared.ns, &self.blob.digest, &self.labels, Some(&self.lease))
            .map_err(self.content())
    }

    /// Receives the blob, and extracts it at the same time if asked to.
    async fn receive(
        &self,
        repository: &Repository,
        extracts: bool,
    ) -> Result<Option<Prepared>, LayerError> {
        let ingest = self
            .blocking(|layer| {
                let content = layer.shared.store.content();
                let reference = layer.blob.digest.as_str();
                let algorithm = layer.blob.digest.algorithm();
                let mut ingest = content
                    .ingest(&layer.shared.ns, reference, algorithm)
                    .map_err(layer.content())?;
                if ingest.offset_bytes() > layer.blob.size_bytes {
                    ingest.restart().map_err(layer.content())?;
                }
                Ok(ingest)
            })
            .await?;
        let offset_bytes = ingest.offset_bytes();
        let (feed, fed) = mpsc::channel(QUEUE_LENGTH);
        let layer = self.clone();
        let storing = tokio::task::spawn_blocking(move || layer.store(ingest, fed, extracts));
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
                LayerError::Registry { digest: self.blob.digest.clone(), source }
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

    /// Stores the blob that is fed, after what an earlier attempt left.
    fn store(
        &self,
        ingest: Ingest,
        fed: mpsc::Receiver<Feed>,
        extracts: bool,
    ) -> Result<Option<Prepared>, LayerError> {
        if !extracts {
            self.store_into(ingest, fed, &mut |_| Wanted::NoMore)?;
            return Ok(None);
        }
        self.extract(None, |send| self.store_into(ingest, fed, send)).map(Some)
    }

    /// Writes and hashes everything, and passes it on as long as it is wanted: a damaged blob is told
    /// by its digest, not by what damage does to an archive.
    fn store_into(
        &self,
        mut ingest: Ingest,
        mut fed: mpsc::Receiver<Feed>,
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
            let mut piece = Vec::with_capacity(FILE_PIECE_BYTES);
            let read = (&mut file).take(FILE_PIECE_BYTES as u64).read_to_end(&mut piece);
            read.map_err(|source| LayerError::Extract {
                digest: self.blob.digest.clone(),
                source: ExtractError::Read { source },
            })?;
            if piece.is_empty() {
                return Ok(Wanted::More);
            }
            if send(piece.into()) == Wanted::NoMore {
                return Ok(Wanted::NoMore);
            }
        }
    }

    /// Prepares a snapshot and extracts what `produce` gives into it.
    fn extract(
        &self,
        parent: Option<&str>,
        produce: impl FnOnce(&mut dyn FnMut(Bytes) -> Wanted) -> Result<(), LayerError>,
    ) -> Result<Prepared, LayerError> {
        let mut prepared =
            Prepared::new(&self.shared, &self.lease, parent).map_err(self.snapshot())?;
        let extracted = self.unpack(&prepared.dir, prepared.whiteouts(), produce)?;
        prepared.filled(extracted);
        Ok(prepared)
    }

    /// Extracts what `produce` gives into a directory, and verifies the diff id.
    fn unpack(
        &self,
        dir: &Path,
        whiteouts: Whiteouts,
        produce: impl FnOnce(&mut dyn FnMut(Bytes) -> Wanted) -> Result<(), LayerError>,
    ) -> Result<Extracted, LayerError> {
        let target = Target {
            dir,
            whiteouts,
            limits: &self.shared.limits,
            compressed_bytes: self.blob.size_bytes,
            algorithm: self.diff_id.algorithm(),
        };
        let digest = self.blob.digest.clone();
        let Unpacked { extracted, diff_id } =
            pipeline::run(&target, produce).map_err(|error| match error {
                RunError::Produce(error) => error,
                RunError::Extract(source) => LayerError::Extract { digest, source },
            })?;
        if diff_id != self.diff_id {
            let (digest, wanted) = (self.blob.digest.clone(), self.diff_id.clone());
            return Err(LayerError::DiffId { digest, wanted, found: diff_id });
        }
        Ok(extracted)
    }

    /// Runs a step that blocks on a thread where it may.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Self) -> Result<T, LayerError> + Send + 'static,
    ) -> Result<T, LayerError> {
        let layer = self.clone();
        tokio::task::spawn_blocking(move || step(&layer))
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

    fn called_off(&self) -> LayerError {
        LayerError::CalledOff { digest: self.blob.digest.clone() }
    }

    fn content(&self) -> impl FnOnce(ContentError) -> LayerError + use<> {
        let digest = self.blob.digest.clone();
        move |source| LayerError::Content { digest, source }
    }

    pub(crate) fn snapshot(&self) -> impl FnOnce(SnapshotError) -> LayerError + use<> {
        let digest = self.blob.digest.clone();
        move |source| LayerError::Snapshot { digest, source }
    }
}
