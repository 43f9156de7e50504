//! `keg info`: shows the daemon's settings, what it holds, and what the host offers.

use clap::Args;
use keg_proto::keg::v1::InfoRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::template::Template;
use crate::views::system;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg info --format '{{.ContainersRunning}} of {{.Containers}}'")]
pub(crate) struct InfoArgs {
    /// Print as "json" or by a Go template
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints it.
pub(crate) async fn run(args: InfoArgs, host: &str) -> Result<u8, Failure> {
    let template = Template::parse_format(args.format.as_deref()).map_err(Failure::senseless)?;
    let daemon = Daemon::connect(host).await?;
    let info = daemon.system().info(InfoRequest {}).await?.into_inner();
    match template {
        None => output::print(&system::info_text(&info))?,
        Some(template) => {
            let text = template.render(&system::info(&info)).map_err(Failure::client)?;
            output::print_line(&text)?;
        }
    }
    Ok(0)
}
