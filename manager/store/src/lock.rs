//! The lock that keeps two daemons from sharing one root.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Holds a root until it is dropped, or the process ends however it ends.
#[derive(Debug)]
pub(crate) struct RootLock {
    _file: Flock<File>,
}

/// Why a root could not be locked.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process holds it; its process id if it could be read.
    Held { pid: Option<u32> },
    /// The lock file could not be made or written.
    Io(io::Error),
}

impl RootLock {
    /// Takes the lock file at `path`, without waiting, and writes this process's id into it.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(LockError::Io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(LockError::Io)?;
                file.rewind().map_err(LockError::Io)?;
                writeln!(file, "{}", std::process::id()).map_err(LockError::Io)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let pid =
                    file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                Err(LockError::Held { pid })
            }
            Err((_, errno)) => Err(LockError::Io(errno.into())),
        }
    }
}
