//! Pull: from a reference to an image that can be run.
//!
//! ```text
//! manifest (index → manifest) ── configuration ──┬── layer 0 ─┐
//!                                                ├── layer 1 ─┼─▶ commit, lowest first ──▶ name
//!                                                └── layer n ─┘
//! ```
//!
//! Layers are received and extracted at the same time and in any order; each is committed as soon as
//! all below it are. Before a commit the file system is synced, once for all layers that are ready. A
//! lease keeps everything until the name does; the name comes last.

use std::borrow::Cow;
use std::sync::Arc;

use keg_store::{ContentError, Descriptor, Digest, ErrorClass, Explain, Labels, Reason};

use crate::images::ImageError;
use crate::layer::{Layer, LayerError};
use crate::manifest::{
    Config, Document, MAX_CONFIG_BYTES, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES, Manifest,
    ManifestError,
};
use crate::progress::{LayerProgress, Progress, PullEvent};
use crate::record::{config_labels, index_labels, layer_labels, manifest_labels};
use crate::registry::{Fetched, RegistryError, Repository};
use crate::shared::OperationLease;
use crate::stack::unpack;
use crate::{Credentials, ImageRecord, Images, Platform, Reference};

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// The platform; `None`: this machine's.
    pub platform: Option<Platform>,
    /// Credentials for this pull only.
    pub credentials: Option<Credentials>,
}

/// What a pull brought.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: ImageRecord,
    /// Whether the name stood for the same target before.
    pub is_up_to_date: bool,
}

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry did not give it.
    #[error("cannot pull {image}")]
    Registry {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// Its manifest or configuration cannot be used.
    #[error("cannot pull {image}")]
    Manifest {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<ManifestError>,
    },
    /// A layer did not become a snapshot.
    #[error("cannot pull {image}")]
    Layer {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<LayerError>,
    },
    /// Its manifest or configuration could not be stored.
    #[error("cannot store {image}")]
    Content {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<ContentError>,
    },
    /// It could not be named or read back.
    #[error("cannot enter {image}")]
    Enter {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<ImageError>,
    },
    /// The daemon is shutting down.
    #[error("the pull of {image} was called off")]
    CalledOff {
        /// The image.
        image: String,
    },
}

impl PullError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Registry { source, .. } => Some(source.as_ref()),
            Self::Manifest { source, .. } => Some(source.as_ref()),
            Self::Layer { source, .. } => Some(source.as_ref()),
            Self::Content { source, .. } => Some(source.as_ref()),
            Self::Enter { source, .. } => Some(source.as_ref()),
            Self::CalledOff { .. } => None,
        }
    }

    fn image(&self) -> &str {
        match self {
            Self::Registry { image, .. }
            | Self::Manifest { image, .. }
            | Self::Layer { image, .. }
            | Self::Content { image, .. }
            | Self::Enter { image, .. }
            | Self::CalledOff { image } => image,
        }
    }
}

impl Explain for PullError {
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
        operands.retain(|(kind, _)| *kind != "image");
        operands.push(("image", self.image().to_owned()));
        operands
    }
}

impl Images {
    /// Pulls an image: receives, verifies and unpacks what is not here, and gives it its name.
    /// Dropping the future calls the pull off; whole blobs and the beginnings of others are kept for
    /// the next attempt.
    ///
    /// # Errors
    /// [`PullError`]; no name changes then.
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: Progress,
    ) -> Result<Pulled, PullError> {
        let registry = &self.shared.registry;
        let repository = registry
            .repository(&request.reference, request.credentials.as_ref())
            .map_err(|source| PullError::Registry {
                image: request.reference.familiar(),
                source: Box::new(source),
            })?;
        let pull = Pull {
            images: self.clone(),
            reference: request.reference,
            platform: request.platform,
            repository,
            progress,
        };
        pull.run().await
    }
}

/// One pull.
#[derive(Clone)]
struct Pull {
    images: Images,
    reference: Reference,
    platform: Option<Platform>,
    repository: Repository,
    progress: Progress,
}

/// The documents of an image, fetched and parsed.
struct Documents {
    /// From what the name stands for down to the manifest, with the labels of each.
    fetched: Vec<(Fetched, Labels)>,
    manifest: Manifest,
    config: Config,
    config_json: Vec<u8>,
}

