//! Why a snapshot could not be made, found or removed.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use crate::explain::io_remedy;
use crate::{ErrorClass, Explain, MetadataError, Reason, SnapshotKind, io_reason};

/// Why a snapshotter did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file or directory of a snapshot failed.
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
    /// There is no such snapshot.
    #[error("no snapshot {key:?}")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The key is taken.
    #[error("snapshot {key:?} exists")]
    Exists {
        /// The key.
        key: String,
    },
    /// The snapshot is not of the kind that the operation needs.
    #[error("snapshot {key:?} is {}, not {}", found.as_str(), wanted.as_str())]
    Kind {
        /// The key.
        key: String,
        /// What it is.
        found: SnapshotKind,
        /// What it should be.
        wanted: SnapshotKind,
    },
    /// Another snapshot is on top.
    #[error("snapshot {key:?} is below another one")]
    HasChildren {
        /// The key.
        key: String,
    },
    /// A parent was given to a snapshot that has one, or whose snapshotter cannot add one.
    #[error("snapshot {key:?} cannot be put on top of {parent:?}")]
    Rebase {
        /// The key.
        key: String,
        /// The parent wanted.
        parent: String,
    },
    /// The file system of the root cannot hold overlayfs' upper directories.
    #[error("the file system of {root:?} cannot be used for overlayfs")]
    NoOverlay {
        /// Directory of the snapshots.
        root: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The database failed.
    #[error("the store's database failed")]
    Metadata {
        /// How.
        #[source]
        source: MetadataError,
    },
}

impl SnapshotError {
    /// Returns a closure that wraps errors of the file system.
    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source: source.into() }
    }
}

impl From<MetadataError> for SnapshotError {
    /// Tells the refusals that are about snapshots in this module's words.
    fn from(source: MetadataError) -> Self {
        match source {
            MetadataError::NotFound { what: "snapshot", key, .. } => Self::NotFound { key },
            MetadataError::Exists { what: "snapshot", key, .. } => Self::Exists { key },
            MetadataError::StillNeeded { what: "snapshot", key, .. } => Self::HasChildren { key },
            source => Self::Metadata { source },
        }
    }
}

impl Explain for SnapshotError {
    fn reason(&self) -> Reason {
        match self {
            Self::Io { source, .. } => io_reason(source),
            Self::NoOverlay { .. } => Reason::UnsupportedByHost,
            Self::Metadata { source } => source.reason(),
            Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::Kind { .. }
            | Self::HasChildren { .. }
            | Self::Rebase { .. } => Reason::StoreFailed,
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Exists { .. } => ErrorClass::AlreadyExists,
            Self::Kind { .. } | Self::HasChildren { .. } | Self::Rebase { .. } => {
                ErrorClass::FailedPrecondition
            }
            Self::Metadata { source } => source.class(),
            Self::Io { .. } | Self::NoOverlay { .. } => self.reason().class(),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Io { source, .. } => Some(io_remedy(source)),
            Self::NoOverlay { .. } => {
                Some("put --root on ext4, xfs or btrfs, or use the copying snapshotter".into())
            }
            Self::NotFound { .. } => Some("pull the image again".into()),
            Self::Metadata { source } => source.remedy(),
            Self::Exists { .. }
            | Self::Kind { .. }
            | Self::HasChildren { .. }
            | Self::Rebase { .. } => None,
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Io { path, .. } | Self::NoOverlay { root: path, .. } => {
                vec![("path", path.display().to_string())]
            }
            Self::NotFound { key }
            | Self::Exists { key }
            | Self::Kind { key, .. }
            | Self::Rebase { key, .. }
            | Self::HasChildren { key } => vec![("snapshot", key.clone())],
            Self::Metadata { source } => source.operands(),
        }
    }
}
