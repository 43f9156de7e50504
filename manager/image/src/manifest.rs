//! Manifests, indexes and configurations: parsed strictly, since they come from anywhere.

use std::borrow::Cow;

use keg_store::{Descriptor, Digest, DigestError, Explain, Reason};
use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;

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

/// Why a manifest, index or configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The document is not what its media type says.
    #[error("{digest} is not a valid {what}")]
    Syntax {
        /// What it should be.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The media type is none that an image can have.
    #[error("{digest} has the media type {media_type:?}, which is not that of {wanted}")]
    MediaType {
        /// Its digest.
        digest: Digest,
        /// Its media type.
        media_type: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// The manifest is one of Docker's of before 2016.
    #[error("{digest} is a manifest of Docker's schema 1, which is not supported any more")]
    Schema1 {
        /// Its digest.
        digest: Digest,
    },
    /// The document contradicts itself, or what points at it.
    #[error("{digest} is malformed: {problem}")]
    Malformed {
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        problem: &'static str,
    },
    /// A digest in the document is malformed.
    #[error("{document} has a malformed digest")]
    Digest {
        /// Digest of the document.
        document: Digest,
        /// What is wrong.
        #[source]
        source: DigestError,
    },
    /// A document is too large.
    #[error("{what} {digest} has {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Indexes point at indexes, deeper than anyone needs.
    #[error("index {digest} is nested too deeply")]
    TooDeep {
        /// Digest of the innermost index looked at.
        digest: Digest,
    },
    /// The image is not for the platform.
    #[error("no variant for {wanted}, only for {}", offered(.available))]
    Platform {
        /// The platform wanted.
        wanted: Platform,
        /// The platforms that there are.
        available: Vec<Platform>,
    },
}

fn offered(available: &[Platform]) -> String {
    let texts: Vec<String> = available.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "no platform at all".to_owned() } else { texts.join(", ") }
}

