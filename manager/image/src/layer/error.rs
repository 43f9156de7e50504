//! Why a layer could not be unpacked.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use keg_store::{Explain, Reason, io_reason};
use rustix::io::Errno;

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The bytes are no tar archive, or it is cut off, or the reader failed.
    #[error("read the archive after entry {entry}")]
    Read {
        /// How many entries were read before.
        entry: u64,
        /// What the parser or the reader says.
        #[source]
        source: io::Error,
    },
    /// A name leads out of the layer, or is none.
    #[error("entry {entry}: {name:?} {why}")]
    Name {
        /// Position in the archive, from 1.
        entry: u64,
        /// The name, as it stands there.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An extended header is malformed or of a kind that is not supported.
    #[error("entry {entry}: extended header {key:?} {why}")]
    Header {
        /// Position in the archive, from 1.
        entry: u64,
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A limit of [`UnpackOptions`](super::UnpackOptions) is reached.
    #[error("the layer has more than {limit} {what}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The file system refused an operation on an entry.
    #[error("entry {entry}: {operation} {path:?}")]
    Apply {
        /// Position in the archive, from 1.
        entry: u64,
        /// What was tried.
        operation: &'static str,
        /// On what, relative to the layer's root.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The layer's own directory cannot be used.
    #[error("open the layer's directory {path:?}")]
    Root {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

impl Explain for UnpackError {
    fn reason(&self) -> Reason {
        match self {
            Self::Apply { source, .. } if asks_for_the_impossible(source) => Reason::ImageMalformed,
            Self::Apply { source, .. } => io_reason(source),
            Self::Root { source, .. } => io_reason(source),
            Self::Read { .. } | Self::Name { .. } | Self::Header { .. } | Self::Limit { .. } => {
                Reason::ImageMalformed
            }
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed(match self.reason() {
            Reason::OutOfSpace => {
                "free space on the file system of --root, for example by removing unused images"
            }
            Reason::StoreFailed => {
                "check the disk, and that --root belongs to the daemon's user and is writable"
            }
            _ => "the layer is damaged or was made to do harm: build or push the image anew",
        }))
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Apply { path, .. } | Self::Root { path, .. } => {
                vec![("path", path.display().to_string())]
            }
            Self::Name { name, .. } => vec![("path", name.clone())],
            Self::Read { .. } | Self::Header { .. } | Self::Limit { .. } => Vec::new(),
        }
    }
}

/// Whether the archive asks for what cannot be: a link to nothing, a file below a file.
fn asks_for_the_impossible(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::NOENT
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::XDEV
                | Errno::INVAL
                | Errno::NAMETOOLONG
                | Errno::LOOP
        )
    )
}
