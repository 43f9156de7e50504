//! The limits of the runtime-spec, written into the one hierarchy of v2 (the kernel's
//! Documentation/admin-guide/cgroup-v2).
//!
//! Zero means unset for most numbers, as in [`super::v1`].

use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::convert;
use super::dir::Dir;
use super::error::CgroupError;
use super::v1::{set_hugetlb, set_rdma};

/// Writes what `resources` asks of the controller `name` into the cgroup `dir`. Devices and
/// `unified` are apart.
pub(super) fn apply(dir: &Dir, name: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
    match name {
        "memory" => resources.memory().as_ref().map_or(Ok(()), |memory| set_memory(dir, memory)),
        "cpu" => resources.cpu().as_ref().map_or(Ok(()), |cpu| set_cpu(dir, cpu)),
        "cpuset" => resources.cpu().as_ref().map_or(Ok(()), |cpu| set_cpuset(dir, cpu)),
        "pids" => resources
            .pids()
            .as_ref()
            .and_then(|pids| convert::pids(pids.limit()))
            .map_or(Ok(()), |limit| dir.write_limit("pids.limit", "pids.max", &limit)),
        "io" => resources.block_io().as_ref().map_or(Ok(()), |io| set_io(dir, io)),
        "hugetlb" => {
            resources.hugepage_limits().iter().flatten().try_for_each(|limit| {
                set_hugetlb(dir, limit, "max", &convert::or_max(limit.limit()))
            })
        }
        "rdma" => resources
            .rdma()
            .iter()
            .flatten()
            .try_for_each(|(device, limit)| set_rdma(dir, device, limit)),
        _ => Ok(()),
    }
}

/// The fields of `resources` for `controller` that v2 has no counterpart of. They stay without effect, as
/// in runc: an engine's default must not make the same container impossible here.
pub(super) fn without_counterpart(
    controller: &str,
    resources: &LinuxResources,
) -> Vec<&'static str> {
    let (memory, cpu) = (resources.memory().as_ref(), resources.cpu().as_ref());
    let is_set = |number: u64| number != 0;
    let fields = match controller {
        "memory" => [
            ("memory.swappiness", memory.is_some_and(|memory| memory.swappiness().is_some())),
            (
                "memory.disableOOMKiller",
                memory.is_some_and(|memory| memory.disable_oom_killer() == Some(true)),
            ),
        ],
        "cpu" => [
            (
                "cpu.realtimeRuntime",
                cpu.and_then(LinuxCpu::realtime_runtime).is_some_and(|usec| usec != 0),
            ),
            ("cpu.realtimePeriod", cpu.and_then(LinuxCpu::realtime_period).is_some_and(is_set)),
        ],
        _ => return Vec::new(),
    };
    fields.into_iter().filter(|(_, asked)| *asked).map(|(field, _)| field).collect()
}

/// Writes the files that the bundle names itself (runtime-spec, config-linux.md, “Unified”), line by
/// line, since the kernel takes one line per write.
pub(super) fn apply_unified(dir: &Dir, resources: &LinuxResources) -> Result<(), CgroupError> {
    let Some(unified) = resources.unified() else { return Ok(()) };
    let mut keys: Vec<_> = unified.iter().collect();
    keys.sort();
    for (file, value) in keys {
        check_unified_key(file)?;
        for line in value.lines().filter(|line| !line.trim().is_empty()) {
            dir.write_limit(&format!("unified[{file:?}]"), file, line)?;
        }
    }
    Ok(())
}

/// Refuses a key of `unified` that is not a plain name of a control file.
pub(super) fn check_unified_key(file: &str) -> Result<(), CgroupError> {
    let plain = file.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if plain && file.contains('.') && !file.starts_with('.') {
        return Ok(());
    }
    Err(CgroupError::Limit {
        field: format!("unified[{file:?}]"),
        why: "a key is the name of one control file, such as \"memory.high\", without any path"
            .into(),
    })
}

fn set_memory(dir: &Dir, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = swap_of(dir, memory)?;
    if let Some(swap) = swap {
        match dir.write_limit("memory.swap", "memory.swap.max", &convert::or_max(swap)) {
            // A kernel that does not account for swap does not limit it either.
            Err(CgroupError::LimitAbsent { .. }) if swap == -1 => {}
            outcome => outcome?,
        }
    }
    if let Some(limit) = limit {
        dir.write_limit("memory.limit", "memory.max", &convert::or_max(limit))?;
    }
    if let Some(reservation) = memory.reservation().filter(|bytes| *bytes != 0) {
        dir.write_limit("memory.reservation", "memory.low", &convert::or_max(reservation))?;
    }
    Ok(())
}

/// The limit of swap alone.
fn swap_of(dir: &Dir, memory: &LinuxMemory) -> Result<Option<i64>, CgroupError> {
    match (memory.swap(), memory.limit().filter(|limit| *limit != 0)) {
        // An update of swap alone goes with the limit that is in force.
        (Some(1..), None) => {
            let in_force = i64::try_from(dir.read_u64("memory.max")?).unwrap_or(-1);
            convert::swap_alone(memory.swap(), Some(in_force))
        }
        _ => convert::swap_alone(memory.swap(), memory.limit()),
    }
}

