//! What containers use: processor, memory, network, disk, processes.
//!
//! The cgroup is counted by the shim, which knows where it is; the network by the counters of the
//! container's own namespace. A rate needs two counts, so each answer is compared with the one
//! before it.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use keg_network::NetworkMode;
use keg_proto::io::containerd::cgroups::{v1, v2};
use prost::Message as _;
use tokio::time::Instant;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::model::Record;

/// Time between two answers.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whose use to count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsQuery {
    /// Names or ids; empty: all that run.
    pub containers: Vec<String>,
    /// With no names: those too that do not run.
    pub all: bool,
}

/// What a container uses; all zero if it does not run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerStats {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// When it was counted.
    pub read_at: Timestamp,
    /// Hundredths of a processor since the answer before this.
    pub cpu_percent: f64,
    /// What was counted.
    pub counted: Counted,
    /// Whether it runs.
    pub is_running: bool,
}

/// What the kernel counts of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Processor time since the start, in nanoseconds.
    pub cpu_nsec: u64,
    /// Memory, without what the kernel would give back at once.
    pub memory_bytes: u64,
    /// What it may have at most.
    pub memory_limit_bytes: u64,
    /// Bytes received.
    pub network_received_bytes: u64,
    /// Bytes sent.
    pub network_sent_bytes: u64,
    /// Bytes read from block devices.
    pub block_read_bytes: u64,
    /// Bytes written.
    pub block_written_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Counts again and again.
#[derive(Debug)]
pub struct StatsStream {
    engine: Engine,
    query: StatsQuery,
    before: HashMap<String, (Instant, u64)>,
    next: Instant,
}

impl Engine {
    /// Begins to count.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`] for a name that nobody has.
    pub async fn stats(&self, query: StatsQuery) -> Result<StatsStream, EngineError> {
        for name in &query.containers {
            self.find(name)?;
        }
        let mut stream = StatsStream {
            engine: self.clone(),
            query,
            before: HashMap::new(),
            next: Instant::now() + INTERVAL,
        };
        // The first rate is one over a second, too.
        stream.count().await;
        Ok(stream)
    }
}

impl StatsStream {
    /// Waits for the next second and returns what is used in it.
    pub async fn next(&mut self) -> Vec<ContainerStats> {
        tokio::time::sleep_until(self.next).await;
        self.next = Instant::now() + INTERVAL;
        self.count().await
    }

    async fn count(&mut self) -> Vec<ContainerStats> {
        let containers = match self.query.containers.as_slice() {
            [] => self.engine.all(),
            // One that was removed meanwhile is not told of any more.
            names => names.iter().filter_map(|name| self.engine.find(name).ok()).collect(),
        };
        let shows_all = self.query.all || !self.query.containers.is_empty();
        let counts = containers
            .iter()
            .filter(|container| shows_all || container.record().lifecycle.is_alive())
            .map(|container| count(container));
        let counted = futures_util::future::join_all(counts).await;
        let now = Instant::now();
        let mut before = HashMap::new();
        let answer = counted
            .into_iter()
            .map(|mut stats| {
                if stats.is_running {
                    let earlier = self.before.get(&stats.id);
                    stats.cpu_percent = earlier.map_or(0.0, |(then, cpu_nsec)| {
                        percent(stats.counted.cpu_nsec.saturating_sub(*cpu_nsec), now - *then)
                    });
                    before.insert(stats.id.clone(), (now, stats.counted.cpu_nsec));
                }
                stats
            })
            .collect();
        self.before = before;
        answer
    }
}

fn percent(cpu_nsec: u64, elapsed: Duration) -> f64 {
    let elapsed_nsec = elapsed.as_nanos() as f64;
    if elapsed_nsec > 0.0 { cpu_nsec as f64 * 100.0 / elapsed_nsec } else { 0.0 }
}

/// Counts one container. What cannot be counted, since it has just ended, is zero.
async fn count(container: &Container) -> ContainerStats {
    let record = container.record();
    let mut stats = ContainerStats {
        id: record.id.as_str().to_owned(),
        name: record.name.as_str().to_owned(),
        read_at: Timestamp::now(),
        ..ContainerStats::default()
    };
    if !record.lifecycle.is_alive() {
        return stats;
    }
    let Some(task) = container.task() else { return stats };
    stats.is_running = true;
    if let Ok(Some(metrics)) = task.stats().await {
        stats.counted = match metrics.type_url.rsplit('/').next() {
            Some("io.containerd.cgroups.v1.Metrics") => {
                v1::Metrics::decode(&*metrics.value).map(|metrics| of_v1(&metrics))
            }
            Some("io.containerd.cgroups.v2.Metrics") => {
                v2::Metrics::decode(&*metrics.value).map(|metrics| of_v2(&metrics))
            }
            _ => Ok(Counted::default()),
        }
        .unwrap_or_default();
    }
    let host_memory = host_memory_bytes();
    let limit = &mut stats.counted.memory_limit_bytes;
    if *limit == 0 || *limit > host_memory {
        *limit = host_memory;
    }
    (stats.counted.network_received_bytes, stats.counted.network_sent_bytes) = network(&record);
    stats
}

