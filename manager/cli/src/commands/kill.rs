//! `keg kill`: sends a signal to containers.

use clap::Args;
use keg_proto::keg::v1::KillContainerRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg kill web            SIGKILL: it ends at once
  keg kill -s HUP web     any other signal")]
pub(crate) struct KillArgs {
    /// Signal to send, a name or a number (default: KILL)
    #[arg(short = 's', long, value_name = "SIGNAL", default_value = "", hide_default_value = true)]
    signal: String,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Sends it to each, and prints its name.
pub(crate) async fn run(args: KillArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let (daemon, signal) = (&daemon, &args.signal);
    output::for_each(&args.containers, |container| async move {
        let request =
            KillContainerRequest { container: container.to_owned(), signal: signal.clone() };
        daemon.containers().kill(request).await?;
        Ok(container.to_owned())
    })
    .await
}
