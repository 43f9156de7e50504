//! Push: from an image that is here to a name in a registry.
//!
//! Blobs first, several at once, then the configuration, then the manifest: a registry never has a
//! manifest of which a part is missing. What the registry has is not sent, and what another of its
//! repositories is known to have is mounted from there.

use std::borrow::Cow;
use std::sync::Arc;

use keg_store::{ContentError, Descriptor, Digest, ErrorClass, Explain, Labels, Reason};
use tokio::task::JoinSet;

use crate::images::ImageError;
use crate::manifest::AnyDocument;
use crate::parts::Parts;
use crate::progress::{LayerPhase, LayerProgress, Progress, PullEvent};
use crate::record::SOURCE_LABEL;
use crate::registry::{Referrer, RegistryError, Repository, Upload};
use crate::{Credentials, Images, Platform, Reference};

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Name of the image here, and in the registry.
    pub reference: Reference,
    /// The one platform to push of an image of several; `None`: all that are here.
    pub platform: Option<Platform>,
    /// Whether what is here of what refers to the image, signatures for example, is pushed too.
    pub referrers: bool,
    /// Credentials for this push only.
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

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// What the name stands for in the registry now.
    pub target: Descriptor,
    /// Platforms that the image has and that were not sent, since they are not here.
    pub missing: Vec<Platform>,
}

impl Images {
    /// Pushes an image under its name: of the platform asked for, or of all that are here. `progress`
    /// tells of layers as a pull does.
    ///
    /// # Errors
    /// [`PushError`]; the registry may then have some of the blobs, but not the manifest.
    pub async fn push(
        &self,
        request: PushRequest,
        progress: Progress,
    ) -> Result<Pushed, PushError> {
        let name = request.reference.familiar();
        let registry =
            |source| PushError::Registry { image: name.clone(), source: Box::new(source) };
        let called_off = || PushError::CalledOff { image: name.clone() };
        let parts = self.parts_to_push(&request).await?;
        progress(PullEvent::Resolved {
            reference: request.reference.clone(),
            target: parts.target.clone(),
            layers: parts.layers.clone(),
            limit: None,
        });
        let repository = self
            .shared
            .registry
            .repository_to_push(&request.reference, request.credentials.as_ref())
            .map_err(registry)?;
        let mut sending = JoinSet::new();
        let layers = parts.layers.iter().map(|layer| (layer, true));
        for (blob, is_layer) in layers.chain(parts.configs.iter().map(|config| (config, false))) {
            let (images, repository) = (self.clone(), repository.clone());
            let (blob, reference) = (blob.clone(), request.reference.clone());
            let progress = match is_layer {
                true => LayerProgress::new(&progress, &blob),
                false => LayerProgress::silent(&blob),
            };
            sending.spawn(async move {
                images.push_blob(&repository, &reference, &blob, progress).await
            });
        }
        while let Some(sent) = sending.join_next().await {
            sent.map_err(|_| called_off())?.map_err(registry)?;
        }
        for (document, bytes) in &parts.documents {
            let is_target = document.digest == parts.target.digest;
            let tag = request.reference.tag().filter(|_| is_target);
            let tag = tag.unwrap_or(document.digest.as_str());
            let put = repository.put_manifest(tag, &document.media_type, bytes);
            let is_noted = put.await.map_err(registry)?;
            if let Some((subject, referrer)) = reference_in(document, bytes).filter(|_| !is_noted) {
                repository.note_referrer(&subject, &referrer).await.map_err(registry)?;
            }
        }
        Ok(Pushed { target: parts.target, missing: parts.missing })
    }

    async fn parts_to_push(&self, request: &PushRequest) -> Result<Parts, PushError> {
        let name = request.reference.familiar();
        let (images, text) = (self.clone(), request.reference.to_string());
        let (image_name, platform) = (name.clone(), request.platform.clone());
        let with_referrers = request.referrers;
        let gathering = tokio::task::spawn_blocking(move || {
            let find = |source| PushError::Find { image: image_name.clone(), source };
            let image = images.resolve(&text, platform.as_ref()).map_err(Box::new).map_err(find)?;
            images.image_parts(&image, platform.as_ref(), with_referrers).map_err(|source| {
                PushError::Content { image: image_name.clone(), source: Box::new(source) }
            })
        });
        gathering.await.unwrap_or(Err(PushError::CalledOff { image: name }))
    }

    pub(crate) async fn push_blob(
        &self,
        repository: &Repository,
        reference: &Reference,
        blob: &Descriptor,
        progress: LayerProgress,
    ) -> Result<(), RegistryError> {
        progress.tell(LayerPhase::Waiting, 0);
        // The semaphore is never closed.
        let _permit = self.shared.permits.acquire().await.ok();
        if repository.has_blob(&blob.digest).await? {
            progress.tell_all(LayerPhase::Exists);
            return Ok(());
        }
        let source = self.other_repository(blob, reference).await;
        let told = progress.clone();
        let body = Upload::blob(self.store().content(), &self.shared.ns, blob)
            .telling(Arc::new(move |sent_bytes| told.tell(LayerPhase::Uploading, sent_bytes)));
        let was_sent = repository.put_blob(blob, &body, source.as_deref()).await?;
        progress.tell_all(if was_sent { LayerPhase::Uploaded } else { LayerPhase::Mounted });
        self.note_repository(blob, reference).await;
        Ok(())
    }

    /// Returns another repository of the registry that is known to have a blob.
    async fn other_repository(&self, blob: &Descriptor, target: &Reference) -> Option<String> {
        let shared = Arc::clone(&self.shared);
        let (digest, target) = (blob.digest.clone(), target.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let info = shared.store.content().info(&shared.ns, &digest).ok().flatten()?;
            source_of(&info.labels, &target)
        });
        looking.await.ok().flatten()
    }

    /// Notes that a repository has a blob, so that another of the same registry can take it from there.
    async fn note_repository(&self, blob: &Descriptor, target: &Reference) {
        let shared = Arc::clone(&self.shared);
        let (digest, target) = (blob.digest.clone(), target.clone());
        let noting = tokio::task::spawn_blocking(move || {
            let name = format!("{SOURCE_LABEL}{}", target.domain());
            let labels = Labels::from([(name, target.path().to_owned())]);
            shared.store.transaction(|tx| tx.label_blob(&shared.ns, &digest, &labels))
        });
        // Without the note the next push sends a little more, and a removal may have come between.
        if let Ok(Err(error)) = noting.await {
            tracing::debug!(%error, "where a blob can be had is not noted");
        }
    }
}

/// Returns what a document refers to, and what is told of it there.
fn reference_in(target: &Descriptor, bytes: &[u8]) -> Option<(Digest, Referrer)> {
    let document = AnyDocument::parse(target, bytes)?;
    let subject = document.subject()?.digest.clone();
    let (artifact_type, annotations) = match document {
        AnyDocument::Manifest(manifest) => {
            (manifest.artifact_type().to_owned(), manifest.annotations)
        }
        AnyDocument::Index(_) => Default::default(),
    };
    Some((subject, Referrer { target: target.clone(), artifact_type, annotations }))
}

/// Returns another repository of the same registry that a blob's labels name.
fn source_of(labels: &Labels, target: &Reference) -> Option<String> {
    let known = labels.get(&format!("{SOURCE_LABEL}{}", target.domain()))?;
    known.split(',').find(|path| *path != target.path()).map(str::to_owned)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upload_tests;
