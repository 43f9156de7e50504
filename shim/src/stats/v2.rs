//! cgroup v2.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use keg_proto::io::containerd::cgroups::v2 as pb;

use super::files::{self, device, get, huge_page_sizes, limit, number, pairs, table};

pub(super) fn measure(dir: &Path) -> pb::Metrics {
    pb::Metrics {
        pids: number(&dir.join("pids.current"))
            .map(|current| pb::PidsStat { current, limit: limit(number(&dir.join("pids.max"))) }),
        cpu: Some(cpu(dir)),
        memory: Some(memory(dir)),
        rdma: Some(pb::RdmaStat {
            current: rdma(&dir.join("rdma.current")),
            limit: rdma(&dir.join("rdma.max")),
        }),
        io: Some(pb::IoStat {
            usage: io(&dir.join("io.stat")),
            psi: pressure(&dir.join("io.pressure")),
        }),
        hugetlb: hugetlb(dir),
        memory_events: Some(memory_events(dir)),
        ..pb::Metrics::default()
    }
}

fn cpu(dir: &Path) -> pb::CpuStat {
    let stat = table(&dir.join("cpu.stat"));
    let of = |name| get(&stat, name);
    pb::CpuStat {
        usage_usec: of("usage_usec"),
        user_usec: of("user_usec"),
        system_usec: of("system_usec"),
        nr_periods: of("nr_periods"),
        nr_throttled: of("nr_throttled"),
        throttled_usec: of("throttled_usec"),
        psi: pressure(&dir.join("cpu.pressure")),
        nr_bursts: of("nr_bursts"),
        burst_usec: of("burst_usec"),
    }
}

fn memory(dir: &Path) -> pb::MemoryStat {
    let stat = table(&dir.join("memory.stat"));
    let of = |name| get(&stat, name);
    let read = |name: &str| number(&dir.join(name)).unwrap_or(0);
    pb::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        workingset_refault: of("workingset_refault"),
        workingset_activate: of("workingset_activate"),
        workingset_nodereclaim: of("workingset_nodereclaim"),
        pgrefill: of("pgrefill"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgactivate: of("pgactivate"),
        pgdeactivate: of("pgdeactivate"),
        pglazyfree: of("pglazyfree"),
        pglazyfreed: of("pglazyfreed"),
        thp_fault_alloc: of("thp_fault_alloc"),
        thp_collapse_alloc: of("thp_collapse_alloc"),
        usage: read("memory.current"),
        usage_limit: read("memory.max"),
        swap_usage: read("memory.swap.current"),
        swap_limit: read("memory.swap.max"),
        max_usage: read("memory.peak"),
        swap_max_usage: read("memory.swap.peak"),
        psi: pressure(&dir.join("memory.pressure")),
        workingset_refault_anon: of("workingset_refault_anon"),
        workingset_refault_file: of("workingset_refault_file"),
        workingset_activate_anon: of("workingset_activate_anon"),
        workingset_activate_file: of("workingset_activate_file"),
    }
}

fn memory_events(dir: &Path) -> pb::MemoryEvents {
    let events = table(&dir.join("memory.events"));
    let of = |name| get(&events, name);
    pb::MemoryEvents {
        low: of("low"),
        high: of("high"),
        max: of("max"),
        oom: of("oom"),
        oom_kill: of("oom_kill"),
        oom_group_kill: of("oom_group_kill"),
    }
}

/// Reads lines `some|full avg10=… avg60=… avg300=… total=…`.
fn pressure(path: &Path) -> Option<pb::PsiStats> {
    let text = fs::read_to_string(path).ok()?;
    let data = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let values = line.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
        let values: HashMap<&str, &str> = values.collect();
        let average = |name| values.get(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        Some(pb::PsiData {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: values.get("total").and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    };
    Some(pb::PsiStats { some: data("some "), full: data("full ") })
}

/// Reads lines `MAJOR:MINOR rbytes=… wbytes=… rios=… wios=…`.
fn io(path: &Path) -> Vec<pb::IoEntry> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let entry = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let (major, minor) = device(name)?;
        let values: HashMap<&str, u64> = pairs(rest).collect();
        let of = |name| values.get(name).copied().unwrap_or(0);
        Some(pb::IoEntry {
            major,
            minor,
            rbytes: of("rbytes"),
            wbytes: of("wbytes"),
            rios: of("rios"),
            wios: of("wios"),
        })
    };
    text.lines().filter_map(entry).collect()
}

fn hugetlb(dir: &Path) -> Vec<pb::HugeTlbStat> {
    let stat = |size: String| pb::HugeTlbStat {
        current: number(&dir.join(format!("hugetlb.{size}.current"))).unwrap_or(0),
        max: number(&dir.join(format!("hugetlb.{size}.max"))).unwrap_or(0),
        failcnt: get(&table(&dir.join(format!("hugetlb.{size}.events"))), "max"),
        pagesize: size,
    };
    huge_page_sizes(dir, "current").into_iter().map(stat).collect()
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
    use super::*;

    #[test]
    fn the_kernels_files_become_the_message() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("pids.current", "3\n"),
            ("pids.max", "100\n"),
            ("cpu.stat", "usage_usec 70\nuser_usec 30\nsystem_usec 40\nnr_throttled 2\n"),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.25 total=3\n",
            ),
            ("memory.stat", "anon 10\nfile 20\npgmajfault 5\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 7\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }

        let metrics = measure(dir.path());

        let pids = metrics.pids.unwrap();
        assert_eq!((pids.current, pids.limit), (3, 100));
        let cpu = metrics.cpu.unwrap();
        assert_eq!((cpu.usage_usec, cpu.nr_throttled), (70, 2));
        let psi = cpu.psi.unwrap();
        assert_eq!((psi.some.unwrap().avg10, psi.full.unwrap().total), (1.5, 3));
        let memory = metrics.memory.unwrap();
        assert_eq!((memory.anon, memory.usage, memory.usage_limit), (10, 4096, u64::MAX));
        assert_eq!(metrics.memory_events.unwrap().oom_kill, 1);
        assert_eq!(metrics.io.unwrap().usage[0].wios, 4);
        let huge = &metrics.hugetlb[..];
        assert_eq!((huge.len(), huge[0].pagesize.as_str(), huge[0].failcnt), (1, "2MB", 7));
    }
}
