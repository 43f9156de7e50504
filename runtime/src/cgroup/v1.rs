//! The limits of the runtime-spec, written into the controllers of v1 (config-linux.md, “Control
//! groups”; the kernel's Documentation/admin-guide/cgroup-v1).
//!
//! Zero means unset for most numbers: that is how runc reads them, and engines rely on it.

use nix::errno::Errno;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxRdma,
    LinuxResources, LinuxThrottleDevice,
};

use super::convert;
use super::dir::Dir;
use super::error::CgroupError;

/// Writes what `resources` asks of the controller `name` into its cgroup `dir`. Devices are apart:
/// they change only when a container is made.
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
        "blkio" => resources.block_io().as_ref().map_or(Ok(()), |io| set_blkio(dir, io)),
        "hugetlb" => resources.hugepage_limits().iter().flatten().try_for_each(|limit| {
            set_hugetlb(dir, limit, "limit_in_bytes", &limit.limit().to_string())
        }),
        "rdma" => resources
            .rdma()
            .iter()
            .flatten()
            .try_for_each(|(device, limit)| set_rdma(dir, device, limit)),
        "net_cls" => resources.network().as_ref().map_or(Ok(()), |net| set_net_cls(dir, net)),
        "net_prio" => resources.network().as_ref().map_or(Ok(()), |net| set_net_prio(dir, net)),
        _ => Ok(()),
    }
}

/// Fills the CPUs and memory nodes of a new cgroup from its parent: until both are set, the kernel
/// lets no process in. `made_now`: it is known to have none.
pub(super) fn inherit_cpuset(parent: &Dir, dir: &Dir, made_now: bool) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if made_now || dir.read(file)?.trim().is_empty() {
            dir.write(file, parent.read(file)?.trim())?;
        }
    }
    Ok(())
}

fn set_memory(dir: &Dir, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let mut swap = memory.swap().filter(|swap| *swap != 0);
    if limit == Some(-1) && swap.is_none() && dir.has(MEMORY_AND_SWAP) {
        swap = Some(-1);
    }
    // The kernel wants limit ≤ swap after every single write, so the order depends on the old limit.
    let swap_first = match (limit, swap) {
        (Some(_), Some(-1)) => true,
        (Some(_), Some(swap)) => dir.read_u64(MEMORY)? < u64::try_from(swap).unwrap_or_default(),
        _ => false,
    };
    if swap_first {
        set_memory_and_swap(dir, swap)?;
        set_memory_limit(dir, limit)?;
    } else {
        set_memory_limit(dir, limit)?;
        set_memory_and_swap(dir, swap)?;
    }

    if let Some(reservation) = memory.reservation().filter(|bytes| *bytes != 0) {
        let value = reservation.to_string();
        dir.write_limit("memory.reservation", "memory.soft_limit_in_bytes", &value)?;
    }
    if let Some(bytes) = memory.kernel_tcp().filter(|bytes| *bytes != 0) {
        dir.write_limit("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", &bytes.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        dir.write_limit("memory.disableOOMKiller", "memory.oom_control", "1")?;
    }
    match memory.swappiness() {
        None => Ok(()),
        Some(percent @ 0..=100) => {
            dir.write_limit("memory.swappiness", "memory.swappiness", &percent.to_string())
        }
        Some(percent) => Err(CgroupError::Limit {
            field: "memory.swappiness".into(),
            why: format!("is {percent}, but must lie between 0 and 100"),
        }),
    }
}

const MEMORY: &str = "memory.limit_in_bytes";
const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

fn set_memory_limit(dir: &Dir, limit: Option<i64>) -> Result<(), CgroupError> {
    let Some(limit) = limit else { return Ok(()) };
    match dir.try_write(MEMORY, &limit.to_string()) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(CgroupError::MemoryInUse {
            limit_bytes: limit,
            usage_bytes: dir.read_u64("memory.usage_in_bytes")?,
            peak_bytes: dir.read_u64("memory.max_usage_in_bytes")?,
        }),
        Err(errno) => Err(dir.write_error(MEMORY, &limit.to_string(), errno)),
    }
}

