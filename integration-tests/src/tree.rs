//! A process and all its descendants, ended together.
//!
//! ```text
//! test ──lifeline──▶ keg-supervise (subreaper) ── program ── …
//!  ▲                     │        ▲                  │
//!  └──── events file ◀───┘        └── orphans ◀──────┘
//! ```
//!
//! Orphans go to the supervisor, which reaps them as PID 1 would, and notes every exit in the events
//! file, so that a test learns the exit status of a container's init. When the lifeline ends, because
//! the fixture is dropped or because the test died, the supervisor kills whatever is left.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{self, PATIENCE};
use crate::{Scratch, outcome, programs};

/// A running process tree.
#[derive(Debug)]
pub struct Tree {
    supervisor: Child,
    events: PathBuf,
    output: PathBuf,
    errors: PathBuf,
    what: String,
    // Dropped last: holds the files above.
    _scratch: Scratch,
}

impl Tree {
    /// Starts `command` below a supervisor, with nothing on its standard input.
    ///
    /// Of `command`, program, arguments, environment and directory count; its streams do not: output
    /// and errors go to files, see [`Tree::stdout`] and [`Tree::stderr`].
    ///
    /// # Panics
    /// If the supervisor cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn(command: &Command) -> Self {
        Self::spawn_with_stdin(command, "/dev/null".into())
    }

    /// Starts `command` with the file `stdin` on its standard input.
    ///
    /// # Panics
    /// As [`Tree::spawn`].
    #[must_use]
    #[track_caller]
    pub fn spawn_with_stdin(command: &Command, stdin: PathBuf) -> Self {
        let scratch = Scratch::new();
        let streams = (scratch.file("stdout", ""), scratch.file("stderr", ""));
        Self::spawn_onto(command, stdin, streams, scratch)
    }

    /// Starts `command` with its output and errors appended to those of `other`.
    ///
    /// # Panics
    /// As [`Tree::spawn`].
    #[must_use]
    #[track_caller]
    pub fn spawn_after(command: &Command, other: &Self) -> Self {
        let streams = (other.output.clone(), other.errors.clone());
        Self::spawn_onto(command, "/dev/null".into(), streams, Scratch::new())
    }

    #[track_caller]
    fn spawn_onto(
        command: &Command,
        stdin: PathBuf,
        (output, errors): (PathBuf, PathBuf),
        scratch: Scratch,
    ) -> Self {
        let events = scratch.file("events", "");
        let append = |path: &PathBuf| {
            File::options().append(true).open(path).expect("open a file for the output")
        };
        let mut supervise = Command::new(programs::ours("keg-supervise"));
        supervise.arg(&events).arg(stdin).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => supervise.env(name, value),
                None => supervise.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            supervise.current_dir(directory);
        }
        let supervisor = supervise
            .stdin(Stdio::piped())
            .stdout(append(&output))
            .stderr(append(&errors))
            .spawn()
            .expect("start keg-supervise");
        let what = format!("{command:?}");
        Self { supervisor, events, output, errors, what, _scratch: scratch }
    }

    /// Returns the process id of the program itself.
    ///
    /// # Panics
    /// If the program could not be started.
    #[must_use]
    #[track_caller]
    pub fn main_pid(&self) -> Pid {
        wait::wait_for(&format!("start of {}", self.what), PATIENCE, || {
            self.events().find_map(|(kind, pid, _)| (kind == "start").then_some(pid))
        })
    }

    /// Returns the exit code of a process of this tree that has ended and been reaped.
    #[must_use]
    pub fn exit_code(&self, pid: Pid) -> Option<i32> {
        self.events().find_map(|(kind, of, code)| (kind == "exit" && of == pid).then_some(code))
    }

    /// Waits for a process of this tree to end; returns its exit code, 128 + n for signal n.
    ///
    /// # Panics
    /// After `deadline`, with what the tree wrote.
    #[track_caller]
    pub fn wait_exit(&self, pid: Pid, deadline: Duration) -> i32 {
        wait::poll(deadline, || self.exit_code(pid)).unwrap_or_else(|| {
            panic!(
                "process {pid} of {} has not ended after {deadline:?}; output {:?}, errors {:?}",
                self.what,
                self.stdout(),
                self.stderr()
            )
        })
    }

    /// Returns what the tree's processes have written to their inherited descriptor 1.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.output)
    }

    /// Returns what the tree's processes have written to their inherited descriptor 2.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.errors)
    }

    /// Returns the ids of all processes of the tree, the supervisor's own excluded.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        descendants(Pid::from_raw(self.supervisor.id().cast_signed()))
    }

    /// Signals the program itself.
    ///
    /// # Panics
    /// If it is gone.
    #[track_caller]
    pub fn signal_main(&self, signal: Signal) {
        let pid = self.main_pid();
        kill(pid, signal).unwrap_or_else(|errno| panic!("kill {pid} by {signal}: {errno}"));
    }

    /// Asks the program itself to end by SIGTERM, and waits until it has; returns its exit code.
    ///
    /// # Panics
    /// After `deadline`.
    #[track_caller]
    pub fn terminate(&self, deadline: Duration) -> i32 {
        let pid = self.main_pid();
        if self.exit_code(pid).is_none() {
            let _ = kill(pid, Signal::SIGTERM);
        }
        self.wait_exit(pid, deadline)
    }

    fn events(&self) -> impl Iterator<Item = (String, Pid, i32)> + use<> {
        let text = read(&self.events);
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        let lines: Vec<String> = text[..complete].lines().map(str::to_owned).collect();
        lines.into_iter().filter_map(|line| {
            let mut words = line.split(' ');
            let kind = words.next()?.to_owned();
            let pid = words.next()?.parse().ok()?;
            let code = words.next().and_then(|code| code.parse().ok()).unwrap_or(0);
            Some((kind, Pid::from_raw(pid), code))
        })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let ended = outcome::wait_for_exit(&mut self.supervisor, PATIENCE);
        if ended.is_none() && !std::thread::panicking() {
            panic!("processes that cannot be killed: {}: {:?}", self.what, self.pids());
        }
    }
}

/// Returns all descendants of a process, as `/proc` shows them.
#[must_use]
pub fn descendants(ancestor: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((Pid::from_raw(pid), Pid::from_raw(parent)))
        })
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

fn read(path: &PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
