//! Load: images out of an archive: an OCI layout, or what `docker save` writes of any version.
//!
//! The archive is read once, as it comes. What has a digest for a name is verified against it;
//! anything else that could be a layer or a configuration is stored under the digest that it has. The
//! documents come last in some archives, so that what is what is decided at the end.

mod error;

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use keg_store::{Algorithm, ContentError, Descriptor, Digest, Labels};
use serde::Deserialize;
use serde_json::json;

use crate::compression::{Compression, Decoder};
use crate::extract::{ArchiveEntry, ArchiveReader, ExtractError};
use crate::feed::{Fed, feed};
use crate::images::ImageError;
use crate::layer::Layer;
use crate::manifest::{
    Config, Document, Index, MAX_CONFIG_BYTES, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES, Manifest,
    ManifestError,
};
use crate::media_type::{
    OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, is_index, is_manifest,
};
use crate::progress::{LayerProgress, Progress};
use crate::record::{config_labels, index_labels, layer_labels, manifest_labels};
use crate::save::{NAME_ANNOTATION, TAG_ANNOTATION};
use crate::shared::OperationLease;
use crate::stack::unpack;
use crate::{ImageRecord, Images, Platform, Reference};

pub use self::error::LoadError;

/// Size of the buffer behind decompression.
const BUFFER_BYTES: usize = 256 * 1024;

/// Largest document that names images.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Most files in an archive.
const MAX_ENTRIES: usize = 100_000;

/// What was found in an archive.
#[derive(Debug, Default)]
struct Found {
    /// Blobs by the path that they have in the archive.
    blobs: HashMap<String, Descriptor>,
    /// Links by the path that they have, as older versions of Docker use them for equal layers.
    links: HashMap<String, String>,
    index: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
}

/// An image that was in an archive.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image as it now is.
    pub image: ImageRecord,
    /// Names that the archive gave it.
    pub names: Vec<Reference>,
}

/// An image to be entered: what its names stand for.
#[derive(Debug)]
struct Wanted {
    target: Descriptor,
    names: Vec<Reference>,
}

#[derive(Deserialize)]
struct LayoutIndex {
    manifests: Vec<LayoutEntry>,
}

#[derive(Deserialize)]
struct LayoutEntry {
    #[serde(flatten)]
    target: Descriptor,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

impl Images {
    /// Loads the images of an archive, which may be compressed by gzip or zstd, and unpacks those for
    /// `platform` or else for this machine.
    ///
    /// # Errors
    /// [`LoadError`]; images that were entered before it stay.
    pub async fn load(
        &self,
        mut archive: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
        platform: Option<Platform>,
        progress: Progress,
    ) -> Result<Vec<Loaded>, LoadError> {
        let images = self.clone();
        let (feeder, fed) = feed();
        let reading = tokio::task::spawn_blocking(move || images.read_archive(fed));
        let received = feeder.pass(&mut archive).await;
        let read = reading.await.unwrap_or_else(|error| Err(join_failure(error)));
        received.map_err(|source| LoadError::Receive { source })?;
        let (lease, wanted) = read?;
        let mut loaded = Vec::new();
        for wanted in wanted {
            let image = self.load_one(&wanted, platform.as_ref(), &lease, &progress).await?;
            loaded.push(Loaded { image, names: wanted.names });
        }
        let shared = Arc::clone(&self.shared);
        let ended = tokio::task::spawn_blocking(move || {
            let outcome = shared.store.transaction(|tx| tx.delete_lease(&shared.ns, lease.id()));
            outcome.map(|()| lease.done())
        });
        match ended.await {
            Ok(outcome) => outcome.map_err(|error| enter(error.into()))?,
            Err(error) => return Err(join_failure(error)),
        }
        Ok(loaded)
    }

