//! `keg save`: writes images into an archive.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use keg_proto::keg::v1::{SaveImagesRequest, SaveImagesResponse};
use tonic::Streaming;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::platform;
use crate::terminal;
use crate::terminal::stdio::Stdio;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg save -o busybox.tar busybox:1.36
  keg save app:1 app:2 | zstd > apps.tar.zst    layers that both have are saved once
  keg save app | ssh other keg load

The archive can be read by Docker, Podman, skopeo and other tools, as Docker's archive and as an OCI
layout. A name without a tag means all tags of it.")]
pub(crate) struct SaveArgs {
    /// Write to this file instead of standard output
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Save the images of this platform only, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Also what is here of what refers to the images, signatures for example
    #[arg(long)]
    referrers: bool,
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// An archive is not for a terminal.
#[derive(Debug, thiserror::Error)]
#[error("an archive is not written to a terminal")]
struct OutputIsTerminal;

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
struct WriteError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Saves.
pub(crate) async fn run(args: SaveArgs, host: &str) -> Result<u8, Failure> {
    let platform =
        args.platform.as_deref().map(platform::parse).transpose().map_err(Failure::usage)?;
    if args.output.is_none() && terminal::stdout_is_terminal() {
        let remedy = "give a file by -o, or redirect standard output";
        return Err(Failure::senseless(OutputIsTerminal).with_remedy(remedy));
    }
    let daemon = Daemon::connect(host).await?;
    let request = SaveImagesRequest { images: args.images, platform, referrers: args.referrers };
    let pieces = daemon.images().save(request).await?.into_inner();
    match &args.output {
        Some(path) => to_file(pieces, path).await?,
        None => to_stdout(pieces).await?,
    }
    Ok(0)
}

/// Writes beside the file, which is replaced only by a whole archive.
async fn to_file(pieces: Streaming<SaveImagesResponse>, path: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, source| Failure::client(WriteError { path: path.into(), source });
    let is_file = std::fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    if !is_file {
        // A device or a FIFO is not to be replaced.
        let file = File::create(path).map_err(|source| failed(path, source))?;
        return copy(pieces, file).await?.map_err(|source| failed(path, source));
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.part", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let file = File::create(&unfinished).map_err(|source| failed(path, source))?;
    let outcome = match copy(pieces, file).await {
        Ok(written) => written
            .and_then(|()| std::fs::rename(&unfinished, path))
            .map_err(|source| failed(path, source)),
        Err(failure) => Err(failure),
    };
    if outcome.is_err() {
        // The failure says more than that its remains could not be removed.
        let _ = std::fs::remove_file(&unfinished);
    }
    outcome
}

/// Writes what comes into a file; the inner result is that of writing.
async fn copy(
    mut pieces: Streaming<SaveImagesResponse>,
    mut file: File,
) -> Result<io::Result<()>, Failure> {
    while let Some(piece) = pieces.message().await? {
        if let Err(error) = file.write_all(&piece.data) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

async fn to_stdout(mut pieces: Streaming<SaveImagesResponse>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::stream(&error, "write to standard output");
    let stdout = rustix::io::dup(rustix::stdio::stdout()).map_err(|errno| failed(errno.into()))?;
    let stdout = Stdio::new(stdout);
    while let Some(piece) = pieces.message().await? {
        stdout.write_all(&piece.data).await.map_err(failed)?;
    }
    Ok(())
}
