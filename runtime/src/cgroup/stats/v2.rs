//! The figures of v2's controllers, told as those of v1 where the two differ.

use super::super::dir::Dir;
use super::super::error::CgroupError;
use super::v1::measure_pids;
use super::{BlkioEntry, Hugetlb, MemoryEntry, Stats, parse};

const NSEC_PER_USEC: u64 = 1000;

/// Reads what one controller counts.
pub(super) fn measure(dir: &Dir, controller: &str, stats: &mut Stats) -> Result<(), CgroupError> {
    match controller {
        "cpuset" => measure_cpuset(dir, stats),
        "memory" => measure_memory(dir, stats),
        "pids" => measure_pids(dir, stats),
        "io" => measure_io(dir, stats),
        "hugetlb" => measure_hugetlb(dir, stats),
        _ => Ok(()),
    }
}

/// Reads processor time, which every cgroup has.
pub(super) fn measure_cpu(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let text = dir.read("cpu.stat")?;
    let nanoseconds = |key| parse::flat_value(&text, key).saturating_mul(NSEC_PER_USEC);
    let usage = &mut stats.cpu.usage;
    usage.total = nanoseconds("usage_usec");
    usage.user = nanoseconds("user_usec");
    usage.kernel = nanoseconds("system_usec");
    let throttling = &mut stats.cpu.throttling;
    throttling.periods = parse::flat_value(&text, "nr_periods");
    throttling.throttled_periods = parse::flat_value(&text, "nr_throttled");
    throttling.throttled_time = nanoseconds("throttled_usec");
    Ok(())
}

/// Reads what was lost waiting, where the kernel tells.
pub(super) fn measure_pressure(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let read = |file| parse::read(dir, file, "pressure", parse::pressure);
    stats.cpu.psi = read("cpu.pressure")?;
    stats.memory.psi = read("memory.pressure")?;
    stats.blkio.psi = read("io.pressure")?;
    Ok(())
}

fn measure_cpuset(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let list = "list of CPUs or nodes";
    let read = |file| parse::read(dir, file, list, parse::ranges).map(Option::unwrap_or_default);
    stats.cpuset.cpus = read("cpuset.cpus.effective")?;
    stats.cpuset.mems = read("cpuset.mems.effective")?;
    Ok(())
}

fn measure_memory(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let text = dir.read("memory.stat")?;
    let memory = &mut stats.memory;
    memory.raw = parse::flat_keyed(&text).map(|(key, value)| (key.into(), value)).collect();
    memory.cache = parse::flat_value(&text, "file");
    let events = dir.read_if_present("memory.events")?.unwrap_or_default();
    let failcnt = parse::flat_value(&events, "max");
    memory.usage = MemoryEntry {
        limit: dir.read_u64_if_present("memory.max")?.unwrap_or(u64::MAX),
        usage: dir.read_u64_if_present("memory.current")?.unwrap_or(0),
        max: dir.read_u64_if_present("memory.peak")?.unwrap_or(0),
        failcnt,
    };
    // v1 counts memory and swap together, and readers of these figures subtract one from the other.
    let swap_limit = dir.read_u64_if_present("memory.swap.max")?.unwrap_or(0);
    let swap_usage = dir.read_u64_if_present("memory.swap.current")?.unwrap_or(0);
    memory.swap = MemoryEntry {
        limit: memory.usage.limit.saturating_add(swap_limit),
        usage: memory.usage.usage.saturating_add(swap_usage),
        max: 0,
        failcnt,
    };
    memory.kernel.usage = parse::flat_value(&text, "kernel");
    Ok(())
}

fn measure_io(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    let text = dir.read("io.stat")?;
    for line in text.lines() {
        // A device that was never used has a line without figures.
        let Some(device) = parse::io_stat_line(line) else {
            return Err(dir.parse_error("io.stat", line, "device with its figures"));
        };
        let parse::DeviceFigures { major, minor, figures } = device;
        for (key, value) in figures {
            let entry = |op: &str| BlkioEntry { major, minor, op: op.into(), value };
            let blkio = &mut stats.blkio;
            match key {
                "rbytes" => blkio.io_service_bytes_recursive.push(entry("Read")),
                "wbytes" => blkio.io_service_bytes_recursive.push(entry("Write")),
                "dbytes" => blkio.io_service_bytes_recursive.push(entry("Discard")),
                "rios" => blkio.io_serviced_recursive.push(entry("Read")),
                "wios" => blkio.io_serviced_recursive.push(entry("Write")),
                "dios" => blkio.io_serviced_recursive.push(entry("Discard")),
                _ => {}
            }
        }
    }
    Ok(())
}

fn measure_hugetlb(dir: &Dir, stats: &mut Stats) -> Result<(), CgroupError> {
    for size in parse::hugepage_sizes() {
        let events = dir.read_if_present(&format!("hugetlb.{size}.events"))?.unwrap_or_default();
        let pages = Hugetlb {
            usage: dir.read_u64_if_present(&format!("hugetlb.{size}.current"))?.unwrap_or(0),
            max: 0,
            failcnt: parse::flat_value(&events, "max"),
        };
        stats.hugetlb.insert(size, pages);
    }
    Ok(())
}
