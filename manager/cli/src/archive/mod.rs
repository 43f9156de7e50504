//! Archives of files on the client's side: what `cp` sends and receives.
//!
//! A daemon may be on another machine, so that files here are this program's business.

mod pack;
mod unpack;

use std::path::PathBuf;

pub(crate) use pack::pack;
pub(crate) use unpack::{Unpack, unpack};

/// What went wrong with files here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    /// A system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was to be done, as an imperative.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The archive is no archive, or leads out of the directory.
    #[error("the daemon sent {path:?}, which is no name in a copy")]
    Name {
        /// The name in the archive.
        path: String,
    },
    /// The archive ends early.
    #[error("the copy broke off")]
    Read(#[source] std::io::Error),
    /// Nobody takes the archive any more; whoever took it says why.
    #[error("the copy was not taken to its end")]
    Write(#[source] std::io::Error),
    /// A directory would take the place of a file, or the other way round.
    #[error("{} is there and is {}a directory", path.display(), if *.is_dir { "" } else { "not " })]
    Kind {
        /// Where.
        path: PathBuf,
        /// Whether what is there is a directory.
        is_dir: bool,
    },
}

impl LocalError {
    fn at<E: Into<std::io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: source.into() }
    }
}
