//! Why a query or a change failed.

use std::borrow::Cow;

use rusqlite::ErrorCode;

use crate::{ErrorClass, Explain, Namespace, Reason};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// SQLite failed.
    #[error("database: cannot {operation}")]
    Sql {
        /// What was to be done, as an imperative.
        operation: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A row does not hold what this version writes.
    #[error("database: {what} {key:?} is damaged: {column} is not valid")]
    Damaged {
        /// Kind of the object.
        what: &'static str,
        /// Its key.
        key: String,
        /// The column.
        column: &'static str,
    },
    /// The database was written by a newer version.
    #[error("the database has schema version {found}, this version of keg knows up to {known}")]
    TooNew {
        /// Version in the file.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// No such object.
    #[error("no {what} {key:?} in namespace {namespace}")]
    NotFound {
        /// Kind of the object: "image", "container", "lease", …
        what: &'static str,
        /// Its key.
        key: String,
        /// Where it was looked for.
        namespace: Namespace,
    },
    /// The key is taken.
    #[error("{what} {key:?} exists in namespace {namespace}")]
    Exists {
        /// Kind of the object.
        what: &'static str,
        /// Its key.
        key: String,
        /// Where it exists.
        namespace: Namespace,
    },
    /// The name of a container is taken.
    #[error("the name {name:?} is in use by container {owner}")]
    NameInUse {
        /// The name.
        name: String,
        /// Id of the container that has it.
        owner: String,
    },
    /// Every id range of the pool is taken.
    #[error("all {ranges} id ranges for user namespaces are in use")]
    NoIdRange {
        /// How many the pool has.
        ranges: u32,
    },
    /// The object is needed by another.
    #[error("{what} {key:?} is still needed by {needed_by}")]
    StillNeeded {
        /// Kind of the object.
        what: &'static str,
        /// Its key.
        key: String,
        /// By what.
        needed_by: &'static str,
    },
}

impl MetadataError {
    /// Returns a closure that wraps SQLite's errors.
    pub(crate) fn sql(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sql { operation, source }
    }

    pub(crate) fn not_found(what: &'static str, namespace: &Namespace, key: &str) -> Self {
        Self::NotFound { what, key: key.to_owned(), namespace: namespace.clone() }
    }

    /// Wraps an error of an insert: a violated primary key means that the key is taken.
    pub(crate) fn insert(
        what: &'static str,
        namespace: &Namespace,
        key: &str,
        source: rusqlite::Error,
    ) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => {
                Self::Exists { what, key: key.to_owned(), namespace: namespace.clone() }
            }
            _ => Self::Sql { operation: "insert a row", source },
        }
    }
}

impl Explain for MetadataError {
    fn reason(&self) -> Reason {
        match self {
            Self::Sql { source, .. } => match source.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => Reason::OutOfSpace,
                _ => Reason::StoreFailed,
            },
            Self::NotFound { what: "image", .. } => Reason::ImageNotFound,
            Self::NotFound { what: "container", .. } => Reason::ContainerNotFound,
            Self::NotFound { what: "volume", .. } => Reason::VolumeNotFound,
            Self::StillNeeded { what: "volume", .. } => Reason::VolumeInUse,
            Self::NameInUse { .. } => Reason::NameInUse,
            Self::NoIdRange { .. } => Reason::OutOfSpace,
            Self::Damaged { .. }
            | Self::TooNew { .. }
            | Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::StillNeeded { .. } => Reason::StoreFailed,
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Exists { .. } | Self::NameInUse { .. } => ErrorClass::AlreadyExists,
            Self::TooNew { .. } | Self::StillNeeded { .. } => ErrorClass::FailedPrecondition,
            Self::Damaged { .. } => ErrorClass::DataLoss,
            Self::Sql { .. } | Self::NoIdRange { .. } => self.reason().class(),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Sql { .. } => Some(match self.reason() {
                Reason::OutOfSpace => "free space on the file system of --root".into(),
                _ => "check the disk and the daemon's rights to keg.db under --root".into(),
            }),
            Self::Damaged { .. } => Some("restore keg.db from a backup".into()),
            Self::TooNew { .. } => Some("run the newer version of keg again".into()),
            Self::NotFound { what: "container", .. } => {
                Some("list the containers with `keg ps -a`".into())
            }
            Self::NotFound { what: "image", .. } => {
                Some("list the images with `keg images`, or pull it".into())
            }
            Self::NotFound { what: "volume", .. } => {
                Some("list the volumes with `keg volume ls`".into())
            }
            Self::StillNeeded { what: "volume", .. } => Some(
                "remove the containers that use it first: `keg ps -a --filter volume=NAME` lists \
                 them"
                    .into(),
            ),
            Self::NameInUse { .. } => Some(
                "choose another name, or remove that container with `keg rm`, or rename it".into(),
            ),
            Self::NoIdRange { .. } => {
                Some("remove containers, or run this one with --userns=host".into())
            }
            Self::NotFound { .. } | Self::Exists { .. } | Self::StillNeeded { .. } => None,
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::NotFound { what, key, .. }
            | Self::Exists { what, key, .. }
            | Self::Damaged { what, key, .. }
            | Self::StillNeeded { what, key, .. } => vec![(what, key.clone())],
            Self::NameInUse { name, owner } => {
                vec![("name", name.clone()), ("container", owner.clone())]
            }
            Self::Sql { .. } | Self::TooNew { .. } | Self::NoIdRange { .. } => Vec::new(),
        }
    }
}
