//! `kill`: sends a signal to a container's first process, or to all of its processes.

use clap::Args;
use nix::sys::signal::Signal;

use super::{CommandError, Context};
use crate::lifecycle::{Event, Lifecycle};
use crate::state_store::{ContainerId, SavedState};
use crate::sys::process::signal_by_pidfd;

#[derive(Debug, Args)]
pub(super) struct Kill {
    /// Send the signal to every process of the container.
    #[arg(short, long)]
    all: bool,
    /// Name of the container.
    id: String,
    /// Signal by name or number.
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    signal: String,
}

impl Kill {
    pub(super) fn run(self, context: &Context) -> Result<u8, CommandError> {
        let number = parse_signal(&self.signal).ok_or_else(|| CommandError::Option {
            option: "signal",
            value: self.signal.clone(),
            expected: "a name such as SIGTERM or a number from 0 to 64",
        })?;
        let dir = context.store.open(&ContainerId::new(self.id)?)?;
        let state = dir.load_existing()?;
        let lifecycle = dir.observe(&state);
        // Where the PID namespace is shared, no kernel ends the others with init.
        if self.all || (state.shares_pids && number == libc::SIGKILL) {
            if lifecycle == Lifecycle::Creating {
                lifecycle.apply(Event::Signalled)?;
            }
            let outcome = signal_all(&state, number);
            if self.all || lifecycle != Lifecycle::Stopped {
                return outcome.map(|_| 0);
            }
            if outcome? {
                return Ok(0);
            }
        }
        lifecycle.apply(Event::Signalled)?;
        let send = || CommandError::kernel(format!("send signal {number} to the container"));
        let refused =
            crate::lifecycle::Refused { state: Lifecycle::Stopped, event: Event::Signalled };
        let init = state.init.ok_or(refused)?;
        // It may have ended since it was looked at.
        let pidfd = init.open().map_err(|_| refused)?;
        signal_by_pidfd(&pidfd, number).map_err(send())?;
        Ok(0)
    }
}

/// Signals every process that is left of a container; returns whether there was one. That there is
/// none is no error, and neither is signal 0, by which callers ask.
fn signal_all(state: &SavedState, number: i32) -> Result<bool, CommandError> {
    let Some(cgroup) = state.open_cgroup() else { return Ok(false) };
    if cgroup.pids().map_err(CommandError::Cgroup)?.is_empty() {
        return Ok(false);
    }
    if number != 0 {
        let signal = Signal::try_from(number).map_err(CommandError::kernel("send the signal"))?;
        cgroup.kill_all(signal).map_err(CommandError::Cgroup)?;
    }
    Ok(true)
}

/// Reads a signal: a number, or a name with or without `SIG`, in any case, also `RTMIN+3`.
pub(super) fn parse_signal(text: &str) -> Option<i32> {
    const HIGHEST: i32 = 64;
    if let Ok(number) = text.parse::<i32>() {
        return (0..=HIGHEST).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str| match name.split_at_checked(5)? {
        ("RTMIN", rest) => {
            Some(libc::SIGRTMIN() + if rest.is_empty() { 0 } else { rest.parse().ok()? })
        }
        ("RTMAX", rest) => {
            Some(libc::SIGRTMAX() + if rest.is_empty() { 0 } else { rest.parse().ok()? })
        }
        _ => None,
    };
    match name {
        "CLD" => Some(libc::SIGCHLD),
        "POLL" => Some(libc::SIGIO),
        _ => format!("SIG{name}")
            .parse::<Signal>()
            .ok()
            .map(|signal| signal as i32)
            .or_else(|| real_time(name).filter(|n| (libc::SIGRTMIN()..=HIGHEST).contains(n))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_every_usual_spelling() {
        let cases = [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("SIGCLD", Some(17)),
            ("RTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("SIGRTMAX", Some(64)),
            ("RTMAX+1", None),
            ("65", None),
            ("-1", None),
            ("", None),
            ("NOPE", None),
        ];
        for (text, number) in cases {
            assert_eq!(parse_signal(text), number, "{text:?}");
        }
    }
}
