//! `keg top`: lists the processes of a container.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::TopRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::views::process;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg top web
  keg top web -o pid,rss,comm        columns of the host's ps")]
pub(crate) struct TopArgs {
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Options of the host's ps; PID must be among the columns
    #[arg(value_name = "PS OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    ps_options: Vec<String>,
}

/// Lists them, as the host sees them.
pub(crate) async fn run(args: TopArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = TopRequest { container: args.container, ps_options: args.ps_options };
    let by_ps = !request.ps_options.is_empty();
    let response = daemon.containers().top(request).await?.into_inner();
    let table = match by_ps {
        true => process::table_of_ps(&response),
        false => process::table(&response.processes, Timestamp::now()),
    };
    output::print(&table)?;
    Ok(0)
}