/// Refuses a limit below what is in use, if the bundle wants that checked: unlike v1, v2 would take
/// it and kill.
pub(super) fn check_usage(dir: &Dir, memory: &LinuxMemory) -> Result<(), CgroupError> {
    if memory.check_before_update() != Some(true) {
        return Ok(());
    }
    let (limit, swap) = (memory.limit(), swap_of(dir, memory)?);
    if let Some(limit_bytes) = limit.filter(|limit| *limit > 0) {
        let usage_bytes = dir.read_u64("memory.current")?;
        if limit_bytes.unsigned_abs() < usage_bytes {
            let peak_bytes = dir.read_u64_if_present("memory.peak")?.unwrap_or(usage_bytes);
            return Err(CgroupError::MemoryInUse { limit_bytes, usage_bytes, peak_bytes });
        }
    }
    if let Some(limit_bytes) = swap.filter(|limit| *limit >= 0) {
        let usage_bytes = dir.read_u64_if_present("memory.swap.current")?.unwrap_or(0);
        if limit_bytes.unsigned_abs() < usage_bytes {
            return Err(CgroupError::Limit {
                field: "memory.swap".into(),
                why: format!("leaves {limit_bytes} bytes of swap, but {usage_bytes} are in use"),
            });
        }
    }
    Ok(())
}

fn set_cpu(dir: &Dir, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(idle) = cpu.idle() {
        dir.write_number("cpu.idle", "cpu.idle", idle)?;
    }
    // An idle cgroup has no weight, and the kernel refuses to be told one.
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) {
        let weight = convert::cpu_weight(shares);
        dir.write_limit("cpu.shares", "cpu.weight", &weight.to_string())?;
    }
    set_bandwidth(dir, cpu)
}

/// Writes quota and period together, and the burst before or after: the kernel checks it against
/// the quota of that moment.
fn set_bandwidth(dir: &Dir, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    const BURST: &str = "cpu.max.burst";
    let quota = cpu.quota().filter(|usec| *usec != 0);
    let period = cpu.period().filter(|usec| *usec != 0);
    let burst = cpu.burst();

    let mut burst_later = None;
    if let Some(burst) = burst {
        match dir.try_write(BURST, &burst.to_string()) {
            Ok(()) => {}
            Err(Errno::EINVAL) if quota.is_some() => burst_later = Some(burst),
            Err(_) => dir.write_number("cpu.burst", BURST, burst)?,
        }
    }
    if quota.is_some() || period.is_some() {
        let max = match (quota, period) {
            (Some(quota), Some(period)) => format!("{} {period}", convert::or_max(quota)),
            // The kernel keeps the period if only a quota is written.
            (Some(quota), None) => convert::or_max(quota),
            (None, period) => {
                let old = dir.read("cpu.max")?;
                let quota = old.split_whitespace().next().unwrap_or("max");
                format!("{quota} {}", period.unwrap_or_default())
            }
        };
        dir.write_limit("cpu.quota", "cpu.max", &max)?;
    }
    match burst_later {
        Some(burst) => dir.write_number("cpu.burst", BURST, burst),
        None => Ok(()),
    }
}

fn set_cpuset(dir: &Dir, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        dir.write_limit("cpu.cpus", "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        dir.write_limit("cpu.mems", "cpuset.mems", mems)?;
    }
    Ok(())
}

fn set_io(dir: &Dir, io: &LinuxBlockIo) -> Result<(), CgroupError> {
    let bfq = dir.has("io.bfq.weight");
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        if bfq {
            dir.write_limit("blockIO.weight", "io.bfq.weight", &weight.to_string())?;
        } else {
            let weight = convert::io_weight(weight);
            dir.write_limit("blockIO.weight", "io.weight", &format!("default {weight}"))?;
        }
    }
    for device in io.weight_device().iter().flatten() {
        let Some(weight) = device.weight().filter(|weight| *weight != 0) else { continue };
        let (major, minor) = (device.major(), device.minor());
        let (file, weight) = if bfq {
            ("io.bfq.weight", u64::from(weight))
        } else {
            ("io.weight", convert::io_weight(weight))
        };
        let value = format!("{major}:{minor} {weight}");
        dir.write_limit("blockIO.weightDevice", file, &value)?;
    }
    for (devices, field, key) in [
        (io.throttle_read_bps_device(), "blockIO.throttleReadBpsDevice", "rbps"),
        (io.throttle_write_bps_device(), "blockIO.throttleWriteBpsDevice", "wbps"),
        (io.throttle_read_iops_device(), "blockIO.throttleReadIOPSDevice", "riops"),
        (io.throttle_write_iops_device(), "blockIO.throttleWriteIOPSDevice", "wiops"),
    ] {
        for device in devices.iter().flatten() {
            dir.write_limit(field, "io.max", &throttle(device, key))?;
        }
    }
    Ok(())
}

/// One limit of `io.max`; v1's zero, which lifts a limit, is `max` here.
fn throttle(device: &LinuxThrottleDevice, key: &str) -> String {
    let (major, minor) = (device.major(), device.minor());
    match device.rate() {
        0 => format!("{major}:{minor} {key}=max"),
        rate => format!("{major}:{minor} {key}={rate}"),
    }
}
