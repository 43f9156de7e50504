//! `keg stats`: shows what containers use, as they use it.

use std::io::IsTerminal as _;

use clap::Args;
use keg_proto::keg::v1::StatsRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::table::RowFormat;
use crate::views::stats::{COLUMNS, row};

/// Moves to the top left corner and takes away all that is there.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg stats
  keg stats --no-stream web db
  keg stats --no-stream --format '{{.Name}}: {{.CPUPerc}}'")]
pub(crate) struct StatsArgs {
    /// Show those too that do not run
    #[arg(short = 'a', long)]
    all: bool,
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show what is used now, and end
    #[arg(long)]
    no_stream: bool,
    /// Do not cut ids
    #[arg(long)]
    no_trunc: bool,
    /// Names or ids of containers; none: all that run
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Shows them once a second, on a terminal in the same place.
pub(crate) async fn run(args: StatsArgs, host: &str) -> Result<u8, Failure> {
    let format =
        RowFormat::new(args.format.as_deref(), false, COLUMNS).map_err(Failure::senseless)?;
    let clears = !args.no_stream
        && std::io::stdout().is_terminal()
        && args.format.as_deref().is_none_or(|format| format.starts_with("table"));
    let daemon = Daemon::connect(host).await?;
    let containers = args.containers.clone();
    let request = StatsRequest { containers, all: args.all, once: args.no_stream };
    let mut answers = daemon.limits().stats(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let rows =
            answer.containers.iter().map(|stats| row(stats, !args.no_trunc, &args.containers));
        let table = format.render(COLUMNS, rows).map_err(Failure::senseless)?;
        output::print(&if clears { format!("{CLEAR}{table}") } else { table })?;
    }
    Ok(0)
}
