//! `keg run`: makes a container, starts it, and stays with it unless told otherwise.
//!
//! ```text
//! Create ─▶ (image not here: Images.Pull ─▶ Create) ─▶ Attach ─▶ Start ─▶ streams ─▶ exit code
//! ```
//!
//! The container is joined before it is started, so that nothing it writes is missed.

use std::time::Duration;

use clap::{ArgAction, Args};
use keg_proto::keg::v1::{
    CreateContainerResponse, StartContainerRequest, WaitCondition, WaitContainerRequest,
};

use super::create::create;
use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::container::ContainerFlags;
use crate::output;
use crate::session::{Session, SessionEnd, SessionOptions, check_terminal};
use crate::terminal::detach::DetachKeys;

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    next_display_order = None,
    override_usage = "keg run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Examples:
  keg run --rm busybox echo hello              run a command, and leave nothing behind
  keg run -it --rm busybox sh                  a shell; ctrl-p ctrl-q leaves it running
  keg run -d --name web -v /srv/www:/www:ro busybox httpd -f -h /www
  keg run --rm -i busybox sha256sum < file     read a file
  keg run --rm -m 64m --cpus 0.5 IMAGE         limit what it may use

Exit codes: that of the command; 128+n if signal n ended it; 125 if Keg failed,
126 if the command cannot be executed, 127 if it does not exist."
)]
pub(crate) struct RunArgs {
    /// Run in the background, and print the container's id
    #[arg(short = 'd', long)]
    detach: bool,
    /// Keys that leave the container and let it run
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Pass signals on to the process (not with -t)
    #[arg(
        long,
        value_name = "true|false",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = ArgAction::Set,
        hide_possible_values = true
    )]
    sig_proxy: bool,
    #[command(flatten)]
    flags: ContainerFlags,
}

/// Longest time that is waited for the removal of a container that has ended.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(10);

/// What was typed contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("-a (--attach) and -d (--detach) exclude each other")]
struct AttachAndDetach;

/// Runs a container; the exit code is its process's.
pub(crate) async fn run(args: RunArgs, host: &str) -> Result<u8, Failure> {
    if args.detach && !args.flags.attach.is_empty() {
        return Err(Failure::usage(AttachAndDetach));
    }
    if !args.detach {
        check_terminal(args.flags.wants_stdin(), args.flags.tty)?;
    }
    run_container(&args, host).await.map_err(Failure::of_run)
}

async fn run_container(args: &RunArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let created = create(&daemon, &args.flags, args.detach).await?;
    let start = StartContainerRequest { container: created.id.clone() };
    if args.detach {
        daemon.containers().start(start).await?;
        output::print_line(&created.id)?;
        return Ok(0);
    }
    let session = Session::open(&daemon, session_options(args, &created)).await?;
    // Held until the end of this function, whichever way it is left.
    let _raw = session.take_terminal()?;
    daemon.containers().start(start).await?;
    let end = session.run().await?;
    if args.flags.rm && matches!(end, SessionEnd::Exited(_)) {
        wait_until_removed(&daemon, &created.id).await;
    }
    Ok(end.exit_code())
}

/// Waits until a container is gone, so that whoever runs the next one can have its name. If that
/// cannot be told any more, or takes very long, the exit code is worth more than the wait.
async fn wait_until_removed(daemon: &Daemon, id: &str) {
    let condition = WaitCondition::Removed.into();
    let mut containers = daemon.containers();
    let removed = containers.wait(WaitContainerRequest { container: id.to_owned(), condition });
    let _ = tokio::time::timeout(REMOVAL_PATIENCE, removed).await;
}

fn session_options(args: &RunArgs, created: &CreateContainerResponse) -> SessionOptions {
    let (stdin, stdout, stderr) = args.flags.attached_streams();
    SessionOptions {
        container: created.id.clone(),
        tty: args.flags.tty,
        stdin,
        stdout,
        stderr,
        detach_keys: args.detach_keys.clone(),
        sig_proxy: args.sig_proxy,
    }
}
