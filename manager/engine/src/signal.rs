//! Signals as people write them: `9`, `KILL`, `SIGKILL`, `RTMIN+3`.

use std::fmt;

use nix::sys::signal::Signal as Known;
use serde::{Deserialize, Serialize};

/// Lowest real-time signal that a program can use; the C library keeps 32 and 33 for itself.
const RT_MIN: u8 = 34;
/// Highest signal of the kernel.
const RT_MAX: u8 = 64;

/// A signal that can be sent to a container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signal(u8);

/// The text names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a signal: give a name such as TERM, SIGKILL or RTMIN+3, or a number from 1 to 64"
)]
pub struct UnknownSignal {
    /// What was given.
    pub text: String,
}

impl Signal {
    /// Cannot be caught or ignored.
    pub const KILL: Self = Self(9);
    /// Asks a process to end.
    pub const TERM: Self = Self(15);

    /// Parses a name, with or without `SIG` and in any case, or a number.
    ///
    /// # Errors
    /// [`UnknownSignal`] if no signal of Linux is called that.
    pub fn parse(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal { text: text.to_owned() };
        if let Ok(number) = text.parse::<u8>() {
            return if (1..=RT_MAX).contains(&number) { Ok(Self(number)) } else { Err(unknown()) };
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(rest) = name.strip_prefix("RTMIN") {
            return real_time(rest, '+').map(|by| Self(RT_MIN + by)).ok_or_else(unknown);
        }
        if let Some(rest) = name.strip_prefix("RTMAX") {
            return real_time(rest, '-').map(|by| Self(RT_MAX - by)).ok_or_else(unknown);
        }
        let name = match name {
            "CLD" => "CHLD",
            "POLL" => "IO",
            "UNUSED" => "SYS",
            other => other,
        };
        Known::iterator()
            .find(|known| known.as_str().strip_prefix("SIG") == Some(name))
            .and_then(|known| u8::try_from(known as i32).ok())
            .map(Self)
            .ok_or_else(unknown)
    }

    /// Its number in the kernel.
    pub fn number(self) -> u8 {
        self.0
    }
}

/// Reads what follows `RTMIN` (`+n`) or `RTMAX` (`-n`).
fn real_time(rest: &str, sign: char) -> Option<u8> {
    if rest.is_empty() {
        return Some(0);
    }
    rest.strip_prefix(sign)?.parse().ok().filter(|by| *by <= RT_MAX - RT_MIN)
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Known::try_from(i32::from(self.0)) {
            Ok(known) => f.write_str(known.as_str()),
            Err(_) if self.0 >= RT_MIN => write!(f, "SIGRTMIN+{}", self.0 - RT_MIN),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

impl TryFrom<String> for Signal {
    type Error = UnknownSignal;

    fn try_from(text: String) -> Result<Self, UnknownSignal> {
        Self::parse(&text)
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_real_time_signals_parse() {
        let table = [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("hup", 1),
            ("CLD", 17),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
            ("64", 64),
        ];
        for (text, number) in table {
            assert_eq!(Signal::parse(text).map(Signal::number), Ok(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in ["", "0", "65", "-1", "SIG", "FOO", "RTMIN+31", "RTMIN-1", "9 ", "RTMAX-31"] {
            assert!(Signal::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_signal_survives_its_own_text() {
        for number in 1..=64 {
            let signal = Signal(number);

            assert_eq!(Signal::parse(&signal.to_string()), Ok(signal));
        }
    }
}
