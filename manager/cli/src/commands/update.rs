//! `keg update`: changes limits and restart policies of containers.

use clap::Args;
use keg_proto::keg::v1::{Resources, RestartPolicy, UpdateRequest};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::options::{policy, size};
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg update -m 1g --memory-swap 2g db
  keg update --cpus 0.5 --restart unless-stopped web worker

A container that runs feels it at once.")]
pub(crate) struct UpdateArgs {
    /// Weight of its share of processor time, 2 to 262144
    #[arg(
        short = 'c',
        long,
        value_name = "WEIGHT",
        default_value_t = 0,
        hide_default_value = true
    )]
    cpu_shares: u64,
    /// Processors' worth of time it may use, as in 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Processors it may run on, as in 0-3,6
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// Memory limit, as in 512m
    #[arg(short = 'm', long, value_name = "BYTES")]
    memory: Option<String>,
    /// Limit of memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Most processes and threads; -1 for unlimited
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pids_limit: i64,
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
    #[allow(
        clippy::needless_update,
        reason = "a limit that the message gets stays as it is until there is a flag for it"
    )]
    fn resources(&self) -> Result<Resources, size::AmountError> {
        let or_zero =
            |parsed: Option<Result<i64, _>>| parsed.transpose().map(Option::unwrap_or_default);
        Ok(Resources {
            memory_bytes: or_zero(self.memory.as_deref().map(size::bytes))?,
            memory_swap_bytes: or_zero(self.memory_swap.as_deref().map(size::bytes_or_unlimited))?,
            nano_cpus: or_zero(self.cpus.as_deref().map(size::nano_cpus))?,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            pids_limit: self.pids_limit,
            ..Resources::default()
        })
    }

    fn restart(&self) -> Result<Option<RestartPolicy>, policy::PolicyError> {
        let Some(text) = &self.restart else { return Ok(None) };
        let no = || RestartPolicy { name: "no".to_owned(), maximum_retry_count: 0 };
        policy::restart(text).map(|policy| Some(policy.unwrap_or_else(no)))
    }
}

/// Changes them, one by one.
pub(crate) async fn run(args: UpdateArgs, host: &str) -> Result<u8, Failure> {
    let resources = args.resources().map_err(Failure::usage)?;
    let restart_policy = args.restart().map_err(Failure::usage)?;
    if resources == Resources::default() && restart_policy.is_none() {
        return Err(Failure::usage(NothingError).with_remedy("give at least one flag"));
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
