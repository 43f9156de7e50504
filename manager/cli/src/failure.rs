//! How a command fails: what is printed, and with which code the program ends.
//!
//! Every error of the client's modules and of the daemon becomes a [`Failure`] here, and nowhere
//! else: a kind, which decides the exit code, a message, and a remedy if one is known.

use std::error::Error;
use std::fmt::Write as _;

use keg_proto::ERROR_DOMAIN;
use keg_proto::keg::v1::ErrorReason;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Exit code of `run` and `create` when the engine, not the command, failed.
pub(crate) const EXIT_ENGINE: u8 = 125;
/// Exit code when the command exists and cannot be executed.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit code when the command does not exist.
const EXIT_NOT_FOUND: u8 = 127;
/// Exit code of a program that SIGPIPE ends, as a shell reports it.
const EXIT_BROKEN_PIPE: u8 = 141;
/// Exit code of every other failure.
const EXIT_FAILURE: u8 = 1;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What was typed makes no sense.
    Usage,
    /// This program or its surroundings: a file, the terminal, the connection.
    Client,
    /// The daemon said no, and why.
    Daemon(ErrorReason),
    /// Nobody reads our output any more.
    BrokenPipe,
    /// Everything has been said already.
    Reported,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    remedy: Option<String>,
    exit_code: Option<u8>,
}

impl Failure {
    /// A failure of what was typed: a flag whose value cannot be read.
    pub(crate) fn usage(error: impl Error) -> Self {
        Self { kind: Kind::Usage, message: chain(&error), remedy: None, exit_code: None }
    }

    /// A failure of what was typed: it can be read, and makes no sense. Docker has another exit code
    /// for this, as it does not come from the reader of its command line.
    pub(crate) fn senseless(error: impl Error) -> Self {
        Self { exit_code: Some(EXIT_FAILURE), ..Self::usage(error) }
    }

    /// A failure of this program or of its surroundings.
    pub(crate) fn client(error: impl Error) -> Self {
        Self { kind: Kind::Client, message: chain(&error), remedy: None, exit_code: None }
    }

    /// A failure whose parts have been printed one by one.
    pub(crate) fn reported() -> Self {
        Self { kind: Kind::Reported, message: String::new(), remedy: None, exit_code: None }
    }

    /// A failed read or write of one of our own streams; a broken pipe is told apart.
    pub(crate) fn stream(error: &std::io::Error, what: &'static str) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            let kind = Kind::BrokenPipe;
            return Self { kind, message: String::new(), remedy: None, exit_code: None };
        }
        let message = format!("{what}: {error}");
        Self { kind: Kind::Client, message, remedy: None, exit_code: None }
    }

    /// Adds what to try next.
    #[must_use]
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Makes the program end with the code that `run` has for this failure: 127, 126 or 125.
    #[must_use]
    pub(crate) fn of_run(mut self) -> Self {
        self.exit_code = Some(match self.kind {
            Kind::Daemon(ErrorReason::CommandNotFound) => EXIT_NOT_FOUND,
            Kind::Daemon(ErrorReason::CommandNotExecutable) => EXIT_NOT_EXECUTABLE,
            Kind::BrokenPipe => EXIT_BROKEN_PIPE,
            Kind::Usage | Kind::Client | Kind::Daemon(_) | Kind::Reported => EXIT_ENGINE,
        });
        self
    }

    /// Makes the program end with the code that `exec` has for this failure: 127, 126 or 1.
    #[must_use]
    pub(crate) fn of_exec(mut self) -> Self {
        self.exit_code = match self.kind {
            Kind::Daemon(ErrorReason::CommandNotFound) => Some(EXIT_NOT_FOUND),
            // Whatever else kept the runtime from starting it, as with Docker.
            Kind::Daemon(ErrorReason::CommandNotExecutable | ErrorReason::RuntimeFailed) => {
                Some(EXIT_NOT_EXECUTABLE)
            }
            Kind::Usage | Kind::Client | Kind::Daemon(_) | Kind::BrokenPipe | Kind::Reported => {
                None
            }
        };
        self
    }

    /// The daemon's reason, if it was the daemon that failed.
    pub(crate) fn reason(&self) -> Option<ErrorReason> {
        match self.kind {
            Kind::Daemon(reason) => Some(reason),
            _ => None,
        }
    }

    /// Code with which the program ends.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.exit_code, self.kind) {
            (Some(code), _) => code,
            (None, Kind::Usage) => EXIT_ENGINE,
            (None, Kind::BrokenPipe) => EXIT_BROKEN_PIPE,
            (None, Kind::Client | Kind::Daemon(_) | Kind::Reported) => EXIT_FAILURE,
        }
    }

    /// Text for standard error; empty if there is nothing to say.
    pub(crate) fn render(&self) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let mut text = format!("keg: {}\n", harmless(&self.message));
        if let Some(remedy) = &self.remedy {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "     try: {}", harmless(remedy));
        }
        text
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let reason = info
            .as_ref()
            .and_then(|info| ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason)))
            .unwrap_or(ErrorReason::Unspecified);
        let remedy = info.and_then(|mut info| info.metadata.remove("remedy"));
        let lost = reason == ErrorReason::Unspecified
            && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
            && status.source().is_some();
        if lost {
            return Self {
                kind: Kind::Client,
                message: "the connection to kegd broke; containers go on without it".to_owned(),
                remedy: Some("see whether kegd runs, then `keg ps -a`".to_owned()),
                exit_code: None,
            };
        }
        let message = match (status.message(), status.code()) {
            ("", code) => format!("kegd answered with an error: {code}"),
            (message, Code::Unimplemented) => format!("this kegd cannot do that: {message}"),
            (message, _) => message.to_owned(),
        };
        Self { kind: Kind::Daemon(reason), message, remedy, exit_code: None }
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing into a String cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Text without the control characters by which a hostile name could take over a terminal.
fn harmless(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        control if control.is_control() => '\u{fffd}',
        plain => plain,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn status(reason: &str) -> Status {
        let metadata = HashMap::from([("remedy".to_owned(), "run `keg pull x`".to_owned())]);
        let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata);
        Status::with_error_details(Code::NotFound, "no image \"x\"", details)
    }

    #[test]
    fn a_status_becomes_message_reason_and_remedy() {
        let failure = Failure::from(status("IMAGE_NOT_FOUND"));

        assert_eq!(failure.reason(), Some(ErrorReason::ImageNotFound));
        assert_eq!(failure.render(), "keg: no image \"x\"\n     try: run `keg pull x`\n");
        assert_eq!(failure.exit_code(), 1);
    }

    #[test]
    fn run_ends_with_dockers_codes() {
        let table = [
            ("COMMAND_NOT_FOUND", 127),
            ("COMMAND_NOT_EXECUTABLE", 126),
            ("IMAGE_NOT_FOUND", 125),
            ("SOMETHING_NEWER_THAN_THIS_CLIENT", 125),
        ];
        for (reason, code) in table {
            assert_eq!(Failure::from(status(reason)).of_run().exit_code(), code, "{reason}");
        }
    }

    #[test]
    fn a_broken_pipe_is_silent() {
        let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);

        let failure = Failure::stream(&error, "write to standard output");

        assert_eq!(failure.render(), "");
        assert_eq!(failure.exit_code(), 141);
    }

    #[test]
    fn a_message_cannot_take_over_the_terminal() {
        let failure = Failure::from(Status::not_found("no \u{1b}[2Jcontainer"));

        assert_eq!(failure.render(), "keg: no \u{fffd}[2Jcontainer\n");
    }
}
