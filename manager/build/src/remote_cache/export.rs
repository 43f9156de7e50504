//! Results for other machines: described, and put where they find them.

use std::io::Write;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keg_image::media_type::{OCI_INDEX, OCI_MANIFEST};
use keg_image::{Artifact, Reference};
use keg_store::{ContentStore, Descriptor, Digest, Labels, Namespace};
use serde_json::{Value, json};

use super::config::{CACHE_CONFIG, CacheConfig, INLINE};
use crate::build::Build;
use crate::error::BuildError;
use crate::inputs::Seen;
use crate::layers::{Exported, LEASE, Layer};
use crate::layout::blob_path;
use crate::request::{CachePlace, CacheTarget};
use crate::shell::whole;

/// Results for a directory of the client.
#[derive(Debug, Clone)]
pub struct CacheArchive {
    /// Which element of the request's `cache_to` it is for.
    pub index: usize,
    content: ContentStore,
    ns: Namespace,
    /// Blobs that the directory lacks.
    blobs: Vec<Descriptor>,
    /// Paths and contents, the one that names all others last.
    documents: Vec<(String, Vec<u8>)>,
}

impl CacheArchive {
    /// Writes what the directory lacks as a tar archive. Blocks.
    ///
    /// # Errors
    /// If a blob cannot be read, or nobody takes the archive.
    pub fn archive(&self, output: impl Write) -> Result<(), BuildError> {
        let failed = || BuildError::io("archive the build cache");
        let mut archive = tar::Builder::new(output);
        let header = |size_bytes: u64| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size_bytes);
            header.set_mode(0o644);
            header.set_mtime(0);
            header
        };
        for blob in &self.blobs {
            let reader = self.content.open_blob(&self.ns, &blob.digest)?;
            let mut header = header(reader.size_bytes());
            archive.append_data(&mut header, blob_path(&blob.digest), reader).map_err(failed())?;
        }
        for (path, bytes) in &self.documents {
            let mut header = header(bytes.len() as u64);
            archive.append_data(&mut header, path, bytes.as_slice()).map_err(failed())?;
        }
        archive.into_inner().and_then(|mut output| output.flush()).map_err(failed())
    }
}

/// Returns the member of an image's configuration that lets others use its layers as results.
pub(crate) fn inline_records(seen: &[Seen], image: &[Exported]) -> Option<(&'static str, Value)> {
    let (config, _) = CacheConfig::of(seen);
    let records = serde_json::to_vec(&config.in_image(image)).ok()?;
    Some((INLINE, json!(STANDARD.encode(records))))
}

impl Build {
    /// Tells whether the image's configuration is to have its results.
    pub(crate) fn wants_inline_cache(&self) -> bool {
        let is_inline = |target: &CacheTarget| target.place == CachePlace::Inline;
        // BuildKit has an argument for it, too.
        self.request.cache_to.iter().any(is_inline) || self.request.is_on("BUILDKIT_INLINE_CACHE")
    }

    /// Puts results where the client wants them; `own` are the layers of the images that were made.
    /// Returns what the client is to be sent.
    pub(crate) async fn export_caches(
        &self,
        own: &[Arc<Layer>],
    ) -> Result<Vec<CacheArchive>, BuildError> {
        let mut archives = Vec::new();
        for (index, target) in self.request.cache_to.iter().enumerate() {
            let name = match &target.place {
                CachePlace::Inline => continue,
                CachePlace::Registry { reference } => reference.familiar(),
                CachePlace::Directory { context, .. } => context.clone(),
            };
            let step = self.progress.step(format!("exporting cache to {name}"));
            let described = self.describe(target, own).await?;
            step.status(format!("layers: {}", described.blobs.len()), 1, 1, true);
            let outcome = match &target.place {
                CachePlace::Registry { reference } => self.push(reference, described).await,
                CachePlace::Directory { context, tag } => {
                    self.pack(index, context, tag, described).await.map(|one| archives.push(one))
                }
                CachePlace::Inline => Ok(()),
            };
            match outcome {
                Ok(()) => step.done(),
                Err(error) => {
                    step.failed(whole(&error));
                    if !target.ignores_errors {
                        return Err(error);
                    }
                }
            }
        }
        Ok(archives)
    }

