//! `keg pull`: downloads an image.

use clap::Args;
use keg_proto::keg::v1::pull_image_response::Event;
use keg_proto::keg::v1::{Platform, PullImageRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::platform;
use crate::progress::{Progress, ProgressStyle, Target};
use crate::{credentials, output, reference};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg pull busybox                        the newest version from the default registry
  keg pull registry.example:5000/app:2.1  from another registry
  keg pull busybox@sha256:…               exactly these bytes")]
pub(crate) struct PullArgs {
    /// Platform of the image, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// How to show progress: auto, plain or json
    #[arg(long, value_name = "STYLE", default_value = "auto", hide_possible_values = true)]
    progress: ProgressStyle,
    /// Print nothing but the image's full name
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The image: NAME[:TAG] or NAME@DIGEST
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Pulls, and prints the image's full name.
pub(crate) async fn run(args: PullArgs, host: &str) -> Result<u8, Failure> {
    let platform =
        args.platform.as_deref().map(platform::parse).transpose().map_err(Failure::usage)?;
    let daemon = Daemon::connect(host).await?;
    let names_tag = args.image != reference::with_default_tag(&args.image);
    let tells_tag = names_tag && !args.quiet && args.progress != ProgressStyle::Json;
    if tells_tag {
        output::print_line("Using default tag: latest")?;
    }
    let progress =
        if args.quiet { Progress::Silent } else { Progress::new(args.progress, Target::Stdout) };
    let full_reference = pull(&daemon, &args.image, platform, progress).await?;
    if args.progress != ProgressStyle::Json || args.quiet {
        output::print_line(&full_reference)?;
    }
    Ok(0)
}

/// Pulls an image, showing how far it is; returns its full name.
///
/// # Errors
/// A [`Failure`] from the daemon, or if progress cannot be written.
pub(crate) async fn pull(
    daemon: &Daemon,
    image: &str,
    platform: Option<Platform>,
    mut progress: Progress,
) -> Result<String, Failure> {
    let auth = credentials::for_image(image);
    let request = PullImageRequest { reference: image.to_owned(), platform, auth };
    let mut events = daemon.images().pull(request).await?.into_inner();
    let mut full_reference = image.to_owned();
    while let Some(response) = events.message().await? {
        let Some(event) = response.event else {
            continue;
        };
        if let Event::Resolved(resolved) = &event {
            full_reference.clone_from(&resolved.reference);
        }
        progress.show(&event.into())?;
    }
    Ok(full_reference)
}
