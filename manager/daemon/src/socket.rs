//! The sockets that clients connect to.
//!
//! A unix socket admits root, and the group `keg` if the host has one: who may speak to the daemon
//! is root, as with every engine that starts containers. For TCP see [`tls`](crate::tls).

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The group whose members may speak to the daemon.
const GROUP: &str = "keg";

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Neither of the forms that are known.
    #[error("{uri:?} is not an address to listen on: give unix:///PATH or tcp://HOST:PORT")]
    Uri {
        /// What was given.
        uri: String,
    },
    /// Somebody serves it.
    #[error("another daemon serves {path:?}: stop it, or give --state and --listen of your own")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot make the socket {path:?}")]
    Make {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An address that can be listened on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// HOST:PORT.
    Tcp(String),
}

impl Address {
    /// Reads `unix:///PATH` or `tcp://HOST:PORT`.
    ///
    /// # Errors
    /// [`SocketError::Uri`].
    pub(crate) fn parse(uri: &str) -> Result<Self, SocketError> {
        if let Some(path) = uri.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let address = uri.strip_prefix("tcp://").filter(|address| {
            let parts = address.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        });
        match address {
            Some(address) => Ok(Self::Tcp(address.to_owned())),
            None => Err(SocketError::Uri { uri: uri.to_owned() }),
        }
    }
}

/// Makes the socket `path` and listens on it.
///
/// # Errors
/// [`SocketError`]; a socket that somebody serves is not taken away.
pub(crate) fn listen(path: PathBuf) -> Result<(UnixListener, PathBuf), SocketError> {
    remove_stale(&path)?;
    let fail = |source| SocketError::Make { path: path.clone(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    // Until the mode is set, it is the umask's, which lets nobody but the owner write: connect(2)
    // needs that.
    let listener = UnixListener::bind(&path).map_err(fail)?;
    let group = nix::unistd::Group::from_name(GROUP).ok().flatten();
    let mode = match group {
        Some(group) => {
            std::os::unix::fs::chown(&path, None, Some(group.gid.as_raw())).map_err(fail)?;
            0o660
        }
        None => 0o600,
    };
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).map_err(fail)?;
    Ok((listener, path))
}

/// Removes a socket that a dead daemon left.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let fail = |source| SocketError::Make { path: path.to_owned(), source };
            // The kernel refuses a connection to any file; only a socket may be removed.
            if std::fs::symlink_metadata(path).map_err(fail)?.file_type().is_socket() {
                std::fs::remove_file(path).map_err(fail)
            } else {
                Err(fail(io::ErrorKind::AlreadyExists.into()))
            }
        }
        Err(source) => Err(SocketError::Make { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/kegd.sock");
        let (first, _) = listen(path.clone()).unwrap();

        assert!(matches!(listen(path.clone()), Err(SocketError::InUse { .. })));
        drop(first);
        assert!(path.exists());
        // A process that another test is just starting may have it for a moment, too.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let again = loop {
            match listen(path.clone()) {
                Err(SocketError::InUse { .. }) if std::time::Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                other => break other,
            }
        };
        again.unwrap();
    }

    #[tokio::test]
    async fn strangers_are_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kegd.sock");

        let _listening = listen(path.clone()).unwrap();

        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{mode:o}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();

        // connect(2) refuses a file that is no socket just as one that nobody serves.
        let outcome = listen(path.clone());

        assert!(outcome.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn addresses_of_other_forms_are_refused() {
        for uri in
            ["", "/run/keg.sock", "unix://relative", "tcp://127.0.0.1", "tcp://:1", "tcp://h:x"]
        {
            assert!(matches!(Address::parse(uri), Err(SocketError::Uri { .. })), "{uri:?}");
        }
        assert_eq!(Address::parse("tcp://[::1]:2376").unwrap(), Address::Tcp("[::1]:2376".into()));
        assert_eq!(Address::parse("unix:///a").unwrap(), Address::Unix("/a".into()));
    }
}
