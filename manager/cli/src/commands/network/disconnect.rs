//! `keg network disconnect`: takes a container from a network.

use clap::Args;
use keg_proto::keg::v1::{DisconnectNetworkRequest, ErrorReason};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// Do not mind a container that does not exist
    #[arg(short = 'f', long)]
    force: bool,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Disconnects.
pub(crate) async fn run(args: DisconnectArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = DisconnectNetworkRequest { network: args.network, container: args.container };
    match daemon.networks().disconnect(request).await.map_err(Failure::from) {
        Err(failure) if args.force && failure.reason() == Some(ErrorReason::ContainerNotFound) => {
            output::complain(&failure.render());
            Ok(0)
        }
        Err(failure) => Err(failure),
        Ok(_) => Ok(0),
    }
}
