//! cgroup v1.

use std::fs;
use std::path::Path;

use keg_proto::io::containerd::cgroups::v1 as pb;

use super::files::{self, device, get, huge_page_sizes, limit, number, table};
use crate::cgroup::Cgroups;

/// Nanoseconds per tick of `cpuacct.stat`, which counts hundredths of a second everywhere.
const NANOS_PER_TICK: u64 = 10_000_000;

pub(super) fn measure(cgroups: &Cgroups) -> pb::Metrics {
    pb::Metrics {
        hugetlb: cgroups.v1("hugetlb").map(hugetlb).unwrap_or_default(),
        pids: cgroups.v1("pids").map(pids),
        cpu: cgroups.v1("cpuacct").map(|dir| cpu(dir, cgroups.v1("cpu"))),
        memory: cgroups.v1("memory").map(memory),
        blkio: cgroups.v1("blkio").map(blkio),
        rdma: cgroups.v1("rdma").map(|dir| pb::RdmaStat {
            current: rdma(&dir.join("rdma.current")),
            limit: rdma(&dir.join("rdma.max")),
        }),
        memory_oom_control: cgroups.v1("memory").map(|dir| {
            let control = table(&dir.join("memory.oom_control"));
            pb::MemoryOomControl {
                oom_kill_disable: get(&control, "oom_kill_disable"),
                under_oom: get(&control, "under_oom"),
                oom_kill: get(&control, "oom_kill"),
            }
        }),
        ..pb::Metrics::default()
    }
}

fn hugetlb(dir: &Path) -> Vec<pb::HugetlbStat> {
    let read = |size: &str, name: &str| number(&dir.join(format!("hugetlb.{size}.{name}")));
    let stat = |size: String| pb::HugetlbStat {
        usage: read(&size, "usage_in_bytes").unwrap_or(0),
        max: read(&size, "max_usage_in_bytes").unwrap_or(0),
        failcnt: read(&size, "failcnt").unwrap_or(0),
        pagesize: size,
    };
    huge_page_sizes(dir, "usage_in_bytes").into_iter().map(stat).collect()
}

fn pids(dir: &Path) -> pb::PidsStat {
    pb::PidsStat {
        current: number(&dir.join("pids.current")).unwrap_or(0),
        limit: limit(number(&dir.join("pids.max"))),
    }
}

fn cpu(accounting: &Path, bandwidth: Option<&Path>) -> pb::CpuStat {
    let ticks = table(&accounting.join("cpuacct.stat"));
    let per_cpu = fs::read_to_string(accounting.join("cpuacct.usage_percpu")).unwrap_or_default();
    let usage = pb::CpuUsage {
        total: number(&accounting.join("cpuacct.usage")).unwrap_or(0),
        kernel: get(&ticks, "system") * NANOS_PER_TICK,
        user: get(&ticks, "user") * NANOS_PER_TICK,
        per_cpu: per_cpu.split_ascii_whitespace().filter_map(|text| text.parse().ok()).collect(),
    };
    let throttling = bandwidth.map(|dir| {
        let stat = table(&dir.join("cpu.stat"));
        pb::Throttle {
            periods: get(&stat, "nr_periods"),
            throttled_periods: get(&stat, "nr_throttled"),
            throttled_time: get(&stat, "throttled_time"),
        }
    });
    pb::CpuStat { usage: Some(usage), throttling }
}

