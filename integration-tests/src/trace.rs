//! Programs that are killed at a chosen place: at the n-th time that the kernel sees them.
//!
//! ```text
//! test ── thread ── ptrace ──▶ program ── clone ──▶ its first child
//!           │ counts the stops of the victim: each system call has two, at its entry and at its exit
//!           └─ SIGKILL at stop n
//! ```
//!
//! A thread of its own traces, since a tracer is a thread and waits for whatever it traces.

use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

/// Who is counted, and killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The program.
    Program,
    /// The first process that it makes; the others are not traced.
    Child,
}

/// What became of a traced program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// How often the kernel has seen the victim.
    pub stops: usize,
    /// The program's exit code, or 128 + n if signal n ended it.
    pub exit_code: i32,
}

/// Runs a program to its end, and kills the victim at its stop `kill_at`, if it comes so far.
///
/// # Panics
/// If the program cannot be started or traced.
#[must_use]
pub fn run(mut command: Command, victim: Victim, kill_at: usize) -> Traced {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::thread::spawn(move || Tracer::start(command, victim, kill_at).follow())
        .join()
        .expect("the tracer is well")
}

struct Tracer {
    main: Pid,
    victim: Option<Pid>,
    kill_at: usize,
    stops: usize,
}

impl Tracer {
    #[expect(clippy::zombie_processes, reason = "it is waited for by its number, see `follow`")]
    fn start(mut command: Command, victim: Victim, kill_at: usize) -> Self {
        sys::be_traced(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let main = Pid::from_raw(child.id().cast_signed());
        // The execution of the program is the first stop.
        waitpid(main, None).expect("wait for the traced program");
        let mut options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
        if victim == Victim::Child {
            options |= Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE;
        }
        ptrace::setoptions(main, options).expect("trace the program");
        ptrace::syscall(main, None).expect("let the program go on");
        let victim = (victim == Victim::Program).then_some(main);
        Self { main, victim, kill_at, stops: 0 }
    }

    /// Lets everybody go on until the program has ended.
    fn follow(mut self) -> Traced {
        loop {
            // Only what this thread traces.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let exit_code = match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.main => code,
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.main => 128 + signal as i32,
                Ok(status) => {
                    self.pass(status);
                    continue;
                }
                Err(Errno::EINTR) => continue,
                Err(errno) => panic!("wait for the traced program: {errno}"),
            };
            return Traced { stops: self.stops, exit_code };
        }
    }

    fn pass(&mut self, status: WaitStatus) {
        let (pid, signal) = match status {
            WaitStatus::PtraceSyscall(pid) => {
                if Some(pid) == self.victim {
                    self.stops += 1;
                    if self.stops == self.kill_at {
                        // Also in a stop, this signal ends it.
                        let _ = kill(pid, Signal::SIGKILL);
                        return;
                    }
                }
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, _, _) => {
                if pid == self.main && self.victim.is_none() {
                    self.victim = ptrace::getevent(pid).ok().map(raw_pid);
                }
                (pid, None)
            }
            // How a traced child begins, and how an execution looks.
            WaitStatus::Stopped(pid, Signal::SIGSTOP | Signal::SIGTRAP) => (pid, None),
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => return,
        };
        // One that was killed meanwhile is waited for in the next round.
        let _ = ptrace::syscall(pid, signal);
    }
}

fn raw_pid(event: i64) -> Pid {
    Pid::from_raw(i32::try_from(event).unwrap_or(0))
}