fn set_memory_and_swap(dir: &Dir, swap: Option<i64>) -> Result<(), CgroupError> {
    let Some(swap) = swap else { return Ok(()) };
    match dir.write_limit("memory.swap", MEMORY_AND_SWAP, &swap.to_string()) {
        // A kernel that does not account for swap does not limit it either.
        Err(CgroupError::LimitAbsent { .. }) if swap == -1 => Ok(()),
        outcome => outcome,
    }
}

/// The runtime must fit into the period after every single write: where the new period is too short for
/// the old runtime, the runtime goes first.
fn set_realtime(dir: &Dir, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    let period = cpu.realtime_period().filter(|usec| *usec != 0);
    let runtime = cpu.realtime_runtime().filter(|usec| *usec != 0);
    let set_period = || match period {
        None => Ok(()),
        Some(usec) => dir.write_limit("cpu.realtimePeriod", "cpu.rt_period_us", &usec.to_string()),
    };
    let set_runtime = || match runtime {
        None => Ok(()),
        Some(usec) => {
            dir.write_limit("cpu.realtimeRuntime", "cpu.rt_runtime_us", &usec.to_string())
        }
    };
    match set_period() {
        Err(error) if error.errno() == Some(Errno::EINVAL) && runtime.is_some() => {
            set_runtime()?;
            set_period()
        }
        outcome => outcome.and_then(|()| set_runtime()),
    }
}

/// Why a number of shares cannot be, in words that clients of Docker look for: the kernel would take
/// another one in its place without a word.
fn refused_shares(shares: u64) -> Option<String> {
    let (low, high) = (*convert::CPU_SHARES.start(), *convert::CPU_SHARES.end());
    match i64::try_from(shares) {
        // What has become of a negative number on its way.
        Err(_) => Some(format!("invalid argument {}", shares.cast_signed())),
        Ok(_) if shares < low => {
            Some(format!("the minimum allowed cpu-shares is {low}, not {shares}"))
        }
        Ok(_) if shares > high => {
            Some(format!("the maximum allowed cpu-shares is {high}, not {shares}"))
        }
        Ok(_) => None,
    }
}

fn set_cpu(dir: &Dir, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        if let Some(why) = refused_shares(shares) {
            return Err(CgroupError::Limit { field: "cpu.shares".into(), why });
        }
        dir.write_limit("cpu.shares", "cpu.shares", &shares.to_string())?;
    }
    set_realtime(dir, cpu)?;
    if let Some(idle) = cpu.idle() {
        dir.write_number("cpu.idle", "cpu.idle", idle)?;
    }
    set_bandwidth(dir, cpu)
}