    /// Stores an archive's blobs and finds out which images it has.
    fn read_archive(&self, fed: Fed) -> Result<(OperationLease, Vec<Wanted>), LoadError> {
        let lease = OperationLease::new(&self.shared, "load").map_err(|e| enter(e.into()))?;
        let archive = |source| LoadError::Archive { source };
        let decoder = Decoder::new(fed, BUFFER_BYTES).map_err(archive)?;
        let input = BufReader::with_capacity(BUFFER_BYTES, decoder);
        let mut reader = ArchiveReader::new(input);
        let mut found = Found::default();
        while let Some(entry) = reader.next().map_err(archive)? {
            if found.blobs.len() + found.links.len() > MAX_ENTRIES {
                let limit = MAX_ENTRIES as u64;
                return Err(archive(ExtractError::Limit { limit, of: "files" }));
            }
            self.store_entry(&entry, &mut reader, &lease, &mut found)?;
        }
        // Whoever sends must not be told that nobody listens any more.
        io::copy(&mut reader.into_inner(), &mut io::sink())
            .map_err(|source| archive(ExtractError::Read { source }))?;
        let wanted = self.wanted(&found, &lease)?;
        if wanted.is_empty() {
            return Err(LoadError::NoImages);
        }
        Ok((lease, wanted))
    }

    fn store_entry<R: io::BufRead>(
        &self,
        entry: &ArchiveEntry,
        reader: &mut ArchiveReader<R>,
        lease: &OperationLease,
        found: &mut Found,
    ) -> Result<(), LoadError> {
        let Some(path) = entry.path() else { return Ok(()) };
        if let Some(target) = entry.symlink_target() {
            found.links.insert(path, target);
            return Ok(());
        }
        if !entry.is_file() {
            return Ok(());
        }
        match path.as_str() {
            "index.json" => found.index = Some(document(reader)?),
            "manifest.json" => found.manifest = Some(document(reader)?),
            "oci-layout" | "repositories" => {}
            _ => {
                let blob = self.store_blob(&path, reader, lease)?;
                found.blobs.insert(path, blob);
            }
        }
        Ok(())
    }

    /// Stores a file as a blob; its media type is a guess from its first bytes.
    fn store_blob<R: io::BufRead>(
        &self,
        path: &str,
        reader: &mut ArchiveReader<R>,
        lease: &OperationLease,
    ) -> Result<Descriptor, LoadError> {
        let content = |source| LoadError::Content { source };
        let archive = |source| LoadError::Archive { source };
        let wanted = digest_of_path(path);
        let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let name = self.shared.unique("load");
        let mut ingest = self
            .store()
            .content()
            .ingest(&self.shared.ns, &name, algorithm)
            .map_err(content)?
            .transient();
        let mut media_type = None;
        loop {
            let piece = reader.data().map_err(archive)?;
            if piece.is_empty() {
                break;
            }
            if media_type.is_none() {
                media_type = Some(layer_type(piece).map_err(archive)?);
            }
            ingest.write(piece).map_err(content)?;
            let count = piece.len();
            reader.consume(count);
        }
        let size_bytes = ingest.offset_bytes();
        let digest = ingest
            .commit(None, wanted.as_ref(), &Labels::new(), Some(lease.id()))
            .map_err(content)?;
        let media_type = media_type.unwrap_or(OCI_LAYER).to_owned();
        Ok(Descriptor { media_type, digest, size_bytes })
    }

    /// Finds out which images an archive has, and under which names.
    fn wanted(&self, found: &Found, lease: &OperationLease) -> Result<Vec<Wanted>, LoadError> {
        if let Some(index) = &found.index {
            let index: LayoutIndex = parse("index.json", index)?;
            let wanted = merge(index.manifests.into_iter().filter_map(layout_image));
            if !wanted.is_empty() {
                return Ok(wanted);
            }
        }
        let Some(manifest) = &found.manifest else { return Ok(Vec::new()) };
        let entries: Vec<DockerEntry> = parse("manifest.json", manifest)?;
        let images: Vec<Wanted> = entries
            .iter()
            .map(|entry| self.docker_image(entry, found, lease))
            .collect::<Result<_, _>>()?;
        Ok(merge(images))
    }

