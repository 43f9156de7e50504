//! What a container uses, in the words of runc's `events --stats`, which monitoring tools parse.
//!
//! A figure whose controller or file is absent here is zero or left out, as there; one that is
//! there and cannot be understood is an error, never a zero.

mod parse;
mod v1;
mod v2;

use std::collections::BTreeMap;

use serde::Serialize;

use super::Cgroup;
use super::dir::Dir;
use super::error::CgroupError;

/// What a container uses, at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Processors and memory nodes.
    pub cpuset: Cpuset,
    /// Memory, in bytes.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// Huge pages, by their size.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Intel's resource director; always empty, since we do not monitor through it.
    pub intel_rdt: Empty,
    /// Network interfaces; always null, as those of a container belong to its engine.
    pub network_interfaces: Option<Empty>,
}

/// An object without members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Empty {}

/// Processor time.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Cpu {
    /// What was used.
    pub usage: CpuUsage,
    /// What the limit held back.
    pub throttling: Throttling,
    /// Time lost waiting for a processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Processor time in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CpuUsage {
    /// In the kernel and outside of it.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// The same, by processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// In the kernel, by processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// Outside of the kernel, by processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// Outside of the kernel.
    pub user: u64,
}

/// How the limit of processor time was felt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods in which the container ran.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Periods in which it was held back.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// For how long, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Processors and memory nodes, and v1's knobs about them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Cpuset {
    /// Processors that may be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    /// Whether no other cgroup may use them.
    pub cpu_exclusive: u64,
    /// Memory nodes that may be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    /// Whether kernel memory is confined too.
    pub mem_hardwall: u64,
    /// Whether no other cgroup may use them.
    pub mem_exclusive: u64,
    /// Whether pages follow a change of nodes.
    pub memory_migrate: u64,
    /// Whether the page cache is spread.
    pub memory_spread_page: u64,
    /// Whether the kernel's caches are spread.
    pub memory_spread_slab: u64,
    /// How hard memory is reclaimed.
    pub memory_pressure: u64,
    /// Whether load is balanced among the processors.
    pub sched_load_balance: u64,
    /// How far.
    pub sched_relax_domain_level: i64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Memory {
    /// The page cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap together.
    pub swap: MemoryEntry,
    /// The kernel's memory.
    pub kernel: MemoryEntry,
    /// The kernel's buffers of TCP.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat` as it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Time lost waiting for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// A kind of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemoryEntry {
    /// No more than this; the largest number without a limit.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// In use at most.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pids {
    /// How many there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// How many there may be; left out without a limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Block devices.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes transferred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Time lost waiting for devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// A figure of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BlkioEntry {
    /// The device's major number.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// The device's minor number.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// Which operation is counted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The figure.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Hugetlb {
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// In use at most.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Time lost waiting (the kernel's Documentation/accounting/psi).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Pressure {
    /// While at least one process waited.
    pub some: PressureData,
    /// While all waited.
    pub full: PressureData,
}

/// Shares of time in percent, and the sum in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct PressureData {
    /// Over the last ten seconds.
    pub avg10: f64,
    /// Over the last minute.
    pub avg60: f64,
    /// Over the last five minutes.
    pub avg300: f64,
    /// Since the cgroup was made.
    pub total: u64,
}

impl Cgroup {
    /// Measures the container.
    ///
    /// # Errors
    /// [`CgroupError::Read`] and [`CgroupError::Parse`]; [`CgroupError::Open`] if it is gone.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let mut stats = Stats::default();
        for group in &self.saved.v1 {
            let dir = Dir::open(&group.dir)?;
            for controller in &group.controllers {
                v1::measure(&dir, controller, &mut stats)?;
            }
        }
        if let Some(group) = &self.saved.v2 {
            let dir = Dir::open(&group.dir)?;
            let controllers = dir.read("cgroup.controllers")?;
            for controller in controllers.split_whitespace() {
                v2::measure(&dir, controller, &mut stats)?;
            }
            if self.saved.v1.is_empty() {
                // These are counted whether their controllers are delegated or not.
                v2::measure_cpu(&dir, &mut stats)?;
            }
            v2::measure_pressure(&dir, &mut stats)?;
        }
        Ok(stats)
    }
}

/// Reads a list of CPUs or memory nodes such as `0-2,7`.
pub(super) fn parse_list(text: &str) -> Option<Vec<u16>> {
    parse::ranges(text)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's attribute calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
