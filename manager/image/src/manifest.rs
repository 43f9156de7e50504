//! Manifests, indexes and configurations: parsed strictly, since they come from anywhere.

mod any;
mod error;

use keg_store::{Descriptor, Digest};
use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;

pub(crate) use self::any::AnyDocument;
pub use self::error::ManifestError;
use crate::Platform;
use crate::media_type;

/// Largest manifest or index, in bytes; what registries accept too.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// Largest configuration, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Most layers of an image; overlayfs has no more lower directories.
pub const MAX_LAYERS: usize = 500;

/// How deep indexes may be nested.
pub const MAX_INDEX_DEPTH: usize = 4;

/// What a name can stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Manifests for several platforms.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// Manifests for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The images that it lists, in its order.
    pub entries: Vec<IndexEntry>,
    /// What else it lists: attestations and the like, which no platform runs.
    pub others: Vec<Descriptor>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Manifest, or another index.
    pub target: Descriptor,
    /// Platform, if the index says.
    pub platform: Option<Platform>,
}

/// One image: a configuration and layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// A configuration and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The configuration itself.
    pub spec: ImageConfiguration,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// Only what tells documents apart.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers", default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses the bytes of `target`, whose digest has been verified.
    ///
    /// # Errors
    /// [`ManifestError`]; also if the document says that it is of another kind than `target` says.
    pub fn parse(target: &Descriptor, bytes: &[u8]) -> Result<Self, ManifestError> {
        let digest = &target.digest;
        check_size("manifest", digest, bytes.len() as u64, MAX_MANIFEST_BYTES)?;
        let shape: Shape = parse_json("manifest", digest, bytes)?;
        let told = media_type::essence(&target.media_type);
        if media_type::is_schema1(told) || shape.fs_layers.is_some() {
            return Err(ManifestError::Schema1 { digest: digest.clone() });
        }
        let malformed = |problem| ManifestError::Malformed { digest: digest.clone(), problem };
        if shape.manifests.is_some() && shape.layers.is_some() {
            return Err(malformed("it is an index and a manifest at once"));
        }
        if shape.media_type.as_deref().is_some_and(|own| own != told) {
            return Err(malformed("its media type is another than the registry says"));
        }
        if media_type::is_index(told) {
            parse_index(digest, bytes).map(Self::Index)
        } else if media_type::is_manifest(told) {
            parse_manifest(digest, bytes).map(Self::Manifest)
        } else {
            let (media_type, wanted) = (told.to_owned(), "a container image's manifest");
            Err(ManifestError::MediaType { digest: digest.clone(), media_type, wanted })
        }
    }
}

impl Index {
    /// Returns all that it lists.
    pub fn listed(&self) -> impl Iterator<Item = &Descriptor> {
        self.entries.iter().map(|entry| &entry.target).chain(&self.others)
    }

    /// Returns the entry that suits `wanted` best; the first of equals.
    ///
    /// # Errors
    /// [`ManifestError::Platform`] if none does.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, ManifestError> {
        // An entry that does not tell its platform may be right: its configuration will say.
        const UNTOLD: u32 = u32::MAX;
        let rank = |entry: &IndexEntry| match &entry.platform {
            Some(platform) => wanted.rank(platform),
            None => Some(UNTOLD),
        };
        self.entries
            .iter()
            .filter_map(|entry| Some((rank(entry)?, entry)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| &entry.target)
            .ok_or_else(|| ManifestError::Platform {
                wanted: wanted.clone(),
                available: self.entries.iter().filter_map(|entry| entry.platform.clone()).collect(),
            })
    }
}

impl Config {
    /// Parses the bytes of a manifest's configuration, whose digest has been verified.
    ///
    /// # Errors
    /// [`ManifestError`]; also if it does not have one diff id per layer.
    pub fn parse(manifest: &Manifest, bytes: &[u8]) -> Result<Self, ManifestError> {
        let digest = &manifest.config.digest;
        check_size("configuration", digest, bytes.len() as u64, MAX_CONFIG_BYTES)?;
        let spec: ImageConfiguration = parse_json("configuration", digest, bytes)?;
        let diff_ids = spec
            .rootfs()
            .diff_ids()
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<Digest>, _>>()
            .map_err(|source| ManifestError::Digest { document: digest.clone(), source })?;
        if diff_ids.len() != manifest.layers.len() {
            let problem = "it does not have as many diff ids as the manifest has layers";
            return Err(ManifestError::Malformed { digest: digest.clone(), problem });
        }
        Ok(Self { spec, diff_ids })
    }

