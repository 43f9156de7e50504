//! `keg system df`: shows what takes how much of the disk.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::UsageRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::table::RowFormat;
use crate::template::{Template, Value};
use crate::views::usage::{self, COLUMNS};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg system df
  keg system df -v          image by image, container by container, volume by volume

Images are counted unpacked; the row \"Blobs\" has their layers as they came from the registry, which
pushing and saving need. \"Unneeded\" goes with the next collection: after any removal, or by `keg
system prune`.")]
pub(crate) struct DfArgs {
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show every image, container, volume and cache record
    #[arg(short = 'v', long)]
    verbose: bool,
}

/// Shows it.
pub(crate) async fn run(args: DfArgs, host: &str) -> Result<u8, Failure> {
    let whole = match (args.verbose, args.format.as_deref()) {
        (true, format) => Some(Template::parse_format(format).map_err(Failure::senseless)?),
        (false, _) => None,
    };
    let format =
        RowFormat::new(args.format.as_deref(), false, COLUMNS).map_err(Failure::senseless)?;
    let daemon = Daemon::connect(host).await?;
    let usage = daemon.storage().usage(UsageRequest {}).await?.into_inner();
    let text = match whole {
        Some(Some(template)) => {
            let value: Value = usage::everything(&usage, Timestamp::now());
            template.render(&value).map_err(Failure::client)? + "\n"
        }
        Some(None) => usage::tables(&usage, Timestamp::now()),
        None => format.render(COLUMNS, usage::rows(&usage)).map_err(Failure::senseless)?,
    };
    output::print(&text)?;
    Ok(0)
}
