//! Several images under one name, and what is attested of them (moby/buildkit,
//! docs/attestations/attestation-storage.md).
//!
//! ```text
//! index ─┬─ manifest linux/amd64
//!        ├─ manifest linux/arm64
//!        └─ manifest unknown/unknown ── statements (in-toto)
//!             vnd.docker.reference.digest: that of the manifest which they are about
//! ```

use keg_store::{ContentError, Descriptor, Digest, Labels};
use serde_json::{Value, json};

use crate::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::new_layer::{ImageLease, NewLayerError};
use crate::record::{index_labels, manifest_labels};
use crate::{Images, Platform};

/// Media type of a statement.
const STATEMENT: &str = "application/vnd.in-toto+json";

/// An image of one platform, to be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its manifest.
    pub manifest: Descriptor,
    /// Platform.
    pub platform: Platform,
    /// What is attested of it: statements in the form of in-toto.
    pub statements: Vec<Value>,
}

impl Images {
    /// Stores an index of images and of what is attested of them. Blocks.
    ///
    /// # Errors
    /// [`NewLayerError::Content`].
    pub fn write_index(
        &self,
        images: &[Listed],
        lease: &ImageLease,
    ) -> Result<Descriptor, NewLayerError> {
        self.index(images, lease.id()).map_err(NewLayerError::content)
    }

    fn index(&self, images: &[Listed], lease: &str) -> Result<Descriptor, ContentError> {
        let mut entries = Vec::new();
        let mut listed: Vec<Descriptor> = Vec::new();
        for image in images {
            let mut entry = json!(image.manifest);
            entry["platform"] = platform(&image.platform);
            entries.push(entry);
            listed.push(image.manifest.clone());
        }
        for image in images.iter().filter(|image| !image.statements.is_empty()) {
            let manifest = self.attestation(&image.statements, lease)?;
            let mut entry = json!(manifest);
            entry["annotations"] = json!({
                "vnd.docker.reference.digest": image.manifest.digest,
                "vnd.docker.reference.type": "attestation-manifest",
            });
            entry["platform"] = json!({"architecture": "unknown", "os": "unknown"});
            entries.push(entry);
            listed.push(manifest);
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.document(&index, OCI_INDEX, &index_labels(&listed), lease)
    }

    fn attestation(&self, statements: &[Value], lease: &str) -> Result<Descriptor, ContentError> {
        let mut layers = Vec::new();
        let mut listed = Vec::new();
        for statement in statements {
            let blob = self.document(statement, STATEMENT, &Labels::new(), lease)?;
            let mut entry = json!(blob);
            entry["annotations"] = json!({"in-toto.io/predicate-type": statement["predicateType"]});
            listed.push(entry);
            layers.push(blob);
        }
        let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
        let config = json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.document(&config, OCI_CONFIG, &Labels::new(), lease)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": listed,
        });
        let labels = manifest_labels(&config, &layers);
        self.document(&manifest, OCI_MANIFEST, &labels, lease)
    }

    fn document(
        &self,
        document: &Value,
        media_type: &str,
        labels: &Labels,
        lease: &str,
    ) -> Result<Descriptor, ContentError> {
        let bytes = document.to_string().into_bytes();
        let content = self.shared.store.content();
        let digest = content.write_blob(&self.shared.ns, &bytes, labels, Some(lease))?;
        let (media_type, size_bytes) = (media_type.to_owned(), bytes.len() as u64);
        Ok(Descriptor { media_type, digest, size_bytes })
    }
}

/// A platform as an index has it.
fn platform(platform: &Platform) -> Value {
    let mut value = json!({"architecture": platform.architecture, "os": platform.os});
    if !platform.variant.is_empty() {
        value["variant"] = json!(platform.variant);
    }
    value
}
