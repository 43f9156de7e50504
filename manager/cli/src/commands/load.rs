//! `keg load`: takes images out of an archive.

use std::path::{Path, PathBuf};

use clap::Args;
use keg_proto::keg::v1::load_images_request::Part;
use keg_proto::keg::v1::load_images_response::Event;
use keg_proto::keg::v1::{LoadImagesRequest, LoadImagesStart, LoadedImage};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::platform;
use crate::progress::{Progress, Step, Target};
use crate::{output, reference, terminal, upload};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg load -i busybox.tar
  zstd -dc apps.tar.zst | keg load      gzip and zstd need no help: keg load < apps.tar.zst
  keg load -i layout/                   a directory that is an OCI layout

What `save` of Docker, Podman and Keg wrote can be loaded, and archives of OCI layouts. An archive of
a root filesystem is not an image: use `keg import`.")]
pub(crate) struct LoadArgs {
    /// Read this file, or this OCI layout's directory, instead of standard input
    #[arg(short = 'i', long, value_name = "FILE|DIRECTORY")]
    input: Option<PathBuf>,
    /// Unpack the image of this platform of those that have several, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// An archive is not typed.
#[derive(Debug, thiserror::Error)]
#[error("an archive is not read from a terminal")]
struct InputIsTerminal;

/// Loads, and prints the names of what was there.
pub(crate) async fn run(args: LoadArgs, host: &str) -> Result<u8, Failure> {
    let platform =
        args.platform.as_deref().map(platform::parse).transpose().map_err(Failure::usage)?;
    if args.input.is_none() && terminal::stdin_is_terminal() {
        let remedy = "give a file by -i, or redirect standard input";
        return Err(Failure::senseless(InputIsTerminal).with_remedy(remedy));
    }
    let input = args.input.as_deref().unwrap_or(Path::new("-"));
    let archive = match input.is_dir() {
        true => upload::of_directory(input)?,
        false => upload::open(input)?,
    };
    let daemon = Daemon::connect(host).await?;
    let message = |part| LoadImagesRequest { part: Some(part) };
    let first = message(Part::Start(LoadImagesStart { platform }));
    let (failed, failure) = tokio::sync::oneshot::channel();
    let pieces = upload::pieces(archive, first, move |data| message(Part::Data(data)), failed);
    let outcome = follow(&daemon, pieces, args.quiet).await;
    // A file that cannot be read looks to the daemon like an archive that ends too early; what the
    // file said explains more.
    if let Ok(error) = failure.await {
        return Err(Failure::stream(&error, "read the archive"));
    }
    outcome?;
    Ok(0)
}

async fn follow(
    daemon: &Daemon,
    pieces: impl futures_util::Stream<Item = LoadImagesRequest> + Send + 'static,
    is_quiet: bool,
) -> Result<(), Failure> {
    let mut events = daemon.images().load(pieces).await?.into_inner();
    let mut progress =
        if is_quiet { Progress::Silent } else { Progress::on_terminal(Target::Stderr) };
    while let Some(response) = events.message().await? {
        match response.event {
            Some(Event::Layer(layer)) => progress.show(&Step::Layer(layer))?,
            Some(Event::Image(image)) => {
                // The bars of one image make room for its name.
                progress =
                    if is_quiet { Progress::Silent } else { Progress::on_terminal(Target::Stderr) };
                output::print(&lines(&image))?;
            }
            None => {}
        }
    }
    drop(progress);
    Ok(())
}

/// What Docker says of an image that is loaded.
fn lines(loaded: &LoadedImage) -> String {
    if loaded.names.is_empty() {
        let id = loaded.image.as_ref().map_or("", |image| image.id.as_str());
        return format!("Loaded image ID: {id}\n");
    }
    let line = |name: &String| format!("Loaded image: {}\n", reference::familiar(name));
    loaded.names.iter().map(line).collect()
}