    /// Returns the platform that the configuration is for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        let variant = self.spec.variant().as_deref().unwrap_or_default();
        let (os, architecture) = (self.spec.os().to_string(), self.spec.architecture().to_string());
        Platform::new(&os, &architecture, variant)
    }

    /// Checks that the image runs on `wanted`. One that does not tell its platform is believed to.
    ///
    /// # Errors
    /// [`ManifestError::Platform`] if it does not.
    pub fn check_platform(&self, wanted: &Platform) -> Result<(), ManifestError> {
        let platform = self.platform();
        if platform.architecture.is_empty() || wanted.rank(&platform).is_some() {
            return Ok(());
        }
        Err(ManifestError::Platform { wanted: wanted.clone(), available: vec![platform] })
    }

    /// Returns the names of the snapshots that the layers make, lowest first (OCI image-spec,
    /// config.md, "Layer ChainID").
    #[must_use]
    pub fn chain_ids(&self) -> Vec<Digest> {
        chain_ids(&self.diff_ids)
    }
}

/// Returns the chain ids of layers given by their diff ids, lowest first.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        };
        chain.push(next);
    }
    chain
}

fn parse_index(digest: &Digest, bytes: &[u8]) -> Result<Index, ManifestError> {
    let index: ImageIndex = parse_json("index", digest, bytes)?;
    check_version(digest, index.schema_version())?;
    let (mut entries, mut others) = (Vec::new(), Vec::new());
    for descriptor in index.manifests() {
        let media_type = descriptor.media_type().to_string();
        let is_usable = media_type::is_manifest(&media_type) || media_type::is_index(&media_type);
        let platform = descriptor.platform().as_ref().map(|platform| {
            let variant = platform.variant().as_deref().unwrap_or_default();
            let (os, architecture) =
                (platform.os().to_string(), platform.architecture().to_string());
            Platform::new(&os, &architecture, variant)
        });
        // BuildKit's attestations are listed as manifests for a platform that nobody has.
        let is_unknown = platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        if is_usable && !is_unknown {
            entries.push(IndexEntry { target: convert(digest, descriptor)?, platform });
        } else {
            // What is not run need not make sense.
            others.extend(convert(digest, descriptor).ok());
        }
    }
    Ok(Index { entries, others })
}

fn parse_manifest(digest: &Digest, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let manifest: ImageManifest = parse_json("manifest", digest, bytes)?;
    check_version(digest, manifest.schema_version())?;
    let config = convert(digest, manifest.config())?;
    if !media_type::is_config(&config.media_type) {
        let (media_type, wanted) = (config.media_type, "a container image's configuration");
        return Err(ManifestError::MediaType { digest: config.digest, media_type, wanted });
    }
    check_size("configuration", &config.digest, config.size_bytes, MAX_CONFIG_BYTES)?;
    let layers = manifest
        .layers()
        .iter()
        .map(|layer| convert(digest, layer))
        .collect::<Result<Vec<_>, _>>()?;
    if layers.len() > MAX_LAYERS {
        let problem = "it has more layers than overlayfs can stack";
        return Err(ManifestError::Malformed { digest: digest.clone(), problem });
    }
    if let Some(layer) = layers.iter().find(|layer| !media_type::is_layer(&layer.media_type)) {
        return Err(ManifestError::MediaType {
            digest: layer.digest.clone(),
            media_type: layer.media_type.clone(),
            wanted: "a layer",
        });
    }
    Ok(Manifest { config, layers })
}

fn convert(
    document: &Digest,
    descriptor: &oci_spec::image::Descriptor,
) -> Result<Descriptor, ManifestError> {
    let digest = descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(|source| ManifestError::Digest { document: document.clone(), source })?;
    let media_type = descriptor.media_type().to_string();
    Ok(Descriptor { media_type, digest, size_bytes: descriptor.size() })
}

fn parse_json<T: serde::de::DeserializeOwned>(
    what: &'static str,
    digest: &Digest,
    bytes: &[u8],
) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Syntax {
        what,
        digest: digest.clone(),
        source,
    })
}

fn check_version(digest: &Digest, version: u32) -> Result<(), ManifestError> {
    if version == 2 {
        return Ok(());
    }
    let problem = "its schema version is not 2";
    Err(ManifestError::Malformed { digest: digest.clone(), problem })
}

fn check_size(
    what: &'static str,
    digest: &Digest,
    size_bytes: u64,
    limit_bytes: u64,
) -> Result<(), ManifestError> {
    if size_bytes <= limit_bytes {
        return Ok(());
    }
    Err(ManifestError::TooLarge { what, digest: digest.clone(), size_bytes, limit_bytes })
}

#[cfg(test)]
mod tests;
