//! An image as it is stored here: names, manifest, configuration, layers.

use jiff::Timestamp;
use keg_store::{ContentError, ContentStore, Descriptor, Digest, Namespace, Snapshotter, labels};
use oci_spec::image::ImageConfiguration;

use crate::manifest::{
    AnyDocument, Config, Document, MAX_CONFIG_BYTES, MAX_INDEX_DEPTH, MAX_MANIFEST_BYTES, Manifest,
    ManifestError,
};
use crate::{Platform, Reference};

/// One image of one platform, with all names that stand for it.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// Digest of its configuration: what people call the image's id.
    pub id: Digest,
    /// Names with tags.
    pub names: Vec<Reference>,
    /// Names with digests, as `docker.io/library/busybox@sha256:…`.
    pub digests: Vec<String>,
    /// What the names stand for: a manifest, or an index that lists it.
    pub target: Descriptor,
    /// Its manifest.
    pub manifest: Descriptor,
    /// The manifest's very bytes.
    pub manifest_json: Vec<u8>,
    /// The configuration's very bytes.
    pub config_json: Vec<u8>,
    /// The configuration.
    pub config: ImageConfiguration,
    /// Layers as stored, lowest first.
    pub layers: Vec<Descriptor>,
    /// Snapshots that the layers make, lowest first. The last is what a container is put on.
    pub chain_ids: Vec<Digest>,
    /// Platform.
    pub platform: Platform,
    /// Bytes of its layers, unpacked.
    pub size_bytes: u64,
    /// Bytes of its layers as stored.
    pub stored_bytes: u64,
    /// When it was built, as its configuration says.
    pub created_at: Option<Timestamp>,
}

impl ImageRecord {
    /// Returns the key of the snapshot to put a container on; an image without layers has none.
    #[must_use]
    pub fn snapshot_parent(&self) -> Option<&str> {
        self.chain_ids.last().map(Digest::as_str)
    }

    /// Returns the name to show: the first with a tag, else the first with a digest, else the id.
    #[must_use]
    pub fn display_name(&self) -> String {
        let digest = || self.digests.first().cloned().unwrap_or_else(|| self.id.to_string());
        self.names.first().map_or_else(digest, Reference::to_string)
    }
}

/// Why a stored image could not be read.
#[derive(Debug)]
pub(crate) enum LoadError {
    Content(ContentError),
    Manifest(ManifestError),
}

impl From<ContentError> for LoadError {
    fn from(error: ContentError) -> Self {
        Self::Content(error)
    }
}

impl From<ManifestError> for LoadError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error)
    }
}

/// Where stored images are read from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loader<'a> {
    pub(crate) content: &'a ContentStore,
    pub(crate) snapshotter: &'a dyn Snapshotter,
    pub(crate) ns: &'a Namespace,
}

