//! Documents as far as copying them goes: any manifest and any index, also those that are no image.

use std::collections::BTreeMap;

use keg_store::Descriptor;
use serde::Deserialize;

use crate::media_type::is_index;

/// A manifest or an index.
#[derive(Debug, Clone)]
pub(crate) enum AnyDocument {
    Index(AnyIndex),
    Manifest(AnyManifest),
}

/// An index, with all that it lists.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AnyIndex {
    pub(crate) manifests: Vec<Descriptor>,
    /// What it refers to.
    #[serde(default)]
    pub(crate) subject: Option<Descriptor>,
}

/// A manifest: of an image, or of an artifact.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AnyManifest {
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    /// What it refers to.
    #[serde(default)]
    pub(crate) subject: Option<Descriptor>,
    #[serde(rename = "artifactType", default)]
    artifact_type: String,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl AnyDocument {
    /// Parses the bytes of `target`; `None` if they are neither.
    pub(crate) fn parse(target: &Descriptor, bytes: &[u8]) -> Option<Self> {
        if is_index(&target.media_type) {
            serde_json::from_slice(bytes).ok().map(Self::Index)
        } else {
            serde_json::from_slice(bytes).ok().map(Self::Manifest)
        }
    }

    /// Returns what it refers to.
    pub(crate) fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Index(index) => index.subject.as_ref(),
            Self::Manifest(manifest) => manifest.subject.as_ref(),
        }
    }
}

impl AnyManifest {
    /// Returns the configuration and the layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Returns what kind of artifact it is (OCI image-spec, manifest.md, "artifactType").
    pub(crate) fn artifact_type(&self) -> &str {
        match self.artifact_type.as_str() {
            "" => &self.config.media_type,
            told => told,
        }
    }
}
