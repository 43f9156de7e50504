//! `keg image inspect`: shows everything known of images.

use clap::Args;

use super::inspect::{Kind, show};
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg image inspect -f '{{json .Config.Cmd}}' busybox")]
pub(crate) struct ImageInspectArgs {
    /// Print as "json" or by a Go template
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Shows them.
pub(crate) async fn run(args: ImageInspectArgs, host: &str) -> Result<u8, Failure> {
    show(&args.images, args.format.as_deref(), Some(Kind::Image), false, host).await
}
