//! The sockets that clients connect to.
//!
//! A unix socket admits root, and the group `keg` if the host has one: who may speak to the daemon
//! is root, as with every engine that starts containers.

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
    #[error("{uri:?} is not an address to listen on: give unix:///PATH")]
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

/// Makes the socket that `uri` names and listens on it.
///
/// # Errors
/// [`SocketError`]; a socket that somebody serves is not taken away.
pub(crate) fn listen(uri: &str) -> Result<(UnixListener, PathBuf), SocketError> {
    let path = match uri.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => PathBuf::from(path),
        _ => return Err(SocketError::Uri { uri: uri.to_owned() }),
    };
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

    fn uri(path: &Path) -> String {
        format!("unix://{}", path.display())
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/kegd.sock");
        let (first, _) = listen(&uri(&path)).unwrap();

        assert!(matches!(listen(&uri(&path)), Err(SocketError::InUse { .. })));
        drop(first);
        assert!(path.exists());
        listen(&uri(&path)).unwrap();
    }

    #[tokio::test]
    async fn strangers_are_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kegd.sock");

        let _listening = listen(&uri(&path)).unwrap();

        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{mode:o}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();

        // connect(2) refuses a file that is no socket just as one that nobody serves.
        let outcome = listen(&uri(&path));

        assert!(outcome.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test]
    async fn addresses_of_other_forms_are_refused() {
        for uri in ["", "/run/keg.sock", "unix://relative", "tcp://127.0.0.1:1"] {
            assert!(matches!(listen(uri), Err(SocketError::Uri { .. })), "{uri:?}");
        }
    }
}
