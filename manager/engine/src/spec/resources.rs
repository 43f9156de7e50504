//! Limits and device rules (runtime-spec, config-linux.md, “Control groups”).

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids,
    LinuxResources, LinuxThrottleDevice,
};

use crate::devices::DeviceEdits;
use crate::model::HostConfig;

/// Microseconds over which a limit on processor time counts; the kernel's own default.
const CPU_PERIOD_USEC: u64 = 100_000;

/// Devices that a container may use: kind, major, minor, access. `None` means any.
const DEVICES: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 11] = [
    // Nodes can be made, not opened.
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    // null, zero, full, random, urandom
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    // tty, console, ptmx, pts/*
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (LinuxDeviceType::C, Some(136), None, "rwm"),
];

/// Translates the limits; a privileged container may use every device.
pub fn build(host: &HostConfig, edits: &DeviceEdits) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(devices(host.privileged, edits)))
        .set_block_io(block_io(host, edits))
        .set_memory(memory(host))
        .set_cpu(cpu(host))
        .set_pids(pids(host));
    resources
}

fn devices(privileged: bool, edits: &DeviceEdits) -> Vec<LinuxDeviceCgroup> {
    if privileged {
        return vec![rule(true, LinuxDeviceType::A, None, None, "rwm")];
    }
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")];
    rules.extend(DEVICES.map(|(typ, major, minor, access)| rule(true, typ, major, minor, access)));
    rules.extend(edits.rules.iter().cloned());
    rules
}

/// Weights and limits of block devices.
fn block_io(host: &HostConfig, edits: &DeviceEdits) -> Option<LinuxBlockIo> {
    let some = |list: &Vec<LinuxThrottleDevice>| Some(list.clone()).filter(|list| !list.is_empty());
    let mut block_io = LinuxBlockIo::default();
    block_io
        .set_weight(host.resources.blkio_weight)
        .set_weight_device(Some(edits.weights.clone()).filter(|list| !list.is_empty()))
        .set_throttle_read_bps_device(some(&edits.throttles[0]))
        .set_throttle_write_bps_device(some(&edits.throttles[1]))
        .set_throttle_read_iops_device(some(&edits.throttles[2]))
        .set_throttle_write_iops_device(some(&edits.throttles[3]));
    (block_io != LinuxBlockIo::default()).then_some(block_io)
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(typ))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// Without a limit of its own, swap may be as much again as the memory, as in Docker.
fn memory(host: &HostConfig) -> Option<LinuxMemory> {
    let limits = &host.resources;
    let is_limited = limits.memory_bytes.is_some()
        || limits.memory_swap_bytes.is_some()
        || limits.memory_reservation_bytes.is_some()
        || limits.memory_swappiness.is_some()
        || limits.oom_kill_disable;
    if !is_limited {
        return None;
    }
    let swap =
        limits.memory_swap_bytes.or(limits.memory_bytes.map(|limit| limit.saturating_mul(2)));
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(limits.memory_bytes)
        .set_swap(swap)
        .set_reservation(limits.memory_reservation_bytes)
        .set_swappiness(limits.memory_swappiness)
        .set_disable_oom_killer(limits.oom_kill_disable.then_some(true));
    Some(memory)
}

fn cpu(host: &HostConfig) -> Option<LinuxCpu> {
    let limits = &host.resources;
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(limits.cpu_shares)
        .set_cpus(limits.cpuset_cpus.clone())
        .set_mems(limits.cpuset_mems.clone())
        .set_quota(limits.cpu_quota_usec)
        .set_period(limits.cpu_period_usec)
        .set_realtime_runtime(limits.cpu_rt_runtime_usec)
        .set_realtime_period(limits.cpu_rt_period_usec);
    if let Some(nano_cpus) = limits.nano_cpus {
        let quota_usec = nano_cpus.saturating_mul(CPU_PERIOD_USEC) / 1_000_000_000;
        cpu.set_period(Some(CPU_PERIOD_USEC)).set_quota(i64::try_from(quota_usec).ok());
    }
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn pids(host: &HostConfig) -> Option<LinuxPids> {
    let limit = host.resources.pids_limit?;
    let mut pids = LinuxPids::default();
    pids.set_limit(limit);
    Some(pids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resources;

    fn json(resources: Resources) -> serde_json::Value {
        let host = HostConfig { resources, ..HostConfig::default() };
        serde_json::to_value(build(&host, &DeviceEdits::default())).unwrap()
    }

    #[test]
    fn devices_are_denied_before_some_are_allowed() {
        let value = json(Resources::default());

        let rules = value["devices"].as_array().unwrap();
        assert_eq!(rules[0]["allow"], false);
        assert_eq!(rules[0]["access"], "rwm");
        assert!(rules[1..].iter().all(|rule| rule["allow"] == true));
        assert!(!rules[1..].iter().any(|rule| rule["type"] == "b" && rule["access"] != "m"));
        assert!(value.get("memory").is_none() && value.get("cpu").is_none());
    }

    #[test]
    fn one_and_a_half_processors_are_a_quota_of_150_milliseconds() {
        let value = json(Resources { nano_cpus: Some(1_500_000_000), ..Resources::default() });

        assert_eq!(value["cpu"]["quota"], 150_000);
        assert_eq!(value["cpu"]["period"], 100_000);
    }

    #[test]
    fn swap_is_as_much_again_as_memory_unless_it_is_limited() {
        let value = json(Resources { memory_bytes: Some(1 << 20), ..Resources::default() });
        assert_eq!(value["memory"]["swap"], 2 << 20);

        let limited = Resources {
            memory_bytes: Some(1 << 20),
            memory_swap_bytes: Some(-1),
            pids_limit: Some(7),
            ..Resources::default()
        };
        let value = json(limited);
        assert_eq!(value["memory"]["swap"], -1);
        assert_eq!(value["pids"]["limit"], 7);
    }
}