impl Pull {
    async fn run(self) -> Result<Pulled, PullError> {
        let lease = self
            .blocking(|pull| {
                OperationLease::new(&pull.images.shared, "pull")
                    .map_err(|error| pull.enter()(error.into()))
            })
            .await?;
        let documents = self.documents().await?;
        (self.progress)(PullEvent::Resolved {
            reference: self.reference.clone(),
            target: documents.fetched[0].0.descriptor.clone(),
            layers: documents.manifest.layers.clone(),
        });
        let layers = self.layers(&documents, lease.id());
        unpack(layers, Some(self.repository.clone())).await.map_err(self.layer())?;
        self.blocking(move |pull| pull.finish(&documents, lease)).await
    }

    /// Fetches manifest and configuration, by way of an index if there is one.
    async fn documents(&self) -> Result<Documents, PullError> {
        let wanted = self.platform.clone().unwrap_or_else(Platform::host);
        let mut fetched: Vec<(Fetched, Labels)> = Vec::new();
        let mut next = self.target().await?;
        let manifest = loop {
            let document =
                Document::parse(&next.descriptor, &next.bytes).map_err(self.manifest())?;
            match document {
                Document::Manifest(manifest) => {
                    fetched.push((next, manifest_labels(&manifest)));
                    break manifest;
                }
                Document::Index(index) => {
                    if fetched.len() >= MAX_INDEX_DEPTH {
                        let digest = next.descriptor.digest;
                        return Err(self.manifest()(ManifestError::TooDeep { digest }));
                    }
                    let chosen = index.choose(&wanted).map_err(self.manifest())?.clone();
                    let labels = index_labels(index.entries.iter().map(|e| &e.target.digest));
                    fetched.push((next, labels));
                    next = self.listed(&chosen).await?;
                }
            }
        };
        let config_json = self.config(&manifest).await?;
        let config = Config::parse(&manifest, &config_json).map_err(self.manifest())?;
        config.check_platform(&wanted).map_err(self.manifest())?;
        Ok(Documents { fetched, manifest, config, config_json })
    }

    /// Returns what the reference stands for: from the registry, or from here if it is a digest.
    async fn target(&self) -> Result<Fetched, PullError> {
        if let Some(digest) = self.reference.digest().cloned() {
            let name = self.reference.to_string();
            let stored = self
                .blocking(move |pull| {
                    let shared = &pull.images.shared;
                    let row = shared.store.read(|tx| tx.find_image(&shared.ns, &name));
                    Ok(row.ok().flatten().map(|row| row.target))
                })
                .await?;
            if let Some(target) = stored.filter(|target| target.digest == digest)
                && let Some(bytes) = self.stored(&target, MAX_MANIFEST_BYTES).await?
            {
                return Ok(Fetched { descriptor: target, bytes });
            }
        }
        self.repository.manifest(self.reference.tag_or_digest()).await.map_err(self.registry())
    }

    /// Fetches what an index lists, which must be what the index says.
    async fn listed(&self, target: &Descriptor) -> Result<Fetched, PullError> {
        if let Some(bytes) = self.stored(target, MAX_MANIFEST_BYTES).await? {
            return Ok(Fetched { descriptor: target.clone(), bytes });
        }
        let fetched =
            self.repository.manifest(target.digest.as_str()).await.map_err(self.registry())?;
        if fetched.descriptor.size_bytes != target.size_bytes {
            let problem = "its size is another than the index says";
            let digest = target.digest.clone();
            return Err(self.manifest()(ManifestError::Malformed { digest, problem }));
        }
        Ok(Fetched { descriptor: target.clone(), ..fetched })
    }

    async fn config(&self, manifest: &Manifest) -> Result<Vec<u8>, PullError> {
        match self.stored(&manifest.config, MAX_CONFIG_BYTES).await? {
            Some(bytes) => Ok(bytes),
            None => self.repository.small_blob(&manifest.config).await.map_err(self.registry()),
        }
    }

