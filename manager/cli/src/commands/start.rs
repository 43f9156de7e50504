//! `keg start`: starts containers that were created or have ended.

use clap::Args;
use keg_proto::keg::v1::{InspectContainerRequest, StartContainerRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::session::{Session, SessionOptions, check_terminal};
use crate::terminal::detach::DetachKeys;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg start web db       start both, and print their names
  keg start -ai shell    start one, and join it")]
pub(crate) struct StartArgs {
    /// Join the container: show its output, pass signals on, end with its exit code
    #[arg(short = 'a', long)]
    attach: bool,
    /// Keys that leave the container and let it run
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Join the container, and send standard input
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// More containers than one terminal can show.
#[derive(Debug, thiserror::Error)]
#[error("only one container can be joined at a time")]
struct TooMany;

/// Starts them, or starts and joins one.
pub(crate) async fn run(args: StartArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    if args.attach || args.interactive {
        let [container] = args.containers.as_slice() else {
            return Err(
                Failure::senseless(TooMany).with_remedy("leave out -a and -i to start several")
            );
        };
        return start_and_join(&daemon, container, args.interactive, args.detach_keys).await;
    }
    let daemon = &daemon;
    output::for_each(&args.containers, |container| async move {
        let request = StartContainerRequest { container: container.to_owned() };
        daemon.containers().start(request).await?;
        Ok(container.to_owned())
    })
    .await
}

async fn start_and_join(
    daemon: &Daemon,
    container: &str,
    interactive: bool,
    detach_keys: DetachKeys,
) -> Result<u8, Failure> {
    let request = InspectContainerRequest { container: container.to_owned(), size: false };
    let found = daemon.containers().inspect(request).await?.into_inner();
    let config = found.config.unwrap_or_default();
    let id = found.summary.unwrap_or_default().id;
    let stdin = interactive && config.open_stdin;
    check_terminal(stdin, config.tty)?;
    let options = SessionOptions {
        container: id.clone(),
        tty: config.tty,
        stdin,
        stdout: true,
        stderr: true,
        detach_keys,
        sig_proxy: true,
    };
    let session = Session::open(daemon, options).await?;
    // Held until the end of this function, whichever way it is left.
    let _raw = session.take_terminal()?;
    daemon.containers().start(StartContainerRequest { container: id }).await?;
    session.run().await.map(|end| end.exit_code())
}