/// Writes quota, period and burst, each of which the kernel checks against the others as they are
/// at that moment: what it refuses before the quota is set, it is asked again afterwards.
fn set_bandwidth(dir: &Dir, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    const BURST: &str = "cpu.cfs_burst_us";
    const PERIOD: &str = "cpu.cfs_period_us";
    let quota = cpu.quota().filter(|usec| *usec != 0);
    let period = cpu.period().filter(|usec| *usec != 0).map(|usec| usec.to_string());
    let burst = cpu.burst();

    let mut burst_later = None;
    if let Some(burst) = burst {
        match dir.try_write(BURST, &burst.to_string()) {
            Ok(()) => {}
            Err(Errno::EINVAL) if quota.is_some() => burst_later = Some(burst),
            Err(_) => dir.write_number("cpu.burst", BURST, burst)?,
        }
    }
    let mut period_later = None;
    if let Some(period) = &period {
        match dir.try_write(PERIOD, period) {
            Ok(()) => {}
            Err(Errno::EINVAL) if quota.is_some() => period_later = Some(period),
            Err(_) => dir.write_limit("cpu.period", PERIOD, period)?,
        }
    }
    if let Some(quota) = quota {
        dir.write_limit("cpu.quota", "cpu.cfs_quota_us", &quota.to_string())?;
    }
    if let Some(period) = period_later {
        dir.write_limit("cpu.period", PERIOD, period)?;
    }
    if let Some(burst) = burst_later {
        dir.write_number("cpu.burst", BURST, burst)?;
    }
    Ok(())
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

fn set_blkio(dir: &Dir, io: &LinuxBlockIo) -> Result<(), CgroupError> {
    let prefix = if dir.has("blkio.weight") { "blkio" } else { "blkio.bfq" };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        dir.write_limit("blockIO.weight", &format!("{prefix}.weight"), &weight.to_string())?;
    }
    if let Some(weight) = io.leaf_weight().filter(|weight| *weight != 0) {
        dir.write_limit("blockIO.leafWeight", "blkio.leaf_weight", &weight.to_string())?;
    }
    for device in io.weight_device().iter().flatten() {
        let (major, minor) = (device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let value = format!("{major}:{minor} {weight}");
            let file = format!("{prefix}.weight_device");
            dir.write_limit("blockIO.weightDevice", &file, &value)?;
        }
        if let Some(weight) = device.leaf_weight().filter(|weight| *weight != 0) {
            let value = format!("{major}:{minor} {weight}");
            dir.write_limit("blockIO.weightDevice", "blkio.leaf_weight_device", &value)?;
        }
    }
    for (devices, field, file) in [
        (io.throttle_read_bps_device(), "throttleReadBpsDevice", "read_bps_device"),
        (io.throttle_write_bps_device(), "throttleWriteBpsDevice", "write_bps_device"),
        (io.throttle_read_iops_device(), "throttleReadIOPSDevice", "read_iops_device"),
        (io.throttle_write_iops_device(), "throttleWriteIOPSDevice", "write_iops_device"),
    ] {
        for device in devices.iter().flatten() {
            let value = throttle(device);
            dir.write_limit(
                &format!("blockIO.{field}"),
                &format!("blkio.throttle.{file}"),
                &value,
            )?;
        }
    }
    Ok(())
}

fn throttle(device: &LinuxThrottleDevice) -> String {
    format!("{}:{} {}", device.major(), device.minor(), device.rate())
}

/// Limits both the pages in use and, where the kernel counts them, the reservations (runtime-spec,
/// config-linux.md, “Huge page limits”). The two versions differ in the file's suffix.
pub(super) fn set_hugetlb(
    dir: &Dir,
    limit: &LinuxHugepageLimit,
    suffix: &str,
    value: &str,
) -> Result<(), CgroupError> {
    let size = limit.page_size();
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(CgroupError::Limit {
            field: "hugepageLimits".into(),
            why: format!("{size:?} is no page size like 2MB"),
        });
    }
    dir.write_limit("hugepageLimits", &format!("hugetlb.{size}.{suffix}"), value)?;
    match dir.try_write(&format!("hugetlb.{size}.rsvd.{suffix}"), value) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(dir.write_error(&format!("hugetlb.{size}.rsvd.{suffix}"), value, errno)),
    }
}

/// Limits the handles and objects of one RDMA device; both versions have the same file.
pub(super) fn set_rdma(dir: &Dir, device: &str, limit: &LinuxRdma) -> Result<(), CgroupError> {
    let mut line = device.to_owned();
    for (key, count) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
        if let Some(count) = count {
            line.push_str(&format!(" {key}={count}"));
        }
    }
    dir.write_limit("rdma", "rdma.max", &line)
}

fn set_net_cls(dir: &Dir, network: &LinuxNetwork) -> Result<(), CgroupError> {
    match network.class_id().filter(|class| *class != 0) {
        Some(class) => dir.write_limit("network.classID", "net_cls.classid", &class.to_string()),
        None => Ok(()),
    }
}

fn set_net_prio(dir: &Dir, network: &LinuxNetwork) -> Result<(), CgroupError> {
    for interface in network.priorities().iter().flatten() {
        let value = format!("{} {}", interface.name(), interface.priority());
        dir.write_limit("network.priorities", "net_prio.ifpriomap", &value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_out_of_range_are_refused_in_the_words_that_clients_look_for() {
        for (shares, words) in [
            (1, Some("the minimum allowed cpu-shares is 2, not 1")),
            (2, None),
            (262_144, None),
            (262_145, Some("the maximum allowed cpu-shares is 262144, not 262145")),
            (u64::MAX, Some("invalid argument -1")),
        ] {
            assert_eq!(refused_shares(shares).as_deref(), words, "{shares}");
        }
    }
}
