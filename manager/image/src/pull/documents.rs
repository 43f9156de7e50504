//! The documents of an image: fetched, parsed, and what follows from them for a pull.

use std::collections::{BTreeSet, VecDeque};

use keg_store::{Descriptor, Digest, Labels};

use super::{Platforms, Pull, PullError};
use crate::Platform;
use crate::manifest::{
    AnyDocument, Config, Document, Index, MAX_CONFIG_BYTES, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES,
    Manifest, ManifestError,
};
use crate::record::{document_labels, referrer_label};
use crate::referrers::MAX_REFERRERS;
use crate::registry::{Fetched, RateLimit};

/// Everything that is to be here after a pull.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Manifests and indexes, what the name stands for first, and each before what it needs.
    pub(super) documents: Vec<Stored>,
    /// Images to be unpacked.
    pub(super) images: Vec<Chosen>,
    /// Blobs to be stored as they are.
    pub(super) others: Vec<Descriptor>,
    /// How much the registry still lets be asked, if it said.
    pub(super) limit: Option<RateLimit>,
}

/// A document on its way into the store.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) target: Descriptor,
    pub(super) bytes: Vec<u8>,
    pub(super) labels: Labels,
}

/// An image of one platform.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) manifest: Manifest,
    pub(super) config: Config,
    pub(super) config_json: Vec<u8>,
}

impl Wanted {
    /// Returns what the name stands for.
    pub(super) fn target(&self) -> &Descriptor {
        &self.documents[0].target
    }

    /// Returns all that is told of as layers, each once.
    pub(super) fn layers(&self) -> Vec<Descriptor> {
        let mut seen = BTreeSet::new();
        let layers = self.images.iter().flat_map(|chosen| &chosen.manifest.layers);
        layers
            .chain(&self.others)
            .filter(|layer| seen.insert(layer.digest.clone()))
            .cloned()
            .collect()
    }

    fn has(&self, digest: &Digest) -> bool {
        self.documents.iter().any(|document| document.target.digest == *digest)
    }

    fn add(&mut self, fetched: Fetched) {
        if self.has(&fetched.descriptor.digest) {
            return;
        }
        let Fetched { descriptor: target, bytes, .. } = fetched;
        let document = AnyDocument::parse(&target, &bytes);
        let labels = document.as_ref().map(document_labels).unwrap_or_default();
        self.documents.push(Stored { target, bytes, labels });
    }
}

impl Pull {
    /// Fetches the documents, and finds out what else is needed.
    pub(super) async fn wanted(&self) -> Result<Wanted, PullError> {
        let target = self.target().await?;
        let mut wanted = Wanted { limit: target.limit, ..Wanted::default() };
        wanted.add(target.clone());
        let platforms = match &self.platforms {
            Platforms::Only(platforms) if !platforms.is_empty() => platforms.clone(),
            Platforms::All => vec![self.best_platform(&target)?],
            Platforms::Host | Platforms::Only(_) => vec![Platform::host()],
        };
        for platform in &platforms {
            let chosen = self.chosen(&target, platform, &mut wanted).await?;
            wanted.images.push(chosen);
        }
        if self.platforms == Platforms::All {
            self.add_listed(&target, &mut wanted).await?;
        }
        if self.referrers {
            self.add_referrers(&mut wanted).await?;
        }
        Ok(wanted)
    }

    /// Returns the platform to unpack of all: this machine's, or else the first.
    fn best_platform(&self, target: &Fetched) -> Result<Platform, PullError> {
        let host = Platform::host();
        let document =
            Document::parse(&target.descriptor, &target.bytes).map_err(self.manifest())?;
        let first = |index: Index| index.entries.into_iter().find_map(|entry| entry.platform);
        Ok(match document {
            Document::Index(index) if index.choose(&host).is_err() => first(index).unwrap_or(host),
            _ => host,
        })
    }

