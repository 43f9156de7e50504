//! Why a layer did not become a snapshot.

use std::borrow::Cow;

use keg_store::{ContentError, Digest, ErrorClass, Explain, Reason, SnapshotError};

use crate::extract::ExtractError;
use crate::registry::RegistryError;

/// Why a layer did not become a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The registry did not give it.
    #[error("layer {digest} cannot be received")]
    Registry {
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// Its blob could not be stored or read.
    #[error("layer {digest} cannot be stored")]
    Content {
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: ContentError,
    },
    /// Its archive could not be extracted.
    #[error("layer {digest} cannot be unpacked")]
    Extract {
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: ExtractError,
    },
    /// Its archive is not the one that the configuration tells of.
    #[error("layer {digest} has the diff id {found}, and the configuration says {wanted}")]
    DiffId {
        /// Digest of its blob.
        digest: Digest,
        /// The diff id that the configuration has.
        wanted: Digest,
        /// The digest of the archive.
        found: Digest,
    },
    /// Its snapshot could not be made.
    #[error("layer {digest} cannot be made a snapshot")]
    Snapshot {
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// Its blob is in no place where it could be had from.
    #[error("layer {digest} is missing")]
    Missing {
        /// Digest of its blob.
        digest: Digest,
    },
    /// Nobody waits for it any more.
    #[error("the work on layer {digest} was called off")]
    CalledOff {
        /// Digest of its blob.
        digest: Digest,
    },
}

impl LayerError {
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            Self::Registry { source, .. } => Some(source.as_ref()),
            Self::Content { source, .. } => Some(source),
            Self::Extract { source, .. } => Some(source),
            Self::Snapshot { source, .. } => Some(source),
            Self::DiffId { .. } | Self::Missing { .. } | Self::CalledOff { .. } => None,
        }
    }
}

impl Explain for LayerError {
    fn reason(&self) -> Reason {
        match self {
            Self::DiffId { .. } => Reason::DigestMismatch,
            Self::Missing { .. } => Reason::ImageMalformed,
            _ => self.cause().map_or(Reason::Internal, Explain::reason),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::CalledOff { .. } => ErrorClass::Aborted,
            _ => self.cause().map_or_else(|| self.reason().class(), Explain::class),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::DiffId { .. } => Some("tell the image's maker, or push it again".into()),
            Self::Missing { .. } => Some("save or copy the image again, all of it".into()),
            _ => self.cause().and_then(Explain::remedy),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        let mut operands = self.cause().map(Explain::operands).unwrap_or_default();
        if let Self::DiffId { digest, .. } | Self::Missing { digest } = self {
            operands.push(("digest", digest.to_string()));
        }
        operands
    }
}
