//! Stays with a process until it ends: forwards signals, carries its terminal, returns its code.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, write};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::CommandError;
use crate::sys;
use crate::sys::process::signal_by_pidfd;

/// Signals that are the runtime's own business, or tell of its own faults.
const KEPT: [Signal; 8] = [
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGPIPE,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGTRAP,
];

/// Signals are collected and a way for the terminal is open; nothing has been started yet.
#[derive(Debug)]
pub(super) struct Foreground {
    signals: SignalFd,
    terminal: OwnedFd,
}

impl Foreground {
    /// Blocks signals and makes the socket through which a terminal comes back; the other end is
    /// for the process.
    pub(super) fn prepare(subreaper: bool) -> Result<(Self, OwnedFd), CommandError> {
        let error = || CommandError::kernel("prepare to stay in the foreground");
        if subreaper {
            set_child_subreaper(true).map_err(error())?;
        }
        let mut mask = SigSet::all();
        for signal in &KEPT[1..] {
            mask.remove(*signal);
        }
        mask.thread_block().map_err(error())?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(error())?;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
                .map_err(error())?;
        Ok((Self { signals, terminal: ours }, theirs))
    }

    /// Waits for the end of `pid` and returns its exit code, or 128 and the number of the signal
    /// that ended it.
    pub(super) fn supervise(
        self,
        pid: Pid,
        pidfd: BorrowedFd<'_>,
        terminal: bool,
    ) -> Result<u8, CommandError> {
        let error = || CommandError::kernel("carry the container's terminal");
        let mut pump = if terminal {
            let master = receive_master(&self.terminal).map_err(error())?;
            Some(Pump::start(master).map_err(error())?)
        } else {
            None
        };
        loop {
            let wants_input = pump.as_ref().is_some_and(|pump| pump.stdin_open);
            let ready = wait(&self.signals, pump.as_ref(), wants_input).map_err(error())?;
            if ready.signals
                && let Some(code) = self.handle_signals(pid, pidfd, pump.as_ref())?
            {
                if let Some(pump) = &mut pump {
                    pump.drain();
                }
                return Ok(code);
            }
            if let Some(running) = &mut pump {
                if ready.input {
                    running.carry_input();
                }
                if ready.output && !running.carry_output() {
                    running.output_open = false;
                }
            }
        }
    }

    /// Handles what has come; returns the exit code if the process has ended.
    fn handle_signals(
        &self,
        pid: Pid,
        pidfd: BorrowedFd<'_>,
        pump: Option<&Pump>,
    ) -> Result<Option<u8>, CommandError> {
        let error = || CommandError::kernel("wait for the container");
        while let Some(info) = self.signals.read_signal().map_err(error())? {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if number == Signal::SIGCHLD as i32 {
                if let Some(code) = reap(pid).map_err(error())? {
                    return Ok(Some(code));
                }
            } else if number == Signal::SIGWINCH as i32 && pump.is_some() {
                pump.map(Pump::resize);
            } else {
                // It may have ended; then SIGCHLD is on its way.
                let _ = signal_by_pidfd(pidfd, number);
            }
        }
        Ok(None)
    }
}

/// Collects all children that have ended; returns the code of `pid` if it is among them.
fn reap(pid: Pid) -> Result<Option<u8>, Errno> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(child, status)) if child == pid => {
                code = u8::try_from(status & 0xff).ok();
            }
            Ok(WaitStatus::Signaled(child, signal, _)) if child == pid => {
                code = u8::try_from(128 + signal as i32).ok();
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(code),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn receive_master(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut bytes = [0; 64];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let [fd] = fds[..]
        {
            return Ok(sys::fd::take(fd));
        }
    }
    Err(Errno::EBADMSG)
}

#[derive(Debug, Default)]
struct Ready {
    signals: bool,
    input: bool,
    output: bool,
}

fn wait(signals: &SignalFd, pump: Option<&Pump>, wants_input: bool) -> Result<Ready, Errno> {
    let stdin = std::io::stdin();
    let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let mut output = None;
    let mut input = None;
    if let Some(pump) = pump {
        if pump.output_open {
            output = Some(fds.len());
            fds.push(PollFd::new(pump.master.as_fd(), PollFlags::POLLIN));
        }
        if wants_input {
            input = Some(fds.len());
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
    }
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Ready::default()),
        Err(errno) => return Err(errno),
    }
    let is_ready = |index: Option<usize>| {
        index.and_then(|index| fds.get(index)).is_some_and(|fd| fd.any().unwrap_or(false))
    };
    Ok(Ready { signals: is_ready(Some(0)), input: is_ready(input), output: is_ready(output) })
}

/// Carries bytes between the caller's terminal and the container's.
#[derive(Debug)]
struct Pump {
    master: OwnedFd,
    /// The caller's settings, put back at the end.
    before: Option<Termios>,
    stdin_open: bool,
    output_open: bool,
}

impl Pump {
    fn start(master: OwnedFd) -> Result<Self, Errno> {
        let stdin = std::io::stdin();
        // Without a terminal there is nothing to set.
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // A line's end goes back to the margin here: the container's terminal does not send it there.
            raw.output_modes |= before.output_modes & OutputModes::OPOST;
            tcsetattr(&stdin, OptionalActions::Now, &raw)
                .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
        }
        let pump = Self { master, before, stdin_open: true, output_open: true };
        pump.resize();
        Ok(pump)
    }

    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(std::io::stdin()) {
            // A size that cannot be set is a matter of looks.
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    fn carry_input(&mut self) {
        let mut buffer = [0; 4096];
        match read(std::io::stdin(), &mut buffer) {
            Ok(0) | Err(_) => {
                self.stdin_open = false;
                // The end of input, as a terminal tells it.
                let _ = write_all(self.master.as_fd(), &[4]);
            }
            Ok(count) => {
                self.stdin_open = write_all(self.master.as_fd(), &buffer[..count]).is_ok();
            }
        }
    }

    /// Returns whether more may come.
    fn carry_output(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match read(&self.master, &mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(count) => write_all(std::io::stdout().as_fd(), &buffer[..count]).is_ok(),
        }
    }

    /// Carries what the process wrote before it ended.
    fn drain(&mut self) {
        loop {
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let ready = matches!(poll(&mut fds, PollTimeout::ZERO), Ok(count) if count > 0);
            if !self.output_open || !ready || !self.carry_output() {
                return;
            }
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The terminal may be gone.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
