//! A `create` that stays until the `start`: a supervisor that calls both saves the second execution.
//!
//! ```text
//! supervisor                              keg-runtime create
//!   ├─ KEG_STANDBY_FD=N, a stream socket ──▶ makes the container, as ever
//!   │ ◀─────────────────────── CREATED ─────┤ waits; streams, locks and mounts are let go
//!   ├─ START ──────────────────────────────▶ the command `start`
//!   │ ◀─────────────────────── STARTED ─────┤ ends; without it, log and exit code say why
//! ```
//!
//! It ends, too, when the socket is closed and when the container's init has died: that becomes the
//! orphan of whoever adopts it, as after any `create`. The command `start` can be used at any time. Errors
//! go to the log; without `--log` nothing waits.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, read, write};

use super::{CommandError, passed};
use crate::log::Log;

/// Where the caller tells the socket's number.
const VARIABLE: &str = "KEG_STANDBY_FD";

const CREATED: u8 = b'c';
const START: u8 = b's';
const STARTED: u8 = b'r';

/// The socket to whoever starts the container.
#[derive(Debug)]
pub(super) struct Standby(OwnedFd);

impl Standby {
    /// Takes the socket, if there is one.
    ///
    /// # Errors
    /// If what is told is the number of no socket.
    pub(super) fn asked_for(log: &Log) -> Result<Option<Self>, CommandError> {
        if log.is_stderr() {
            return Ok(None);
        }
        let Some(socket) = passed::descriptor(VARIABLE)? else { return Ok(None) };
        getsockopt(&socket, sockopt::SockType).map_err(|errno| passed::useless(VARIABLE, errno))?;
        Ok(Some(Self(socket)))
    }

    /// Says that the container is there, waits, and calls `start` if that is what comes.
    ///
    /// # Errors
    /// What `start` fails with, and the kernel's.
    pub(super) fn start_when_told(
        self,
        init: &OwnedFd,
        start: impl FnOnce() -> Result<u8, CommandError>,
    ) -> Result<(), CommandError> {
        let talk = || CommandError::kernel("talk to the supervisor");
        leave_streams()?;
        match write(&self.0, &[CREATED]) {
            Ok(_) => {}
            // It has no interest in it.
            Err(Errno::EPIPE) => return Ok(()),
            Err(errno) => return Err(talk()(errno)),
        }
        if !self.is_told(init).map_err(talk())? {
            return Ok(());
        }
        start()?;
        // Who asked may have gone since.
        let _ = write(&self.0, &[STARTED]);
        Ok(())
    }

    /// Waits for the word, or for what makes it pointless.
    fn is_told(&self, init: &OwnedFd) -> Result<bool, Errno> {
        let mut ends = [&self.0, init].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        loop {
            match poll(&mut ends, PollTimeout::NONE) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let mut word = [0];
        // A word that came in time counts also if init has died: `start` says that better.
        Ok(ends[0].any() == Some(true) && read(&self.0, &mut word) == Ok(1) && word == [START])
    }
}

/// Lets go of the streams, which are the container's.
fn leave_streams() -> Result<(), CommandError> {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(CommandError::io("open /dev/null"))?;
    dup2_stdin(&null)
        .and_then(|()| dup2_stdout(&null))
        .and_then(|()| dup2_stderr(&null))
        .map_err(CommandError::kernel("let go of the standard streams"))
}
