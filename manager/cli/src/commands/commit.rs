//! `keg commit`: makes an image of what a container changed.

use clap::Args;
use keg_proto::keg::v1::CommitRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg commit db db:filled
  keg commit -a 'Ada <ada@example.org>' -m 'with data' -c 'CMD [\"redis-server\"]' db db:filled

What is in volumes and bind mounts is not part of the image.")]
pub(crate) struct CommitArgs {
    /// Author of the image, as in "Ada <ada@example.org>"
    #[arg(short = 'a', long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    author: String,
    /// Change the image's configuration, in Dockerfile syntax
    #[arg(short = 'c', long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Comment for the image's history
    #[arg(short = 'm', long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Pause the container meanwhile
    #[arg(
        short = 'p',
        long,
        value_name = "BOOL",
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pause: bool,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]", default_value = "", hide_default_value = true)]
    name: String,
}

/// Commits, and prints the image's id.
pub(crate) async fn run(args: CommitArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = CommitRequest {
        container: args.container,
        reference: args.name,
        author: args.author,
        message: args.message,
        changes: args.change,
        pause: args.pause,
    };
    let image = daemon.files().commit(request).await?.into_inner().image.unwrap_or_default();
    output::print_line(&image.id)?;
    Ok(0)
}
