//! `keg wait`: waits for containers to end.

use clap::Args;
use keg_proto::keg::v1::{WaitCondition, WaitContainerRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg wait job && keg logs job")]
pub(crate) struct WaitArgs {
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Waits for one after the other, and prints their exit codes.
pub(crate) async fn run(args: WaitArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let daemon = &daemon;
    output::for_each(&args.containers, |container| async move {
        let request = WaitContainerRequest {
            container: container.to_owned(),
            condition: WaitCondition::NotRunning.into(),
        };
        let ended = daemon.containers().wait(request).await?.into_inner();
        Ok(ended.status.unwrap_or_default().code.to_string())
    })
    .await
}
