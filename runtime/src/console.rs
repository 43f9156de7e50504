//! Pseudo-terminals: made in the container's own devpts, handed out by descriptor.
//!
//! The master comes from the container's `/dev/pts/ptmx`, the other end by `TIOCGPTPEER` from the
//! master: no name in `/dev/pts` is ever looked up, so nothing there can be swapped
//! (CVE-2025-52565).

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::plan::process::ConsoleSize;
use crate::rootfs::devices::{DEVPTS, is_character_device};
use crate::rootfs::resolve::Root;
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys::AsErrno;

/// Why the console socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// It cannot be connected to.
    #[error("connect to the console socket {path:?} (--console-socket)")]
    Connect {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// `process.terminal` and `--console-socket` contradict each other.
    #[error("process.terminal is true: give --console-socket, which receives the terminal")]
    SocketMissing,
    /// The other way round.
    #[error("--console-socket is of no use: process.terminal is false, or --detach is missing")]
    SocketUseless,
}

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end of whoever shows the terminal.
    pub master: OwnedFd,
    /// The end of the container's process.
    pub peer: OwnedFd,
}

impl Pty {
    /// Opens a pair in the devpts at `/dev/pts` below `root`.
    ///
    /// # Errors
    /// The kernel's; `ENOTTY` if what is there is no devpts of the kernel's making.
    pub fn open(root: &Root, size: Option<ConsoleSize>) -> Result<Self, Errno> {
        let master = root.open(
            Path::new("/dev/pts/ptmx"),
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK,
        )?;
        Self::from_master(master, size)
    }

    fn from_master(master: OwnedFd, size: Option<ConsoleSize>) -> Result<Self, Errno> {
        if fstatfs(&master)?.filesystem_type() != DEVPTS || !is_character_device(&master, 5, 2)? {
            return Err(Errno::ENOTTY);
        }
        nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_RDWR))?;
        unlockpt(&master).map_err(|error| error.as_errno())?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let peer = ioctl_tiocgptpeer(&master, flags).map_err(|error| error.as_errno())?;
        if let Some(ConsoleSize { rows, columns }) = size {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&master, size).map_err(|error| error.as_errno())?;
        }
        Ok(Self { master, peer })
    }
}

/// Connects to the socket at `path`, which may be longer than a socket address can be.
///
/// # Errors
/// [`ConsoleError::Connect`].
pub fn connect_socket(path: &Path) -> Result<OwnedFd, ConsoleError> {
    connect_stream(path).map_err(|errno| ConsoleError::Connect { path: path.to_owned(), errno })
}

/// Connects a stream socket to `path` through a descriptor of the directory.
///
/// # Errors
/// The kernel's.
pub fn connect_stream(path: &Path) -> Result<OwnedFd, Errno> {
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(&short)?)?;
    Ok(socket)
}

/// Sends `master` over a connected socket, as runc does: with a name as the message.
///
/// # Errors
/// The kernel's.
pub fn send_master(socket: impl AsFd, master: impl AsFd) -> Result<(), Errno> {
    send_descriptor(socket, b"/dev/ptmx", master)
}

/// Sends `message` with one descriptor attached.
///
/// # Errors
/// The kernel's.
pub fn send_descriptor(
    socket: impl AsFd,
    message: &[u8],
    descriptor: impl AsFd,
) -> Result<(), Errno> {
    let descriptors = [descriptor.as_fd().as_raw_fd()];
    sendmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(message)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// Who receives a terminal.
#[derive(Debug)]
pub struct Receiver {
    /// Connected to it.
    pub socket: OwnedFd,
    /// Whether it passes on what the container writes as it was written, also to a file or a pipe: the
    /// terminal does not turn line ends into two characters then.
    pub is_plain: bool,
}

impl Receiver {
    /// Opens a terminal below `root`, hands it over and returns the process's end.
    ///
    /// # Errors
    /// [`Step::Console`], [`Step::ConsoleSend`].
    pub fn give(self, root: &Root, size: Option<ConsoleSize>) -> Result<OwnedFd, Failure> {
        let pty = Pty::open(root, size).at(Step::Console)?;
        if self.is_plain {
            let mut settings = tcgetattr(&pty.peer).at(Step::Console)?;
            settings.output_modes.remove(OutputModes::ONLCR);
            tcsetattr(&pty.peer, OptionalActions::Now, &settings).at(Step::Console)?;
        }
        send_master(self.socket, &pty.master).at(Step::ConsoleSend)?;
        Ok(pty.peer)
    }
}

/// Makes `peer` the controlling terminal and the standard streams. The caller leads a session that
/// has no terminal yet.
///
/// # Errors
/// The kernel's.
pub fn adopt_terminal(peer: &OwnedFd) -> Result<(), Errno> {
    rustix::process::ioctl_tiocsctty(peer).map_err(|error| error.as_errno())?;
    dup2_stdin(peer)?;
    dup2_stdout(peer)?;
    dup2_stderr(peer)
}

#[cfg(test)]
mod tests {
    use nix::fcntl::open;

    use super::*;

    fn host() -> Root {
        Root::new(open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap())
    }

    #[test]
    fn a_pair_is_connected_and_has_the_size_asked_for() {
        let size = ConsoleSize { rows: 31, columns: 77 };

        let pty = Pty::open(&host(), Some(size)).unwrap();

        let seen = rustix::termios::tcgetwinsize(&pty.peer).unwrap();
        assert_eq!((seen.ws_row, seen.ws_col), (31, 77));
    }

    #[test]
    fn a_device_that_is_no_devpts_is_refused() {
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).unwrap();

        assert_eq!(Pty::from_master(null, None).unwrap_err(), Errno::ENOTTY);
    }

    #[test]
    fn a_socket_is_reached_below_a_very_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let handle = open(&deep, flags, Mode::empty()).unwrap();
        let short = format!("/proc/self/fd/{}/s", handle.as_raw_fd());
        let _listener = std::os::unix::net::UnixListener::bind(short).unwrap();

        assert!(connect_stream(&deep.join("s")).is_ok());
    }
}