fn memory(dir: &Path) -> pb::MemoryStat {
    let stat = table(&dir.join("memory.stat"));
    let of = |name| get(&stat, name);
    let entry = |prefix: &str| {
        let read = |name: &str| number(&dir.join(format!("memory.{prefix}{name}")));
        Some(pb::MemoryEntry {
            usage: read("usage_in_bytes")?,
            limit: read("limit_in_bytes").unwrap_or(0),
            max: read("max_usage_in_bytes").unwrap_or(0),
            failcnt: read("failcnt").unwrap_or(0),
        })
    };
    pb::MemoryStat {
        cache: of("cache"),
        rss: of("rss"),
        rss_huge: of("rss_huge"),
        mapped_file: of("mapped_file"),
        dirty: of("dirty"),
        writeback: of("writeback"),
        pg_pg_in: of("pgpgin"),
        pg_pg_out: of("pgpgout"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: of("hierarchical_memory_limit"),
        hierarchical_swap_limit: of("hierarchical_memsw_limit"),
        total_cache: of("total_cache"),
        total_rss: of("total_rss"),
        total_rss_huge: of("total_rss_huge"),
        total_mapped_file: of("total_mapped_file"),
        total_dirty: of("total_dirty"),
        total_writeback: of("total_writeback"),
        total_pg_pg_in: of("total_pgpgin"),
        total_pg_pg_out: of("total_pgpgout"),
        total_pg_fault: of("total_pgfault"),
        total_pg_maj_fault: of("total_pgmajfault"),
        total_inactive_anon: of("total_inactive_anon"),
        total_active_anon: of("total_active_anon"),
        total_inactive_file: of("total_inactive_file"),
        total_active_file: of("total_active_file"),
        total_unevictable: of("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
    }
}

fn blkio(dir: &Path) -> pb::BlkIoStat {
    // Schedulers with weights count in files of their own; without one the throttle counts.
    let read = |names: [&str; 2]| {
        let entries = names.map(|name| blkio_entries(&dir.join(format!("blkio.{name}"))));
        entries.into_iter().find(|entries| !entries.is_empty()).unwrap_or_default()
    };
    pb::BlkIoStat {
        io_service_bytes_recursive: read([
            "bfq.io_service_bytes_recursive",
            "throttle.io_service_bytes_recursive",
        ]),
        io_serviced_recursive: read([
            "bfq.io_serviced_recursive",
            "throttle.io_serviced_recursive",
        ]),
        io_queued_recursive: read(["bfq.io_queued_recursive", "io_queued_recursive"]),
        io_service_time_recursive: read([
            "bfq.io_service_time_recursive",
            "io_service_time_recursive",
        ]),
        io_wait_time_recursive: read(["bfq.io_wait_time_recursive", "io_wait_time_recursive"]),
        io_merged_recursive: read(["bfq.io_merged_recursive", "io_merged_recursive"]),
        io_time_recursive: read(["bfq.time_recursive", "time_recursive"]),
        sectors_recursive: read(["bfq.sectors_recursive", "sectors_recursive"]),
    }
}

/// Reads lines `MAJOR:MINOR [OPERATION] NUMBER`, and skips the total at the end.
fn blkio_entries(path: &Path) -> Vec<pb::BlkIoEntry> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(blkio_entry).collect()
}

fn blkio_entry(line: &str) -> Option<pb::BlkIoEntry> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (op, value) = match fields[..] {
        [_, op, value] => (op, value),
        [_, value] => ("", value),
        _ => return None,
    };
    let (major, minor) = device(fields[0])?;
    let name = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
    let name = name.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    Some(pb::BlkIoEntry {
        op: op.to_owned(),
        device: name.map(|name| format!("/dev/{name}")).unwrap_or_default(),
        major,
        minor,
        value: value.parse().ok()?,
    })
}

fn rdma(path: &Path) -> Vec<pb::RdmaEntry> {
    let entry = |files::Rdma { device, hca_handles, hca_objects }| pb::RdmaEntry {
        device,
        hca_handles,
        hca_objects,
    };
    files::rdma(path).into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Makes a directory with `files`.
    fn cgroup(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let path = dir.path().to_owned();
        (dir, path)
    }

    #[test]
    fn the_kernels_files_become_the_message() {
        let (_memory, memory) = cgroup(&[
            (
                "memory.stat",
                "cache 10\nrss 20\nhierarchical_memory_limit 9223372036854771712\ntotal_rss 21\n",
            ),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.limit_in_bytes", "8192\n"),
            ("memory.max_usage_in_bytes", "5000\n"),
            ("memory.failcnt", "1\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ]);
        let (_cpu, cpu) = cgroup(&[
            ("cpuacct.stat", "user 3\nsystem 4\n"),
            ("cpuacct.usage", "70000000\n"),
            ("cpuacct.usage_percpu", "30000000 40000000 \n"),
            ("cpu.stat", "nr_periods 5\nnr_throttled 2\nthrottled_time 99\n"),
        ]);
        let (_pids, pids) = cgroup(&[("pids.current", "3\n"), ("pids.max", "max\n")]);
        let v1 = [("memory", memory), ("cpuacct", cpu.clone()), ("cpu", cpu), ("pids", pids)];
        let v1 = v1.into_iter().map(|(name, dir)| (name.to_owned(), dir)).collect();

        let metrics = measure(&Cgroups { v1, v2: None });

        let memory = metrics.memory.unwrap();
        assert_eq!((memory.cache, memory.rss, memory.total_rss), (10, 20, 21));
        let usage = memory.usage.unwrap();
        assert_eq!((usage.usage, usage.limit, usage.max, usage.failcnt), (4096, 8192, 5000, 1));
        assert_eq!(memory.swap, None);
        assert_eq!(metrics.memory_oom_control.unwrap().oom_kill, 2);
        let cpu = metrics.cpu.unwrap();
        let usage = cpu.usage.unwrap();
        assert_eq!((usage.total, usage.user, usage.kernel), (70_000_000, 30_000_000, 40_000_000));
        assert_eq!(usage.per_cpu, [30_000_000, 40_000_000]);
        assert_eq!(cpu.throttling.unwrap().throttled_time, 99);
        let pids = metrics.pids.unwrap();
        assert_eq!((pids.current, pids.limit), (3, 0), "no limit is 0");
        assert_eq!(metrics.blkio, None);
    }

    #[test]
    fn block_device_lines_have_two_or_three_fields() {
        let read = blkio_entry("254:99999 Read 4096").unwrap();
        let plain = blkio_entry("8:0 17").unwrap();

        assert_eq!((read.op.as_str(), read.major, read.value), ("Read", 254, 4096));
        assert_eq!((plain.op.as_str(), plain.minor, plain.value), ("", 0, 17));
        assert_eq!(blkio_entry("Total 99"), None);
    }
}
