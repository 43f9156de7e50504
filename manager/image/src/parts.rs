//! What is here of an image: the documents and blobs that a push or a save passes on.
//!
//! ```text
//! index ──┬── manifest linux/amd64 ── configuration, layers     all here: passed on
//!         ├── manifest linux/arm64                              not here: told as missing
//!         └── attestation                                       passed on if it is here
//! ```
//!
//! An index that is here as a whole is passed on as it is. Of one that is not, a single image is passed
//! on alone, and several under an index that lists only them. What refers to any of it, signatures for
//! example, comes along if it is asked for.

use std::collections::BTreeSet;

use keg_store::{ContentError, Descriptor, Digest};
use serde_json::Value;

use crate::manifest::{AnyDocument, Document, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES};
use crate::media_type::{OCI_MANIFEST, is_index};
use crate::record::REFERRER_LABEL;
use crate::referrers::MAX_REFERRERS;
use crate::{ImageRecord, Images, Platform};

/// What is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    /// What a name stands for at the other end.
    pub(crate) target: Descriptor,
    /// Manifests and indexes, each after all that it refers to.
    pub(crate) documents: Vec<(Descriptor, Vec<u8>)>,
    /// Configurations, each once.
    pub(crate) configs: Vec<Descriptor>,
    /// Layers, each once, lowest first.
    pub(crate) layers: Vec<Descriptor>,
    /// Platforms that the index lists and that are not here.
    pub(crate) missing: Vec<Platform>,
    /// Those of the documents that are here only because they refer to others.
    pub(crate) referrers: Vec<Descriptor>,
}

/// What was found, until it is known what to name.
#[derive(Default)]
struct Found {
    documents: Vec<(Descriptor, Vec<u8>)>,
    configs: Vec<Descriptor>,
    layers: Vec<Descriptor>,
    referrers: Vec<Descriptor>,
    seen: BTreeSet<Digest>,
}

impl Images {
    /// Returns the parts of an image: of one platform, or of all that are here; and, if asked for, what
    /// refers to them.
    ///
    /// # Errors
    /// If a blob that should be here cannot be read.
    pub(crate) fn image_parts(
        &self,
        image: &ImageRecord,
        platform: Option<&Platform>,
        with_referrers: bool,
    ) -> Result<Parts, ContentError> {
        let mut parts = self.own_parts(image, platform)?;
        if with_referrers {
            self.add_referrers(&mut parts)?;
        }
        Ok(parts)
    }

    fn own_parts(
        &self,
        image: &ImageRecord,
        platform: Option<&Platform>,
    ) -> Result<Parts, ContentError> {
        let mut found = Found::default();
        if platform.is_some() || !is_index(&image.target.media_type) {
            self.gather(&image.manifest, 0, &mut found)?;
            return Ok(found.under(image.manifest.clone(), Vec::new()));
        }
        if self.gather(&image.target, 0, &mut found)? {
            return Ok(found.under(image.target.clone(), Vec::new()));
        }
        let bytes = self.store().content().read_blob(
            &self.shared.ns,
            &image.target.digest,
            MAX_MANIFEST_BYTES,
        )?;
        let listed = match AnyDocument::parse(&image.target, &bytes) {
            Some(AnyDocument::Index(index)) => index.manifests,
            _ => Vec::new(),
        };
        let mut here = BTreeSet::new();
        let mut found = Found::default();
        for entry in &listed {
            if self.gather(entry, 1, &mut found)? {
                here.insert(entry.digest.clone());
            }
        }
        let missing = match Document::parse(&image.target, &bytes) {
            Ok(Document::Index(index)) => index
                .entries
                .into_iter()
                .filter(|entry| !here.contains(&entry.target.digest))
                .filter_map(|entry| entry.platform)
                .collect(),
            _ => Vec::new(),
        };
        if here.len() <= 1 {
            return Ok(found.under(image.manifest.clone(), missing));
        }
        let (target, bytes) = index_of(&image.target, &bytes, &here);
        found.documents.push((target.clone(), bytes));
        Ok(found.under(target, missing))
    }

