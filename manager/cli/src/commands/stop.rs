//! `keg stop`: asks containers to end, and kills those that do not.

use clap::Args;
use keg_proto::keg::v1::StopContainerRequest;

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg stop web            SIGTERM, or the image's stop signal; SIGKILL after 10 seconds
  keg stop -t 60 db       more patience")]
pub(crate) struct StopArgs {
    /// Signal to send first (default: the container's)
    #[arg(short = 's', long, value_name = "SIGNAL", default_value = "", hide_default_value = true)]
    pub(crate) signal: String,
    /// Seconds until SIGKILL; -1 waits for ever (default: the container's, else 10)
    #[arg(
        short = 't',
        long,
        visible_alias = "time",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    pub(crate) timeout: Option<i32>,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

impl StopArgs {
    /// The request for one container.
    pub(crate) fn request(&self, container: &str) -> StopContainerRequest {
        StopContainerRequest {
            container: container.to_owned(),
            timeout_secs: self.timeout,
            signal: self.signal.clone(),
        }
    }
}

/// Stops each, and prints its name.
pub(crate) async fn run(args: StopArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let (daemon, stop) = (&daemon, &args);
    output::for_each(&args.containers, |container| async move {
        daemon.containers().stop(stop.request(container)).await?;
        Ok(container.to_owned())
    })
    .await
}
