//! `keg network inspect`: shows everything known of networks.

use clap::Args;

use crate::commands::inspect::{Kind, show};
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg network inspect front
  keg network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' front")]
pub(crate) struct NetworkInspectArgs {
    /// Print as "json" or by a Go template
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show all there is (which is always shown)
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Names or ids of networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Shows them.
pub(crate) async fn run(args: NetworkInspectArgs, host: &str) -> Result<u8, Failure> {
    show(&args.networks, args.format.as_deref(), Some(Kind::Network), false, host).await
}
