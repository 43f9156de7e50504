//! What becomes of a result on the client's side: an archive in a file or a pipe, or files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where the archive goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
    /// A directory, in which the archive is unpacked.
    Directory(PathBuf),
}

/// Takes the archive, piece by piece.
#[derive(Debug)]
pub(crate) enum Sink {
    Stdout(io::Stdout),
    File { file: File, unfinished: PathBuf, path: PathBuf },
    Directory(Child),
}

impl Sink {
    /// Makes ready for the archive.
    pub(crate) fn open(destination: &Destination) -> io::Result<Self> {
        match destination {
            Destination::Stdout => Ok(Self::Stdout(io::stdout())),
            Destination::File(path) => {
                let mut unfinished = path.clone().into_os_string();
                unfinished.push(".part");
                let unfinished = PathBuf::from(unfinished);
                let file = File::options()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o644)
                    .open(&unfinished)?;
                Ok(Self::File { file, unfinished, path: path.clone() })
            }
            Destination::Directory(path) => {
                fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
                Ok(Self::Directory(unpacker(path)?))
            }
        }
    }

    /// Takes a piece.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(bytes),
            Self::File { file, .. } => file.write_all(bytes),
            Self::Directory(child) => match child.stdin.as_mut() {
                Some(stdin) => stdin.write_all(bytes),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    /// Ends the archive: only now a file has its name.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout(mut stdout) => stdout.flush(),
            Self::File { file, unfinished, path } => {
                drop(file);
                fs::rename(unfinished, path)
            }
            Self::Directory(mut child) => {
                drop(child.stdin.take());
                let status = child.wait()?;
                if status.success() {
                    return Ok(());
                }
                Err(io::Error::other(format!("tar ended with {status}")))
            }
        }
    }
}

/// Runs tar(1) to unpack into a directory; owners are kept only by root, as tar does.
fn unpacker(path: &Path) -> io::Result<Child> {
    Command::new("tar")
        .arg("-x")
        .arg("-C")
        .arg(path)
        .arg("-f")
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
}
