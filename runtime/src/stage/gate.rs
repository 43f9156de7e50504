//! What init waits at between `create` and `start`: a listening socket in the state directory.
//!
//! A socket does what a FIFO cannot: connecting to it fails at once if init is gone, and it carries
//! an answer, so `start` can tell whether the program was executed.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket,
};

use super::message::{ChildEnd, ParentEnd, ToChild};

/// Name of the socket in a container's state directory.
pub const NAME: &str = "start.sock";

/// The short path of the socket, for any length of the directory's.
fn address(directory: impl AsFd) -> Result<UnixAddr, Errno> {
    let number = directory.as_fd().as_raw_fd().to_string();
    let path: PathBuf = Path::new("/proc/self/fd").join(number).join(NAME);
    UnixAddr::new(&path)
}

fn new_socket(flags: SockFlag) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | flags, None)
}

/// Makes the socket in `directory`, for init to inherit.
///
/// # Errors
/// The kernel's.
pub fn create(directory: impl AsFd) -> Result<OwnedFd, Errno> {
    let listener = new_socket(SockFlag::empty())?;
    bind(listener.as_raw_fd(), &address(directory)?)?;
    listen(&listener, Backlog::new(1)?)?;
    Ok(listener)
}

/// Connects to the init that waits in `directory`.
///
/// # Errors
/// The kernel's; `ECONNREFUSED` if init is gone, `ENOENT` if it was started already.
pub fn knock(directory: impl AsFd) -> Result<ParentEnd, Errno> {
    let socket = new_socket(SockFlag::empty())?;
    connect(socket.as_raw_fd(), &address(directory)?)?;
    Ok(ParentEnd::new(socket))
}

/// Whether an init waits in `directory`. The socket's name alone does not tell: a `start` that was killed
/// may have left it. Init takes the visit for a caller that gave up.
#[must_use]
pub fn is_waited_at(directory: impl AsFd) -> bool {
    let visit = || {
        let socket = new_socket(SockFlag::SOCK_NONBLOCK)?;
        connect(socket.as_raw_fd(), &address(directory)?)
    };
    // The queue is full where init does not answer now, since it is frozen or about to execute.
    matches!(visit(), Ok(()) | Err(Errno::EAGAIN))
}

/// Waits for a `start` that means it: one that ends before it has asked for the execution is as if
/// it had not come.
///
/// # Errors
/// The kernel's.
pub fn wait(listener: &OwnedFd) -> Result<ChildEnd, Errno> {
    loop {
        let accepted = match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => crate::sys::fd::take(fd),
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            Err(errno) => return Err(errno),
        };
        let channel = ChildEnd::new(accepted);
        if channel.receive() == Ok(Some(ToChild::Execute)) {
            return Ok(channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_caller_that_gives_up_does_not_open_the_gate() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        let listener = create(&directory).unwrap();
        drop(knock(&directory).unwrap());
        // The queue holds one caller, so the second comes once the first has been looked at.
        let second = std::thread::spawn(move || {
            let channel = knock(&directory).unwrap();
            channel.send(ToChild::Execute).unwrap();
            channel.receive().unwrap()
        });

        let channel = wait(&listener).unwrap();
        drop(channel);

        assert_eq!(second.join().unwrap(), None, "the end of the stream is the good news");
    }

    #[test]
    fn a_gate_without_init_refuses_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        drop(create(&directory).unwrap());

        assert_eq!(knock(&directory).unwrap_err(), Errno::ECONNREFUSED);
    }

    #[test]
    fn a_name_without_a_listener_is_no_gate_and_a_full_queue_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        assert!(!is_waited_at(&directory));
        let listener = create(&directory).unwrap();

        // Nobody accepts: the queue is full after some of them.
        for visit in 0..8 {
            assert!(is_waited_at(&directory), "visit {visit}");
        }
        drop(listener);

        assert!(!is_waited_at(&directory));
    }
}
