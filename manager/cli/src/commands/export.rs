//! `keg export`: writes a container's root file system as a tar archive.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use keg_proto::keg::v1::ExportRequest;
use tonic::Streaming;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::terminal::stdio::Stdio;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg export -o db.tar db
  keg export db | keg import - db:copy

The archive remembers command, environment, user, ports and the like; `keg import` takes them from it.
What is in volumes and bind mounts is not part of it.")]
pub(crate) struct ExportArgs {
    /// Write to a file, instead of to standard output
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Why the archive is not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("an archive makes no sense on a terminal")]
    Terminal,
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Writes the archive. A file appears once it is whole.
pub(crate) async fn run(args: ExportArgs, host: &str) -> Result<u8, Failure> {
    let path = args.output.filter(|path| path.as_os_str() != "-");
    if path.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::client(ExportError::Terminal)
            .with_remedy("name a file by -o, or send it to another program"));
    }
    let daemon = Daemon::connect(host).await?;
    let request = ExportRequest { container: args.container };
    let mut pieces = daemon.files().export(request).await?.into_inner();
    match path {
        Some(path) => to_file(&path, &mut pieces).await?,
        None => {
            let stdout = Stdio::new(std::io::stdout());
            while let Some(piece) = pieces.message().await? {
                let written = stdout.write_all(&piece.data).await;
                written.map_err(|error| Failure::stream(&error, "write to standard output"))?;
            }
        }
    }
    Ok(0)
}

async fn to_file(
    path: &Path,
    pieces: &mut Streaming<keg_proto::keg::v1::ExportResponse>,
) -> Result<(), Failure> {
    let failed = |source| Failure::client(ExportError::Write { path: path.to_owned(), source });
    // Something that is there and is no file, such as a device, is written to as it is.
    if path.exists() && !path.is_file() {
        let mut file = File::options().write(true).open(path).map_err(failed)?;
        while let Some(piece) = pieces.message().await? {
            file.write_all(&piece.data).map_err(failed)?;
        }
        return Ok(());
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".keg-{}", std::process::id()));
    let unfinished = path.with_file_name(name);
    let mut file = File::create(&unfinished).map_err(failed)?;
    let outcome = async {
        while let Some(piece) = pieces.message().await? {
            file.write_all(&piece.data).map_err(failed)?;
        }
        std::fs::rename(&unfinished, path).map_err(failed)
    }
    .await;
    if outcome.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    outcome
}
