//! `keg history`: shows how an image was built.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::ImageHistoryRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::platform;
use crate::output;
use crate::table::RowFormat;
use crate::views::history::{COLUMNS, HistoryStyle, rows};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg history busybox
  keg history --no-trunc --format '{{.CreatedBy}}' app")]
pub(crate) struct HistoryArgs {
    /// Print as "json", "table TEMPLATE" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show times and sizes for people; --human=false shows them in full
    #[arg(
        short = 'H',
        long,
        value_name = "BOOL",
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    human: bool,
    /// Do not cut ids and instructions
    #[arg(long)]
    no_trunc: bool,
    /// The image of this platform of one that has several, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Print ids only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Name or id of the image
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Shows it.
pub(crate) async fn run(args: HistoryArgs, host: &str) -> Result<u8, Failure> {
    let platform =
        args.platform.as_deref().map(platform::parse).transpose().map_err(Failure::usage)?;
    let format =
        RowFormat::new(args.format.as_deref(), args.quiet, COLUMNS).map_err(Failure::senseless)?;
    let daemon = Daemon::connect(host).await?;
    let request = ImageHistoryRequest { image: args.image, platform };
    let history = daemon.images().history(request).await?.into_inner();
    let style =
        HistoryStyle { now: Timestamp::now(), truncate: !args.no_trunc, for_people: args.human };
    let rows = rows(&history, style);
    output::print(&format.render(COLUMNS, rows).map_err(Failure::senseless)?)?;
    Ok(0)
}
