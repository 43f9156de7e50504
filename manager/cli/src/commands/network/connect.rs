//! `keg network connect`: puts a container on a further network.

use clap::Args;
use keg_proto::keg::v1::{ConnectNetworkRequest, NetworkAttachment};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::network::interface_option;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg network connect front web
  keg network connect --alias db --ip 172.28.0.9 back store
  keg network connect --gw-priority 1 uplink web     its way out from now on")]
pub(crate) struct ConnectArgs {
    /// Answer to this name, too, on the network
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Set an option of the interface: com.docker.network.endpoint.ifname=NAME is its name
    #[arg(long, value_name = "NAME=VALUE")]
    driver_opt: Vec<String>,
    /// The way out is through the network where this is highest
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    gw_priority: i32,
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
    let interface =
        args.driver_opt.iter().try_fold(String::new(), |_, text| interface_option(text));
    let interface = interface.map_err(Failure::usage)?;
    let daemon = Daemon::connect(host).await?;
    let attachment = NetworkAttachment {
        network: args.network,
        aliases: args.alias,
        ipv4_address: args.ip,
        ipv6_address: args.ip6,
        interface,
        gateway_priority: args.gw_priority,
        ..NetworkAttachment::default()
    };
    let request = ConnectNetworkRequest { container: args.container, attachment: Some(attachment) };
    daemon.networks().connect(request).await?;
    Ok(0)
}
