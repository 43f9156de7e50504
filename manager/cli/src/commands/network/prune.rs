//! `keg network prune`: removes the networks that no running container is on.

use clap::Args;
use keg_proto::keg::v1::{NetworkFilterValues, PruneNetworksRequest};

use crate::client::Daemon;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::options::filters::Filters;
use crate::output;

/// Filters that the daemon knows.
const FILTERS: [&str; 3] = ["label", "label!", "until"];

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Remove those that match (label=NAME[=VALUE], label!=NAME[=VALUE], until=MOMENT|DURATION)
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
}

/// Removes them, and prints their names.
pub(crate) async fn run(args: PruneArgs, host: &str) -> Result<u8, Failure> {
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(Failure::senseless)?;
    let warning = "This will remove all custom networks not used by at least one container.";
    if !args.force && !confirm(warning)? {
        return Ok(0);
    }
    let request = PruneNetworksRequest {
        filters: filters.into_message(|values| NetworkFilterValues { values }),
    };
    let daemon = Daemon::connect(host).await?;
    let removed = daemon.networks().prune(request).await?.into_inner().networks;
    if !removed.is_empty() {
        output::print(&format!("Deleted Networks:\n{}\n\n", removed.join("\n")))?;
    }
    Ok(0)
}
