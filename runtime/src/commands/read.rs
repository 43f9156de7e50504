//! Reads the command line, at a fraction of the usual cost for the commands that engines call.
//!
//! To describe all commands with all their options takes longer than most commands run. So the
//! word that names the command is searched first, and what belongs to it is read by hand ([`usual`]), or
//! nothing else is described. Whatever
//! is unusual about a command line (a mistake, a call for help, another command) is read the whole
//! way: every message and every rule is still clap's own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Args, Parser};

use super::{Cli, Command, Global, usual};
use crate::log::{Level, Log, LogFormat};
use crate::sys::process::exit_now;

/// Options before the command whose value is a word of its own.
const WITH_VALUE: [&str; 5] = ["--log", "--log-format", "--root", "--rootless", "--criu"];

impl Cli {
    /// Reads the arguments of this process; ends it, with a message, if they make no sense.
    #[must_use]
    pub fn read() -> Self {
        let args: Vec<OsString> = std::env::args_os().skip(1).collect();
        quick(&args)
            .unwrap_or_else(|| Self::try_parse().unwrap_or_else(|error| stop(&args, &error)))
    }
}

/// Exit code of runc, and of the library that reads its command line, for a command that there is not.
const UNKNOWN_COMMAND: i32 = 3;

/// Ends the process: with help, or with a code after a mistake, as runc. Who starts the runtime by program looks
/// for its errors in the log.
fn stop(args: &[OsString], error: &clap::Error) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    let format = match value_of(args, "--log-format") {
        Some(format) if format == "json" => LogFormat::Json,
        _ => LogFormat::Text,
    };
    if let Some(path) = value_of(args, "--log")
        && let Ok(mut log) = Log::open(Some(Path::new(path)), format, false)
        && !log.is_stderr()
    {
        log.write(Level::Error, &in_a_line(&error.to_string()), Some("INVALID_ARGUMENT"));
    }
    // If nobody reads standard error, nobody is left to be told.
    let _ = error.print();
    exit_now(match error.kind() {
        ErrorKind::InvalidSubcommand => UNKNOWN_COMMAND,
        _ => 1,
    })
}

/// Finds the value of a global option in a command line that makes no sense as a whole.
fn value_of<'a>(args: &'a [OsString], option: &str) -> Option<&'a OsStr> {
    let joined = |word: &'a OsString| {
        word.as_encoded_bytes().strip_prefix(option.as_bytes())?.strip_prefix(b"=")
    };
    args.iter().enumerate().find_map(|(place, word)| match joined(word) {
        Some(value) => Some(OsStr::from_bytes(value)),
        None if word == option => args.get(place + 1).map(OsString::as_os_str),
        None => None,
    })
}

/// What a mistake is, without the help that follows.
fn in_a_line(message: &str) -> String {
    let lines: Vec<&str> =
        message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

fn quick(args: &[OsString]) -> Option<Cli> {
    let place = command_place(args)?;
    let (global, rest) = (args.get(..place)?, args.get(place + 1..)?);
    let command = match args.get(place)?.to_str()? {
        "create" => Command::Create(usual::create(rest).or_else(|| read(rest))?),
        "delete" => Command::Delete(usual::delete(rest).or_else(|| read(rest))?),
        "exec" => Command::Exec(Box::new(read(rest)?)),
        "kill" => Command::Kill(read(rest)?),
        "run" => Command::Run(usual::run(rest).or_else(|| read(rest))?),
        "start" => Command::Start(usual::start(rest).or_else(|| read(rest))?),
        "state" => Command::State(usual::state(rest).or_else(|| read(rest))?),
        _ => return None,
    };
    let global = usual::global(global).or_else(|| read::<Global>(global))?;
    Some(Cli { global, version: false, command: Some(command) })
}

/// Where the word stands that names the command.
fn command_place(args: &[OsString]) -> Option<usize> {
    let mut words = args.iter().enumerate();
    while let Some((place, word)) = words.next() {
        if WITH_VALUE.iter().any(|option| word == OsStr::new(option)) {
            words.next();
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(place);
        }
    }
    None
}

fn read<T: Args>(args: &[OsString]) -> Option<T> {
    let command = clap::Command::new("keg-runtime").no_binary_name(true).disable_help_flag(true);
    T::from_arg_matches(&T::augment_args(command).try_get_matches_from(args).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What either way reads, as text.
    fn both(line: &str) -> (Option<String>, Option<String>) {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let whole = std::iter::once("keg-runtime".into()).chain(args.clone());
        let text = |cli| format!("{cli:?}");
        (quick(&args).map(text), Cli::try_parse_from(whole).ok().map(text))
    }

    #[test]
    fn the_quick_way_reads_what_the_long_way_reads() {
        for line in [
            "run x",
            "--root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file p x",
            "--root=/run --debug start x",
            "delete --force x",
            "--rootless true kill x KILL",
            "state -- x",
            "exec --cwd /tmp -e A=B -t x sh -c run",
            "--criu create run --bundle=b --no-pivot x",
            "--log=/l --log-format=text --root /r --debug run --detach --keep --no-subreaper x",
            "create --bundle /b --config c --console-socket s --pidfd-socket q --pid-file=p --no-pivot --no-new-keyring x",
            "create x --bundle a=b",
            "create -b b -f c --preserve-fds 3 x",
            "delete x",
            "delete -f x",
            "state x",
        ] {
            let (quick, whole) = both(line);
            assert!(quick.is_some(), "{line}");
            assert_eq!(quick, whole, "{line}");
        }
    }

    #[test]
    fn the_log_is_found_in_a_command_line_that_makes_no_sense() {
        for (line, log) in [
            ("--unknown --log /l create", Some("/l")),
            ("--log=/l --log-format=json", Some("/l")),
            ("create --log", None),
            ("--logs /l", None),
        ] {
            let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(value_of(&args, "--log"), log.map(OsStr::new), "{line}");
        }
    }

    #[test]
    fn a_mistake_is_told_in_one_line() {
        let error = Cli::try_parse_from(["keg-runtime", "list", "-f", "yaml"]).unwrap_err();

        let line = in_a_line(&error.to_string());

        assert_eq!(
            line,
            "invalid value 'yaml' for '--format <FORMAT>' [possible values: table, json]"
        );
    }

    #[test]
    fn mistakes_and_other_commands_are_left_to_the_long_way() {
        for line in [
            "",
            "run",
            "run --help",
            "--version",
            "--unknown run x",
            "run --unknown x",
            "list",
            "spec",
            "--log",
            "exec --help x",
            "--log-format yaml run x",
            "-h",
            "start x y",
            "start --",
            "start",
            "create --bundle a --bundle b x",
            "create --bundle --no-pivot x",
            "create --bundle= x",
            "create --no-pivot=true x",
            "create --bundle a",
            "delete --force --force x",
            "--root run x",
            "--log-format= start x",
        ] {
            assert_eq!(both(line).0, None, "{line}");
        }
    }
}
