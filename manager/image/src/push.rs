//! Push: from an image that is here to a name in a registry.
//!
//! Blobs first, several at once, then the configuration, then the manifest: a registry never has a
//! manifest of which a part is missing. What the registry has is not sent, and what another of its
//! repositories is known to have is mounted from there.

use std::borrow::Cow;
use std::sync::Arc;

use keg_store::{ContentError, Descriptor, ErrorClass, Explain, Labels, Reason};
use tokio::task::JoinSet;

use crate::images::ImageError;
use crate::manifest::MAX_CONFIG_BYTES;
use crate::media_type::OCI_CONFIG;
use crate::progress::{LayerPhase, LayerProgress, Progress};
use crate::record::SOURCE_LABEL;
use crate::registry::{RegistryError, Repository, Upload};
use crate::{Credentials, ImageRecord, Images, Platform, Reference};

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Name of the image here, and in the registry.
    pub reference: Reference,
    /// The platform to push of an image of several; `None`: this machine's, or whichever is here.
    pub platform: Option<Platform>,
    /// Credentials for this push only; `None`: those of the user's file.
    pub credentials: Option<Credentials>,
}

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It is not here.
    #[error("cannot push {image}")]
    Find {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
    /// The registry did not take it.
    #[error("cannot push {image}")]
    Registry {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// A part of it cannot be read.
    #[error("cannot push {image}")]
    Content {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<ContentError>,
    },
    /// The daemon is shutting down.
    #[error("the push of {image} was called off")]
    CalledOff {
        /// The image.
        image: String,
    },
}

impl PushError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Find { source, .. } => Some(source.as_ref()),
            Self::Registry { source, .. } => Some(source.as_ref()),
            Self::Content { source, .. } => Some(source.as_ref()),
            Self::CalledOff { .. } => None,
        }
    }
}

impl Explain for PushError {
    fn reason(&self) -> Reason {
        self.cause().map_or(Reason::Internal, Explain::reason)
    }

    fn class(&self) -> ErrorClass {
        self.cause().map_or(ErrorClass::Aborted, Explain::class)
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        self.cause().and_then(Explain::remedy)
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        let mut operands = self.cause().map(Explain::operands).unwrap_or_default();
        let (Self::Find { image, .. }
        | Self::Registry { image, .. }
        | Self::Content { image, .. }
        | Self::CalledOff { image }) = self;
        operands.retain(|(kind, _)| *kind != "image");
        operands.push(("image", image.clone()));
        operands
    }
}

impl Images {
    /// Pushes an image under its name and returns the descriptor of the manifest. `progress` tells
    /// of layers as a pull does, [`LayerPhase::Downloading`] meaning that a layer is sent.
    ///
    /// # Errors
    /// [`PushError`]; the registry may then have some of the blobs, but not the manifest.
    pub async fn push(
        &self,
        request: PushRequest,
        progress: Progress,
    ) -> Result<Descriptor, PushError> {
        let name = request.reference.familiar();
        let registry =
            |source| PushError::Registry { image: name.clone(), source: Box::new(source) };
        let called_off = || PushError::CalledOff { image: name.clone() };
        let (images, text) = (self.clone(), request.reference.to_string());
        let platform = request.platform.clone();
        let resolved =
            tokio::task::spawn_blocking(move || images.resolve(&text, platform.as_ref()));
        let image = resolved
            .await
            .map_err(|_| called_off())?
            .map_err(|source| PushError::Find { image: name.clone(), source: Box::new(source) })?;
        let repository =
            self.shared.registry.repository_to_push(&request.reference, request.credentials);
        let mut sending = JoinSet::new();
        for layer in &image.layers {
            let (images, repository) = (self.clone(), repository.clone());
            let (layer, reference) = (layer.clone(), request.reference.clone());
            let progress = LayerProgress::new(&progress, &layer);
            sending.spawn(async move {
                images.push_layer(&repository, &reference, &layer, &progress).await
            });
        }
        while let Some(sent) = sending.join_next().await {
            sent.map_err(|_| called_off())?.map_err(registry)?;
        }
        self.push_config(&repository, &image).await.map_err(registry)?;
        let Descriptor { media_type, digest, .. } = &image.manifest;
        let tag = request.reference.tag().unwrap_or(digest.as_str());
        repository.put_manifest(tag, media_type, &image.manifest_json).await.map_err(registry)?;
        Ok(image.manifest)
    }

    async fn push_layer(
        &self,
        repository: &Repository,
        reference: &Reference,
        layer: &Descriptor,
        progress: &LayerProgress,
    ) -> Result<(), RegistryError> {
        progress.tell(LayerPhase::Waiting, 0);
        // The semaphore is never closed.
        let _permit = self.shared.permits.acquire().await.ok();
        if repository.has_blob(&layer.digest).await? {
            progress.tell_all(LayerPhase::Exists);
            return Ok(());
        }
        progress.tell(LayerPhase::Downloading, 0);
        let shared = Arc::clone(&self.shared);
        let (digest, target) = (layer.digest.clone(), reference.clone());
        let source = tokio::task::spawn_blocking(move || {
            let info = shared.store.content().info(&shared.ns, &digest).ok().flatten()?;
            source_of(&info.labels, &target)
        });
        let source = source.await.ok().flatten();
        let body = Upload::blob(self.shared.store.content(), &self.shared.ns, layer);
        repository.put_blob(layer, &body, source.as_deref()).await?;
        progress.tell_all(LayerPhase::Complete);
        Ok(())
    }

    async fn push_config(
        &self,
        repository: &Repository,
        image: &ImageRecord,
    ) -> Result<(), RegistryError> {
        if repository.has_blob(&image.id).await? {
            return Ok(());
        }
        debug_assert!(image.config_json.len() as u64 <= MAX_CONFIG_BYTES);
        let config = Descriptor {
            media_type: OCI_CONFIG.to_owned(),
            digest: image.id.clone(),
            size_bytes: image.config_json.len() as u64,
        };
        let body = Upload::bytes(image.config_json.clone());
        repository.put_blob(&config, &body, None).await.map(drop)
    }
}

/// Returns another repository of the same registry that a blob's labels name.
fn source_of(labels: &Labels, target: &Reference) -> Option<String> {
    let known = labels.get(&format!("{SOURCE_LABEL}{}", target.domain()))?;
    known.split(',').find(|path| *path != target.path()).map(str::to_owned)
}

#[cfg(test)]
mod tests;
