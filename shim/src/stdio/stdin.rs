//! A process's standard input: written to by a FIFO's copy or by attached clients.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::hub::Hub;
use super::terminal::Console;

/// Bytes that are copied at once.
const BLOCK_BYTES: usize = 4096;

/// Where input goes, once it goes somewhere.
#[derive(Debug)]
pub(super) struct Stdin {
    state: RefCell<State>,
    changed: Notify,
}

#[derive(Debug, Clone)]
enum State {
    /// The process does not run yet.
    Waiting,
    Pipe(Rc<AsyncFd<OwnedFd>>),
    Console(Rc<Console>),
    /// Nobody reads input, or no more of it.
    Closed,
}

impl Stdin {
    pub(super) fn new(wanted: bool) -> Self {
        let state = if wanted { State::Waiting } else { State::Closed };
        Self { state: RefCell::new(state), changed: Notify::new() }
    }

    pub(super) fn open_pipe(&self, pipe: AsyncFd<OwnedFd>) {
        self.become_open(State::Pipe(Rc::new(pipe)));
    }

    pub(super) fn open_console(&self, console: Rc<Console>) {
        self.become_open(State::Console(console));
    }

    /// A close that came first wins.
    fn become_open(&self, open: State) {
        let mut state = self.state.borrow_mut();
        if matches!(*state, State::Waiting) {
            *state = open;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Ends the input.
    pub(super) fn close(&self) {
        *self.state.borrow_mut() = State::Closed;
        self.changed.notify_waiters();
    }

    /// Waits until the input has ended.
    pub(super) async fn closed(&self) {
        loop {
            let changed = self.changed.notified();
            if matches!(*self.state.borrow(), State::Closed) {
                return;
            }
            changed.await;
        }
    }

    /// Writes all of `bytes`, waiting for a process that does not read; `false` if nobody ever
    /// will.
    pub(super) async fn write(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let changed = self.changed.notified();
            let state = self.state.borrow().clone();
            let written = match state {
                State::Closed => return false,
                State::Waiting => {
                    changed.await;
                    continue;
                }
                State::Pipe(pipe) => tokio::select! {
                    written = write_fd(&pipe, bytes) => written,
                    () = changed => continue,
                },
                State::Console(console) => tokio::select! {
                    written = write_fd(console.fd(), bytes) => written,
                    () = changed => continue,
                },
            };
            match written {
                Ok(count) => bytes = &bytes[count..],
                // The process closed its input, or is gone.
                Err(_) => {
                    self.close();
                    return false;
                }
            }
        }
        true
    }
}

async fn write_fd(fd: &AsyncFd<OwnedFd>, bytes: &[u8]) -> io::Result<usize> {
    fd.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?)).await
}

/// Copies a FIFO to the end, then closes the process's input.
pub(super) async fn copy_fifo(fifo: AsyncFd<OwnedFd>, hub: Rc<Hub>) {
    let mut block = [0; BLOCK_BYTES];
    loop {
        let read =
            fifo.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut block)?)).await;
        match read {
            Ok(count @ 1..) if hub.stdin().write(&block[..count]).await => {}
            _ => break,
        }
    }
    hub.stdin().close();
}

/// Copies a regular file to the end, then closes the process's input.
pub(super) async fn copy_file(mut file: File, hub: Rc<Hub>) {
    let mut block = [0; BLOCK_BYTES];
    while let Ok(count @ 1..) = io::Read::read(&mut file, &mut block) {
        if !hub.stdin().write(&block[..count]).await {
            break;
        }
    }
    hub.stdin().close();
}
