//! `keg rm`: removes containers.

use clap::Args;
use keg_proto::keg::v1::{ErrorReason, RemoveContainerRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg rm web              remove a container that has ended
  keg rm -f web           kill it first
  keg rm $(keg ps -aq)    remove all that have ended")]
pub(crate) struct RmArgs {
    /// Kill a container that runs; do not mind one that does not exist
    #[arg(short = 'f', long)]
    force: bool,
    /// Remove its anonymous volumes too
    #[arg(short = 'v', long)]
    volumes: bool,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes each, and prints its name.
pub(crate) async fn run(args: RmArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let daemon = &daemon;
    let (force, volumes) = (args.force, args.volumes);
    output::for_each(&args.containers, |container| async move {
        let request = RemoveContainerRequest { container: container.to_owned(), force, volumes };
        match daemon.containers().remove(request).await.map_err(Failure::from) {
            Err(failure) if force && failure.reason() == Some(ErrorReason::ContainerNotFound) => {
                output::complain(&failure.render());
                Ok(String::new())
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(container.to_owned()),
        }
    })
    .await
}
