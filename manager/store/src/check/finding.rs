//! What a check finds, in types and in words.

use std::io;
use std::path::PathBuf;

use crate::Digest;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A blob's file is not there.
    BlobMissing {
        /// The blob.
        digest: Digest,
    },
    /// A blob's file has another size.
    BlobSize {
        /// The blob.
        digest: Digest,
        /// The size that it should have.
        wanted_bytes: u64,
        /// The size that it has.
        found_bytes: u64,
    },
    /// A blob's bytes have another digest.
    BlobDamaged {
        /// The blob.
        digest: Digest,
        /// The digest of its bytes.
        found: Digest,
    },
    /// A blob's file cannot be read.
    BlobUnreadable {
        /// The blob.
        digest: Digest,
        /// What the kernel said.
        kind: io::ErrorKind,
    },
    /// A blob needs another, which is not known.
    BlobNeedsBlob {
        /// The one that needs.
        digest: Digest,
        /// The one that is missing.
        needs: String,
    },
    /// A configuration needs a snapshot, which is not known.
    BlobNeedsSnapshot {
        /// The configuration.
        digest: Digest,
        /// The snapshot.
        needs: String,
    },
    /// A snapshot's directory is not there.
    SnapshotMissing {
        /// Its key.
        key: String,
    },
    /// A snapshot's parent is not known.
    SnapshotNeedsParent {
        /// Its key.
        key: String,
        /// Its parent.
        parent: String,
    },
    /// A name stands for a blob that is not known.
    ImageDangling {
        /// Namespace of the name.
        namespace: String,
        /// The name.
        name: String,
        /// What it stands for.
        digest: String,
    },
    /// A container's writable layer is not known.
    ContainerNeedsSnapshot {
        /// The container.
        container: String,
        /// The snapshot.
        snapshot: String,
    },
    /// The database contradicts itself.
    Database {
        /// What SQLite says of it.
        problem: String,
    },
    /// A file or directory that nothing names.
    Unnamed {
        /// Where.
        path: PathBuf,
        /// Its size, where that is quickly known.
        size_bytes: u64,
    },
}

impl Finding {
    /// Tells whether something that is needed is missing or wrong; all else only takes room.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Unnamed { .. })
    }

    /// Returns what kind of thing it is about: `blob`, `snapshot`, …
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BlobMissing { .. }
            | Self::BlobSize { .. }
            | Self::BlobDamaged { .. }
            | Self::BlobUnreadable { .. }
            | Self::BlobNeedsBlob { .. }
            | Self::BlobNeedsSnapshot { .. } => "blob",
            Self::SnapshotMissing { .. } | Self::SnapshotNeedsParent { .. } => "snapshot",
            Self::ImageDangling { .. } => "image",
            Self::ContainerNeedsSnapshot { .. } => "container",
            Self::Database { .. } => "database",
            Self::Unnamed { .. } => "file",
        }
    }

    /// Returns which one it is.
    #[must_use]
    pub fn object(&self) -> String {
        match self {
            Self::BlobMissing { digest }
            | Self::BlobSize { digest, .. }
            | Self::BlobDamaged { digest, .. }
            | Self::BlobUnreadable { digest, .. }
            | Self::BlobNeedsBlob { digest, .. }
            | Self::BlobNeedsSnapshot { digest, .. } => digest.to_string(),
            Self::SnapshotMissing { key } | Self::SnapshotNeedsParent { key, .. } => key.clone(),
            Self::ImageDangling { name, .. } => name.clone(),
            Self::ContainerNeedsSnapshot { container, .. } => container.clone(),
            Self::Database { .. } => "keg.db".to_owned(),
            Self::Unnamed { path, .. } => path.display().to_string(),
        }
    }

    /// Returns what is wrong, in a sentence.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::BlobMissing { .. } => "its file is missing".to_owned(),
            Self::BlobSize { wanted_bytes, found_bytes, .. } => {
                format!("its file has {found_bytes} bytes instead of {wanted_bytes}")
            }
            Self::BlobDamaged { found, .. } => format!("its bytes have the digest {found}"),
            Self::BlobUnreadable { kind, .. } => format!("its file cannot be read: {kind}"),
            Self::BlobNeedsBlob { needs, .. } => format!("it needs {needs}, which is not here"),
            Self::BlobNeedsSnapshot { needs, .. } => {
                format!("it needs the snapshot {needs}, which is not here")
            }
            Self::SnapshotMissing { .. } => "its directory is missing".to_owned(),
            Self::SnapshotNeedsParent { parent, .. } => {
                format!("it lies on {parent}, which is not here")
            }
            Self::ImageDangling { digest, .. } => {
                format!("it stands for {digest}, which is not here")
            }
            Self::ContainerNeedsSnapshot { snapshot, .. } => {
                format!("its writable layer {snapshot} is not here")
            }
            Self::Database { problem } => problem.clone(),
            Self::Unnamed { .. } => "nothing names it".to_owned(),
        }
    }

    /// Returns what to do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::BlobMissing { .. }
            | Self::BlobSize { .. }
            | Self::BlobDamaged { .. }
            | Self::BlobUnreadable { .. }
            | Self::BlobNeedsBlob { .. }
            | Self::BlobNeedsSnapshot { .. }
            | Self::SnapshotMissing { .. }
            | Self::SnapshotNeedsParent { .. }
            | Self::ImageDangling { .. } => {
                "let `keg system check --repair` forget it, and pull or load the image again"
            }
            Self::ContainerNeedsSnapshot { .. } => "remove the container, and create it again",
            Self::Database { .. } => "restore the root directory from a backup",
            Self::Unnamed { .. } => "let `keg system prune` remove it",
        }
    }
}
