//! `keg import`: makes an image of a tar archive.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use futures_util::stream;
use keg_proto::keg::v1::{ImportImageRequest, ImportImageStart, import_image_request};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::platform;
use crate::output;
use crate::terminal::stdio::Stdio;

/// Bytes of the archive in one message.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg import rootfs.tar.gz base:1
  tar -C rootfs -c . | keg import -c 'CMD [\"/bin/sh\"]' - base:1")]
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
    /// The archive, plain or compressed by gzip or zstd; "-" for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]", default_value = "", hide_default_value = true)]
    name: String,
}

/// The archive cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {}", path.display())]
struct OpenError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Sends the archive, and prints the image's id.
pub(crate) async fn run(args: ImportArgs, host: &str) -> Result<u8, Failure> {
    let platform =
        args.platform.as_deref().map(platform::parse).transpose().map_err(Failure::usage)?;
    let archive = open(args.file)?;
    let daemon = Daemon::connect(host).await?;
    let start = ImportImageStart {
        reference: args.name,
        changes: args.change,
        message: args.message,
        platform,
    };
    let (failed, failure) = tokio::sync::oneshot::channel();
    let response = daemon.images().import(pieces(archive, start, failed)).await;
    // A file that cannot be read looks to the daemon like an archive that ends too early; what the
    // file said explains more.
    if let Ok(error) = failure.await {
        return Err(Failure::stream(&error, "read the archive"));
    }
    let image = response?.into_inner().image.unwrap_or_default();
    output::print_line(&image.id)?;
    Ok(0)
}

/// Opens the archive for waiting or for reading at once.
fn open(path: PathBuf) -> Result<Stdio<File>, Failure> {
    let file = if path.as_os_str() == "-" {
        rustix::io::dup(rustix::stdio::stdin()).map(File::from).map_err(std::io::Error::from)
    } else {
        File::open(&path)
    };
    file.map(Stdio::new).map_err(|source| Failure::client(OpenError { path, source }))
}

/// The messages: how to import, then the archive. A failed read ends them, and is reported aside.
fn pieces(
    archive: Stdio<File>,
    start: ImportImageStart,
    failed: tokio::sync::oneshot::Sender<std::io::Error>,
) -> impl stream::Stream<Item = ImportImageRequest> + Send + 'static {
    let message = |part| ImportImageRequest { part: Some(part) };
    let first = message(import_image_request::Part::Start(start));
    let rest = stream::unfold((archive, failed), move |(archive, failed)| async move {
        let mut piece = vec![0; PIECE_BYTES];
        match archive.read(&mut piece).await {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                let request = message(import_image_request::Part::Data(piece));
                Some((request, (archive, failed)))
            }
            Err(error) => {
                // Nobody waits for it only if the call has failed already.
                let _ = failed.send(error);
                None
            }
        }
    });
    stream::StreamExt::chain(stream::iter([first]), rest)
}
