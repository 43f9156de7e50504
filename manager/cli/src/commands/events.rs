//! `keg events`: shows what happens, as it happens.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::{FilterValues, SubscribeRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::filters::Filters;
use crate::template::Template;
use crate::views::event;
use crate::{moment, output};

/// Filters that the daemon knows.
const FILTERS: [&str; 7] = ["type", "action", "event", "container", "image", "label", "network"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg events
  keg events -f type=container -f event=die
  keg events --since 10m --until 0s         what happened in the last ten minutes")]
pub(crate) struct EventsArgs {
    /// Keep those that match (type, event, container, image, label, network)
    #[arg(short = 'f', long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as "json" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show those too that happened since this moment
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    /// End at this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
}

/// Prints events until `--until`, or for ever.
pub(crate) async fn run(args: EventsArgs, host: &str) -> Result<u8, Failure> {
    let template = Template::parse_format(args.format.as_deref()).map_err(Failure::senseless)?;
    let now = Timestamp::now();
    let at = |text: &Option<String>| {
        text.as_deref().map(|text| moment::parse(text, now)).transpose().map_err(Failure::senseless)
    };
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(Failure::senseless)?;
    let request = SubscribeRequest {
        since: at(&args.since)?,
        until: at(&args.until)?,
        filters: filters.into_message(|values| FilterValues { values }),
    };

    let daemon = Daemon::connect(host).await?;
    let mut events = daemon.events().subscribe(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        let line = match &template {
            None => event::line(&event),
            Some(template) => template.render(&event::record(&event)).map_err(Failure::client)?,
        };
        output::print_line(&line)?;
    }
    Ok(0)
}
