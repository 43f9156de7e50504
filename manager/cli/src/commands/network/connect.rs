//! `keg network connect`: puts a container on a further network.

use clap::Args;
use keg_proto::keg::v1::{ConnectNetworkRequest, NetworkAttachment};

use crate::client::Daemon;
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg network connect front web
  keg network connect --alias db --ip 172.28.0.9 back store")]
pub(crate) struct ConnectArgs {
    /// Answer to this name, too, on the network
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Address on the network
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ip: String,
    /// IPv6 address on the network
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ip6: String,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Connects.
pub(crate) async fn run(args: ConnectArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let attachment = NetworkAttachment {
        network: args.network,
        aliases: args.alias,
        ipv4_address: args.ip,
        ipv6_address: args.ip6,
        ..NetworkAttachment::default()
    };
    let request = ConnectNetworkRequest { container: args.container, attachment: Some(attachment) };
    daemon.networks().connect(request).await?;
    Ok(0)
}