    /// Returns the bytes of a document that is here and whole.
    async fn stored(
        &self,
        target: &Descriptor,
        limit_bytes: u64,
    ) -> Result<Option<Vec<u8>>, PullError> {
        let digest = target.digest.clone();
        self.blocking(move |pull| {
            let shared = &pull.images.shared;
            let read = shared.store.content().read_blob(&shared.ns, &digest, limit_bytes);
            // Whatever is wrong with it: the registry has it too.
            Ok(read.ok())
        })
        .await
    }

    fn layers(&self, documents: &Documents, lease: &str) -> Vec<Layer> {
        let ids = documents.config.diff_ids.iter().zip(documents.config.chain_ids());
        documents
            .manifest
            .layers
            .iter()
            .zip(ids)
            .map(|(blob, (diff_id, chain_id))| Layer {
                shared: Arc::clone(&self.images.shared),
                blob: blob.clone(),
                diff_id: diff_id.clone(),
                chain_id,
                lease: lease.to_owned(),
                progress: LayerProgress::new(&self.progress, blob),
                labels: layer_labels(diff_id, Some(&self.reference)),
            })
            .collect()
    }

    /// Stores the documents and gives the image its name.
    fn finish(&self, documents: &Documents, lease: OperationLease) -> Result<Pulled, PullError> {
        let shared = &self.images.shared;
        let content = shared.store.content();
        let chain_ids = documents.config.chain_ids();
        let labels = config_labels(shared.snapshotter.name(), chain_ids.last());
        let store = |digest: &Digest, bytes: &[u8], labels: &Labels| {
            content
                .store_blob(&shared.ns, digest, bytes, labels, Some(lease.id()))
                .map_err(self.content())
        };
        store(&documents.manifest.config.digest, &documents.config_json, &labels)?;
        for (fetched, labels) in documents.fetched.iter().rev() {
            store(&fetched.descriptor.digest, &fetched.bytes, labels)?;
        }
        let target = &documents.fetched[0].0.descriptor;
        let name = self.reference_name().to_string();
        let before = shared
            .store
            .transaction(|tx| {
                let before = tx.find_image(&shared.ns, &name)?;
                self.images.name(tx, &name, target)?;
                tx.delete_lease(&shared.ns, lease.id())?;
                Ok(before)
            })
            .map_err(self.enter())?;
        lease.done();
        let image = self.images.by_target(target, self.platform.as_ref()).map_err(self.enter())?;
        let is_up_to_date = before.is_some_and(|before| before.target.digest == target.digest);
        Ok(Pulled { image, is_up_to_date })
    }

    /// Returns the name that the image gets: with a digest, the tag says nothing.
    fn reference_name(&self) -> Reference {
        match self.reference.digest() {
            Some(digest) => self.reference.at_digest(digest),
            None => self.reference.clone(),
        }
    }

    /// Runs a step that blocks on a thread where it may.
    async fn blocking<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Self) -> Result<T, PullError> + Send + 'static,
    ) -> Result<T, PullError> {
        let pull = self.clone();
        tokio::task::spawn_blocking(move || step(&pull))
            .await
            .unwrap_or_else(|error| Err(self.join_failure(error)))
    }

    fn join_failure(&self, error: tokio::task::JoinError) -> PullError {
        match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => PullError::CalledOff { image: self.reference.familiar() },
        }
    }

    fn registry(&self) -> impl FnOnce(RegistryError) -> PullError + use<> {
        let image = self.reference.familiar();
        move |source| PullError::Registry { image, source: Box::new(source) }
    }

    fn manifest(&self) -> impl FnOnce(ManifestError) -> PullError + use<> {
        let image = self.reference.familiar();
        move |source| PullError::Manifest { image, source: Box::new(source) }
    }

    fn layer(&self) -> impl FnOnce(LayerError) -> PullError + use<> {
        let image = self.reference.familiar();
        move |source| PullError::Layer { image, source: Box::new(source) }
    }

    fn content(&self) -> impl FnOnce(ContentError) -> PullError + use<> {
        let image = self.reference.familiar();
        move |source| PullError::Content { image, source: Box::new(source) }
    }

    fn enter(&self) -> impl FnOnce(ImageError) -> PullError + use<> {
        let image = self.reference.familiar();
        move |source| PullError::Enter { image, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests;