    /// Makes a manifest for an image of Docker's archive, which has none.
    fn docker_image(
        &self,
        entry: &DockerEntry,
        found: &Found,
        lease: &OperationLease,
    ) -> Result<Wanted, LoadError> {
        let config =
            Descriptor { media_type: OCI_CONFIG.to_owned(), ..found.blob(&entry.config)?.clone() };
        let layers = entry
            .layers
            .iter()
            .map(|path| found.blob(path).cloned())
            .collect::<Result<Vec<_>, _>>()?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config,
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        let digest = self
            .store()
            .content()
            .write_blob(&self.shared.ns, &bytes, &Labels::new(), Some(lease.id()))
            .map_err(|source| LoadError::Content { source })?;
        let target = Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest,
            size_bytes: bytes.len() as u64,
        };
        let tags = entry.tags.iter().flatten();
        let names = tags.filter_map(|tag| Reference::parse(tag).ok()).collect();
        Ok(Wanted { target, names })
    }

    /// Unpacks an image whose blobs are here, and enters it.
    async fn load_one(
        &self,
        wanted: &Wanted,
        platform: Option<&Platform>,
        lease: &OperationLease,
        progress: &Progress,
    ) -> Result<ImageRecord, LoadError> {
        let (images, target) = (self.clone(), wanted.target.clone());
        let (platform, lease_id) = (platform.cloned(), lease.id().to_owned());
        let documents = tokio::task::spawn_blocking(move || {
            images.label_documents(&target, platform.as_ref(), &lease_id, 0)
        });
        let (manifest, config) =
            documents.await.unwrap_or_else(|error| Err(join_failure(error)))?;
        let ids = config.diff_ids.iter().zip(config.chain_ids());
        let layers: Vec<Layer> = manifest
            .layers
            .iter()
            .zip(ids)
            .map(|(blob, (diff_id, chain_id))| Layer {
                shared: Arc::clone(&self.shared),
                blob: blob.clone(),
                diff_id: diff_id.clone(),
                chain_id,
                lease: lease.id().to_owned(),
                progress: LayerProgress::new(progress, blob),
                labels: layer_labels(diff_id, None),
            })
            .collect();
        unpack(layers, None).await.map_err(|source| LoadError::Layer { source: source.into() })?;
        let (images, target, names) = (self.clone(), wanted.target.clone(), wanted.names.clone());
        let entered = tokio::task::spawn_blocking(move || {
            images.enter_loaded(&target, &names, &manifest.config.digest).map_err(enter)
        });
        entered.await.unwrap_or_else(|error| Err(join_failure(error)))
    }

    fn enter_loaded(
        &self,
        target: &Descriptor,
        names: &[Reference],
        id: &Digest,
    ) -> Result<ImageRecord, ImageError> {
        self.shared.store.transaction(|tx| {
            for name in names {
                self.name(tx, &name.to_string(), target)?;
            }
            let is_named =
                tx.images(&self.shared.ns)?.iter().any(|row| row.target.digest == target.digest);
            if is_named { Ok(()) } else { self.name(tx, id.as_str(), target) }
        })?;
        self.by_target(target, None)
    }

