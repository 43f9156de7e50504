//! `keg rmi`: removes names of images, and with the last name the image.

use clap::Args;
use keg_proto::keg::v1::RemoveImageRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::{output, reference};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg rmi busybox:1.36        take this name away; the image goes with its last name
  keg rmi -f 0123456789ab     remove an image with all its names")]
pub(crate) struct RmiArgs {
    /// Remove all names of an id, also where stopped containers use the image
    #[arg(short = 'f', long)]
    force: bool,
    /// Accepted for scripts: Keg keeps no parents without a name
    #[arg(long)]
    no_prune: bool,
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes each, and prints what is gone.
pub(crate) async fn run(args: RmiArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let daemon = &daemon;
    output::for_each(&args.images, |image| async move {
        let request = RemoveImageRequest { image: image.to_owned(), force: args.force };
        let removed = daemon.images().remove(request).await?.into_inner();
        let untagged =
            removed.untagged.iter().map(|name| format!("Untagged: {}", reference::familiar(name)));
        let deleted = removed.deleted.iter().map(|id| format!("Deleted: {id}"));
        Ok(untagged.chain(deleted).collect::<Vec<_>>().join("\n"))
    })
    .await
}
