//! `keg tag`: gives an image another name.

use clap::Args;
use keg_proto::keg::v1::TagImageRequest;

use crate::client::Daemon;
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg tag busybox registry.example:5000/tools/busybox:1")]
pub(crate) struct TagArgs {
    /// Name or id of the image
    #[arg(value_name = "IMAGE")]
    source: String,
    /// Its new name; a name in use moves
    #[arg(value_name = "NAME[:TAG]")]
    target: String,
}

/// Names the image.
pub(crate) async fn run(args: TagArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = TagImageRequest { source: args.source, target: args.target };
    daemon.images().tag(request).await?;
    Ok(0)
}
