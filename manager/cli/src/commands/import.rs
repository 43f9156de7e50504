//! `keg import`: makes an image of a tar archive.

use std::path::PathBuf;

use clap::Args;
use futures_util::stream;
use keg_proto::keg::v1::import_image_request::Part;
use keg_proto::keg::v1::{ImportImageRequest, ImportImageResponse, ImportImageStart};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::platform;
use crate::{output, upload};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg import rootfs.tar.gz base:1
  tar -C rootfs -c . | keg import -c 'CMD [\"/bin/sh\"]' - base:1
  keg import https://example.com/rootfs.tar.gz base:1      the daemon fetches it")]
pub(crate) struct ImportArgs {
    /// Change the image's configuration, in Dockerfile syntax
    #[arg(short = 'c', long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Comment for the image's history
    #[arg(short = 'm', long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Platform of the image, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// The archive, plain or compressed by gzip or zstd: a file, a URL, or "-" for standard input
    #[arg(value_name = "FILE|URL|-")]
    file: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]", default_value = "", hide_default_value = true)]
    name: String,
}

/// Sends the archive, and prints the image's id.
pub(crate) async fn run(args: ImportArgs, host: &str) -> Result<u8, Failure> {
    let platform =
        args.platform.as_deref().map(platform::parse).transpose().map_err(Failure::usage)?;
    let url = args.file.to_str().filter(|text| is_url(text)).unwrap_or_default();
    let archive = if url.is_empty() { Some(upload::open(&args.file)?) } else { None };
    let daemon = Daemon::connect(host).await?;
    let start = ImportImageStart {
        reference: args.name,
        changes: args.change,
        message: args.message,
        platform,
        url: url.to_owned(),
    };
    let (failed, failure) = tokio::sync::oneshot::channel();
    let message = |part| ImportImageRequest { part: Some(part) };
    let first = message(Part::Start(start));
    let Some(archive) = archive else {
        let response = daemon.images().import(stream::iter([first])).await?;
        return told(&response.into_inner());
    };
    let data = move |piece| message(Part::Data(piece));
    let pieces = upload::pieces(archive, first, data, failed);
    let response = daemon.images().import(pieces).await;
    // A file that cannot be read looks to the daemon like an archive that ends too early; what the
    // file said explains more.
    if let Ok(error) = failure.await {
        return Err(Failure::stream(&error, "read the archive"));
    }
    told(&response?.into_inner())
}

/// Tells an address from a file, as Docker does.
fn is_url(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme))
}

fn told(response: &ImportImageResponse) -> Result<u8, Failure> {
    output::print_line(response.image.as_ref().map_or("", |image| image.id.as_str()))?;
    Ok(0)
}
