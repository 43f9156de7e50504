//! Why a tree was not archived.

use std::borrow::Cow;
use std::io;

use keg_store::{Explain, Reason, io_reason};

/// Why a tree was not archived.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A file of the tree cannot be read.
    #[error("cannot {operation} {path:?}")]
    Read {
        /// Its path below the tree's root.
        path: String,
        /// What was to be done, as an imperative.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An archive cannot hold the file.
    #[error("{path:?} cannot be a part of a layer: {problem}")]
    Unrepresentable {
        /// Its path below the tree's root.
        path: String,
        /// Why not.
        problem: &'static str,
    },
    /// The archive cannot be written.
    #[error("the archive cannot be written")]
    Write {
        /// What the writer said.
        #[source]
        source: io::Error,
    },
}

impl DiffError {
    /// Wraps what a system call said of a path.
    pub(super) fn read<E: Into<io::Error>>(
        path: &[u8],
        operation: &'static str,
    ) -> impl FnOnce(E) -> Self {
        let path = String::from_utf8_lossy(path).into_owned();
        move |source| Self::Read { path, operation, source: source.into() }
    }

    /// Wraps what the writer said.
    pub(super) fn write(source: io::Error) -> Self {
        Self::Write { source }
    }

    /// Refuses a path.
    pub(super) fn refused(path: &[u8], problem: &'static str) -> Self {
        Self::Unrepresentable { path: String::from_utf8_lossy(path).into_owned(), problem }
    }
}

impl Explain for DiffError {
    fn reason(&self) -> Reason {
        match self {
            Self::Read { source, .. } | Self::Write { source } => io_reason(source),
            Self::Unrepresentable { .. } => Reason::InvalidArgument,
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Read { .. } => "check the file system of --root".into(),
            Self::Unrepresentable { .. } => "rename or remove it in the container".into(),
            Self::Write { source } if io_reason(source) == Reason::OutOfSpace => {
                "free space on the file system that is written to".into()
            }
            Self::Write { .. } => "try again; if it is the disk, check it".into(),
        })
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Read { path, .. } | Self::Unrepresentable { path, .. } => {
                vec![("path", path.clone())]
            }
            Self::Write { .. } => Vec::new(),
        }
    }
}
