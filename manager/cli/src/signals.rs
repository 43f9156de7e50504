//! Signals that reach us while a container has our streams.

use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What may be sent to us: the number, and the name that the daemon gets.
const FORWARDED: [(i32, &str); 7] = [
    (rustix::process::Signal::HUP.as_raw(), "SIGHUP"),
    (rustix::process::Signal::INT.as_raw(), "SIGINT"),
    (rustix::process::Signal::QUIT.as_raw(), "SIGQUIT"),
    (rustix::process::Signal::TERM.as_raw(), "SIGTERM"),
    (rustix::process::Signal::USR1.as_raw(), "SIGUSR1"),
    (rustix::process::Signal::USR2.as_raw(), "SIGUSR2"),
    (rustix::process::Signal::ALARM.as_raw(), "SIGALRM"),
];

/// Signals that end a program that has the terminal in raw mode.
const ENDING: [(i32, &str); 4] = [FORWARDED[0], FORWARDED[1], FORWARDED[2], FORWARDED[3]];

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Its number.
    pub(crate) number: i32,
    /// Its name, "SIGTERM".
    pub(crate) name: &'static str,
}

/// Receives signals in place of their default actions.
#[derive(Debug)]
pub(crate) struct Signals {
    received: Vec<(Arrived, Signal)>,
}

impl Signals {
    /// Receives what a container is to get in our place.
    ///
    /// # Errors
    /// If a handler cannot be installed.
    pub(crate) fn forwarded() -> io::Result<Self> {
        Self::of(&FORWARDED)
    }

    /// Receives what would end us, so that we can tidy up first.
    ///
    /// # Errors
    /// If a handler cannot be installed.
    pub(crate) fn ending() -> io::Result<Self> {
        Self::of(&ENDING)
    }

    /// Receives nothing: signals have their default actions.
    pub(crate) fn none() -> Self {
        Self { received: Vec::new() }
    }

    fn of(signals: &[(i32, &'static str)]) -> io::Result<Self> {
        let received = signals.iter().map(|&(number, name)| {
            Ok((Arrived { number, name }, signal(SignalKind::from_raw(number))?))
        });
        Ok(Self { received: received.collect::<io::Result<_>>()? })
    }

    /// Waits for the next signal; for ever, if none are received.
    pub(crate) async fn next(&mut self) -> Arrived {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Arrived> {
        for (arrived, signal) in &mut self.received {
            if let Poll::Ready(Some(())) = signal.poll_recv(context) {
                return Poll::Ready(*arrived);
            }
        }
        Poll::Pending
    }
}
