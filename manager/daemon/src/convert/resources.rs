//! Limits of a container, and when it is started again.

use keg_engine::RestartPolicy;
use keg_engine::devices::DeviceLimit;
use keg_engine::model::Resources;
use keg_proto::keg::v1 as pb;
use tonic::Status;

use crate::status::invalid;

pub(crate) fn resources_from_pb(resources: pb::Resources) -> Result<Resources, Status> {
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
        cpu_quota_usec: set(resources.cpu_quota_usec),
        cpu_period_usec: Some(resources.cpu_period_usec).filter(|usec| *usec != 0),
        cpuset_mems: Some(resources.cpuset_mems).filter(|mems| !mems.is_empty()),
        cpu_rt_runtime_usec: set(resources.cpu_rt_runtime_usec),
        cpu_rt_period_usec: Some(resources.cpu_rt_period_usec).filter(|usec| *usec != 0),
        memory_reservation_bytes: set(resources.memory_reservation_bytes),
        memory_swappiness: resources.memory_swappiness,
        oom_kill_disable: resources.oom_kill_disable,
        blkio_weight: match u16::try_from(resources.blkio_weight) {
            Ok(weight) => Some(weight).filter(|weight| *weight != 0),
            Err(_) => return Err(invalid("blkio_weight", "a weight is from 10 to 1000")),
        },
        blkio_weight_device: limits_from_pb(resources.blkio_weight_device),
        device_read_bps: limits_from_pb(resources.device_read_bps),
        device_write_bps: limits_from_pb(resources.device_write_bps),
        device_read_iops: limits_from_pb(resources.device_read_iops),
        device_write_iops: limits_from_pb(resources.device_write_iops),
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
        cpu_quota_usec: limits.cpu_quota_usec.unwrap_or_default(),
        cpu_period_usec: limits.cpu_period_usec.unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        cpu_rt_runtime_usec: limits.cpu_rt_runtime_usec.unwrap_or_default(),
        cpu_rt_period_usec: limits.cpu_rt_period_usec.unwrap_or_default(),
        memory_reservation_bytes: limits.memory_reservation_bytes.unwrap_or_default(),
        memory_swappiness: limits.memory_swappiness,
        oom_kill_disable: limits.oom_kill_disable,
        blkio_weight: limits.blkio_weight.unwrap_or_default().into(),
        blkio_weight_device: limits_to_pb(&limits.blkio_weight_device),
        device_read_bps: limits_to_pb(&limits.device_read_bps),
        device_write_bps: limits_to_pb(&limits.device_write_bps),
        device_read_iops: limits_to_pb(&limits.device_read_iops),
        device_write_iops: limits_to_pb(&limits.device_write_iops),
    }
}

fn limits_from_pb(limits: Vec<pb::DeviceLimit>) -> Vec<DeviceLimit> {
    let one = |limit: pb::DeviceLimit| DeviceLimit { path: limit.path.into(), value: limit.value };
    limits.into_iter().map(one).collect()
}

fn limits_to_pb(limits: &[DeviceLimit]) -> Vec<pb::DeviceLimit> {
    let one = |limit: &DeviceLimit| pb::DeviceLimit {
        path: limit.path.to_string_lossy().into_owned(),
        value: limit.value,
    };
    limits.iter().map(one).collect()
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
