//! `keg diff`: lists what a container changed of its image's files.

use clap::Args;
use keg_proto::keg::v1::{ChangesRequest, FileChangeKind};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "A line for each path: A for added, C for changed, D for deleted.")]
pub(crate) struct DiffArgs {
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Lists them.
pub(crate) async fn run(args: DiffArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = ChangesRequest { container: args.container };
    let changes = daemon.files().changes(request).await?.into_inner().changes;
    let mut text = String::new();
    for change in &changes {
        let letter = match change.kind() {
            FileChangeKind::Added => 'A',
            FileChangeKind::Modified => 'C',
            FileChangeKind::Deleted => 'D',
            FileChangeKind::Unspecified => '?',
        };
        text.push(letter);
        text.push(' ');
        text.push_str(&change.path);
        text.push('\n');
    }
    output::print(&text)?;
    Ok(0)
}
