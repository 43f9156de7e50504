//! `keg network rm`: removes networks.

use clap::Args;
use keg_proto::keg::v1::{ErrorReason, RemoveNetworkRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Do not mind a network that does not exist
    #[arg(short = 'f', long)]
    force: bool,
    /// Names or ids of networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Removes each, and prints its name.
pub(crate) async fn run(args: RmArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let (daemon, force) = (&daemon, args.force);
    output::for_each(&args.networks, |network| async move {
        let request = RemoveNetworkRequest { network: network.to_owned() };
        match daemon.networks().remove(request).await.map_err(Failure::from) {
            Err(failure) if force && failure.reason() == Some(ErrorReason::NetworkNotFound) => {
                output::complain(&failure.render());
                Ok(String::new())
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(network.to_owned()),
        }
    })
    .await
}