    /// Makes blobs of layers that have none yet, and the documents of a cache.
    async fn describe(
        &self,
        target: &CacheTarget,
        own: &[Arc<Layer>],
    ) -> Result<Described, BuildError> {
        let mut seen = self.inputs.seen();
        if !target.all_stages {
            // Results without a layer cost nothing, and are needed on the way to the others.
            let is_own = |layer: &Arc<Layer>| own.iter().any(|one| one.dir == layer.dir);
            seen.retain(|one| {
                !one.result.has_layer || one.result.files.top.as_ref().is_some_and(is_own)
            });
        }
        let epoch_secs = self.epoch_secs;
        let as_index = target.as_index;
        self.shared
            .blocking(move |shared| {
                let made =
                    |one: &Seen| one.result.files.top.clone().filter(|_| one.result.has_layer);
                for layer in seen.iter().filter_map(made) {
                    shared.layers.export(&layer, epoch_secs)?;
                }
                let (config, layers) = CacheConfig::of(&seen);
                shared.layers.keep_blobs(&layers)?;
                let bytes = serde_json::to_vec(&config).map_err(std::io::Error::from);
                let bytes = bytes.map_err(BuildError::io("describe the build cache"))?;
                let content = shared.images.store().content();
                let digest =
                    content.write_blob(shared.layers.ns(), &bytes, &Labels::new(), Some(LEASE))?;
                let document = Descriptor {
                    media_type: CACHE_CONFIG.to_owned(),
                    digest,
                    size_bytes: bytes.len() as u64,
                };
                Ok(Described::new(&config, document, as_index))
            })
            .await
    }

    async fn push(&self, reference: &Reference, described: Described) -> Result<(), BuildError> {
        let credentials = self.credentials(reference.domain()).await?;
        let artifact = Artifact {
            reference: reference.clone(),
            blobs: described.blobs,
            media_type: described.media_type.to_owned(),
            manifest: described.manifest,
        };
        let pushed = self.shared.images.push_artifact(artifact, credentials).await;
        pushed.map_err(|source| BuildError::CacheExport {
            place: reference.familiar(),
            source: Box::new(source),
        })
    }

    /// Gathers what a directory of the client lacks.
    async fn pack(
        &self,
        index: usize,
        context: &str,
        tag: &str,
        described: Described,
    ) -> Result<CacheArchive, BuildError> {
        let listing = self
            .session
            .list(context, vec!["blobs/sha256".to_owned()])
            .await
            .map_err(|source| BuildError::Session { source })?;
        let there = listing.directories.into_iter().flatten().flatten();
        let there: Vec<String> = there.map(|entry| entry.name).collect();
        let blobs =
            described.blobs.into_iter().filter(|b| !there.iter().any(|n| n == b.digest.hex()));
        let digest = Digest::sha256(&described.manifest);
        let entry = json!({
            "mediaType": described.media_type, "digest": digest, "size": described.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        });
        let listed = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        Ok(CacheArchive {
            index,
            content: self.shared.images.store().content().clone(),
            ns: self.shared.layers.ns().clone(),
            blobs: blobs.collect(),
            documents: vec![
                ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
                (blob_path(&digest), described.manifest),
                ("index.json".to_owned(), listed.to_string().into_bytes()),
            ],
        })
    }
}

/// A cache as it is stored.
struct Described {
    /// Layers, and the document that describes them.
    blobs: Vec<Descriptor>,
    media_type: &'static str,
    manifest: Vec<u8>,
}

impl Described {
    fn new(config: &CacheConfig, document: Descriptor, as_index: bool) -> Self {
        let mut layers = config.layer_descriptors();
        let (media_type, manifest) = if as_index {
            layers.push(json!(document));
            let manifest = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": layers});
            (OCI_INDEX, manifest)
        } else {
            let manifest = json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": document, "layers": layers,
            });
            (OCI_MANIFEST, manifest)
        };
        let mut blobs = config.blobs();
        blobs.push(document);
        Self { blobs, media_type, manifest: manifest.to_string().into_bytes() }
    }
}
