//! Raw mode: every key goes to the container, none to our own terminal driver.
//!
//! Invariant: whoever leaves restores. The guard does so when it is dropped; [`restore`] does so
//! from the panic hook, since a release build aborts on a panic without dropping anything. Signals
//! that would end the program are received, and end it by returning.

use std::sync::Mutex;

use rustix::termios::{self, OptionalActions, Termios};

/// The mode that standard input's terminal had before it was made raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps standard input's terminal in raw mode as long as it lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

/// The terminal cannot be made raw.
#[derive(Debug, thiserror::Error)]
#[error("cannot put the terminal into raw mode")]
pub(crate) struct RawModeError {
    #[source]
    source: rustix::io::Errno,
}

impl RawMode {
    /// Makes standard input's terminal raw.
    ///
    /// # Errors
    /// [`RawModeError`] if it is no terminal, or is gone.
    pub(crate) fn enter() -> Result<Self, RawModeError> {
        Self::with(Termios::make_raw)
    }

    /// Changes the mode of standard input's terminal in any way.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub(crate) fn with(change: impl FnOnce(&mut Termios)) -> Result<Self, RawModeError> {
        let stdin = rustix::stdio::stdin();
        let before = termios::tcgetattr(stdin).map_err(|source| RawModeError { source })?;
        let mut raw = before.clone();
        change(&mut raw);
        keep(before);
        let guard = Self(());
        termios::tcsetattr(stdin, OptionalActions::Drain, &raw)
            .map_err(|source| RawModeError { source })?;
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its mode back, if it was taken. May be called at any time, and again.
pub(crate) fn restore() {
    let before = match BEFORE.lock() {
        Ok(mut slot) => slot.take(),
        Err(poisoned) => poisoned.into_inner().take(),
    };
    if let Some(before) = before {
        // A terminal that is gone needs no mode.
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &before);
    }
}

fn keep(before: Termios) {
    match BEFORE.lock() {
        Ok(mut slot) => *slot = Some(before),
        Err(poisoned) => *poisoned.into_inner() = Some(before),
    }
}
