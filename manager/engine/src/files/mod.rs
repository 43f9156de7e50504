//! Files of containers: copied in and out, compared, exported, made an image.
//!
//! ```text
//!  runs      ─▶ /proc/PID/root                               ┐
//!  does not  ─▶ Task.Create without Task.Start ─▶ the same   ┴▶ View ─▶ copy, stat
//!  export, diff, commit ─▶ the snapshot's directories, whether it runs or not
//! ```
//!
//! A view is the container's own root, with all that is mounted in it, as a
//! descriptor. A container that does not run is made to have one by any runtime there is: it is
//! made, looked at and deleted, and its program never runs.
//!
//! Invariant: the kernel resolves every path below that descriptor (`RESOLVE_IN_ROOT`, no magic
//! links), and what is opened, made or removed in the end is a name in a directory that is open.
//! So nothing that a container does with links, before or meanwhile, leads out of it
//! (CVE-2018-15664).

mod commit;
mod copy;
mod export;
mod path;
mod stream;
mod view;

pub use commit::CommitOptions;
pub use copy::{CopySource, CopyTo, CopyToTarget};
pub use path::PathStat;
pub use stream::ByteStream;

use std::borrow::Cow;

use keg_image::diff::{IdExtent, Owners};
use keg_store::{Explain, Reason, io_reason};

use crate::model::Record;

/// How the ids of a container's files are told on the disk.
pub(crate) fn owners(record: &Record) -> Owners {
    let extents: Vec<IdExtent> = record
        .id_range
        .map(|range| IdExtent { container: 0, host: range.start, count: range.length })
        .into_iter()
        .collect();
    Owners::mapped(extents.clone(), extents)
}

/// Why a container's files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Nothing is there.
    #[error("no such file or directory: {path}")]
    NotFound {
        /// Path in the container.
        path: String,
    },
    /// It must be a directory.
    #[error("not a directory: {path}")]
    NotADirectory {
        /// Path in the container.
        path: String,
    },
    /// It must not be a directory.
    #[error("cannot copy a directory over {path}, which is a file")]
    DirectoryOverFile {
        /// Path in the container.
        path: String,
    },
    /// The kernel makes it up.
    #[error("{path} is no file: the kernel makes it up")]
    Kernel {
        /// Path in the container.
        path: String,
    },
    /// Links lead in a circle.
    #[error("too many symbolic links in {path}")]
    LinkLoop {
        /// Path in the container.
        path: String,
    },
    /// A system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was to be done, as an imperative.
        action: &'static str,
        /// Path in the container.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The files cannot be read.
    #[error(transparent)]
    Archive(keg_image::diff::DiffError),
    /// The archive cannot be extracted.
    #[error(transparent)]
    Extract(keg_image::extract::ExtractError),
}

impl FilesError {
    /// Wraps what the kernel said of a path.
    pub(crate) fn at<E: Into<std::io::Error>>(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(E) -> Self {
        use std::io::ErrorKind;

        let path = path.to_string_lossy().into_owned();
        move |source| {
            let source = source.into();
            match source.kind() {
                ErrorKind::NotFound => Self::NotFound { path },
                ErrorKind::NotADirectory => Self::NotADirectory { path },
                _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                    Self::LinkLoop { path }
                }
                _ => Self::Io { action, path, source },
            }
        }
    }
}

impl Explain for FilesError {
    fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } => Reason::PathNotFound,
            Self::NotADirectory { .. }
            | Self::DirectoryOverFile { .. }
            | Self::Kernel { .. }
            | Self::LinkLoop { .. } => Reason::InvalidArgument,
            Self::Io { source, .. } => io_reason(source),
            Self::Archive(error) => error.reason(),
            Self::Extract(error) => error.reason(),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::NotFound { .. } => Some("look what is there by `keg exec CONTAINER ls`".into()),
            Self::NotADirectory { .. } => Some("leave out the slash at its end".into()),
            Self::DirectoryOverFile { .. } => Some("name a directory, or remove the file".into()),
            Self::Kernel { .. } => Some("read it by `keg exec CONTAINER cat`".into()),
            Self::LinkLoop { .. } => None,
            Self::Io { .. } => Some("check the file system of --root".into()),
            Self::Archive(error) => error.remedy(),
            // The archive of a copy is the client's own, and never an image's.
            Self::Extract(_) => None,
        }
    }
}