impl Loader<'_> {
    /// Reads the image that `target` stands for; of an index, the variant for `platform` if it is
    /// here, else the first that is. Names are left empty.
    pub(crate) fn load(
        &self,
        target: &Descriptor,
        platform: Option<&Platform>,
    ) -> Result<ImageRecord, LoadError> {
        let (manifest, parsed, manifest_json) = self.find_manifest(target, platform, 0)?;
        let config_json =
            self.content.read_blob(self.ns, &parsed.config.digest, MAX_CONFIG_BYTES)?;
        let config = Config::parse(&parsed, &config_json)?;
        let chain_ids = config.chain_ids();
        let created = config.spec.created().as_deref();
        Ok(ImageRecord {
            id: parsed.config.digest.clone(),
            names: Vec::new(),
            digests: Vec::new(),
            target: target.clone(),
            manifest,
            manifest_json,
            config_json,
            platform: config.platform(),
            created_at: created.and_then(|text| text.parse().ok()),
            size_bytes: chain_ids.iter().map(|id| self.unpacked_bytes(id)).sum(),
            stored_bytes: parsed.layers.iter().map(|layer| layer.size_bytes).sum(),
            layers: parsed.layers,
            config: config.spec,
            chain_ids,
        })
    }

    fn find_manifest(
        &self,
        target: &Descriptor,
        platform: Option<&Platform>,
        depth: usize,
    ) -> Result<(Descriptor, Manifest, Vec<u8>), LoadError> {
        let bytes = self.content.read_blob(self.ns, &target.digest, MAX_MANIFEST_BYTES)?;
        let index = match Document::parse(target, &bytes)? {
            Document::Manifest(manifest) => return Ok((target.clone(), manifest, bytes)),
            Document::Index(index) => index,
        };
        if depth >= MAX_INDEX_DEPTH {
            return Err(ManifestError::TooDeep { digest: target.digest.clone() }.into());
        }
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let best = index.choose(&wanted).ok().cloned();
        if let Some(best) = &best
            && self.content.info(self.ns, &best.digest)?.is_some()
        {
            return self.find_manifest(best, platform, depth + 1);
        }
        if platform.is_none() {
            for entry in &index.entries {
                if self.content.info(self.ns, &entry.target.digest)?.is_some() {
                    return self.find_manifest(&entry.target, None, depth + 1);
                }
            }
        }
        let available = index.entries.into_iter().filter_map(|entry| entry.platform).collect();
        Err(ManifestError::Platform { wanted, available }.into())
    }

    /// Returns what the layer takes that the chain id ends with; 0 if it is not unpacked here.
    pub(crate) fn unpacked_bytes(&self, chain_id: &Digest) -> u64 {
        self.snapshotter
            .stat(self.ns, chain_id.as_str())
            .ok()
            .and_then(|info| info.usage)
            .map_or(0, |usage| usage.size_bytes)
    }
}

/// Returns the labels by which an index keeps what it lists from the collector.
pub(crate) fn index_labels<'a>(
    listed: impl IntoIterator<Item = &'a Descriptor>,
) -> keg_store::Labels {
    let name = |index: usize| format!("{}.m.{index}", labels::GC_REF_CONTENT);
    listed
        .into_iter()
        .enumerate()
        .map(|(index, target)| (name(index), target.digest.to_string()))
        .collect()
}

/// Returns the labels by which a manifest keeps its configuration and layers.
pub(crate) fn manifest_labels(config: &Descriptor, layers: &[Descriptor]) -> keg_store::Labels {
    let prefix = labels::GC_REF_CONTENT;
    let config = (format!("{prefix}.config"), config.digest.to_string());
    let layers = layers.iter().enumerate();
    std::iter::once(config)
        .chain(
            layers.map(|(index, layer)| (format!("{prefix}.l.{index}"), layer.digest.to_string())),
        )
        .collect()
}

/// Returns the labels by which a document keeps what it needs, whatever it is.
pub(crate) fn document_labels(document: &AnyDocument) -> keg_store::Labels {
    match document {
        AnyDocument::Index(index) => index_labels(&index.manifests),
        AnyDocument::Manifest(manifest) => manifest_labels(&manifest.config, &manifest.layers),
    }
}

/// Returns the name of the label by which a manifest keeps what refers to it.
pub(crate) fn referrer_label(referrer: &Digest) -> String {
    format!("{REFERRER_LABEL}{}", referrer.hex())
}

/// Prefix of the labels by which a manifest keeps what refers to it.
pub(crate) const REFERRER_LABEL: &str = "containerd.io/gc.ref.content.r.";

/// Prefix of the labels that tell which repositories of a registry have a blob; containerd's.
pub(crate) const SOURCE_LABEL: &str = "containerd.io/distribution.source.";

/// Returns the labels of a layer: its diff id, and where it can be had.
pub(crate) fn layer_labels(diff_id: &Digest, source: Option<&Reference>) -> keg_store::Labels {
    let diff_id = (labels::UNCOMPRESSED.to_owned(), diff_id.to_string());
    let source = source.map(|reference| {
        (format!("{SOURCE_LABEL}{}", reference.domain()), reference.path().to_owned())
    });
    std::iter::once(diff_id).chain(source).collect()
}

/// Returns the label by which a configuration keeps the snapshots of its layers.
pub(crate) fn config_labels(snapshotter: &str, chain_id: Option<&Digest>) -> keg_store::Labels {
    let name = format!("{}.{snapshotter}", labels::GC_REF_SNAPSHOT);
    chain_id.map(|id| (name, id.to_string())).into_iter().collect()
}
