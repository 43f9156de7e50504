//! `keg top`: lists the processes of a container.

use clap::Args;
use jiff::Timestamp;
use keg_proto::keg::v1::TopRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::views::process;

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Lists them, as the host sees them.
pub(crate) async fn run(args: TopArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = TopRequest { container: args.container };
    let processes = daemon.containers().top(request).await?.into_inner().processes;
    output::print(&process::table(&processes, Timestamp::now()))?;
    Ok(0)
}
