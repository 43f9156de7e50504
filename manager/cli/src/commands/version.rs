//! `keg version`: shows the versions of this program, of the daemon, and of what it uses.

use clap::Args;
use keg_proto::keg::v1::VersionRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::template::Template;
use crate::views::system;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg version --format '{{.Server.Version}}'")]
pub(crate) struct VersionArgs {
    /// Print as "json" or by a Go template
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints both versions; ours also where there is no daemon.
pub(crate) async fn run(args: VersionArgs, host: &str) -> Result<u8, Failure> {
    let template = Template::parse_format(args.format.as_deref()).map_err(Failure::senseless)?;
    let (server, failure) = match ask(host).await {
        Ok(server) => (Some(server), None),
        Err(failure) => (None, Some(failure)),
    };
    match template {
        None => output::print(&system::version_text(server.as_ref()))?,
        Some(template) => {
            let value = system::version(server.as_ref());
            output::print_line(&template.render(&value).map_err(Failure::client)?)?;
        }
    }
    failure.map_or(Ok(0), Err)
}

async fn ask(host: &str) -> Result<keg_proto::keg::v1::VersionResponse, Failure> {
    let daemon = Daemon::connect(host).await?;
    Ok(daemon.system().version(VersionRequest {}).await?.into_inner())
}
