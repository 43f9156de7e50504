//! The figures of v1's controllers.

use super::super::dir::Dir;
use super::super::error::CgroupError;
use super::{Hugetlb, MemoryEntry, Stats, parse};

/// Reads what one controller counts.
pub(super) fn measure(dir: &Dir, controller: &str, stats: &mut Stats) -> Result<(), CgroupError> {
    match controller {
        "cpu" => measure_throttling(dir, stats),
        "cpuacct" => measure_cpu(dir, stats),
        "cpuset" => measure_cpuset(dir, stats),
        "memory" => measure_memory(dir, stats),
        "pids" => measure_pids(dir, stats),
        "blkio" => measure_blkio(dir, stats),
        "hugetlb" => measure_hugetlb(dir, stats),
        _ => Ok(()),
    }
}

fn measure_throttling(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let text = dir.read("cpu.stat")?;
    let throttling = &mut stats.cpu.throttling;
    throttling.periods = parse::flat_value(&text, "nr_periods");
    throttling.throttled_periods = parse::flat_value(&text, "nr_throttled");
    throttling.throttled_time = parse::flat_value(&text, "throttled_time");
    Ok(())
}

fn measure_cpu(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let usage = &mut stats.cpu.usage;
    usage.total = dir.read_u64("cpuacct.usage")?;
    let list = "list of numbers";
    for (file, percpu) in [
        ("cpuacct.usage_percpu", &mut usage.percpu),
        ("cpuacct.usage_percpu_sys", &mut usage.percpu_kernel),
        ("cpuacct.usage_percpu_user", &mut usage.percpu_user),
    ] {
        *percpu = parse::read(dir, file, list, parse::numbers)?.unwrap_or_default();
    }
    // `cpuacct.stat` counts in ticks; these two count in nanoseconds.
    usage.kernel = dir.read_u64_if_present("cpuacct.usage_sys")?.unwrap_or(0);
    usage.user = dir.read_u64_if_present("cpuacct.usage_user")?.unwrap_or(0);
    Ok(())
}

fn measure_cpuset(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let cpuset = &mut stats.cpuset;
    let list = "list of CPUs or nodes";
    cpuset.cpus = parse::read(dir, "cpuset.cpus", list, parse::ranges)?.unwrap_or_default();
    cpuset.mems = parse::read(dir, "cpuset.mems", list, parse::ranges)?.unwrap_or_default();
    for (file, figure) in [
        ("cpuset.cpu_exclusive", &mut cpuset.cpu_exclusive),
        ("cpuset.mem_hardwall", &mut cpuset.mem_hardwall),
        ("cpuset.mem_exclusive", &mut cpuset.mem_exclusive),
        ("cpuset.memory_migrate", &mut cpuset.memory_migrate),
        ("cpuset.memory_spread_page", &mut cpuset.memory_spread_page),
        ("cpuset.memory_spread_slab", &mut cpuset.memory_spread_slab),
        ("cpuset.memory_pressure", &mut cpuset.memory_pressure),
        ("cpuset.sched_load_balance", &mut cpuset.sched_load_balance),
    ] {
        *figure = dir.read_u64_if_present(file)?.unwrap_or(0);
    }
    let level = parse::read(dir, "cpuset.sched_relax_domain_level", "number", |text| {
        text.trim().parse().ok()
    })?;
    cpuset.sched_relax_domain_level = level.unwrap_or(0);
    Ok(())
}

fn measure_memory(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let memory = &mut stats.memory;
    let text = dir.read("memory.stat")?;
    memory.raw = parse::flat_keyed(&text).map(|(key, value)| (key.into(), value)).collect();
    memory.cache = parse::flat_value(&text, "cache");
    memory.usage = entry(dir, "memory")?;
    memory.swap = entry(dir, "memory.memsw")?;
    memory.kernel = entry(dir, "memory.kmem")?;
    memory.kernel_tcp = entry(dir, "memory.kmem.tcp")?;
    Ok(())
}

fn entry(dir: &Dir, prefix: &str) -> Result<MemoryEntry, CgroupError> {
    let figure = |suffix: &str| {
        dir.read_u64_if_present(&format!("{prefix}.{suffix}")).map(Option::unwrap_or_default)
    };
    Ok(MemoryEntry {
        limit: figure("limit_in_bytes")?,
        usage: figure("usage_in_bytes")?,
        max: figure("max_usage_in_bytes")?,
        failcnt: figure("failcnt")?,
    })
}

/// Counts processes; both versions have the same files.
pub(super) fn measure_pids(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    stats.pids.current = dir.read_u64("pids.current")?;
    let limit = dir.read_u64_if_present("pids.max")?.unwrap_or(u64::MAX);
    stats.pids.limit = if limit == u64::MAX { 0 } else { limit };
    Ok(())
}

fn measure_blkio(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    // Which of the two counts depends on the scheduler of the device: the one that has counted.
    let read = |name: &str| -> Result<_, CgroupError> {
        for prefix in ["blkio.bfq", "blkio.throttle"] {
            let file = format!("{prefix}.{name}_recursive");
            let entries = parse::read(dir, &file, "figures of devices", parse::blkio)?;
            match entries {
                Some(entries) if entries.iter().any(|entry| entry.value != 0) => {
                    return Ok(entries);
                }
                _ => {}
            }
        }
        Ok(Vec::new())
    };
    stats.blkio.io_service_bytes_recursive = read("io_service_bytes")?;
    stats.blkio.io_serviced_recursive = read("io_serviced")?;
    Ok(())
}

fn measure_hugetlb(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    for size in parse::hugepage_sizes() {
        let figure = |suffix: &str| {
            let file = format!("hugetlb.{size}.{suffix}");
            dir.read_u64_if_present(&file).map(Option::unwrap_or_default)
        };
        let pages = Hugetlb {
            usage: figure("usage_in_bytes")?,
            max: figure("max_usage_in_bytes")?,
            failcnt: figure("failcnt")?,
        };
        stats.hugetlb.insert(size, pages);
    }
    Ok(())
}
