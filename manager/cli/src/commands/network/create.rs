//! `keg network create`: creates a network.

use clap::{ArgAction, Args};
use keg_proto::keg::v1::CreateNetworkRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::{environment, policy};
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg network create front                           containers on it find each other by name
  keg network create --internal back                 no way out, and none in
  keg network create --subnet 172.28.0.0/16 --ip-range 172.28.5.0/24 lan
  keg network create --ipv6 --subnet fd00:1::/64 six
  keg network create --subnet 10.5.0.0/24 --aux-address router=10.5.0.9 lan
  keg network create -d macvlan -o parent=eth0 --subnet 192.168.1.0/24 house")]
pub(crate) struct CreateArgs {
    /// Accepted for scripts: containers can be put on any network
    #[arg(long)]
    attachable: bool,
    /// Keep an address free, for something that is no container
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// How containers are connected: bridge or macvlan
    #[arg(short = 'd', long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Address of the gateway in a subnet (default: its first)
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// No way out of it, and none in
    #[arg(long)]
    internal: bool,
    /// Part of a subnet that addresses are given out of
    #[arg(long, value_name = "SUBNET")]
    ip_range: Vec<String>,
    /// Give it IPv4; --ipv4=false with --ipv6 leaves it out
    #[arg(
        long,
        value_name = "YES",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true,
        action = ArgAction::Set
    )]
    ipv4: bool,
    /// Give it IPv6 as well
    #[arg(long)]
    ipv6: bool,
    /// Set a label (NAME[=VALUE])
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Set an option of the driver: mtu, masquerade, Docker's com.docker.network.*; parent of macvlan
    #[arg(short = 'o', long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Subnet, as 172.28.0.0/16; at most one of IPv4 and one of IPv6
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Creates it, and prints its id.
pub(crate) async fn run(args: CreateArgs, host: &str) -> Result<u8, Failure> {
    let request = CreateNetworkRequest {
        name: args.name,
        driver: args.driver,
        subnets: args.subnet,
        enable_ipv6: args.ipv6,
        internal: args.internal,
        labels: environment::labels(&[], &args.label).map_err(Failure::usage)?,
        options: policy::pairs(&args.opt).map_err(Failure::usage)?,
        gateways: args.gateway,
        ip_ranges: args.ip_range,
        disable_ipv4: !args.ipv4,
        aux_addresses: policy::pairs(&args.aux_address).map_err(Failure::usage)?,
    };
    let daemon = Daemon::connect(host).await?;
    let created = daemon.networks().create(request).await?.into_inner();
    output::print_line(&created.network.unwrap_or_default().id)?;
    Ok(0)
}
