//! Handing the descriptor of notifications to the agent (runtime-spec, config-linux.md, “The Container
//! Process State”).

use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use oci_spec::runtime::{ContainerProcessState, SECCOMP_FD_NAME, State, VERSION};

use super::Listener;

/// Why the agent did not get the descriptor.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Nobody listens on the socket.
    #[error("linux.seccomp.listenerPath: connect to the agent at {path:?}; is it running?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The message could not be written.
    #[error("describe the container to the seccomp agent")]
    Describe(#[source] serde_json::Error),
    /// The message could not be sent.
    #[error("send the seccomp descriptor to the agent at {path:?}")]
    Send {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
}

/// Connects to the agent, and sends it the state of the container with the descriptor. `pid` is the
/// process that the filter is about, as the host sees it.
///
/// # Errors
/// [`ListenerError`]; the container must not go on then, since its calls would never be answered.
pub fn send_listener(
    listener: &Listener,
    state: State,
    pid: i32,
    descriptor: BorrowedFd<'_>,
) -> Result<(), ListenerError> {
    let path = &listener.path;
    let mut message = ContainerProcessState::default();
    message
        .set_version(VERSION.into())
        .set_fds(vec![SECCOMP_FD_NAME.into()])
        .set_pid(pid)
        .set_metadata(listener.metadata.clone())
        .set_state(state);
    let message = serde_json::to_vec(&message).map_err(ListenerError::Describe)?;

    let cannot_connect = |errno| ListenerError::Connect { path: path.clone(), errno };
    let kind = SockType::Stream;
    let stream =
        socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).map_err(cannot_connect)?;
    let address = UnixAddr::new(path).map_err(cannot_connect)?;
    connect(stream.as_raw_fd(), &address).map_err(cannot_connect)?;

    let mut rest = message.as_slice();
    let descriptors = [descriptor.as_raw_fd()];
    let mut rights = vec![ControlMessage::ScmRights(&descriptors)];
    while !rest.is_empty() {
        let part = [IoSlice::new(rest)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = sendmsg::<UnixAddr>(stream.as_raw_fd(), &part, &rights, flags, None)
            .map_err(|errno| ListenerError::Send { path: path.clone(), errno })?;
        rest = rest.get(sent..).unwrap_or_default();
        // The descriptor goes with the first bytes.
        rights.clear();
    }
    Ok(())
}
