//! Questions to whoever sits at the terminal.

use std::io::{self, BufRead as _, Read as _};

use rustix::termios::LocalModes;

use super::raw_mode;
use crate::failure::Failure;
use crate::output;

/// Longest answer.
const MAX_ANSWER_BYTES: usize = 4096;

/// Somebody pressed ctrl-c.
#[derive(Debug, thiserror::Error)]
#[error("called off")]
struct CalledOff;

/// Asks, and returns the line that is typed.
///
/// # Errors
/// A [`Failure`] if the terminal cannot be read.
pub(crate) fn ask(prompt: &str) -> Result<String, Failure> {
    output::complain(prompt);
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::stream(&error, "read from the terminal"))?;
    Ok(line.trim().to_owned())
}

/// Asks, and does not show what is typed.
///
/// # Errors
/// A [`Failure`] if the terminal cannot be read, or ctrl-c is pressed.
pub(crate) fn ask_secret(prompt: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::stream(&error, "read from the terminal");
    output::complain(prompt);
    // Without signals, too: ctrl-c would leave a terminal behind that shows nothing.
    let hidden = raw_mode::RawMode::with(|modes| {
        modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    })
    .map_err(Failure::client)?;
    let mut answer = Vec::new();
    let mut stdin = io::stdin().lock();
    let outcome = loop {
        let mut key = [0];
        if stdin.read(&mut key).map_err(failed)? == 0 {
            break Ok(());
        }
        match key[0] {
            b'\n' | b'\r' => break Ok(()),
            0x03 | 0x04 => break Err(Failure::client(CalledOff)),
            0x08 | 0x7f => {
                // A letter may have several octets.
                while answer.pop().is_some_and(|octet| octet & 0xc0 == 0x80) {}
            }
            0x15 => answer.clear(),
            octet if answer.len() < MAX_ANSWER_BYTES => answer.push(octet),
            _ => {}
        }
    };
    drop(hidden);
    output::complain("\n");
    outcome.map(|()| String::from_utf8_lossy(&answer).into_owned())
}
