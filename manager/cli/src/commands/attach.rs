//! `keg attach`: joins a container that runs.

use clap::{ArgAction, Args};
use keg_proto::keg::v1::{ContainerState, InspectContainerRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::session::{Session, SessionOptions, check_terminal};
use crate::terminal::detach::DetachKeys;
use crate::views::container::state_word;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg attach web            ctrl-p ctrl-q leaves it running, if it has a terminal
  keg attach --no-stdin --sig-proxy=false web   only watch; ctrl-c leaves it running")]
pub(crate) struct AttachArgs {
    /// Keys that leave the container and let it run
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Do not send standard input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the process (not if it has a terminal)
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
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// A container that cannot be joined.
#[derive(Debug, thiserror::Error)]
#[error("cannot attach to {container:?}: it is {state}")]
struct NotRunning {
    container: String,
    state: &'static str,
}

/// Joins the container; the exit code is its process's.
pub(crate) async fn run(args: AttachArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = InspectContainerRequest { container: args.container.clone(), size: false };
    let found = daemon.containers().inspect(request).await?.into_inner();
    let summary = found.summary.unwrap_or_default();
    if summary.state() != ContainerState::Running {
        let state = state_word(summary.state());
        let remedy = format!("start it by `keg start -a {}`", args.container);
        let error = NotRunning { container: args.container, state };
        return Err(Failure::client(error).with_remedy(remedy));
    }
    let config = found.config.unwrap_or_default();
    let stdin = config.open_stdin && !args.no_stdin;
    check_terminal(stdin, config.tty)?;
    let options = SessionOptions {
        container: summary.id,
        tty: config.tty,
        stdin,
        stdout: true,
        stderr: true,
        detach_keys: args.detach_keys,
        sig_proxy: args.sig_proxy,
    };
    let session = Session::open(&daemon, options).await?;
    // Held until the end of this function, whichever way it is left.
    let _raw = session.take_terminal()?;
    session.redraw().await;
    session.run().await.map(|end| end.exit_code())
}