    /// Reads manifest and configuration of an image whose blobs are here, and labels them so that they
    /// keep each other.
    fn label_documents(
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
                label(
                    &target.digest,
                    &index_labels(index.entries.iter().map(|e| &e.target.digest)),
                )?;
                let chosen = self.choose_here(&index, platform).map_err(manifest_error)?;
                for entry in index.entries.iter().filter(|entry| entry.target != chosen) {
                    self.keep_variant(&entry.target, lease)?;
                }
                return self.label_documents(&chosen, platform, lease, depth + 1);
            }
        };
        let bytes = self.read(&manifest.config.digest, MAX_CONFIG_BYTES)?;
        let config = Config::parse(&manifest, &bytes).map_err(manifest_error)?;
        let chain_ids = config.chain_ids();
        label(&target.digest, &manifest_labels(&manifest))?;
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

    /// Labels another platform's image that is here, so that its parts stay with it.
    fn keep_variant(&self, target: &Descriptor, lease: &str) -> Result<(), LoadError> {
        let content = self.store().content();
        let Ok(bytes) = self.read(&target.digest, MAX_MANIFEST_BYTES) else { return Ok(()) };
        let Ok(Document::Manifest(manifest)) = Document::parse(target, &bytes) else {
            return Ok(());
        };
        content
            .adopt(&self.shared.ns, &target.digest, &manifest_labels(&manifest), Some(lease))
            .map(drop)
            .map_err(|source| LoadError::Content { source })
    }

    fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, LoadError> {
        let read = self.store().content().read_blob(&self.shared.ns, digest, limit_bytes);
        read.map_err(|source| match source {
            ContentError::NotFound { digest, .. } => {
                LoadError::Missing { path: digest.to_string() }
            }
            source => LoadError::Content { source },
        })
    }
}

impl Found {
    /// Returns the blob at a path, through a link if that is one.
    fn blob(&self, path: &str) -> Result<&Descriptor, LoadError> {
        let missing = || LoadError::Missing { path: path.to_owned() };
        if let Some(blob) = self.blobs.get(path) {
            return Ok(blob);
        }
        let target = self.links.get(path).ok_or_else(missing)?;
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        self.blobs.get(&joined(directory, target)).ok_or_else(missing)
    }
}

/// Resolves a link's target against its directory, as text: it is a key, and no path of the host.
fn joined(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Makes an image of an entry of a layout's index, if it is one.
fn layout_image(entry: LayoutEntry) -> Option<Wanted> {
    let media_type = &entry.target.media_type;
    if !is_manifest(media_type) && !is_index(media_type) {
        return None;
    }
    let name = entry.annotations.get(NAME_ANNOTATION).or_else(|| {
        // A tag alone does not name an image.
        let name = entry.annotations.get(TAG_ANNOTATION);
        name.filter(|name| name.contains(['/', ':']))
    });
    let name = name.and_then(|name| Reference::parse(name).ok());
    Some(Wanted { target: entry.target, names: name.into_iter().collect() })
}

/// Puts entries together that stand for the same.
fn merge(images: impl IntoIterator<Item = Wanted>) -> Vec<Wanted> {
    let mut merged: Vec<Wanted> = Vec::new();
    for image in images {
        match merged.iter_mut().find(|other| other.target.digest == image.target.digest) {
            Some(other) => other.names.extend(image.names),
            None => merged.push(image),
        }
    }
    merged
}

fn document<R: io::BufRead>(reader: &mut ArchiveReader<R>) -> Result<Vec<u8>, LoadError> {
    let archive = |source| LoadError::Archive { source };
    let mut bytes = Vec::new();
    loop {
        let piece = reader.data().map_err(archive)?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(piece);
        let count = piece.len();
        reader.consume(count);
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            let limit = MAX_DOCUMENT_BYTES;
            return Err(archive(ExtractError::Limit { limit, of: "bytes in a document" }));
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    document: &'static str,
    bytes: &[u8],
) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|source| LoadError::Document { document, source })
}

/// Returns the digest that a path of a layout promises.
fn digest_of_path(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn layer_type(head: &[u8]) -> Result<&'static str, ExtractError> {
    Ok(match Compression::detect(head)? {
        Compression::None => OCI_LAYER,
        Compression::Gzip => OCI_LAYER_GZIP,
        Compression::Zstd => OCI_LAYER_ZSTD,
    })
}

fn enter(source: ImageError) -> LoadError {
    LoadError::Enter { source: Box::new(source) }
}

fn join_failure(error: tokio::task::JoinError) -> LoadError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => LoadError::CalledOff,
    }
}

#[cfg(test)]
mod tests;
