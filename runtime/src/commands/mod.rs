//! The command line, as runc has it: global options, then a command with its own.
//!
//! A command parses, calls the library and prints. Every failure ends here as one line of the log,
//! with a reason for programs, and as an exit code.

mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod foreground;
mod kill;
mod list;
mod passed;
mod pause;
mod ps;
mod read;
mod restore;
mod resume;
mod run;
mod spec;
mod standby;
mod start;
mod state;
mod update;
mod usual;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::errno::Errno;
use nix::unistd::geteuid;

use crate::cgroup::{CgroupError, Driver};
use crate::console::ConsoleError;
use crate::criu::CriuError;
use crate::hooks::HookError;
use crate::intel_rdt::IntelRdtError;
use crate::lifecycle::{Lifecycle, Refused};
use crate::log::{Level, Log, LogFormat};
use crate::plan::PlanError;
use crate::security::capabilities::UnknownCapability;
use crate::self_protect::ProtectError;
use crate::stage::error::LaunchError;
use crate::stage::failure::{ProgramFault, Step};
use crate::state_store::{StateStore, StoreError};
use crate::sys;

/// Version of the runtime-spec that is implemented.
pub const SPEC_VERSION: &str = "1.3.0";

/// Open Container Initiative runtime: runs containers from bundles.
#[derive(Debug, Parser)]
#[command(name = "keg-runtime", disable_version_flag = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    /// Print version information.
    #[arg(short = 'v', long = "version")]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Global {
    /// Log more.
    #[arg(long)]
    debug: bool,
    /// File that the log is appended to, instead of standard error.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Form of the log's lines.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormatArg,
    /// Directory for the state of containers [default: /run/keg-runtime].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Let systemd make the cgroups; cgroupsPath is then slice:prefix:name.
    #[arg(long)]
    systemd_cgroup: bool,
    /// Whether cgroup failures for lack of permission are passed over.
    #[arg(long, value_name = "BOOL", default_value = "auto", num_args = 1)]
    rootless: Rootless,
    /// CRIU, for checkpoint and restore.
    #[arg(long, value_name = "PATH", default_value = "criu")]
    criu: PathBuf,
    /// Who makes the cgroups, in crun's words.
    #[arg(long, value_name = "MANAGER", hide = true)]
    cgroup_manager: Option<CgroupManager>,
    /// crun's word for how much is logged.
    #[arg(long, value_name = "LEVEL", hide = true)]
    log_level: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArg {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rootless {
    Auto,
    True,
    False,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a running container to disk (by CRIU).
    Checkpoint(Box<checkpoint::Checkpoint>),
    /// Create a container; its program does not run yet.
    Create(create::Create),
    /// Delete a container that has stopped.
    Delete(delete::Delete),
    /// Print what a container uses, and when it runs out of memory.
    Events(events::Events),
    /// Run a further process in a container.
    Exec(Box<exec::Exec>),
    /// Print what this runtime can do.
    Features(features::Features),
    /// Send a signal to a container's first process.
    Kill(kill::Kill),
    /// List containers.
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Stop all processes of a container where they are.
    Pause(pause::Pause),
    /// List the processes of a container.
    Ps(ps::Ps),
    /// Make a container from a checkpoint (by CRIU).
    Restore(Box<restore::Restore>),
    /// Let the processes of a paused container go on.
    Resume(resume::Resume),
    /// Create a container and run its program.
    Run(run::Run),
    /// Write a config.json to start from.
    Spec(spec::Spec),
    /// Run the program of a created container.
    Start(start::Start),
    /// Print the state of a container.
    State(state::State),
    /// Change the limits of a container.
    Update(Box<update::Update>),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The state directory.
    #[error(transparent)]
    Store(StoreError),
    /// The specification.
    #[error(transparent)]
    Plan(PlanError),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(CgroupError),
    /// The share of cache and memory bandwidth.
    #[error(transparent)]
    IntelRdt(IntelRdtError),
    /// A state that forbids the command.
    #[error(transparent)]
    Refused(Refused),
    /// The start of a container.
    #[error("keg-runtime create failed")]
    Create(#[source] LaunchError),
    /// The start of its program.
    #[error("keg-runtime start failed")]
    Start(#[source] LaunchError),
    /// A further process.
    #[error("exec failed")]
    Exec(#[source] LaunchError),
    /// A checkpoint.
    #[error("keg-runtime checkpoint failed")]
    Checkpoint(#[source] CriuError),
    /// A restore.
    #[error("keg-runtime restore failed")]
    Restore(#[source] CriuError),
    /// The terminal.
    #[error(transparent)]
    Console(ConsoleError),
    /// A hook that runs after the start or after the end.
    #[error("error running {kind} hook #{index}")]
    Hook {
        /// `poststart` or `poststop`.
        kind: &'static str,
        /// Which of them.
        index: usize,
        /// How it failed.
        #[source]
        source: HookError,
    },
    /// The bundle has no readable config.json.
    #[error("read {path:?} (--bundle gives its directory)")]
    Config {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// config.json, or the file that `--process` names, is no such thing.
    #[error("{path:?} is malformed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// An option holds what it cannot hold.
    #[error("{option}: {value:?}: expected {expected}")]
    Option {
        /// Which.
        option: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// A capability that does not exist.
    #[error(transparent)]
    Capability(UnknownCapability),
    /// The runtime's own program.
    #[error(transparent)]
    Protect(ProtectError),
    /// A call to the kernel failed.
    #[error("{what}")]
    Kernel {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A file could not be written or read.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refused> for CommandError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl CommandError {
    fn kernel(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |errno| Self::Kernel { what, errno }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Returns the reason for programs: one of a closed list, told in ARCHITECTURE.md.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Create(error) | Self::Start(error) | Self::Exec(error) => match error {
                LaunchError::Program { fault: ProgramFault::NotFound, .. } => "COMMAND_NOT_FOUND",
                LaunchError::Program { fault: ProgramFault::NotExecutable, .. } => {
                    "COMMAND_NOT_EXECUTABLE"
                }
                LaunchError::Hook { .. } | LaunchError::InnerHook { .. } => "HOOK_FAILED",
                LaunchError::Cgroup(_) => "CGROUP",
                LaunchError::Seccomp(_) => "SECCOMP",
                LaunchError::Clone { errno: Errno::EPERM, .. }
                | LaunchError::Step { step: Step::Namespaces, errno: Errno::EPERM, .. } => {
                    "PERMISSION_DENIED"
                }
                _ => "SETUP_FAILED",
            },
            Self::Store(StoreError::Exists { .. }) => "ALREADY_EXISTS",
            Self::Store(StoreError::NotFound { .. }) => "CONTAINER_NOT_FOUND",
            Self::Store(StoreError::Busy { .. }) => "BUSY",
            Self::Checkpoint(error) | Self::Restore(error) => match error {
                CriuError::Impossible { .. } | CriuError::Unsupported { .. } => "INVALID_CONFIG",
                _ => "SETUP_FAILED",
            },
            Self::Store(_) | Self::Io { .. } | Self::Kernel { .. } | Self::Protect(_) => "INTERNAL",
            Self::Plan(_) | Self::Config { .. } | Self::Malformed { .. } => "INVALID_CONFIG",
            Self::Option { .. } | Self::Capability(_) | Self::Console(_) => "INVALID_ARGUMENT",
            Self::Cgroup(_) => "CGROUP",
            Self::IntelRdt(_) => "SETUP_FAILED",
            Self::Refused(Refused { state: Lifecycle::Stopped | Lifecycle::Creating, .. }) => {
                "CONTAINER_NOT_RUNNING"
            }
            Self::Refused(_) => "WRONG_STATE",
            Self::Hook { .. } => "HOOK_FAILED",
        }
    }
}

/// What every command gets.
#[derive(Debug)]
struct Context {
    store: StateStore,
    /// Whether the user has named the directory of the store.
    root_is_chosen: bool,
    driver: Driver,
    /// Whether containers stay in the cgroup of this process.
    without_cgroup: bool,
    /// Whether a cgroup that cannot be made for lack of permission is done without.
    rootless: bool,
    /// CRIU's program.
    criu: PathBuf,
}

/// Runs the command line of this process to its end and returns the exit code; what the C library calls
/// where the standard library's beginning is left out (see `sys/entry`).
pub extern "C" fn main() -> libc::c_int {
    // Without these, files of a container could take the place of a stream, and a hook that does not read
    // its state could end the runtime. Nobody could be told of a failure.
    let prepared = sys::fd::fill_standard_streams()
        .and_then(|()| sys::process::ignore(nix::sys::signal::Signal::SIGPIPE));
    if prepared.is_err() {
        return 1;
    }
    let code = code_of(Cli::read());
    // Whole lines are written already.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    code.into()
}

/// Runs the command line to its end and returns the exit code.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    code_of(cli).into()
}

fn code_of(cli: Cli) -> u8 {
    if cli.version {
        let libseccomp = libseccomp::ScmpVersion::current()
            .map(|version| format!("\nlibseccomp: {version}"))
            .unwrap_or_default();
        println!(
            "keg-runtime version {}\nspec: {SPEC_VERSION}{libseccomp}",
            env!("CARGO_PKG_VERSION")
        );
        return 0;
    }
    let global = cli.global;
    let format = match global.log_format {
        LogFormatArg::Text => LogFormat::Text,
        LogFormatArg::Json => LogFormat::Json,
    };
    let by_systemd = global.systemd_cgroup || global.cgroup_manager == Some(CgroupManager::Systemd);
    let debug = global.debug || global.log_level.as_deref() == Some("debug");
    let mut log = match Log::open(global.log.as_deref(), format, debug) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{}", chain(&error));
            return 1;
        }
    };
    let Some(command) = cli.command else {
        let _ = <Cli as clap::CommandFactory>::command().print_help();
        return 0;
    };
    let context = Context {
        root_is_chosen: global.root.is_some(),
        store: StateStore::new(global.root.unwrap_or_else(default_root)),
        without_cgroup: global.cgroup_manager == Some(CgroupManager::Disabled),
        driver: if by_systemd { Driver::Systemd } else { Driver::CgroupFs },
        rootless: match global.rootless {
            Rootless::True => true,
            Rootless::False => false,
            Rootless::Auto => !geteuid().is_root(),
        },
        criu: global.criu,
    };
    if log.is_debug() {
        log.write(Level::Debug, &format!("{command:?}"), None);
    }
    let failure_code = if matches!(command, Command::Exec(_)) { 255 } else { 1 };
    match dispatch(command, &context, &mut log) {
        Ok(code) => code,
        Err(error) => {
            let message = chain(&error);
            log.write(Level::Error, &message, Some(error.reason()));
            if !log.is_stderr() {
                eprintln!("{message}");
            }
            failure_code
        }
    }
}

fn dispatch(command: Command, context: &Context, log: &mut Log) -> Result<u8, CommandError> {
    match command {
        Command::Checkpoint(checkpoint) => checkpoint.run(context, log),
        Command::Create(create) => create.run(context, log),
        Command::Delete(delete) => delete.run(context, log),
        Command::Events(events) => events.run(context),
        Command::Exec(exec) => exec.run(context, log),
        Command::Features(features) => features.run(),
        Command::Kill(kill) => kill.run(context),
        Command::List(list) => list.run(context),
        Command::Pause(pause) => pause.run(context),
        Command::Ps(ps) => ps.run(context),
        Command::Restore(restore) => restore.run(context, log),
        Command::Resume(resume) => resume.run(context),
        Command::Run(run) => run.run(context, log),
        Command::Spec(spec) => spec.run(),
        Command::Start(start) => start.run(context),
        Command::State(state) => state.run(context),
        Command::Update(update) => update.run(context, log),
    }
}

fn default_root() -> PathBuf {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime_dir {
        Some(dir) if !geteuid().is_root() => dir.join("keg-runtime"),
        _ => PathBuf::from("/run/keg-runtime"),
    }
}

/// Returns an error with all its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = match error.downcast_ref::<Errno>() {
            Some(errno) => crate::stage::failure::lower(*errno),
            None => error.to_string(),
        };
        text.push_str(": ");
        text.push_str(&words);
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn causes_are_appended_and_errors_of_the_kernel_read_like_a_sentence() {
        let error = CommandError::Kernel { what: "do it".to_owned(), errno: Errno::ENOENT };

        assert_eq!(chain(&error), "do it: no such file or directory");
    }
}