    /// Fetches what leads to the image of a platform, by way of an index if there is one.
    async fn chosen(
        &self,
        target: &Fetched,
        platform: &Platform,
        wanted: &mut Wanted,
    ) -> Result<Chosen, PullError> {
        let mut next = target.clone();
        let mut depth = 0;
        let manifest = loop {
            let document =
                Document::parse(&next.descriptor, &next.bytes).map_err(self.manifest())?;
            wanted.add(next.clone());
            match document {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) => {
                    if depth >= MAX_INDEX_DEPTH {
                        let digest = next.descriptor.digest;
                        return Err(self.manifest()(ManifestError::TooDeep { digest }));
                    }
                    depth += 1;
                    let chosen = index.choose(platform).map_err(self.manifest())?.clone();
                    next = self.listed(&chosen).await?;
                }
            }
        };
        let config_json = self.config(&manifest).await?;
        let config = Config::parse(&manifest, &config_json).map_err(self.manifest())?;
        if self.platforms != Platforms::All {
            config.check_platform(platform).map_err(self.manifest())?;
        }
        Ok(Chosen { manifest, config, config_json })
    }

    /// Adds everything that an index lists, and that in turn.
    async fn add_listed(&self, target: &Fetched, wanted: &mut Wanted) -> Result<(), PullError> {
        let mut pending = VecDeque::from([(target.clone(), 0)]);
        while let Some((fetched, depth)) = pending.pop_front() {
            match AnyDocument::parse(&fetched.descriptor, &fetched.bytes) {
                Some(AnyDocument::Index(index)) => {
                    if depth >= MAX_INDEX_DEPTH {
                        let digest = fetched.descriptor.digest;
                        return Err(self.manifest()(ManifestError::TooDeep { digest }));
                    }
                    for entry in &index.manifests {
                        pending.push_back((self.listed(entry).await?, depth + 1));
                    }
                }
                Some(AnyDocument::Manifest(manifest)) => self.add_blobs(manifest.blobs(), wanted),
                None => {
                    let (digest, problem) = (fetched.descriptor.digest, "it is not a document");
                    return Err(self.manifest()(ManifestError::Malformed { digest, problem }));
                }
            }
            wanted.add(fetched);
        }
        Ok(())
    }

    /// Adds what refers to the documents, and to that in turn.
    async fn add_referrers(&self, wanted: &mut Wanted) -> Result<(), PullError> {
        let mut next = 0;
        let mut count = 0;
        // Documents that are added are looked at in their turn.
        while next < wanted.documents.len() {
            let subject = wanted.documents[next].target.digest.clone();
            let referrers = self.repository.referrers(&subject, None);
            for referrer in referrers.await.map_err(self.registry())? {
                let digest = referrer.target.digest.clone();
                if wanted.has(&digest) {
                    continue;
                }
                count += 1;
                if count > MAX_REFERRERS {
                    let problem = "more refers to it than is ever needed";
                    let digest = subject.clone();
                    return Err(self.manifest()(ManifestError::Malformed { digest, problem }));
                }
                let fetched = self.listed(&referrer.target).await?;
                if let Some(AnyDocument::Manifest(manifest)) =
                    AnyDocument::parse(&fetched.descriptor, &fetched.bytes)
                {
                    self.add_blobs(manifest.blobs(), wanted);
                }
                wanted.add(fetched);
                let keeps = (referrer_label(&digest), digest.to_string());
                wanted.documents[next].labels.extend([keeps]);
            }
            next += 1;
        }
        Ok(())
    }

    fn add_blobs<'a>(&self, blobs: impl Iterator<Item = &'a Descriptor>, wanted: &mut Wanted) {
        let is_unpacked = |blob: &&Descriptor| {
            wanted.images.iter().any(|chosen| {
                chosen.manifest.config.digest == blob.digest
                    || chosen.manifest.layers.iter().any(|layer| layer.digest == blob.digest)
            })
        };
        let others: Vec<Descriptor> = blobs.filter(|blob| !is_unpacked(blob)).cloned().collect();
        wanted.others.extend(others);
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
                return Ok(Fetched { descriptor: target, bytes, limit: None });
            }
        }
        self.repository.manifest(self.reference.tag_or_digest()).await.map_err(self.registry())
    }

    /// Fetches what an index lists, which must be what the index says.
    async fn listed(&self, target: &Descriptor) -> Result<Fetched, PullError> {
        if let Some(bytes) = self.stored(target, MAX_MANIFEST_BYTES).await? {
            return Ok(Fetched { descriptor: target.clone(), bytes, limit: None });
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
}
