//! Tells the service manager how far the daemon is (sd_notify(3)), where there is one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Clients are served.
    Ready,
    /// No new clients are served.
    Stopping,
}

/// Tells it. A service manager that does not listen does not keep the daemon from working.
pub(crate) fn notify(state: State) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let message = match state {
        State::Ready => "READY=1\nSTATUS=Serving",
        State::Stopping => "STOPPING=1",
    };
    if let Err(error) = send(path.as_bytes(), message) {
        tracing::warn!(socket = ?path, %error, "cannot tell the service manager");
    }
}

/// A name that begins with `@` is in the abstract namespace (unix(7)).
fn send(path: &[u8], message: &str) -> std::io::Result<()> {
    let address = match path.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_arrives_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("keg-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();

        send(path.as_os_str().as_bytes(), "READY=1").unwrap();
        send(format!("@{name}").as_bytes(), "STOPPING=1").unwrap();

        let mut buffer = [0; 32];
        let length = by_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        let length = by_name.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }
}
