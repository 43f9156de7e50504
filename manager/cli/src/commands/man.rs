//! `keg man`: writes manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use crate::cli::Cli;
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  keg man /usr/local/share/man/man1 && man keg-run")]
pub(crate) struct ManArgs {
    /// Directory for the pages; made if it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// The pages cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write manual pages into {}", directory.display())]
struct ManError {
    directory: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Writes a page for each command.
pub(crate) fn run(args: ManArgs) -> Result<u8, Failure> {
    std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.directory))
        .map_err(|source| Failure::client(ManError { directory: args.directory, source }))?;
    Ok(0)
}
