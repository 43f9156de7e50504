//! `keg pause` and `keg unpause`: freeze the processes of containers, and let them go on.

use clap::Args;
use keg_proto::keg::v1::{PauseContainerRequest, UnpauseContainerRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Freezes each, and prints its name.
pub(crate) async fn pause(args: PauseArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let daemon = &daemon;
    output::for_each(&args.containers, |container| async move {
        let request = PauseContainerRequest { container: container.to_owned() };
        daemon.containers().pause(request).await?;
        Ok(container.to_owned())
    })
    .await
}

/// Lets each go on, and prints its name.
pub(crate) async fn unpause(args: PauseArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let daemon = &daemon;
    output::for_each(&args.containers, |container| async move {
        let request = UnpauseContainerRequest { container: container.to_owned() };
        daemon.containers().unpause(request).await?;
        Ok(container.to_owned())
    })
    .await
}
