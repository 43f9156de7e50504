//! Loose parts: layers that belong to no image here, such as those of a build's cache, and documents
//! that are no image.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keg_store::{Descriptor, Digest, SnapshotError};
use tokio::task::JoinSet;

use crate::implicit::inherit;
use crate::layer::{Layer, LayerError};
use crate::progress::{LayerProgress, Progress};
use crate::push::PushError;
use crate::record::layer_labels;
use crate::registry::{RegistryClient, Repository};
use crate::transfer::Transfer;
use crate::{Credentials, Images, Reference};

/// A layer that is to be had alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LooseLayer {
    /// The layer as it is stored.
    pub blob: Descriptor,
    /// Digest of its archive before compression.
    pub diff_id: Digest,
}

/// A document for a registry, and the blobs here that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The name that it gets.
    pub reference: Reference,
    /// What it names.
    pub blobs: Vec<Descriptor>,
    /// Media type of the document.
    pub media_type: String,
    /// The document: a manifest or an index.
    pub manifest: Vec<u8>,
}

impl Images {
    /// Returns what talks to registries.
    #[must_use]
    pub fn registry(&self) -> &RegistryClient {
        &self.shared.registry
    }

    /// Sees to it that a layer's blob is here and that `lease` keeps it; from `repository`, if there is
    /// one, where it is not.
    ///
    /// # Errors
    /// [`LayerError`]; [`LayerError::Missing`] if it is not here and there is no repository.
    pub async fn fetch_layer(
        &self,
        repository: Option<&Repository>,
        layer: &LooseLayer,
        lease: &str,
    ) -> Result<(), LayerError> {
        let transfer = self.loose(layer, lease).transfer;
        match repository {
            Some(repository) => transfer.fetch(repository).await,
            None if transfer.blocking(Transfer::adopt).await? => Ok(()),
            None => Err(LayerError::Missing { digest: layer.blob.digest.clone() }),
        }
    }

    /// Extracts a layer whose blob is here into a directory of the snapshotter, to lie on `lower`,
    /// uppermost first. Blocks.
    ///
    /// # Errors
    /// [`LayerError`]; the directory then has a part of it.
    pub fn unpack_layer(
        &self,
        layer: &LooseLayer,
        dir: &Path,
        lower: &[PathBuf],
    ) -> Result<(), LayerError> {
        let extracted = self.loose(layer, "").unpack_stored(dir, self.shared.whiteouts())?;
        inherit(dir, &extracted.implicit_dirs, lower).map_err(|source| LayerError::Snapshot {
            digest: layer.blob.digest.clone(),
            source: SnapshotError::Io {
                operation: "set the attributes of directories in",
                path: dir.to_owned(),
                source,
            },
        })
    }

    fn loose(&self, layer: &LooseLayer, lease: &str) -> Layer {
        let transfer = Transfer {
            shared: Arc::clone(&self.shared),
            blob: layer.blob.clone(),
            lease: lease.to_owned(),
            progress: LayerProgress::silent(&layer.blob),
            labels: layer_labels(&layer.diff_id, None),
        };
        Layer { transfer, diff_id: layer.diff_id.clone(), chain_id: layer.diff_id.clone() }
    }

    /// Pushes a document after all the blobs that it names.
    ///
    /// # Errors
    /// [`PushError`]; the registry may then have some of the blobs.
    pub async fn push_artifact(
        &self,
        artifact: Artifact,
        credentials: Option<Credentials>,
    ) -> Result<(), PushError> {
        let Artifact { reference, blobs, media_type, manifest } = artifact;
        let name = reference.familiar();
        let failed = |source| PushError::Registry { image: name.clone(), source: Box::new(source) };
        let repository = self
            .shared
            .registry
            .repository_to_push(&reference, credentials.as_ref())
            .map_err(failed)?;
        let nobody: Progress = Arc::new(|_| {});
        let mut sending = JoinSet::new();
        for blob in blobs {
            let (images, repository) = (self.clone(), repository.clone());
            let (reference, progress) = (reference.clone(), LayerProgress::new(&nobody, &blob));
            sending.spawn(async move {
                images.push_blob(&repository, &reference, &blob, progress).await
            });
        }
        while let Some(sent) = sending.join_next().await {
            let called_off = |_| PushError::CalledOff { image: name.clone() };
            sent.map_err(called_off)?.map_err(failed)?;
        }
        let tag = reference.tag_or_digest();
        repository.put_manifest(tag, &media_type, &manifest).await.map(drop).map_err(failed)
    }
}
