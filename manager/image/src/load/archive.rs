//! An archive, read once: its blobs are stored as they come, and its documents tell at the end what they are.

use std::collections::HashMap;
use std::io::{self, BufReader};

use keg_store::{Algorithm, Descriptor, Digest, Labels, Sealed};
use serde::Deserialize;
use serde_json::json;

use super::{LoadError, Wanted, enter};
use crate::compression::{Compression, Decoder};
use crate::extract::{ArchiveEntry, ArchiveReader, ExtractError};
use crate::feed::Fed;
use crate::manifest::{AnyDocument, MAX_MANIFEST_BYTES};
use crate::media_type::{
    OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, is_config, is_index,
    is_manifest,
};
use crate::save::{NAME_ANNOTATION, TAG_ANNOTATION};
use crate::shared::OperationLease;
use crate::{Images, Reference};

/// Size of the buffer behind decompression.
const BUFFER_BYTES: usize = 256 * 1024;

/// Largest document that names images.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Most files in an archive.
const MAX_ENTRIES: usize = 100_000;

/// An archive whose blobs are here.
#[derive(Debug)]
pub(super) struct Archive {
    /// Keeps the blobs.
    pub(super) lease: OperationLease,
    pub(super) images: Vec<Wanted>,
    /// Manifests of what is no image.
    pub(super) artifacts: Vec<Descriptor>,
}

/// What was found in an archive.
#[derive(Debug, Default)]
struct Found {
    /// Blobs by the path that they have in the archive.
    blobs: HashMap<String, Descriptor>,
    /// Those that are not entered yet: all are at once, which waits for the disk once.
    sealed: Vec<Sealed>,
    /// Links by the path that they have, as older versions of Docker use them for equal layers.
    links: HashMap<String, String>,
    index: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
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
    /// Stores an archive's blobs and finds out which images it has.
    pub(super) fn read_archive(&self, fed: Fed) -> Result<Archive, LoadError> {
        let lease = OperationLease::new(&self.shared, "load").map_err(|e| enter(e.into()))?;
        let archive = |source| LoadError::Archive { source };
        let decoder = Decoder::new(BufReader::with_capacity(BUFFER_BYTES, fed)).map_err(archive)?;
        let input = BufReader::with_capacity(BUFFER_BYTES, decoder);
        let mut reader = ArchiveReader::new(input);
        let mut found = Found::default();
        while let Some(entry) = reader.next().map_err(archive)? {
            if found.blobs.len() + found.links.len() > MAX_ENTRIES {
                let limit = MAX_ENTRIES as u64;
                return Err(archive(ExtractError::Limit { limit, of: "files" }));
            }
            self.store_entry(&entry, &mut reader, &mut found)?;
        }
        // Whoever sends must not be told that nobody listens any more.
        io::copy(&mut reader.into_inner(), &mut io::sink())
            .map_err(|source| archive(ExtractError::Read { source }))?;
        let sealed = std::mem::take(&mut found.sealed);
        self.store()
            .content()
            .commit_all(sealed, &Labels::new(), Some(lease.id()))
            .map_err(|source| LoadError::Content { source })?;
        let (images, artifacts) = self.wanted(&found, &lease)?;
        if images.is_empty() {
            return Err(LoadError::NoImages);
        }
        Ok(Archive { lease, images, artifacts })
    }

    fn store_entry<R: io::BufRead>(
        &self,
        entry: &ArchiveEntry,
        reader: &mut ArchiveReader<R>,
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
                let (blob, sealed) = self.receive_blob(&path, reader)?;
                found.blobs.insert(path, blob);
                found.sealed.push(sealed);
            }
        }
        Ok(())
    }

    /// Receives a file as a blob; its media type is a guess from its first bytes.
    fn receive_blob<R: io::BufRead>(
        &self,
        path: &str,
        reader: &mut ArchiveReader<R>,
    ) -> Result<(Descriptor, Sealed), LoadError> {
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
        let sealed = ingest.seal(None, wanted.as_ref()).map_err(content)?;
        let media_type = media_type.unwrap_or(OCI_LAYER).to_owned();
        let (digest, size_bytes) = (sealed.digest().clone(), sealed.size_bytes());
        Ok((Descriptor { media_type, digest, size_bytes }, sealed))
    }

    /// Finds out which images an archive has, and under which names; and which artifacts besides.
    fn wanted(
        &self,
        found: &Found,
        lease: &OperationLease,
    ) -> Result<(Vec<Wanted>, Vec<Descriptor>), LoadError> {
        if let Some(index) = &found.index {
            let index: LayoutIndex = parse("index.json", index)?;
            let wanted = merge(index.manifests.into_iter().filter_map(layout_image));
            let (artifacts, images): (Vec<_>, Vec<_>) =
                wanted.into_iter().partition(|wanted| self.is_artifact(&wanted.target));
            if !images.is_empty() {
                let artifacts = artifacts.into_iter().map(|artifact| artifact.target);
                return Ok((images, artifacts.collect()));
            }
        }
        let Some(manifest) = &found.manifest else { return Ok(Default::default()) };
        let entries: Vec<DockerEntry> = parse("manifest.json", manifest)?;
        let images: Vec<Wanted> = entries
            .iter()
            .map(|entry| self.docker_image(entry, found, lease))
            .collect::<Result<_, _>>()?;
        Ok((merge(images), Vec::new()))
    }

    /// Tells whether a document that is here is a manifest of what is no image, as signatures have.
    fn is_artifact(&self, target: &Descriptor) -> bool {
        let bytes = self.read(&target.digest, MAX_MANIFEST_BYTES).unwrap_or_default();
        match AnyDocument::parse(target, &bytes) {
            Some(AnyDocument::Manifest(manifest)) => !is_config(&manifest.config.media_type),
            _ => false,
        }
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
