//! `keg rename`: gives a container another name.

use clap::Args;
use keg_proto::keg::v1::RenameContainerRequest;

use crate::client::Daemon;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Names the container.
pub(crate) async fn run(args: RenameArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = RenameContainerRequest { container: args.container, name: args.name };
    daemon.containers().rename(request).await?;
    Ok(0)
}
