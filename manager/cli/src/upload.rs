//! Archives on their way between files, pipes and the daemon.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::Stream;
use futures_util::stream;
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::terminal::stdio::Stdio;

/// Bytes of an archive in one message.
const PIECE_BYTES: usize = 256 * 1024;

/// The archive cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {}", path.display())]
struct OpenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Opens an archive, or standard input for `-`, for waiting or for reading at once.
///
/// # Errors
/// A [`Failure`] that names the file.
pub(crate) fn open(path: &Path) -> Result<Stdio<File>, Failure> {
    let file = if path.as_os_str() == "-" {
        rustix::io::dup(rustix::stdio::stdin()).map(File::from).map_err(io::Error::from)
    } else {
        File::open(path)
    };
    file.map(Stdio::new)
        .map_err(|source| Failure::client(OpenError { path: path.to_owned(), source }))
}

/// Opens a directory as an archive of what is in it, written as it is read.
///
/// # Errors
/// A [`Failure`] that names the directory.
pub(crate) fn of_directory(path: &Path) -> Result<Stdio<File>, Failure> {
    let failed = |source| Failure::client(OpenError { path: path.to_owned(), source });
    let (reader, writer) = io::pipe().map_err(failed)?;
    let directory = path.to_owned();
    // On a thread of its own: it writes into the pipe that this one reads. A reader that leaves ends
    // it, and so does a file that vanishes: the archive is then cut, which the daemon tells.
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(writer);
        archive.follow_symlinks(true);
        let written = archive.append_dir_all("", &directory).and_then(|()| archive.finish());
        if let Err(error) = written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let failure = Failure::client(OpenError { path: directory, source: error });
            crate::output::complain(&failure.render());
        }
    });
    Ok(Stdio::new(File::from(std::os::fd::OwnedFd::from(reader))))
}

/// The messages of a call: the first, then the archive. A failed read ends them, and is reported
/// aside.
pub(crate) fn pieces<M: Send + 'static>(
    archive: Stdio<File>,
    first: M,
    message: impl Fn(Vec<u8>) -> M + Copy + Send + 'static,
    failed: oneshot::Sender<io::Error>,
) -> impl Stream<Item = M> + Send + 'static {
    let rest = stream::unfold((archive, failed), move |(archive, failed)| async move {
        let mut piece = vec![0; PIECE_BYTES];
        match archive.read(&mut piece).await {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                Some((message(piece), (archive, failed)))
            }
            Err(error) => {
                // Nobody waits for it only if the call has failed already.
                let _ = failed.send(error);
                None
            }
        }
    });
    stream::StreamExt::chain(stream::iter([first]), rest)
}
