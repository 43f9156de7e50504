//! Why an archive was not extracted.

use std::borrow::Cow;
use std::io;

use keg_store::{Explain, Reason, io_reason};

/// Why an archive was not extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive ends early, or its compression is damaged.
    #[error("the archive cannot be read to its end")]
    Read {
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// The archive is compressed in a way that is not supported.
    #[error("the archive is compressed by {format}")]
    Compression {
        /// Name of the format.
        format: &'static str,
    },
    /// The archive's structure is broken.
    #[error("the archive is malformed: {problem}")]
    Archive {
        /// What is wrong.
        problem: &'static str,
    },
    /// An entry cannot be what it says.
    #[error("entry {entry:?} of the archive is refused: {problem}")]
    Entry {
        /// Its name.
        entry: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The archive is larger than anybody needs.
    #[error("the archive has more than {limit} {of}, the limit")]
    Limit {
        /// The limit.
        limit: u64,
        /// Of what.
        of: &'static str,
    },
    /// An entry cannot be made on this file system.
    #[error("entry {entry:?}: cannot {operation}")]
    Io {
        /// Its name.
        entry: String,
        /// What was to be done, as an imperative.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Explain for ExtractError {
    fn reason(&self) -> Reason {
        match self {
            Self::Io { source, .. } => io_reason(source),
            Self::Read { .. }
            | Self::Compression { .. }
            | Self::Archive { .. }
            | Self::Entry { .. }
            | Self::Limit { .. } => Reason::ImageMalformed,
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Read { .. } => "get the archive again: it is truncated or damaged".into(),
            Self::Compression { .. } => "compress it by gzip or zstd, or not at all".into(),
            Self::Archive { .. } | Self::Entry { .. } => {
                "do not trust the archive; if it is yours, make it again with a current tool".into()
            }
            Self::Limit { .. } => {
                "do not trust the archive; if it is yours, raise the limit in the daemon's \
                 configuration"
                    .into()
            }
            Self::Io { source, .. } if io_reason(source) == Reason::OutOfSpace => {
                "free space on the file system of --root".into()
            }
            Self::Io { .. } => {
                "check the file system of --root, and that the daemon runs as root".into()
            }
        })
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Entry { entry, .. } | Self::Io { entry, .. } => vec![("entry", entry.clone())],
            _ => Vec::new(),
        }
    }
}