    /// Adds what `target` needs, if all of it is here; returns whether it is.
    fn gather(
        &self,
        target: &Descriptor,
        depth: usize,
        found: &mut Found,
    ) -> Result<bool, ContentError> {
        let (content, ns) = (self.store().content(), &self.shared.ns);
        if found.seen.contains(&target.digest) {
            return Ok(true);
        }
        let bytes = match content.read_blob(ns, &target.digest, MAX_MANIFEST_BYTES) {
            Ok(bytes) => bytes,
            Err(ContentError::NotFound { .. } | ContentError::TooLarge { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        match AnyDocument::parse(target, &bytes) {
            Some(AnyDocument::Index(index)) if depth < MAX_INDEX_DEPTH => {
                for entry in &index.manifests {
                    if !self.gather(entry, depth + 1, found)? {
                        return Ok(false);
                    }
                }
            }
            Some(AnyDocument::Manifest(manifest)) => {
                for blob in manifest.blobs() {
                    if content.info(ns, &blob.digest)?.is_none() {
                        return Ok(false);
                    }
                }
                let config = manifest.config;
                found.configs.extend(found.seen.insert(config.digest.clone()).then_some(config));
                for layer in manifest.layers {
                    found.layers.extend(found.seen.insert(layer.digest.clone()).then_some(layer));
                }
            }
            _ => return Ok(false),
        }
        found.seen.insert(target.digest.clone());
        found.documents.push((target.clone(), bytes));
        Ok(true)
    }

    /// Adds what refers to the documents, and to that in turn.
    fn add_referrers(&self, parts: &mut Parts) -> Result<(), ContentError> {
        let mut found = Found::default();
        found.seen.extend(parts.documents.iter().map(|(document, _)| document.digest.clone()));
        found
            .seen
            .extend(parts.configs.iter().chain(&parts.layers).map(|blob| blob.digest.clone()));
        let mut subjects: Vec<Digest> =
            parts.documents.iter().map(|(document, _)| document.digest.clone()).collect();
        while let Some(subject) = subjects.pop() {
            for referrer in self.stored_referrers(&subject)? {
                if found.referrers.len() < MAX_REFERRERS
                    && !found.seen.contains(&referrer.digest)
                    && self.gather(&referrer, 0, &mut found)?
                {
                    subjects.push(referrer.digest.clone());
                    found.referrers.push(referrer);
                }
            }
        }
        parts.documents.append(&mut found.documents);
        parts.configs.append(&mut found.configs);
        parts.layers.append(&mut found.layers);
        parts.referrers.append(&mut found.referrers);
        Ok(())
    }

    /// Returns what is here of what refers to a manifest.
    fn stored_referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, ContentError> {
        let (content, ns) = (self.store().content(), &self.shared.ns);
        let Some(info) = content.info(ns, subject)? else { return Ok(Vec::new()) };
        let mut referrers = Vec::new();
        let labels = info.labels.iter().filter(|(name, _)| name.starts_with(REFERRER_LABEL));
        for digest in labels.filter_map(|(_, digest)| digest.parse::<Digest>().ok()) {
            let Some(info) = content.info(ns, &digest)? else { continue };
            let bytes = content.read_blob(ns, &digest, MAX_MANIFEST_BYTES)?;
            let media_type = media_type_of(&bytes);
            referrers.push(Descriptor { media_type, digest, size_bytes: info.size_bytes });
        }
        Ok(referrers)
    }
}

/// Returns the media type that a document gives itself; one that gives none is a manifest.
fn media_type_of(document: &[u8]) -> String {
    let document: Value = serde_json::from_slice(document).unwrap_or(Value::Null);
    document["mediaType"].as_str().unwrap_or(OCI_MANIFEST).to_owned()
}

impl Found {
    fn under(self, target: Descriptor, missing: Vec<Platform>) -> Parts {
        let Self { documents, configs, layers, referrers, .. } = self;
        Parts { target, documents, configs, layers, missing, referrers }
    }
}

/// Makes an index of those entries of another that are here.
fn index_of(whole: &Descriptor, bytes: &[u8], here: &BTreeSet<Digest>) -> (Descriptor, Vec<u8>) {
    let mut document: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    if let Some(entries) = document.get_mut("manifests").and_then(Value::as_array_mut) {
        let is_here = |entry: &Value| {
            let digest = entry.get("digest").and_then(Value::as_str);
            digest.is_some_and(|digest| here.iter().any(|here| here.as_str() == digest))
        };
        entries.retain(is_here);
    }
    let bytes = document.to_string().into_bytes();
    let target = Descriptor {
        media_type: whole.media_type.clone(),
        digest: Digest::sha256(&bytes),
        size_bytes: bytes.len() as u64,
    };
    (target, bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::media_type::OCI_INDEX;

    #[test]
    fn an_index_of_a_part_lists_only_that_and_keeps_the_rest_of_the_document() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Digest::sha256(text));
        let document = json!({
            "schemaVersion": 2,
            "manifests": [{"digest": a}, {"digest": b, "platform": {"os": "linux"}}, {"digest": c}],
            "annotations": {"x": "y"},
        });
        let bytes = document.to_string().into_bytes();
        let whole = Descriptor {
            media_type: OCI_INDEX.to_owned(),
            digest: Digest::sha256(&bytes),
            size_bytes: bytes.len() as u64,
        };

        let (target, bytes) = index_of(&whole, &bytes, &BTreeSet::from([b.clone(), c.clone()]));

        let document: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(document["manifests"][0], json!({"digest": b, "platform": {"os": "linux"}}));
        assert_eq!(document["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(document["annotations"]["x"], "y");
        assert_eq!(target.digest, Digest::sha256(&bytes));
    }
}
