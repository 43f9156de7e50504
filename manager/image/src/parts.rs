//! What is here of an image: the documents and blobs that a push or a save passes on.
//!
//! ```text
//! index ──┬── manifest linux/amd64 ── configuration, layers     all here: passed on
//!         ├── manifest linux/arm64                              not here: told as missing
//!         └── attestation                                       passed on if it is here
//! ```
//!
//! An index that is here as a whole is passed on as it is. Of one that is not, a single image is passed
//! on alone, and several under an index that lists only them.

use std::collections::BTreeSet;

use keg_store::{ContentError, Descriptor, Digest};
use serde::Deserialize;
use serde_json::Value;

use crate::manifest::{Document, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES};
use crate::media_type::is_index;
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
}

/// Any manifest, also those that are no image.
#[derive(Deserialize)]
struct AnyManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Any index, with all that it lists.
#[derive(Deserialize)]
struct AnyIndex {
    manifests: Vec<Descriptor>,
}

/// What was found, until it is known what to name.
#[derive(Default)]
struct Found {
    documents: Vec<(Descriptor, Vec<u8>)>,
    configs: Vec<Descriptor>,
    layers: Vec<Descriptor>,
    seen: BTreeSet<Digest>,
}

impl Images {
    /// Returns the parts of an image: of one platform, or of all that are here.
    ///
    /// # Errors
    /// If a blob that should be here cannot be read.
    pub(crate) fn image_parts(
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
        let index: AnyIndex = parse(&bytes).unwrap_or(AnyIndex { manifests: Vec::new() });
        let mut here = BTreeSet::new();
        let mut found = Found::default();
        for entry in &index.manifests {
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
        if is_index(&target.media_type) {
            let Some(index) = parse::<AnyIndex>(&bytes).filter(|_| depth < MAX_INDEX_DEPTH) else {
                return Ok(false);
            };
            for entry in &index.manifests {
                if !self.gather(entry, depth + 1, found)? {
                    return Ok(false);
                }
            }
        } else {
            let Some(AnyManifest { config, layers }) = parse(&bytes) else { return Ok(false) };
            for blob in std::iter::once(&config).chain(&layers) {
                if content.info(ns, &blob.digest)?.is_none() {
                    return Ok(false);
                }
            }
            found.configs.extend(found.seen.insert(config.digest.clone()).then_some(config));
            for layer in layers {
                found.layers.extend(found.seen.insert(layer.digest.clone()).then_some(layer));
            }
        }
        found.seen.insert(target.digest.clone());
        found.documents.push((target.clone(), bytes));
        Ok(true)
    }
}

impl Found {
    fn under(self, target: Descriptor, missing: Vec<Platform>) -> Parts {
        let Self { documents, configs, layers, .. } = self;
        Parts { target, documents, configs, layers, missing }
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

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
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
