//! `keg-init`: the first process of a container that was made with `--init`.
//!
//! ```text
//!  keg-init (PID 1) ── starts ──▶ the container's program
//!     │ signals ───────────────────▶
//!     │ reaps whatever loses its parent
//!     ◀── ends ── keg-init exits as it did
//! ```
//!
//! A program that is PID 1 gets no signal that it has no handler for, and inherits every orphan.
//! Most programs expect neither; this one takes both off them, and does nothing else.
//!
//! Invariant: every signal is blocked and read one by one, so none is lost and no handler runs. The
//! child is this program once more, which lets all signals through and becomes the container's.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Exit codes of a shell for a program that is not there, or cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// Exit code of our own failures.
const OWN_FAILURE: u8 = 125;
/// Argument of the child, which is to become the program.
const BECOME: &str = "--become";
/// What a terminal's driver has as the sender of the signals that it makes of keys; those go to the
/// whole foreground group, the child included.
const SENT_BY_KERNEL: i32 = 0x80;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--") {
        arguments.remove(0);
    }
    let is_child = arguments.first().is_some_and(|first| first == BECOME);
    if is_child {
        arguments.remove(0);
    }
    let Some((program, rest)) = arguments.split_first() else {
        complain("no program is named: keg-init [--] PROGRAM [ARG...]");
        return ExitCode::from(OWN_FAILURE);
    };
    let outcome = if is_child {
        Err(turn_into(Command::new(program).args(rest)))
    } else {
        let own = std::env::args_os().next().unwrap_or_default();
        supervise(Command::new(own).arg("--").arg(BECOME).arg(program).args(rest))
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("{}: {error}", program.to_string_lossy()));
            ExitCode::from(match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                io::ErrorKind::PermissionDenied => NOT_EXECUTABLE,
                _ if error.raw_os_error() == Some(Errno::ENOEXEC as i32) => NOT_EXECUTABLE,
                _ => OWN_FAILURE,
            })
        }
    }
}

/// Becomes a program, with no signal blocked; returns only why that cannot be.
fn turn_into(command: &mut Command) -> io::Error {
    match sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None) {
        Ok(()) => command.exec(),
        Err(errno) => errno.into(),
    }
}

/// Runs the program to its end; returns the code to exit with.
fn supervise(command: &mut Command) -> io::Result<u8> {
    let mut signals = SigSet::all();
    // What the processor raises must end us, not wait.
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP]
    {
        signals.remove(fault);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None)?;
    let inbox = SignalFd::new(&signals)?;
    if nix::unistd::getpid().as_raw() != 1 {
        nix::sys::prctl::set_child_subreaper(true)?;
    }
    let child = command.spawn()?;
    let child = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    loop {
        let Some(signal) = inbox.read_signal()? else { continue };
        let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
        let Ok(kind) = Signal::try_from(number) else { continue };
        if kind == Signal::SIGCHLD {
            if let Some(code) = reap(child)? {
                return Ok(code);
            }
        } else if signal.ssi_code != SENT_BY_KERNEL {
            // It may have ended a moment ago, which SIGCHLD tells.
            let _ = kill(child, kind);
        }
    }
}

/// Reaps all that has ended; returns the code to exit with if the child is among it.
fn reap(child: Pid) -> io::Result<Option<u8>> {
    let mut of_child = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                of_child = Some(u8::try_from(code & 0xff).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                of_child = Some(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(of_child),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Says what is wrong. If nobody can be told, the exit code has to do.
fn complain(text: &str) {
    use std::io::Write as _;

    let _ = writeln!(io::stderr(), "keg-init: {text}");
}
