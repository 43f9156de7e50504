//! Results of other machines: found by their keys, fetched when a step asks for them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keg_image::manifest::{Config, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, ManifestError};
use keg_image::registry::{RegistryError, Repository};
use keg_image::{LooseLayer, Reference};
use keg_store::{Descriptor, Digest};
use serde::Deserialize;
use serde_json::Value;

use super::config::{CACHE_CONFIG, CacheConfig, CacheRecord, INLINE, Known};
use crate::build::Build;
use crate::error::BuildError;
use crate::layers::{Files, LEASE, StepResult};
use crate::layout::LayoutError;
use crate::request::CacheSource;
use crate::shell::whole;

/// Largest document of a cache.
const MAX_CACHE_CONFIG_BYTES: u64 = 64 << 20;

/// Where a cache's blobs are.
#[derive(Debug, Clone)]
enum Origin {
    Registry(Repository),
    /// In a directory of the client, by the name of its context.
    Directory(String),
    /// Here.
    Here,
}

/// Caches that the client has named, the first first.
#[derive(Debug, Default)]
pub(crate) struct Imports(Vec<(Origin, BTreeMap<String, Known>)>);

/// Why a cache cannot be read. Builds go on without.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("the registry does not give it")]
    Registry(#[source] Box<RegistryError>),
    #[error(transparent)]
    Layout(LayoutError),
    #[error("it is neither a cache nor an image with one")]
    NoCache,
    #[error("it is damaged")]
    Syntax(#[source] serde_json::Error),
    #[error("it is damaged")]
    Manifest(#[source] Box<ManifestError>),
    #[error("it is larger than {MAX_CACHE_CONFIG_BYTES} bytes")]
    TooLarge,
}

fn registry(error: RegistryError) -> ImportError {
    ImportError::Registry(Box::new(error))
}

fn manifest(error: ManifestError) -> ImportError {
    ImportError::Manifest(Box::new(error))
}

/// Any manifest or index, as far as it matters here.
#[derive(Deserialize)]
struct AnyDocument {
    config: Option<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Build {
    /// Reads the caches that the client has named. One that cannot be read is told of and left out.
    pub(crate) async fn load_imports(&self) -> Result<Imports, BuildError> {
        let mut imports = Imports::default();
        for source in &self.request.cache_from {
            let name = match source {
                CacheSource::Registry { reference } => reference.familiar(),
                CacheSource::Directory { context, .. } => context.clone(),
            };
            let step = self.progress.step(format!("importing cache manifest from {name}"));
            let loaded = match source {
                CacheSource::Registry { reference } => self.open_registry(reference).await?,
                CacheSource::Directory { context, tag, digest } => {
                    self.open_directory(context, tag, digest.as_deref()).await
                }
            };
            match loaded {
                Ok((origin, config)) => {
                    let results = config.results();
                    step.status(format!("results: {}", results.len()), 1, 1, true);
                    step.done();
                    imports.0.push((origin, results));
                }
                Err(error) => step.failed(whole(&error)),
            }
        }
        Ok(imports)
    }

    async fn open_registry(
        &self,
        reference: &Reference,
    ) -> Result<Result<(Origin, CacheConfig), ImportError>, BuildError> {
        let credentials = self.credentials(reference.domain()).await?;
        let opened = self.shared.images.registry().repository(reference, credentials.as_ref());
        let repository = match opened {
            Ok(repository) => repository,
            Err(error) => return Ok(Err(registry(error))),
        };
        match self.read_repository(&repository, reference).await {
            Ok(config) => Ok(Ok((Origin::Registry(repository), config))),
            // An image that was never pushed may have what is asked for.
            Err(error) => match self.read_image(reference).await? {
                Some(config) => Ok(Ok((Origin::Here, config))),
                None => Ok(Err(error)),
            },
        }
    }

    async fn read_repository(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<CacheConfig, ImportError> {
        let mut next = repository.manifest(reference.tag_or_digest()).await.map_err(registry)?;
        for _ in 0..2 {
            let document: AnyDocument =
                serde_json::from_slice(&next.bytes).map_err(ImportError::Syntax)?;
            let listed = document.manifests.iter().chain(&document.config);
            if let Some(blob) = listed.clone().find(|listed| listed.media_type == CACHE_CONFIG) {
                if blob.size_bytes > MAX_CACHE_CONFIG_BYTES {
                    return Err(ImportError::TooLarge);
                }
                let bytes = repository.small_blob(blob).await.map_err(registry)?;
                return serde_json::from_slice(&bytes).map_err(ImportError::Syntax);
            }
            match Document::parse(&next.descriptor, &next.bytes).map_err(manifest)? {
                Document::Index(index) => {
                    let chosen = index.choose(&self.platform).map_err(manifest)?;
                    let name = chosen.digest.to_string();
                    next = repository.manifest(&name).await.map_err(registry)?;
                }
                Document::Manifest(found) => {
                    if found.config.size_bytes > MAX_CONFIG_BYTES {
                        return Err(ImportError::TooLarge);
                    }
                    let bytes = repository.small_blob(&found.config).await;
                    let bytes = bytes.map_err(registry)?;
                    let config = Config::parse(&found, &bytes).map_err(manifest)?;
                    let diff_ids: Vec<String> =
                        config.diff_ids.iter().map(Digest::to_string).collect();
                    return inline(&bytes, &found.layers, &diff_ids);
                }
            }
        }
        Err(ImportError::NoCache)
    }

    /// Reads the cache of an image that is here.
    async fn read_image(&self, reference: &Reference) -> Result<Option<CacheConfig>, BuildError> {
        let (name, platform) = (reference.to_string(), self.platform.clone());
        self.shared
            .blocking(move |shared| {
                let Ok(image) = shared.images.resolve(&name, Some(&platform)) else {
                    return Ok(None);
                };
                let config: Value = serde_json::from_slice(&image.config_json).unwrap_or_default();
                let diff_ids: Vec<String> = config["rootfs"]["diff_ids"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|id| id.as_str().map(str::to_owned))
                    .collect();
                Ok(inline(&image.config_json, &image.layers, &diff_ids).ok())
            })
            .await
    }

    async fn open_directory(
        &self,
        context: &str,
        tag: &str,
        digest: Option<&str>,
    ) -> Result<(Origin, CacheConfig), ImportError> {
        let target = self.layout_entry(context, Some(tag), digest).await;
        let target = target.map_err(ImportError::Layout)?;
        let bytes = self.client_blob(context, &target.digest, MAX_MANIFEST_BYTES).await;
        let bytes = bytes.map_err(ImportError::Layout)?;
        let document: AnyDocument = serde_json::from_slice(&bytes).map_err(ImportError::Syntax)?;
        let mut listed = document.manifests.iter().chain(&document.config);
        let blob =
            listed.find(|listed| listed.media_type == CACHE_CONFIG).ok_or(ImportError::NoCache)?;
        let bytes = self.client_blob(context, &blob.digest, MAX_CACHE_CONFIG_BYTES).await;
        let bytes = bytes.map_err(ImportError::Layout)?;
        let config = serde_json::from_slice(&bytes).map_err(ImportError::Syntax)?;
        Ok((Origin::Directory(context.to_owned()), config))
    }

    /// Returns a result of another machine, made one of this machine, and the step for people. What
    /// cannot be fetched counts as not there.
    pub(crate) async fn fetch_result(
        &self,
        key: &str,
        below: &Files,
    ) -> Result<Option<(StepResult, String)>, BuildError> {
        for (origin, results) in &self.imports.0 {
            let Some(known) = results.get(key) else { continue };
            let Some((exported, created)) = &known.layer else {
                let files = Files { id: known.result.clone(), top: below.top.clone() };
                let created = jiff::Timestamp::now();
                let result = StepResult { files, has_layer: false, created };
                return Ok(Some((result, known.description.clone())));
            };
            let (Some(blob), Ok(diff_id)) = (exported.descriptor(), exported.diff_id.parse())
            else {
                continue;
            };
            let layer = LooseLayer { blob, diff_id };
            if let Err(error) = self.fetch_blob(origin, &layer).await {
                let message = format!("a layer of the cache is left out: {}", whole(&error));
                self.progress.warn(None, "CacheImport", message);
                continue;
            }
            let (below, exported, created) = (below.clone(), exported.clone(), *created);
            let id = known.result.clone();
            let result = self
                .shared
                .blocking(move |shared| {
                    let layers = &shared.layers;
                    let top = layers.unpack(&shared.images, &layer, &below, created, exported)?;
                    let files = Files { id, top: Some(top) };
                    Ok(StepResult { files, has_layer: true, created })
                })
                .await?;
            return Ok(Some((result, known.description.clone())));
        }
        Ok(None)
    }

    async fn fetch_blob(&self, origin: &Origin, layer: &LooseLayer) -> Result<(), BuildError> {
        let images = &self.shared.images;
        let failed = |source| BuildError::CacheLayer { source: Box::new(source) };
        match origin {
            Origin::Registry(repository) => {
                images.fetch_layer(Some(repository), layer, LEASE).await.map_err(failed)
            }
            Origin::Here => images.fetch_layer(None, layer, LEASE).await.map_err(failed),
            Origin::Directory(context) => {
                if images.fetch_layer(None, layer, LEASE).await.is_ok() {
                    return Ok(());
                }
                self.receive_blob(context, layer).await
            }
        }
    }
}

/// Reads the cache in an image's configuration.
fn inline(
    config: &[u8],
    layers: &[Descriptor],
    diff_ids: &[String],
) -> Result<CacheConfig, ImportError> {
    let document: Value = serde_json::from_slice(config).map_err(ImportError::Syntax)?;
    let encoded = document[INLINE].as_str().ok_or(ImportError::NoCache)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| ImportError::NoCache)?;
    let records: Vec<CacheRecord> = serde_json::from_slice(&bytes).map_err(ImportError::Syntax)?;
    Ok(CacheConfig::of_image(records, layers, diff_ids))
}
