//! Limits of a container, and when it is started again.

use keg_engine::RestartPolicy;
use keg_engine::model::Resources;
use keg_proto::keg::v1 as pb;
use tonic::Status;

use crate::status::invalid;

pub(super) fn resources_from_pb(resources: pb::Resources) -> Result<Resources, Status> {
    let set = |value: i64| Some(value).filter(|value| *value != 0);
    let nano_cpus = match u64::try_from(resources.nano_cpus) {
        Ok(nano_cpus) => Some(nano_cpus).filter(|nano_cpus| *nano_cpus != 0),
        Err(_) => return Err(invalid("nano_cpus", "it cannot be negative")),
    };
    Ok(Resources {
        memory_bytes: set(resources.memory_bytes),
        memory_swap_bytes: set(resources.memory_swap_bytes),
        nano_cpus,
        cpu_shares: Some(resources.cpu_shares).filter(|shares| *shares != 0),
        cpuset_cpus: Some(resources.cpuset_cpus).filter(|cpus| !cpus.is_empty()),
        pids_limit: set(resources.pids_limit),
    })
}

pub(super) fn resources_to_pb(limits: &Resources) -> pb::Resources {
    pb::Resources {
        memory_bytes: limits.memory_bytes.unwrap_or_default(),
        memory_swap_bytes: limits.memory_swap_bytes.unwrap_or_default(),
        nano_cpus: limits
            .nano_cpus
            .and_then(|nano_cpus| i64::try_from(nano_cpus).ok())
            .unwrap_or_default(),
        cpu_shares: limits.cpu_shares.unwrap_or_default(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        pids_limit: limits.pids_limit.unwrap_or_default(),
    }
}

pub(super) fn restart_from_pb(policy: pb::RestartPolicy) -> Result<RestartPolicy, Status> {
    let retries = policy.maximum_retry_count;
    if retries != 0 && policy.name != "on-failure" {
        let problem = "only \"on-failure\" can have a number of retries";
        return Err(invalid("restart_policy", problem));
    }
    match policy.name.as_str() {
        "" | "no" => Ok(RestartPolicy::No),
        "on-failure" => {
            let max_retries = Some(retries).filter(|retries| *retries != 0);
            Ok(RestartPolicy::OnFailure { max_retries })
        }
        "always" => Ok(RestartPolicy::Always),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        other => {
            let problem = format!(
                "unknown policy {other:?}: give \"no\", \"on-failure\", \"always\" or \
                 \"unless-stopped\""
            );
            Err(invalid("restart_policy", problem))
        }
    }
}
