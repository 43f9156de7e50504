//! Descriptors: what points at a blob (OCI image-spec, descriptor.md).

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Names a blob, and says what it is and how large.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Descriptor {
    /// Media type, for example `application/vnd.oci.image.manifest.v1+json`.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob, in bytes.
    #[serde(rename = "size")]
    pub size_bytes: u64,
}
