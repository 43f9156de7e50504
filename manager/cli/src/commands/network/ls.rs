//! `keg network ls`: lists networks.

use clap::Args;
use keg_proto::keg::v1::{ListNetworksRequest, NetworkFilterValues};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::filters::Filters;
use crate::output;
use crate::table::RowFormat;
use crate::views::network::{COLUMNS, RowStyle, row};

/// Filters that the daemon knows.
const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg network ls
  keg network ls -f driver=bridge -f type=custom
  keg network ls --format '{{.Name}}: {{.Driver}}'")]
pub(crate) struct LsArgs {
    /// Keep those that match (dangling, driver, id, label, name, scope, type)
    #[arg(short = 'f', long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not cut ids
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Lists.
pub(crate) async fn run(args: LsArgs, host: &str) -> Result<u8, Failure> {
    let format =
        RowFormat::new(args.format.as_deref(), args.quiet, COLUMNS).map_err(Failure::senseless)?;
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(Failure::senseless)?;
    let request = ListNetworksRequest {
        filters: filters.into_message(|values| NetworkFilterValues { values }),
    };
    let daemon = Daemon::connect(host).await?;
    let networks = daemon.networks().list(request).await?.into_inner().networks;
    let style =
        RowStyle { truncate: !args.no_trunc, with_created_at: format.may_read("CreatedAt") };
    let rows = networks.iter().map(|network| row(network, style));
    output::print(&format.render(COLUMNS, rows).map_err(Failure::senseless)?)?;
    Ok(0)
}
