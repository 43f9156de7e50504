//! Runs a program, adopts and reaps all its orphans, and kills the whole tree at the end.
//!
//! `keg-supervise EVENTS STDIN PROGRAM [ARGUMENT…]`. Appends to the file EVENTS a line `start PID` for
//! the program and a line `exit PID CODE` for every process that it reaps. Ends when no process is
//! left. When its own standard input ends, it kills what is left first. See `keg_fixtures::tree`.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, io, thread};

use anyhow::{Context as _, bail};
use keg_fixtures::tree::descendants;
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args_os().skip(1);
    let (Some(events), Some(stdin), Some(program)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        bail!("usage: keg-supervise EVENTS STDIN PROGRAM [ARGUMENT...]");
    };
    let mut events = OpenOptions::new().append(true).open(&events).context("open the events")?;
    set_child_subreaper(true).context("become a subreaper")?;
    let child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::from(File::open(&stdin).context("open the program's input")?))
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    writeln!(events, "start {}", child.id())?;
    thread::spawn(kill_all_at_end_of_input);
    reap_until_none_is_left(&mut events)
}

fn reap_until_none_is_left(events: &mut File) -> anyhow::Result<()> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) => writeln!(events, "exit {pid} {code}")?,
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                writeln!(events, "exit {pid} {}", 128 + signal as i32)?;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno).context("wait"),
        }
    }
}

/// Kills in rounds, since a process may fork between being listed and being killed; ends with `main`.
fn kill_all_at_end_of_input() {
    let mut lifeline = io::stdin();
    let mut ignored = [0; 64];
    while !matches!(lifeline.read(&mut ignored), Ok(0) | Err(_)) {}
    loop {
        for pid in descendants(Pid::this()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
