//! OCI layouts in directories of the client: caches, and images to build on.
//!
//! ```text
//! index.json ─▶ the entry of a tag or digest ─▶ manifest ─▶ configuration
//!                                                  └──────▶ layers that are not here ─▶ blobs, unpacked once
//! ```
//!
//! Nothing that the client says is believed: a document or layer is used only if it is what its digest says.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use keg_image::manifest::{
    Config, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, ManifestError, chain_ids,
};
use keg_image::{LooseLayer, Platform};
use keg_store::{Descriptor, Digest, Hasher};
use serde_json::{Value, json};

use crate::build::Build;
use crate::error::BuildError;
use crate::inputs::Material;
use crate::layers::{Exported, Files, LEASE, StepResult};
use crate::session::SessionError;
use crate::stage::{BaseImage, key_of};

/// Indexes in indexes that are followed.
const MAX_DEPTH: usize = 3;

/// Why an OCI layout of the client cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The client does not give a file of it.
    #[error("the client does not give it")]
    Client(#[source] SessionError),
    /// The index does not name what is wanted.
    #[error("{name:?} is not in the directory")]
    Missing {
        /// A tag or a digest.
        name: String,
    },
    /// The index names several images, and nobody has said which is meant.
    #[error("the directory has several images and none of them is tagged \"latest\"")]
    Several,
    /// A document is not JSON, or says something else than it should.
    #[error("it is damaged")]
    Syntax(#[source] serde_json::Error),
    /// A document is no manifest of an image.
    #[error("it is damaged")]
    Manifest(#[source] Box<ManifestError>),
    /// A document is not what it is called.
    #[error("{digest} is not what its digest says")]
    Digest {
        /// What it is called.
        digest: Digest,
    },
    /// Indexes that name indexes.
    #[error("there are more than {MAX_DEPTH} indexes one in the other")]
    TooDeep,
}

impl LayoutError {
    fn manifest(error: ManifestError) -> Self {
        Self::Manifest(Box::new(error))
    }
}

impl Build {
    /// Returns an image that is in a named context, ready to be built on.
    pub(crate) async fn layout_image(
        self: &Arc<Self>,
        context: &str,
        (tag, digest): (Option<&str>, Option<&str>),
        platform: &Platform,
    ) -> Result<BaseImage, BuildError> {
        let step =
            self.progress.step(format!("[internal] load metadata for oci-layout://{context}"));
        let read = self.read_layout(context, (tag, digest), platform).await;
        let (target, manifest, config_json, config) = match read {
            Ok(found) => found,
            Err(source) => {
                let source = Box::new(source);
                let error = BuildError::Layout { context: context.to_owned(), source };
                step.failed(error.to_string());
                return Err(error);
            }
        };
        step.done();
        let found = config.platform();
        self.inputs.note_material(Material::Image {
            name: format!("oci-layout://{context}"),
            platform: found.to_string(),
            digest: target.digest.to_string(),
        });
        let mut files = Files::empty();
        let chain = chain_ids(&config.diff_ids);
        for ((blob, diff_id), chain_id) in manifest.layers.iter().zip(&config.diff_ids).zip(chain) {
            let layer = LooseLayer { blob: blob.clone(), diff_id: diff_id.clone() };
            files = self.layout_layer(context, layer, &chain_id, files).await?;
        }
        Ok(BaseImage { config_json, platform: found, files })
    }

    /// Reads the documents of an image.
    async fn read_layout(
        &self,
        context: &str,
        (tag, digest): (Option<&str>, Option<&str>),
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest, Vec<u8>, Config), LayoutError> {
        let mut target = self.layout_entry(context, tag, digest).await?;
        for _ in 0..MAX_DEPTH {
            let bytes = self.client_blob(context, &target.digest, MAX_MANIFEST_BYTES).await?;
            match Document::parse(&target, &bytes).map_err(LayoutError::manifest)? {
                Document::Index(index) => {
                    target = index.choose(platform).map_err(LayoutError::manifest)?.clone();
                }
                Document::Manifest(manifest) => {
                    let digest = &manifest.config.digest;
                    let bytes = self.client_blob(context, digest, MAX_CONFIG_BYTES).await?;
                    let config = Config::parse(&manifest, &bytes).map_err(LayoutError::manifest)?;
                    return Ok((target, manifest, bytes, config));
                }
            }
        }
        Err(LayoutError::TooDeep)
    }

    /// Returns what the index of a layout says of a digest or a tag; of neither: of "latest", or of all.
    pub(crate) async fn layout_entry(
        &self,
        context: &str,
        tag: Option<&str>,
        digest: Option<&str>,
    ) -> Result<Descriptor, LayoutError> {
        let listed = self.client_file(context, "index.json", MAX_MANIFEST_BYTES).await?;
        let index: Value = serde_json::from_slice(&listed).map_err(LayoutError::Syntax)?;
        let entries = index["manifests"].as_array().cloned().unwrap_or_default();
        let entry = find_entry(&entries, tag, digest)?;
        serde_json::from_value(entry.clone()).map_err(LayoutError::Syntax)
    }

    /// Makes a layer of a layout one of this machine, unless it is.
    async fn layout_layer(
        self: &Arc<Self>,
        context: &str,
        layer: LooseLayer,
        chain_id: &Digest,
        below: Files,
    ) -> Result<Files, BuildError> {
        let key = key_of(&json!({"step": "layout", "chain": chain_id.to_string()}));
        let _turn = self.shared.locks.lock(&key).await;
        if let Some((result, _)) = self.shared.layers.find(&key, &below)? {
            return Ok(result.files);
        }
        let images = &self.shared.images;
        if images.fetch_layer(None, &layer, LEASE).await.is_err() {
            self.receive_blob(context, &layer).await?;
        }
        let description = format!("FROM oci-layout://{context}: {}", layer.diff_id);
        let id = chain_id.to_string();
        let result = self
            .shared
            .blocking(move |shared| {
                let exported = Exported::stored(&layer.blob, &layer.diff_id);
                let top = shared.layers.unpack(
                    &shared.images,
                    &layer,
                    &below,
                    Timestamp::now(),
                    exported,
                )?;
                let created = top.created;
                let files = Files { id, top: Some(top) };
                Ok(StepResult { files, has_layer: true, created })
            })
            .await?;
        self.shared.layers.put(&key, result.clone(), &description);
        Ok(result.files)
    }

    /// Reads a document of a layout.
    pub(crate) async fn client_blob(
        &self,
        context: &str,
        digest: &Digest,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, LayoutError> {
        let path = blob_path(digest);
        let bytes = self.client_file(context, &path, limit_bytes).await?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.finish() != *digest {
            return Err(LayoutError::Digest { digest: digest.clone() });
        }
        Ok(bytes)
    }

    /// Reads a file of the client's whole.
    async fn client_file(
        &self,
        context: &str,
        path: &str,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, LayoutError> {
        let (sender, mut pieces) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let mut left = limit_bytes;
        let sink = move |_: usize, bytes: Bytes, _: bool| {
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| std::io::Error::other("it is larger than such a file may be"))?;
            sender.send(bytes).map_err(std::io::Error::other)
        };
        self.session
            .fetch(context, vec![path.to_owned()], Box::new(sink))
            .await
            .map_err(LayoutError::Client)?;
        let mut whole = Vec::new();
        while let Some(piece) = pieces.recv().await {
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// Stores a layer that the client has.
    pub(crate) async fn receive_blob(
        &self,
        context: &str,
        layer: &LooseLayer,
    ) -> Result<(), BuildError> {
        let (store, ns) = (self.shared.images.store(), self.shared.layers.ns());
        let name = format!("build-layout-{}", layer.blob.digest);
        let algorithm = layer.blob.digest.algorithm();
        let mut ingest = store.content().ingest(ns, &name, algorithm)?.transient();
        ingest.restart()?;
        // Taken out at the end, for the session lets go of the sink when it likes.
        let ingest = Arc::new(Mutex::new(Some(ingest)));
        let written = Arc::clone(&ingest);
        let sink = move |_: usize, bytes: Bytes, _: bool| match written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
        {
            Some(ingest) => ingest.write(&bytes).map_err(std::io::Error::other),
            None => Err(std::io::Error::other("nobody waits for it any more")),
        };
        self.session
            .fetch(context, vec![blob_path(&layer.blob.digest)], Box::new(sink))
            .await
            .map_err(|source| BuildError::Session { source })?;
        let ingest = ingest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ingest = ingest.ok_or(BuildError::ClientProtocol { what: "a blob was not sent" })?;
        let blob = layer.blob.clone();
        self.shared
            .blocking(move |_| {
                let labels = keg_store::Labels::new();
                ingest.commit(Some(blob.size_bytes), Some(&blob.digest), &labels, Some(LEASE))?;
                Ok(())
            })
            .await
    }
}

/// Where a blob is in an OCI layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn find_entry<'a>(
    entries: &'a [Value],
    tag: Option<&str>,
    digest: Option<&str>,
) -> Result<&'a Value, LayoutError> {
    let tagged = |tag: &str| {
        entries.iter().find(|entry| {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str();
            // Some write the whole name of the image.
            name.is_some_and(|name| {
                name == tag || name.rsplit_once(':').is_some_and(|(_, end)| end == tag)
            })
        })
    };
    let found = match (digest, tag) {
        (Some(digest), _) => entries.iter().find(|entry| entry["digest"] == digest),
        (None, Some(tag)) => tagged(tag),
        (None, None) => match (tagged("latest"), entries) {
            (Some(entry), _) => Some(entry),
            (None, [one]) => Some(one),
            (None, []) => None,
            (None, _) => return Err(LayoutError::Several),
        },
    };
    let name = digest.or(tag).unwrap_or("latest");
    found.ok_or_else(|| LayoutError::Missing { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: &str, tag: Option<&str>) -> Value {
        let mut entry = json!({"digest": digest});
        if let Some(tag) = tag {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        entry
    }

    #[test]
    fn an_image_is_found_by_digest_by_tag_and_if_it_is_the_only_one() {
        let two = [entry("a:1", Some("old")), entry("a:2", Some("r.example/app:new"))];
        let found = |tag, digest| find_entry(&two, tag, digest).map(|one| one["digest"].clone());

        assert_eq!(found(Some("old"), None).unwrap(), "a:1");
        assert_eq!(found(Some("new"), None).unwrap(), "a:2");
        assert_eq!(found(Some("old"), Some("a:2")).unwrap(), "a:2");
        assert!(matches!(found(Some("newer"), None), Err(LayoutError::Missing { .. })));
        assert!(matches!(found(None, None), Err(LayoutError::Several)));
        assert_eq!(find_entry(&two[..1], None, None).unwrap()["digest"], "a:1");
        let latest = [entry("a:1", None), entry("a:2", Some("latest"))];
        assert_eq!(find_entry(&latest, None, None).unwrap()["digest"], "a:2");
        assert!(find_entry(&[], None, None).is_err());
    }
}
