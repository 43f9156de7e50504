//! A pseudo-terminal whose master end is the test's: type, expect, resize.

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use crate::wait::{self, PATIENCE};
use crate::{Scratch, outcome};

/// The master end of a terminal. A thread reads all that is written to it.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    seen: Arc<Mutex<Screen>>,
    reader: Option<JoinHandle<()>>,
    child: Option<Child>,
}

#[derive(Debug, Default)]
struct Screen {
    text: Vec<u8>,
    /// Up to where [`Terminal::expect`] has looked.
    consumed: usize,
    ended: bool,
}

impl Terminal {
    /// Runs a command on a new terminal of 80 columns and 24 rows, in a session of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn(command: &Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let master = master.expect("open a terminal");
        grantpt(&master).expect("grant the terminal");
        unlockpt(&master).expect("unlock the terminal");
        let slave = ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        );
        let slave = File::from(slave.expect("open the terminal's other end"));
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                session.env(name, value);
            }
        }
        if let Some(directory) = command.get_current_dir() {
            session.current_dir(directory);
        }
        let mut terminal = Self::of(master);
        terminal.resize(80, 24);
        let child = session
            .env("TERM", "xterm")
            .stdin(slave.try_clone().expect("duplicate a descriptor"))
            .stdout(slave.try_clone().expect("duplicate a descriptor"))
            .stderr(slave)
            .spawn();
        terminal.child = Some(child.expect("start setsid"));
        terminal
    }

    /// Takes over the master end of a terminal.
    ///
    /// # Panics
    /// If its descriptor cannot be duplicated.
    #[must_use]
    pub fn of(master: OwnedFd) -> Self {
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(Screen::default()));
        let reader = {
            let (master, seen) =
                (master.try_clone().expect("duplicate a descriptor"), Arc::clone(&seen));
            thread::spawn(move || read_all(master, &seen))
        };
        Self { master, seen, reader: Some(reader), child: None }
    }

    /// Types.
    ///
    /// # Panics
    /// If the terminal is gone.
    #[track_caller]
    pub fn type_text(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).expect("write to the terminal");
    }

    /// Waits until `text` appears after what was expected before.
    ///
    /// # Panics
    /// After a while, with all that appeared.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        let found = wait::poll(PATIENCE, || {
            let mut seen = self.seen.lock().expect("reader");
            let rest = &seen.text[seen.consumed..];
            let at = rest.windows(text.len()).position(|window| window == text.as_bytes())?;
            seen.consumed += at + text.len();
            Some(())
        });
        assert!(found.is_some(), "{text:?} did not appear; the terminal shows {:?}", self.text());
    }

    /// Returns everything that appeared.
    ///
    /// # Panics
    /// If the thread that reads has.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("reader").text).into_owned()
    }

    /// Changes its size; whoever runs on it gets SIGWINCH.
    ///
    /// # Panics
    /// If the terminal is gone.
    #[track_caller]
    pub fn resize(&self, width: u16, height: u16) {
        let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("resize the terminal");
    }

    /// Returns columns and rows.
    ///
    /// # Panics
    /// If the terminal is gone.
    #[must_use]
    pub fn size(&self) -> (u16, u16) {
        let size = tcgetwinsize(&self.master).expect("size of the terminal");
        (size.ws_col, size.ws_row)
    }

    /// Waits until nobody has the other end open any more.
    ///
    /// # Panics
    /// After a while.
    #[track_caller]
    pub fn wait_for_hangup(&self) {
        wait::wait_until("hangup of the terminal", PATIENCE, || {
            self.seen.lock().expect("reader").ended
        });
    }

    /// Waits for the end of the command that [`Terminal::spawn`] started; returns its exit code.
    ///
    /// # Panics
    /// After `deadline`, with all that appeared.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> i32 {
        let child = self.child.as_mut().expect("a command was started on the terminal");
        match outcome::wait_for_exit(child, deadline) {
            Some(status) => outcome::code(status),
            None => panic!("has not ended after {deadline:?}; terminal shows {:?}", self.text()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The reader ends with the last process that has the other end open, which another fixture
        // may only end after us: so nobody waits for the thread.
        drop(self.reader.take());
    }
}

fn read_all(mut master: File, seen: &Mutex<Screen>) {
    let mut buffer = [0; 4096];
    // EIO: the last process has closed the other end.
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        seen.lock().expect("test").text.extend_from_slice(&buffer[..count]);
    }
    seen.lock().expect("test").ended = true;
}

/// A socket that takes the master end of a terminal from a runtime (`--console-socket`).
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    _scratch: Scratch,
}

impl ConsoleSocket {
    /// Listens.
    ///
    /// # Panics
    /// If the socket cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let path = scratch.join("console.sock");
        let listener = UnixListener::bind(&path).expect("listen for a console");
        listener.set_nonblocking(true).expect("make the socket non-blocking");
        Self { listener, path, _scratch: scratch }
    }

    /// Returns where it listens.
    #[must_use]
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Waits for a terminal.
    ///
    /// # Panics
    /// After `deadline`, or if something else arrives.
    #[must_use]
    #[track_caller]
    pub fn receive(&self, deadline: Duration) -> Terminal {
        let (connection, _) =
            wait::wait_for("a connection to the console socket", deadline, || {
                self.listener.accept().ok()
            });
        connection.set_nonblocking(false).expect("make the connection blocking");
        connection.set_read_timeout(Some(deadline)).expect("set a timeout");
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(&mut name)];
        recvmsg(&connection, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
            .expect("receive a message");
        let descriptors = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptor = descriptors.and_then(|mut list| list.next());
        Terminal::of(descriptor.expect("a descriptor in the message"))
    }
}

impl Default for ConsoleSocket {
    fn default() -> Self {
        Self::new()
    }
}
