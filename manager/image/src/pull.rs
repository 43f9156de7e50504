//! Pull: from a name to an image that can be run.
//!
//! ```text
//! name ─▶ target ─┬─ index ─▶ manifest ── configuration ──┬── layer 0 ─┐
//!                 │                                       ├── layer 1 ─┼─▶ commit, lowest first ─▶ name
//!                 │                                       └── layer n ─┘
//!                 ├─ other platforms, attestations: stored as they are, if all is asked for
//!                 └─ what refers to it: likewise
//! ```
//!
//! Layers are received and extracted at the same time and in any order; each is committed as soon as
//! all below it are. Before a commit the file system is synced, once for all layers that are ready. A
//! lease keeps everything until the name does; the name comes last.

mod documents;
mod error;

use std::collections::BTreeSet;
use std::sync::Arc;

use keg_store::{ContentError, Descriptor, Digest, Labels};

use self::documents::{Chosen, Wanted};
pub use self::error::PullError;
use crate::images::ImageError;
use crate::layer::{Layer, LayerError};
use crate::manifest::ManifestError;
use crate::progress::{LayerProgress, Progress, PullEvent};
use crate::record::{config_labels, layer_labels};
use crate::registry::{RegistryError, Repository};
use crate::shared::OperationLease;
use crate::stack::unpack;
use crate::transfer::Transfer;
use crate::{Credentials, ImageRecord, Images, Platform, Reference};

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// For which platforms.
    pub platforms: Platforms,
    /// Whether what refers to the image, signatures for example, comes along.
    pub referrers: bool,
    /// Credentials for this pull only.
    pub credentials: Option<Credentials>,
}

impl PullRequest {
    /// Asks for an image for one platform, or for this machine's, and for nothing else.
    #[must_use]
    pub fn new(reference: Reference, platform: Option<Platform>) -> Self {
        let platforms =
            platform.map_or(Platforms::Host, |platform| Platforms::Only(vec![platform]));
        Self { reference, platforms, referrers: false, credentials: None }
    }
}

/// The platforms that an image is pulled for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Platforms {
    /// This machine's.
    #[default]
    Host,
    /// These, all of which are unpacked. None means this machine's.
    Only(Vec<Platform>),
    /// All that there are, with everything else that an index lists, so that it can be pushed as it is.
    /// Unpacked is what this machine runs.
    All,
}

impl Platforms {
    /// Returns the platform that is told of when the pull is done.
    fn first(&self) -> Option<&Platform> {
        match self {
            Self::Only(platforms) => platforms.first(),
            Self::Host | Self::All => None,
        }
    }
}

/// What a pull brought.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: ImageRecord,
    /// What it was pulled as.
    pub reference: Reference,
    /// Whether the name stood for the same target before.
    pub is_up_to_date: bool,
}

impl Images {
    /// Pulls what a name means, of several meanings the first whose registry has it. A registry that
    /// does not answer is not passed over: what the next one has may be somebody else's. `request` says
    /// how each is pulled.
    ///
    /// # Errors
    /// [`PullError`]; no name changes then.
    pub async fn pull_by_name(
        &self,
        name: &str,
        request: impl Fn(Reference) -> PullRequest,
        progress: Progress,
    ) -> Result<Pulled, PullError> {
        let meanings = self
            .meanings(name)
            .map_err(Box::new)
            .map_err(|source| PullError::Name { image: name.to_owned(), source })?;
        let registries: Vec<String> =
            meanings.iter().map(|reference| reference.domain().to_owned()).collect();
        let mut refusal = None;
        for reference in meanings {
            match self.pull(request(reference), Arc::clone(&progress)).await {
                Err(PullError::Registry { source, .. })
                    if registries.len() > 1 && source.is_unknown() =>
                {
                    refusal = Some(source);
                }
                other => return other,
            }
        }
        let image = name.to_owned();
        Err(match refusal {
            Some(source) => PullError::Nowhere { image, registries, source },
            None => PullError::CalledOff { image },
        })
    }

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
            platforms: request.platforms,
            referrers: request.referrers,
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
    platforms: Platforms,
    referrers: bool,
    repository: Repository,
    progress: Progress,
}

impl Pull {
    async fn run(self) -> Result<Pulled, PullError> {
        let lease = self
            .blocking(|pull| {
                OperationLease::new(&pull.images.shared, "pull")
                    .map_err(|error| pull.enter()(error.into()))
            })
            .await?;
        let wanted = self.wanted().await?;
        (self.progress)(PullEvent::Resolved {
            reference: self.reference.clone(),
            target: wanted.target().clone(),
            layers: wanted.layers(),
            limit: wanted.limit,
        });
        for chosen in &wanted.images {
            let layers = self.layers(chosen, lease.id());
            unpack(layers, Some(self.repository.clone())).await.map_err(self.layer())?;
        }
        self.fetch_others(&wanted, lease.id()).await?;
        self.blocking(move |pull| pull.finish(&wanted, lease)).await
    }

    fn layers(&self, chosen: &Chosen, lease: &str) -> Vec<Layer> {
        let ids = chosen.config.diff_ids.iter().zip(chosen.config.chain_ids());
        chosen
            .manifest
            .layers
            .iter()
            .zip(ids)
            .map(|(blob, (diff_id, chain_id))| Layer {
                transfer: self.transfer(blob, lease, layer_labels(diff_id, Some(&self.reference))),
                diff_id: diff_id.clone(),
                chain_id,
            })
            .collect()
    }

    fn transfer(&self, blob: &Descriptor, lease: &str, labels: Labels) -> Transfer {
        Transfer {
            shared: Arc::clone(&self.images.shared),
            blob: blob.clone(),
            lease: lease.to_owned(),
            progress: LayerProgress::new(&self.progress, blob),
            labels,
        }
    }

    /// Fetches the blobs that are only stored.
    async fn fetch_others(&self, wanted: &Wanted, lease: &str) -> Result<(), PullError> {
        let mut fetching = tokio::task::JoinSet::new();
        let mut seen: BTreeSet<&Digest> = BTreeSet::new();
        for blob in wanted.others.iter().filter(|blob| seen.insert(&blob.digest)) {
            let transfer = self.transfer(blob, lease, Labels::new());
            let repository = self.repository.clone();
            fetching.spawn(async move { transfer.fetch(&repository).await });
        }
        while let Some(fetched) = fetching.join_next().await {
            fetched.map_err(|error| self.join_failure(error))?.map_err(self.layer())?;
        }
        Ok(())
    }

    /// Stores the documents and gives the image its name.
    fn finish(&self, wanted: &Wanted, lease: OperationLease) -> Result<Pulled, PullError> {
        let shared = &self.images.shared;
        let content = shared.store.content();
        let store = |digest: &Digest, bytes: &[u8], labels: &Labels| {
            content
                .store_blob(&shared.ns, digest, bytes, labels, Some(lease.id()))
                .map_err(self.content())
        };
        for chosen in &wanted.images {
            let chain_ids = chosen.config.chain_ids();
            let labels = config_labels(shared.snapshotter.name(), chain_ids.last());
            store(&chosen.manifest.config.digest, &chosen.config_json, &labels)?;
        }
        for document in wanted.documents.iter().rev() {
            store(&document.target.digest, &document.bytes, &document.labels)?;
        }
        let target = wanted.target();
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
        let image = self.images.by_target(target, self.platforms.first()).map_err(self.enter())?;
        let is_up_to_date = before.is_some_and(|before| before.target.digest == target.digest);
        Ok(Pulled { image, reference: self.reference.clone(), is_up_to_date })
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
#[cfg(test)]
mod whole_tests;
