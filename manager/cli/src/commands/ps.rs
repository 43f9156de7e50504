//! `keg ps`: lists containers.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::{ContainerFilterValues, ListContainersRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::filters::Filters;
use crate::output;
use crate::table::RowFormat;
use crate::views::container::{COLUMNS, COLUMNS_WITH_SIZE, RowStyle, row};

/// Filters that the daemon knows.
const FILTERS: [&str; 13] = [
    "id", "name", "status", "label", "ancestor", "exited", "before", "since", "volume", "network",
    "publish", "expose", "health",
];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg ps                                        what runs
  keg ps -a                                     what has ended, too
  keg ps -a -f status=exited -f exited=1        what failed
  keg ps --format 'table {{.Names}}\\t{{.Status}}'
  keg ps --format json | jq .ID")]
pub(crate) struct PsArgs {
    /// Show those too that do not run
    #[arg(short = 'a', long)]
    all: bool,
    /// Keep those that match (id, name, status, label, ancestor, exited, before, since, volume,
    /// network, publish, expose, health)
    #[arg(short = 'f', long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the newest so many, running or not
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// Show the newest, running or not
    #[arg(short = 'l', long)]
    latest: bool,
    /// Do not cut ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show what they take on the disk, which is measured
    #[arg(short = 's', long)]
    size: bool,
}

impl PsArgs {
    /// Most containers to list; 0 for no limit. Negative numbers are no limit, as for Docker.
    fn limit(&self) -> u32 {
        match (self.latest, self.last) {
            (true, _) => 1,
            (false, Some(last)) => u32::try_from(last).unwrap_or(0),
            (false, None) => 0,
        }
    }
}

/// Lists.
pub(crate) async fn run(args: PsArgs, host: &str) -> Result<u8, Failure> {
    let columns = if args.size { COLUMNS_WITH_SIZE } else { COLUMNS };
    let format =
        RowFormat::new(args.format.as_deref(), args.quiet, columns).map_err(Failure::senseless)?;
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(Failure::senseless)?;
    let asks_for_state =
        !filters.values("status").is_empty() || !filters.values("exited").is_empty();
    let request = ListContainersRequest {
        all: args.all || asks_for_state,
        limit: args.limit(),
        filters: filters.into_message(|values| ContainerFilterValues { values }),
        // A template that shows sizes asks for them.
        sizes: args.size || format.may_read("Size"),
    };

    let daemon = Daemon::connect(host).await?;
    let containers = daemon.containers().list(request).await?.into_inner().containers;

    let style = RowStyle {
        now: Timestamp::now(),
        truncate: !args.no_trunc,
        with_created_at: format.may_read("CreatedAt"),
    };
    let rows = containers.iter().map(|container| row(container, style));
    output::print(&format.render(columns, rows).map_err(Failure::senseless)?)?;
    Ok(0)
}
