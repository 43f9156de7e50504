//! Load: images out of an archive: an OCI layout, or what `docker save` writes of any version.
//!
//! The archive is read once, as it comes. What has a digest for a name is verified against it;
//! anything else that could be a layer or a configuration is stored under the digest that it has. The
//! documents come last in some archives, so that what is what is decided at the end.

mod archive;
mod documents;
mod error;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use keg_store::{Descriptor, Digest};

use self::archive::Archive;
pub use self::error::LoadError;
use crate::feed::feed;
use crate::images::ImageError;
use crate::layer::Layer;
use crate::progress::{LayerProgress, Progress};
use crate::record::layer_labels;
use crate::shared::OperationLease;
use crate::stack::unpack;
use crate::transfer::Transfer;
use crate::{ImageRecord, Images, Platform, Reference};

/// An image that was in an archive.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image as it now is.
    pub image: ImageRecord,
    /// Names that the archive gave it.
    pub names: Vec<Reference>,
}

/// An image to be entered: what its names stand for.
#[derive(Debug)]
struct Wanted {
    target: Descriptor,
    names: Vec<Reference>,
}

impl Images {
    /// Loads the images of an archive, which may be compressed by gzip or zstd, and unpacks those for
    /// `platform` or else for this machine.
    ///
    /// # Errors
    /// [`LoadError`]; images that were entered before it stay.
    pub async fn load(
        &self,
        mut archive: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
        platform: Option<Platform>,
        progress: Progress,
    ) -> Result<Vec<Loaded>, LoadError> {
        let images = self.clone();
        let (feeder, fed) = feed();
        let reading = tokio::task::spawn_blocking(move || images.read_archive(fed));
        let received = feeder.pass(&mut archive).await;
        let read = reading.await.unwrap_or_else(|error| Err(join_failure(error)));
        received.map_err(|source| LoadError::Receive { source })?;
        let Archive { lease, images, artifacts } = read?;
        let mut loaded = Vec::new();
        for wanted in images {
            let image = self.load_one(&wanted, platform.as_ref(), &lease, &progress).await?;
            loaded.push(Loaded { image, names: wanted.names });
        }
        let images = self.clone();
        let ended = tokio::task::spawn_blocking(move || {
            images.keep_artifacts(&artifacts, lease.id())?;
            let shared = &images.shared;
            let outcome = shared.store.transaction(|tx| tx.delete_lease(&shared.ns, lease.id()));
            outcome.map(|()| lease.done()).map_err(|error| enter(error.into()))
        });
        ended.await.unwrap_or_else(|error| Err(join_failure(error)))?;
        Ok(loaded)
    }

    /// Unpacks an image whose blobs are here, and enters it.
    async fn load_one(
        &self,
        wanted: &Wanted,
        platform: Option<&Platform>,
        lease: &OperationLease,
        progress: &Progress,
    ) -> Result<ImageRecord, LoadError> {
        let (images, target) = (self.clone(), wanted.target.clone());
        let (platform, lease_id) = (platform.cloned(), lease.id().to_owned());
        let documents = tokio::task::spawn_blocking(move || {
            images.label_documents(&target, platform.as_ref(), &lease_id, 0)
        });
        let (manifest, config) =
            documents.await.unwrap_or_else(|error| Err(join_failure(error)))?;
        let ids = config.diff_ids.iter().zip(config.chain_ids());
        let layers: Vec<Layer> = manifest
            .layers
            .iter()
            .zip(ids)
            .map(|(blob, (diff_id, chain_id))| Layer {
                transfer: Transfer {
                    shared: Arc::clone(&self.shared),
                    blob: blob.clone(),
                    lease: lease.id().to_owned(),
                    progress: LayerProgress::new(progress, blob),
                    labels: layer_labels(diff_id, None),
                },
                diff_id: diff_id.clone(),
                chain_id,
            })
            .collect();
        unpack(layers, None).await.map_err(|source| LoadError::Layer { source: source.into() })?;
        let (images, target, names) = (self.clone(), wanted.target.clone(), wanted.names.clone());
        let entered = tokio::task::spawn_blocking(move || {
            images.enter_loaded(&target, &names, &manifest.config.digest).map_err(enter)
        });
        entered.await.unwrap_or_else(|error| Err(join_failure(error)))
    }

    fn enter_loaded(
        &self,
        target: &Descriptor,
        names: &[Reference],
        id: &Digest,
    ) -> Result<ImageRecord, ImageError> {
        self.shared.store.transaction(|tx| {
            for name in names {
                self.name(tx, &name.to_string(), target)?;
            }
            let is_named =
                tx.images(&self.shared.ns)?.iter().any(|row| row.target.digest == target.digest);
            if is_named { Ok(()) } else { self.name(tx, id.as_str(), target) }
        })?;
        self.by_target(target, None)
    }
}

fn enter(source: ImageError) -> LoadError {
    LoadError::Enter { source: Box::new(source) }
}

fn join_failure(error: tokio::task::JoinError) -> LoadError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => LoadError::CalledOff,
    }
}

#[cfg(test)]
mod tests;
