//! A container's terminal: the runtime makes it and sends its master over a socket.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};

use super::{StdioError, set_nonblocking};
use crate::sys;

/// How long a runtime that has ended may take to have sent the terminal.
const RECEIVE_LIMIT: Duration = Duration::from_secs(5);

/// A terminal's master.
#[derive(Debug)]
pub(crate) struct Console(AsyncFd<OwnedFd>);

impl Console {
    pub(super) fn fd(&self) -> &AsyncFd<OwnedFd> {
        &self.0
    }

    pub(super) fn resize(&self, columns: u32, rows: u32) -> io::Result<()> {
        let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let size =
            Winsize { ws_row: cells(rows), ws_col: cells(columns), ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }
}

/// The socket over which a master comes. Its file goes with it.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Binds a socket of its own beside `base`.
    pub(super) fn bind(base: &Path) -> Result<Self, StdioError> {
        for number in 0.. {
            let mut path = base.as_os_str().to_owned();
            path.push(format!(".{number}"));
            let path = PathBuf::from(path);
            match UnixListener::bind(&path) {
                Ok(listener) => return Ok(Self { listener, path }),
                // Another process of the container is being made.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && number < 1024 => {}
                Err(source) => return Err(StdioError::ConsoleSocket { path, source }),
            }
        }
        Err(StdioError::ConsoleSocket {
            path: base.to_owned(),
            source: io::ErrorKind::AddrInUse.into(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the master that the runtime sent before it ended.
    pub(super) async fn receive(&self) -> Result<Console, StdioError> {
        let late = |_| StdioError::NoTerminal(io::ErrorKind::TimedOut.into());
        tokio::time::timeout(RECEIVE_LIMIT, self.accept_master())
            .await
            .map_err(late)?
            .map_err(StdioError::NoTerminal)
    }

    async fn accept_master(&self) -> io::Result<Console> {
        let (stream, _) = self.listener.accept().await?;
        let master = stream.async_io(Interest::READABLE, || receive_descriptor(&stream)).await?;
        set_nonblocking(&master)?;
        Ok(Console(sys::watch_descriptor(master, Interest::READABLE | Interest::WRITABLE)?))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Nothing depends on it any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn receive_descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    let received =
        recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
