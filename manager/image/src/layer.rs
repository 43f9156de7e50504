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

mod error;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keg_store::{Digest, Durability, Resource, SnapshotError};

pub use self::error::LayerError;
use crate::extract::{ExtractError, Extracted, Whiteouts};
use crate::locks::NameGuard;
use crate::pipeline::{self, RunError, Target, Unpacked, Wanted};
use crate::prepared::Prepared;
use crate::progress::LayerPhase;
use crate::registry::Repository;
use crate::transfer::Transfer;

/// A layer, and what is to become of it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// How its blob gets here.
    pub(crate) transfer: Transfer,
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
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

impl Layer {
    /// Makes the layer ready, from `repository` if its blob is not here.
    pub(crate) async fn ready(self, repository: Option<Repository>) -> Result<Readied, LayerError> {
        self.transfer.progress.tell(LayerPhase::Waiting, 0);
        let guard = self.transfer.shared.locks.lock(&format!("chain {}", self.chain_id)).await;
        let (has_snapshot, has_blob) = self.blocking(Self::look).await?;
        if has_snapshot && has_blob {
            self.transfer.progress.tell_all(LayerPhase::Exists);
            return Ok(Readied::Exists);
        }
        let permit = Arc::clone(&self.transfer.shared.permits)
            .acquire_owned()
            .await
            .map_err(|_| self.transfer.called_off())?;
        let blob_guard =
            self.transfer.shared.locks.lock(&format!("blob {}", self.transfer.blob.digest)).await;
        let extracts = !has_snapshot && self.transfer.shared.snapshotter.can_rebase();
        let has_blob = has_blob || self.transfer.blocking(Transfer::adopt).await?;
        let prepared = if has_blob {
            match extracts {
                true => Some(self.blocking(|layer| layer.extract_stored(None)).await?),
                false => None,
            }
        } else {
            let Some(repository) = repository else {
                return Err(LayerError::Missing { digest: self.transfer.blob.digest });
            };
            let layer = self.clone();
            let receiving = self.transfer.receive(&repository, move |ingest, incoming| {
                if !extracts {
                    let mut nobody = |_| Wanted::NoMore;
                    return layer.transfer.store(ingest, incoming, &mut nobody).map(|()| None);
                }
                layer.extract(None, |send| layer.transfer.store(ingest, incoming, send)).map(Some)
            });
            receiving.await?
        };
        drop((blob_guard, permit));
        Ok(match (has_snapshot, prepared) {
            (true, _) => {
                self.transfer.progress.tell_all(LayerPhase::Exists);
                Readied::Exists
            }
            (false, Some(prepared)) => Readied::Extracted { prepared, guard },
            (false, None) => Readied::Stored { guard },
        })
    }

    /// Extracts the stored blob into a new snapshot on top of `parent`.
    pub(crate) fn extract_stored(&self, parent: Option<&str>) -> Result<Prepared, LayerError> {
        let transfer = &self.transfer;
        let mut prepared =
            Prepared::new(&transfer.shared, &transfer.lease, parent).map_err(self.snapshot())?;
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
        let content = self.transfer.shared.store.content();
        let mut blob = content
            .open_blob(&self.transfer.shared.ns, &self.transfer.blob.digest)
            .map_err(self.transfer.content())?;
        self.unpack(dir, whiteouts, |send| {
            let mut done_bytes = 0;
            loop {
                let mut piece = self.transfer.shared.room.piece();
                piece.fill(&mut blob).map_err(|source| {
                    let source = ExtractError::Read { source };
                    LayerError::Extract { digest: self.transfer.blob.digest.clone(), source }
                })?;
                let piece = piece.freeze();
                if piece.is_empty() {
                    return Ok(());
                }
                done_bytes += piece.len() as u64;
                self.transfer.progress.tell(LayerPhase::Extracting, done_bytes);
                if send(piece) == Wanted::NoMore {
                    return Ok(());
                }
            }
        })
    }

    /// Finds out whether snapshot and blob are here, and lets the lease keep what is.
    fn look(&self) -> Result<(bool, bool), LayerError> {
        let (shared, key) = (&self.transfer.shared, self.chain_id.as_str());
        let has_snapshot = shared
            .store
            .transaction_outliving(Durability::Crash, |tx| {
                match shared.snapshotter.stat_in(tx, &shared.ns, key) {
                    Ok(_) => {}
                    Err(SnapshotError::NotFound { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                }
                let resource = Resource::Snapshot {
                    snapshotter: shared.snapshotter.name().to_owned(),
                    key: key.to_owned(),
                };
                tx.add_to_lease(&shared.ns, &self.transfer.lease, &resource)?;
                Ok(true)
            })
            .map_err(self.snapshot())?;
        Ok((has_snapshot, self.transfer.adopt()?))
    }

    /// Prepares a snapshot and extracts what `produce` gives into it.
    fn extract(
        &self,
        parent: Option<&str>,
        produce: impl FnOnce(&mut dyn FnMut(Bytes) -> Wanted) -> Result<(), LayerError>,
    ) -> Result<Prepared, LayerError> {
        let transfer = &self.transfer;
        let mut prepared =
            Prepared::new(&transfer.shared, &transfer.lease, parent).map_err(self.snapshot())?;
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
            limits: &self.transfer.shared.limits,
            compressed_bytes: self.transfer.blob.size_bytes,
            algorithm: self.diff_id.algorithm(),
            room: &self.transfer.shared.room,
        };
        let digest = self.transfer.blob.digest.clone();
        let Unpacked { extracted, diff_id } =
            pipeline::run(&target, produce).map_err(|error| match error {
                RunError::Produce(error) => error,
                RunError::Extract(source) => LayerError::Extract { digest, source },
            })?;
        if diff_id != self.diff_id {
            let (digest, wanted) = (self.transfer.blob.digest.clone(), self.diff_id.clone());
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
        self.transfer.blocking(move |_| step(&layer)).await
    }

    /// Tells how the task that worked on the layer ended.
    pub(crate) fn join_failure(&self, error: tokio::task::JoinError) -> LayerError {
        self.transfer.join_failure(error)
    }

    pub(crate) fn snapshot(&self) -> impl FnOnce(SnapshotError) -> LayerError + use<> {
        let digest = self.transfer.blob.digest.clone();
        move |source| LayerError::Snapshot { digest, source }
    }
}