fn of_v1(metrics: &v1::Metrics) -> Counted {
    let usage = metrics.cpu.as_ref().and_then(|cpu| cpu.usage.as_ref());
    let memory = metrics.memory.unwrap_or_default();
    let counter = memory.usage.unwrap_or_default();
    let mut counted = Counted {
        cpu_nsec: usage.map_or(0, |usage| usage.total),
        memory_bytes: counter.usage.saturating_sub(memory.total_inactive_file),
        memory_limit_bytes: counter.limit,
        pids: metrics.pids.as_ref().map_or(0, |pids| pids.current),
        ..Counted::default()
    };
    let entries =
        metrics.blkio.as_ref().map_or(&[][..], |blkio| &blkio.io_service_bytes_recursive[..]);
    for entry in entries {
        match entry.op.to_ascii_lowercase().as_str() {
            "read" => counted.block_read_bytes += entry.value,
            "write" => counted.block_written_bytes += entry.value,
            _ => {}
        }
    }
    counted
}

fn of_v2(metrics: &v2::Metrics) -> Counted {
    let memory = metrics.memory.unwrap_or_default();
    let entries = metrics.io.as_ref().map_or(&[][..], |io| &io.usage[..]);
    Counted {
        cpu_nsec: metrics.cpu.as_ref().map_or(0, |cpu| cpu.usage_usec.saturating_mul(1000)),
        memory_bytes: memory.usage.saturating_sub(memory.inactive_file),
        memory_limit_bytes: memory.usage_limit,
        block_read_bytes: entries.iter().map(|entry| entry.rbytes).sum(),
        block_written_bytes: entries.iter().map(|entry| entry.wbytes).sum(),
        pids: metrics.pids.as_ref().map_or(0, |pids| pids.current),
        ..Counted::default()
    }
}

/// Bytes that a container's own interfaces received and sent. The host's are not the container's.
fn network(record: &Record) -> (u64, u64) {
    if record.network_mode() == NetworkMode::Host {
        return (0, 0);
    }
    let Some(pid) = record.lifecycle.pid() else { return (0, 0) };
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    network_totals(&table)
}

/// Adds up `/proc/net/dev` (proc(5)), the loopback device left out.
fn network_totals(table: &str) -> (u64, u64) {
    let mut totals = (0_u64, 0_u64);
    for line in table.lines() {
        let Some((name, counters)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> =
            counters.split_ascii_whitespace().map(|text| text.parse().unwrap_or(0)).collect();
        totals.0 += counters.first().copied().unwrap_or(0);
        totals.1 += counters.get(8).copied().unwrap_or(0);
    }
    totals
}

fn host_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_counted_alike() {
        let entry = |op: &str, value| v1::BlkIoEntry {
            op: op.to_owned(),
            value,
            ..v1::BlkIoEntry::default()
        };
        let first = v1::Metrics {
            cpu: Some(v1::CpuStat {
                usage: Some(v1::CpuUsage { total: 5_000, ..v1::CpuUsage::default() }),
                ..v1::CpuStat::default()
            }),
            memory: Some(v1::MemoryStat {
                total_inactive_file: 30,
                usage: Some(v1::MemoryEntry {
                    usage: 100,
                    limit: 500,
                    ..v1::MemoryEntry::default()
                }),
                ..v1::MemoryStat::default()
            }),
            pids: Some(v1::PidsStat { current: 3, limit: 0 }),
            blkio: Some(v1::BlkIoStat {
                io_service_bytes_recursive: vec![
                    entry("Read", 7),
                    entry("write", 8),
                    entry("Total", 15),
                ],
                ..v1::BlkIoStat::default()
            }),
            ..v1::Metrics::default()
        };
        let second = v2::Metrics {
            cpu: Some(v2::CpuStat { usage_usec: 5, ..v2::CpuStat::default() }),
            memory: Some(v2::MemoryStat {
                usage: 100,
                inactive_file: 30,
                usage_limit: 500,
                ..v2::MemoryStat::default()
            }),
            pids: Some(v2::PidsStat { current: 3, limit: 0 }),
            io: Some(v2::IoStat {
                usage: vec![v2::IoEntry { rbytes: 7, wbytes: 8, ..v2::IoEntry::default() }],
                ..v2::IoStat::default()
            }),
            ..v2::Metrics::default()
        };
        let expected = Counted {
            cpu_nsec: 5_000,
            memory_bytes: 70,
            memory_limit_bytes: 500,
            block_read_bytes: 7,
            block_written_bytes: 8,
            pids: 3,
            ..Counted::default()
        };

        assert_eq!(of_v1(&first), expected);
        assert_eq!(of_v2(&second), expected);
    }

    #[test]
    fn the_loopback_device_counts_for_nothing() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets\n\
            \x20   lo:  900 9 0 0 0 0 0 0  900 9 0 0 0 0 0 0\n\
            \x20 eth0:  100 1 0 0 0 0 0 0   20 1 0 0 0 0 0 0\n\
            \x20 eth1:    5 1 0 0 0 0 0 0    6 1 0 0 0 0 0 0\n";

        assert_eq!(network_totals(table), (105, 26));
        assert_eq!(network_totals("nonsense"), (0, 0));
    }

    #[test]
    fn two_busy_processors_are_two_hundred_percent() {
        let percent = percent(2_000_000_000, Duration::from_secs(1));

        assert!((percent - 200.0).abs() < 1e-9, "{percent}");
    }
}
