//! `keg update`: changes limits and restart policies of containers.

use clap::Args;
use keg_proto::keg::v1::{Resources, RestartPolicy, UpdateRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::policy;
use crate::options::resources::ResourceFlags;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg update -m 1g --memory-swap 2g db
  keg update --cpus 0.5 --restart unless-stopped web worker

A container that runs feels it at once.")]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    resources: ResourceFlags,
    /// When to start it anew: no, always, unless-stopped or on-failure[:TIMES]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Names or ids of containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// There is nothing to change.
#[derive(Debug, thiserror::Error)]
#[error("nothing is to be changed")]
struct NothingError;

impl UpdateArgs {
    fn restart(&self) -> Result<Option<RestartPolicy>, policy::PolicyError> {
        let Some(text) = &self.restart else { return Ok(None) };
        let no = || RestartPolicy { name: "no".to_owned(), maximum_retry_count: 0 };
        policy::restart(text).map(|policy| Some(policy.unwrap_or_else(no)))
    }
}

/// Changes them, one by one.
pub(crate) async fn run(args: UpdateArgs, host: &str) -> Result<u8, Failure> {
    let resources = args.resources.describe().map_err(Failure::usage)?;
    let restart_policy = args.restart().map_err(Failure::usage)?;
    if resources == Resources::default() && restart_policy.is_none() {
        return Err(Failure::senseless(NothingError).with_remedy("give at least one flag"));
    }
    let daemon = Daemon::connect(host).await?;
    output::for_each(&args.containers, |container| {
        let request = UpdateRequest {
            container: container.to_owned(),
            resources: Some(resources.clone()),
            restart_policy: restart_policy.clone(),
        };
        let daemon = daemon.clone();
        async move {
            for warning in daemon.limits().update(request).await?.into_inner().warnings {
                output::complain(&format!("keg: warning: {warning}\n"));
            }
            Ok(container.to_owned())
        }
    })
    .await
}
