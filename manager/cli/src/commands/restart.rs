//! `keg restart`: stops containers and starts them again.

use keg_proto::keg::v1::RestartContainerRequest;

use super::stop::StopArgs;
use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;

/// Restarts each, and prints its name. A container that does not run is only started.
pub(crate) async fn run(args: StopArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let (daemon, stop) = (&daemon, &args);
    output::for_each(&args.containers, |container| async move {
        let request = RestartContainerRequest {
            container: container.to_owned(),
            timeout_secs: stop.timeout,
            signal: stop.signal.clone(),
        };
        daemon.containers().restart(request).await?;
        Ok(container.to_owned())
    })
    .await
}
