//! Our own terminal: its size, raw mode, and the keys that leave a container.

pub(crate) mod detach;
pub(crate) mod question;
mod raw_mode;
pub(crate) mod stdio;

use std::os::fd::BorrowedFd;

use keg_proto::keg::v1::TerminalSize;
use rustix::termios;

pub(crate) use raw_mode::{RawMode, restore};

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    termios::isatty(rustix::stdio::stdin())
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    termios::isatty(rustix::stdio::stdout())
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    termios::isatty(rustix::stdio::stderr())
}

/// The size of the terminal that we write to, or else read from; `None` if there is none, or it
/// does not know.
pub(crate) fn size() -> Option<TerminalSize> {
    size_of(rustix::stdio::stdout()).or_else(|| size_of(rustix::stdio::stdin()))
}

fn size_of(terminal: BorrowedFd<'_>) -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0)
        .then(|| TerminalSize { width: size.ws_col.into(), height: size.ws_row.into() })
}