impl Explain for ManifestError {
    fn reason(&self) -> Reason {
        match self {
            Self::Platform { .. } => Reason::PlatformNotFound,
            _ => Reason::ImageMalformed,
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Platform { available, .. } => available.first().map(|platform| {
                format!("choose one that exists, for example --platform {platform}").into()
            }),
            Self::Schema1 { .. } => Some("push the image again with a tool of today".into()),
            Self::MediaType { .. } => {
                Some("make sure that the name is that of a container image".into())
            }
            _ => Some("tell the image's maker, or push it again".into()),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Platform { wanted, .. } => vec![("platform", wanted.to_string())],
            Self::Syntax { digest, .. }
            | Self::MediaType { digest, .. }
            | Self::Schema1 { digest }
            | Self::Malformed { digest, .. }
            | Self::Digest { document: digest, .. }
            | Self::TooLarge { digest, .. }
            | Self::TooDeep { digest } => vec![("digest", digest.to_string())],
        }
    }
}

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
    /// What it lists, in its order; attestations and the like left out.
    pub entries: Vec<IndexEntry>,
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
    let mut entries = Vec::new();
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
        }
    }
    Ok(Index { entries })
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
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::sha256(b"x").as_str(), "size": 1})
    }

    fn parse(media_type: &str, document: &Value) -> Result<Document, ManifestError> {
        let bytes = serde_json::to_vec(document).unwrap();
        let target = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::sha256(&bytes),
            size_bytes: bytes.len() as u64,
        };
        Document::parse(&target, &bytes)
    }

    fn manifest(media_type: &str, config: &str, layer: &str) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor(config),
            "layers": [descriptor(layer)],
        })
    }

    #[test]
    fn manifests_of_both_kinds_are_read_alike() {
        use media_type::*;

        let oci = parse(OCI_MANIFEST, &manifest(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_ZSTD)).unwrap();
        let gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let docker =
            parse(DOCKER_MANIFEST, &manifest(DOCKER_MANIFEST, DOCKER_CONFIG, gzip)).unwrap();

        for (document, config) in [(oci, OCI_CONFIG), (docker, DOCKER_CONFIG)] {
            let Document::Manifest(manifest) = document else { panic!("not a manifest") };
            assert_eq!((manifest.config.media_type.as_str(), manifest.layers.len()), (config, 1));
        }
    }

    #[test]
    fn documents_that_are_not_what_they_are_said_to_be_are_refused() {
        use media_type::*;

        let good = manifest(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER);
        let mut both = good.clone();
        both["manifests"] = json!([]);
        let mut version = good.clone();
        version["schemaVersion"] = json!(3);
        let artifact =
            manifest(OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json", OCI_LAYER);
        let odd_layer = manifest(OCI_MANIFEST, OCI_CONFIG, "text/plain");
        let mut many = good.clone();
        many["layers"] = json!(vec![descriptor(OCI_LAYER); MAX_LAYERS + 1]);
        let mut bad_digest = good.clone();
        bad_digest["config"]["digest"] = json!("sha256:../../etc/passwd");
        let mut large = good.clone();
        large["config"]["size"] = json!(MAX_CONFIG_BYTES + 1);
        let schema1 = json!({"schemaVersion": 1, "fsLayers": []});

        let error = |document: &Value| parse(OCI_MANIFEST, document).unwrap_err();
        assert!(parse(OCI_MANIFEST, &good).is_ok());
        assert!(matches!(parse(OCI_INDEX, &good), Err(ManifestError::Malformed { .. })));
        assert!(matches!(error(&both), ManifestError::Malformed { .. }));
        assert!(matches!(error(&version), ManifestError::Malformed { .. }));
        assert!(matches!(error(&artifact), ManifestError::MediaType { .. }));
        assert!(matches!(error(&odd_layer), ManifestError::MediaType { wanted: "a layer", .. }));
        assert!(matches!(error(&many), ManifestError::Malformed { .. }));
        assert!(matches!(
            error(&bad_digest),
            ManifestError::Digest { .. } | ManifestError::Syntax { .. }
        ));
        assert!(matches!(error(&large), ManifestError::TooLarge { .. }));
        assert!(matches!(error(&schema1), ManifestError::Schema1 { .. }));
        assert!(matches!(error(&json!([])), ManifestError::Syntax { .. }));
        assert!(matches!(parse("text/html", &json!({})), Err(ManifestError::MediaType { .. })));
    }

    #[test]
    fn the_best_platform_is_chosen_and_attestations_never_are() {
        let entry = |digest: &[u8], os: &str, architecture: &str, variant: &str| {
            json!({
                "mediaType": media_type::OCI_MANIFEST,
                "digest": Digest::sha256(digest).as_str(),
                "size": 1,
                "platform": {"os": os, "architecture": architecture, "variant": variant},
            })
        };
        let index = json!({
            "schemaVersion": 2,
            "manifests": [
                entry(b"arm6", "linux", "arm", "v6"),
                entry(b"arm7", "linux", "arm", "v7"),
                entry(b"amd", "linux", "amd64", ""),
                entry(b"attestation", "unknown", "unknown", ""),
            ],
        });
        let Document::Index(index) = parse(media_type::OCI_INDEX, &index).unwrap() else {
            panic!("not an index")
        };
        let choose = |text: &str| index.choose(&text.parse().unwrap()).map(|d| d.digest.clone());

        assert_eq!(choose("linux/arm/v7").unwrap(), Digest::sha256(b"arm7"));
        assert_eq!(choose("linux/arm/v6").unwrap(), Digest::sha256(b"arm6"));
        assert_eq!(choose("linux/amd64").unwrap(), Digest::sha256(b"amd"));
        let refused = choose("linux/s390x").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no variant for linux/s390x, only for linux/arm/v6, linux/arm/v7, linux/amd64"
        );
    }

    #[test]
    fn a_configuration_must_have_one_diff_id_per_layer() {
        let config = |diff_ids: &[&str]| {
            serde_json::to_vec(&json!({
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["sh"], "Volumes": null, "Healthcheck": {"Test": ["NONE"]}},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }))
            .unwrap()
        };
        let layer = Descriptor {
            media_type: media_type::OCI_LAYER.to_owned(),
            digest: Digest::sha256(b"l"),
            size_bytes: 1,
        };
        let manifest = Manifest { config: layer.clone(), layers: vec![layer.clone()] };

        let good = Config::parse(&manifest, &config(&[layer.digest.as_str()])).unwrap();

        assert_eq!(good.chain_ids(), std::slice::from_ref(&layer.digest));
        assert_eq!(good.platform().to_string(), "linux/amd64");
        assert!(good.check_platform(&"linux/arm64".parse().unwrap()).is_err());
        assert!(matches!(
            Config::parse(&manifest, &config(&[])),
            Err(ManifestError::Malformed { .. })
        ));
        assert!(matches!(
            Config::parse(&manifest, &config(&["sha256:1"])),
            Err(ManifestError::Digest { .. })
        ));
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let ids = [Digest::sha256(b"a"), Digest::sha256(b"b"), Digest::sha256(b"c")];

        let chain = chain_ids(&ids);

        assert_eq!(chain[0], ids[0]);
        assert_eq!(chain[1], Digest::sha256(format!("{} {}", ids[0], ids[1]).as_bytes()));
        assert_eq!(chain[2], Digest::sha256(format!("{} {}", chain[1], ids[2]).as_bytes()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let target = Descriptor {
                media_type: media_type::OCI_MANIFEST.to_owned(),
                digest: Digest::sha256(&bytes),
                size_bytes: bytes.len() as u64,
            };
            let _ = Document::parse(&target, &bytes);
        }
    }
}
