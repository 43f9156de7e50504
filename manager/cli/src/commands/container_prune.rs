//! `keg container prune`: removes all containers that do not run.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::{ContainerFilterValues, PruneContainersRequest};

use crate::client::Daemon;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::humanize;
use crate::moment;
use crate::options::filters::Filters;
use crate::output;

/// Filters that the daemon knows.
const FILTERS: [&str; 3] = ["label", "label!", "until"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg container prune -f
  keg container prune --filter until=24h --filter label!=keep")]
pub(crate) struct ContainerPruneArgs {
    /// Keep to those that match (label, label!, until)
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    force: bool,
}

/// Asks, and removes them.
pub(crate) async fn run(args: ContainerPruneArgs, host: &str) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let filters = args
        .filter
        .iter()
        .map(|text| match text.strip_prefix("until=") {
            // The daemon knows moments; what people type is counted from here and now.
            Some(until) => moment::parse(until, now)
                .map(|until| format!("until={}", moment::rfc3339(Some(&until)))),
            None => Ok(text.clone()),
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::senseless)?;
    let filters = Filters::parse(&filters, &FILTERS).map_err(Failure::senseless)?;
    if !args.force && !confirm("This will remove all containers that do not run.")? {
        return Ok(0);
    }
    let daemon = Daemon::connect(host).await?;
    let request = PruneContainersRequest {
        filters: filters.into_message(|values| ContainerFilterValues { values }),
    };
    let pruned = daemon.containers().prune(request).await?.into_inner();
    let mut text = String::new();
    if !pruned.containers.is_empty() {
        text.push_str("Deleted Containers:\n");
        for id in &pruned.containers {
            text.push_str(id);
            text.push('\n');
        }
        text.push('\n');
    }
    let bytes = u64::try_from(pruned.reclaimed_bytes).unwrap_or(0);
    text.push_str(&format!("Total reclaimed space: {}\n", humanize::size(bytes)));
    output::print(&text)?;
    Ok(0)
}
