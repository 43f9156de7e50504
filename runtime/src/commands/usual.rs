//! The usual command lines, read by hand: long options, each once, in the form in which engines write them.
//!
//! To describe even one command to clap takes a tenth of a millisecond, and a container's life is three
//! of them (ARCHITECTURE.md, "Where the time goes"). Whatever else a command line may be is left to
//! clap, and with it every message: what is read here is what clap reads, or nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::create::{Create, CreateOptions};
use super::delete::Delete;
use super::run::Run;
use super::start::Start;
use super::state::State;
use super::{Global, LogFormatArg, Rootless};

/// The words of a command line, sorted.
struct Given<'a> {
    /// Options, with the values of those that take one.
    options: Vec<(&'a str, Option<&'a OsStr>)>,
    /// What is no option.
    operands: Vec<&'a OsString>,
}

impl<'a> Given<'a> {
    /// Sorts `args`, of whose options some are `flags` and some take a value; `None` if there is
    /// something else.
    fn sort(args: &'a [OsString], flags: &[&str], valued: &[&str]) -> Option<Self> {
        let mut given = Self { options: Vec::new(), operands: Vec::new() };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            if !word.as_bytes().starts_with(b"-") {
                given.operands.push(word);
                continue;
            }
            let text = word.to_str()?;
            let (name, joined) = match text.split_once('=') {
                Some((name, value)) => (name, Some(OsStr::new(value))),
                None => (text, None),
            };
            let value = match (flags.contains(&name), valued.contains(&name), joined) {
                (true, _, None) => None,
                (_, true, Some(value)) => Some(value),
                (_, true, None) => Some(words.next()?.as_os_str()),
                _ => return None,
            };
            let is_odd = |value: &OsStr| value.is_empty() || value.as_bytes().starts_with(b"-");
            if value.is_some_and(is_odd) || given.has(name) {
                return None;
            }
            given.options.push((name, value));
        }
        Some(given)
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(name, _)| *name == option)
    }

    fn value(&self, option: &str) -> Option<&'a OsStr> {
        self.options.iter().find(|(name, _)| *name == option).and_then(|(_, value)| *value)
    }

    fn path(&self, option: &str) -> Option<PathBuf> {
        self.value(option).map(PathBuf::from)
    }

    /// The only operand.
    fn id(&self) -> Option<String> {
        match self.operands[..] {
            [id] => id.to_str().map(str::to_owned),
            _ => None,
        }
    }
}

/// Reads the options before the command.
pub(super) fn global(args: &[OsString]) -> Option<Global> {
    let flags = ["--debug", "--systemd-cgroup"];
    let given = Given::sort(args, &flags, &["--root", "--log", "--log-format"])?;
    let log_format = match given.value("--log-format").map(OsStr::as_bytes) {
        None | Some(b"text") => LogFormatArg::Text,
        Some(b"json") => LogFormatArg::Json,
        Some(_) => return None,
    };
    Some(Global {
        debug: given.has("--debug"),
        log: given.path("--log"),
        log_format,
        root: given.path("--root"),
        systemd_cgroup: given.has("--systemd-cgroup"),
        rootless: Rootless::Auto,
        criu: "criu".into(),
        cgroup_manager: None,
        log_level: None,
    })
}

/// Flags and options with values that `create` and `run` share.
const CREATE_FLAGS: [&str; 2] = ["--no-pivot", "--no-new-keyring"];
const CREATE_VALUED: [&str; 5] =
    ["--bundle", "--config", "--console-socket", "--pidfd-socket", "--pid-file"];

fn create_options(given: &Given<'_>) -> CreateOptions {
    CreateOptions {
        bundle: given.path("--bundle").unwrap_or_else(|| ".".into()),
        config: given.path("--config").unwrap_or_else(|| "config.json".into()),
        console_socket: given.path("--console-socket"),
        pidfd_socket: given.path("--pidfd-socket"),
        pid_file: given.path("--pid-file"),
        no_pivot: given.has("--no-pivot"),
        no_new_keyring: given.has("--no-new-keyring"),
        preserve_fds: 0,
    }
}

/// Reads what follows the word `create`.
pub(super) fn create(args: &[OsString]) -> Option<Create> {
    let given = Given::sort(args, &CREATE_FLAGS, &CREATE_VALUED)?;
    Some(Create { id: given.id()?, options: create_options(&given) })
}

/// Reads what follows the word `run`.
pub(super) fn run(args: &[OsString]) -> Option<Run> {
    let [no_pivot, no_new_keyring] = CREATE_FLAGS;
    let flags = [no_pivot, no_new_keyring, "--detach", "--keep", "--no-subreaper"];
    let given = Given::sort(args, &flags, &CREATE_VALUED)?;
    Some(Run {
        id: given.id()?,
        options: create_options(&given),
        detach: given.has("--detach"),
        keep: given.has("--keep"),
        no_subreaper: given.has("--no-subreaper"),
    })
}

/// Reads what follows the word `start`.
pub(super) fn start(args: &[OsString]) -> Option<Start> {
    Some(Start { id: Given::sort(args, &[], &[])?.id()? })
}

/// Reads what follows the word `state`.
pub(super) fn state(args: &[OsString]) -> Option<State> {
    Some(State { id: Given::sort(args, &[], &[])?.id()? })
}

/// Reads what follows the word `delete`.
pub(super) fn delete(args: &[OsString]) -> Option<Delete> {
    let given = Given::sort(args, &["--force"], &[])?;
    Some(Delete { id: given.id()?, force: given.has("--force") })
}
