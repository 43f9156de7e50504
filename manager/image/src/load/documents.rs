//! The documents of images whose blobs are here: labelled, so that they keep what they need.

use keg_store::{ContentError, Descriptor, Digest, Labels};

use super::LoadError;
use crate::manifest::{
    AnyDocument, Config, Document, Index, MAX_CONFIG_BYTES, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES,
    Manifest, ManifestError,
};
use crate::record::{
    config_labels, document_labels, index_labels, manifest_labels, referrer_label,
};
use crate::{Images, Platform};

impl Images {
    /// Reads manifest and configuration of an image whose blobs are here, and labels them so that they
    /// keep each other.
    pub(super) fn label_documents(
        &self,
        target: &Descriptor,
        platform: Option<&Platform>,
        lease: &str,
        depth: usize,
    ) -> Result<(Manifest, Config), LoadError> {
        let (shared, content) = (&self.shared, self.store().content());
        let manifest_error = |source: ManifestError| LoadError::Manifest { source: source.into() };
        let label = |digest: &Digest, labels: &Labels| {
            content
                .adopt(&shared.ns, digest, labels, Some(lease))
                .map_err(|source| LoadError::Content { source })
        };
        let bytes = self.read(&target.digest, MAX_MANIFEST_BYTES)?;
        let manifest = match Document::parse(target, &bytes).map_err(manifest_error)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) if depth >= MAX_INDEX_DEPTH => {
                let digest = target.digest.clone();
                return Err(manifest_error(ManifestError::TooDeep { digest }));
            }
            Document::Index(index) => {
                label(&target.digest, &index_labels(index.listed()))?;
                let chosen = self.choose_here(&index, platform).map_err(manifest_error)?;
                for other in index.listed().filter(|listed| **listed != chosen) {
                    self.keep_document(other, lease, depth + 1)?;
                }
                return self.label_documents(&chosen, platform, lease, depth + 1);
            }
        };
        let bytes = self.read(&manifest.config.digest, MAX_CONFIG_BYTES)?;
        let config = Config::parse(&manifest, &bytes).map_err(manifest_error)?;
        let chain_ids = config.chain_ids();
        label(&target.digest, &manifest_labels(&manifest.config, &manifest.layers))?;
        let labels = config_labels(shared.snapshotter.name(), chain_ids.last());
        label(&manifest.config.digest, &labels)?;
        Ok((manifest, config))
    }

    /// Chooses what to unpack of an index: what suits the platform best, or, if none is asked for and
    /// none of this machine's is here, the first that is.
    fn choose_here(
        &self,
        index: &Index,
        platform: Option<&Platform>,
    ) -> Result<Descriptor, ManifestError> {
        let content = self.store().content();
        let is_here = |blob: &Descriptor| {
            matches!(content.adopt(&self.shared.ns, &blob.digest, &Labels::new(), None), Ok(true))
        };
        let best = index.choose(platform.unwrap_or(&Platform::host())).cloned();
        match (best, platform) {
            (Ok(best), Some(_)) => Ok(best),
            (Ok(best), None) if is_here(&best) => Ok(best),
            (best, None) => {
                let first = index.entries.iter().find(|entry| is_here(&entry.target));
                first.map_or(best, |entry| Ok(entry.target.clone()))
            }
            (Err(error), Some(_)) => Err(error),
        }
    }

    /// Labels a document that is here, so that its parts stay with it: another platform's image, an
    /// attestation, a signature. What an index lists and the archive does not have is no mistake.
    fn keep_document(
        &self,
        target: &Descriptor,
        lease: &str,
        depth: usize,
    ) -> Result<(), LoadError> {
        let content = self.store().content();
        let Ok(bytes) = self.read(&target.digest, MAX_MANIFEST_BYTES) else { return Ok(()) };
        let Some(document) = AnyDocument::parse(target, &bytes) else { return Ok(()) };
        content
            .adopt(&self.shared.ns, &target.digest, &document_labels(&document), Some(lease))
            .map_err(|source| LoadError::Content { source })?;
        match document {
            AnyDocument::Index(index) if depth < MAX_INDEX_DEPTH => index
                .manifests
                .iter()
                .try_for_each(|entry| self.keep_document(entry, lease, depth + 1)),
            _ => Ok(()),
        }
    }

    /// Lets what artifacts refer to keep them; those that refer to nothing here go when the load is done.
    pub(super) fn keep_artifacts(
        &self,
        artifacts: &[Descriptor],
        lease: &str,
    ) -> Result<(), LoadError> {
        let content = self.store().content();
        for artifact in artifacts {
            self.keep_document(artifact, lease, 0)?;
            let bytes = self.read(&artifact.digest, MAX_MANIFEST_BYTES)?;
            let document = AnyDocument::parse(artifact, &bytes);
            let Some(subject) = document.as_ref().and_then(AnyDocument::subject) else { continue };
            let keeps = (referrer_label(&artifact.digest), artifact.digest.to_string());
            content
                .adopt(&self.shared.ns, &subject.digest, &Labels::from([keeps]), Some(lease))
                .map_err(|source| LoadError::Content { source })?;
        }
        Ok(())
    }

    pub(super) fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, LoadError> {
        let read = self.store().content().read_blob(&self.shared.ns, digest, limit_bytes);
        read.map_err(|source| match source {
            ContentError::NotFound { digest, .. } => {
                LoadError::Missing { path: digest.to_string() }
            }
            source => LoadError::Content { source },
        })
    }
}
