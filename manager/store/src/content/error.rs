//! Why content could not be read or stored.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use crate::explain::io_remedy;
use crate::{Digest, ErrorClass, Explain, MetadataError, Namespace, Reason, io_reason};

/// Why a blob could not be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A file or directory of the store failed.
    #[error("cannot {operation} {path:?}")]
    Io {
        /// What was to be done, as an imperative.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The namespace does not know the blob.
    #[error("no blob {digest} in namespace {namespace}")]
    NotFound {
        /// The digest.
        digest: Digest,
        /// Where it was looked for.
        namespace: Namespace,
    },
    /// The blob is entered, but its file is gone.
    #[error("the file of blob {digest} is gone")]
    Vanished {
        /// The digest.
        digest: Digest,
    },
    /// The bytes have another digest than they should.
    #[error("blob {wanted} has the digest {found} instead")]
    Digest {
        /// The digest wanted.
        wanted: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// There are more or fewer bytes than there should be.
    #[error("blob {digest} has {found_bytes} bytes instead of {wanted_bytes}")]
    Size {
        /// The digest, or the reference of the ingest.
        digest: Digest,
        /// The size wanted.
        wanted_bytes: u64,
        /// The size found.
        found_bytes: u64,
    },
    /// A blob is larger than its reader wants to hold in memory.
    #[error("blob {digest} has {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// The digest.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The reference is being received by another writer.
    #[error("{reference:?} is being received already")]
    Busy {
        /// The reference.
        reference: String,
    },
    /// The database failed.
    #[error("the store's database failed")]
    Metadata {
        /// How.
        #[from]
        source: MetadataError,
    },
}

impl ContentError {
    /// Returns a closure that wraps errors of the file system.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}

impl Explain for ContentError {
    fn reason(&self) -> Reason {
        match self {
            Self::Io { source, .. } => io_reason(source),
            Self::NotFound { .. } | Self::Busy { .. } => Reason::StoreFailed,
            Self::Vanished { .. } | Self::Digest { .. } | Self::Size { .. } => {
                Reason::DigestMismatch
            }
            Self::TooLarge { .. } => Reason::ImageMalformed,
            Self::Metadata { source } => source.reason(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Busy { .. } => ErrorClass::Aborted,
            Self::Metadata { source } => source.class(),
            _ => self.reason().class(),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Io { source, .. } => Some(io_remedy(source)),
            Self::Vanished { .. } | Self::Digest { .. } | Self::Size { .. } => {
                Some("remove the image and pull it again".into())
            }
            Self::Busy { .. } => Some("wait for the other transfer, or try again".into()),
            Self::NotFound { .. } => Some("pull the image again".into()),
            Self::TooLarge { .. } => None,
            Self::Metadata { source } => source.remedy(),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Io { path, .. } => vec![("path", path.display().to_string())],
            Self::NotFound { digest, .. }
            | Self::Vanished { digest }
            | Self::Size { digest, .. }
            | Self::TooLarge { digest, .. }
            | Self::Digest { wanted: digest, .. } => vec![("digest", digest.to_string())],
            Self::Busy { reference } => vec![("reference", reference.clone())],
            Self::Metadata { source } => source.operands(),
        }
    }
}
