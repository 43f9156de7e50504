//! The shim's own messages: lines into `./log` in the bundle, which a daemon reads.
//!
//! The file is opened for each message, which are few: so a FIFO whose reader left costs nothing,
//! a reader that comes back is found, and nothing is held open while idle. Nobody there: the
//! message is lost, since the container matters more.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use crate::clock::{Fraction, rfc3339};

/// Name within the bundle, which is the working directory.
const FILE: &str = "log";

/// Reports what failed without failing a call, and why.
pub(crate) fn warn(what: &str, why: &dyn Error) {
    write("warning", &format!("{what}: {}", chain(why)));
}

/// Reports what happened.
pub(crate) fn info(what: &str) {
    write("info", what);
}

/// Joins an error and its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn write(level: &str, text: &str) {
    let opened = OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(FILE);
    if let Ok(mut file) = opened {
        let time = rfc3339(SystemTime::now(), Fraction::Nanoseconds);
        let line = format!("time=\"{time}\" level={level} msg={text:?}\n");
        // A full or broken pipe loses the message, as said above.
        let _ = file.write_all(line.as_bytes());
    }
}
