//! `update`: changes the limits of a container that exists.
//!
//! What is not given stays as it is. Devices cannot be changed.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::{CommandError, Context};
use crate::lifecycle::{Event, Lifecycle};
use crate::log::Log;
use crate::state_store::{ContainerDir, ContainerId, read_bounded};

/// The largest description that is read from standard input, in bytes.
const INPUT_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct Update {
    /// File with linux.resources in JSON, or - for standard input; other options are ignored then.
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of block I/O, from 10 to 1000.
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Period of the CPU limit, in microseconds.
    #[arg(long, value_name = "USEC")]
    cpu_period: Option<u64>,
    /// CPU time per period, in microseconds; -1 lifts the limit.
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU time that may be saved up for a burst, in microseconds.
    #[arg(long, value_name = "USEC")]
    cpu_burst: Option<u64>,
    /// CPU shares, relative to other containers.
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Period of the limit of realtime scheduling, in microseconds.
    #[arg(long, value_name = "USEC")]
    cpu_rt_period: Option<u64>,
    /// Time of realtime scheduling per period, in microseconds.
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// CPUs to use, such as 0-2,7.
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use.
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Ignored: kernels no longer limit it.
    #[arg(long, hide = true)]
    kernel_memory: Option<String>,
    /// Ignored: kernels no longer limit it.
    #[arg(long, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Limit of memory, such as 512m; -1 lifts it.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// 1 for CPU time that nobody else wants, 0 for the usual.
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// Memory that is left to the container when memory is short.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1 lifts that of swap.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Limit of processes and threads; -1 lifts it.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Share of the level-3 cache (Intel RDT).
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Share of the memory bandwidth (Intel RDT).
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// Name of the container.
    id: String,
}

impl Update {
    pub(super) fn run(self, context: &Context, log: &mut Log) -> Result<u8, CommandError> {
        let resources = match &self.resources {
            Some(file) => parse(file, &read(file)?)?,
            None => self.resources_of_options()?,
        };
        let dir = context.store.open_locked(&ContainerId::new(self.id.clone())?)?;
        let state = dir.load_existing()?;
        let lifecycle = dir.observe(&state);
        if matches!(lifecycle, Lifecycle::Stopped | Lifecycle::Creating) {
            lifecycle.apply(Event::Signalled)?;
        }
        if let Some(cgroup) = state.open_cgroup() {
            cgroup.update(&resources).map_err(CommandError::Cgroup)?;
            log.warn_limits(&cgroup.without_effect(&resources));
        }
        self.update_rdt(&dir)?;
        Ok(0)
    }

    /// The resources that the options describe: only what is given, nothing else.
    fn resources_of_options(&self) -> Result<LinuxResources, CommandError> {
        let bytes = |option, text: &Option<String>| {
            text.as_deref().map(|text| parse_bytes(option, text)).transpose()
        };
        let memory = object([
            ("limit", bytes("--memory", &self.memory)?.map(Value::from)),
            ("swap", bytes("--memory-swap", &self.memory_swap)?.map(Value::from)),
            (
                "reservation",
                bytes("--memory-reservation", &self.memory_reservation)?.map(Value::from),
            ),
        ]);
        let cpu = object([
            ("shares", self.cpu_share.map(Value::from)),
            ("quota", self.cpu_quota.map(Value::from)),
            ("period", self.cpu_period.map(Value::from)),
            ("burst", self.cpu_burst.map(Value::from)),
            ("realtimePeriod", self.cpu_rt_period.map(Value::from)),
            ("realtimeRuntime", self.cpu_rt_runtime.map(Value::from)),
            ("idle", self.cpu_idle.map(Value::from)),
            ("cpus", self.cpuset_cpus.clone().map(Value::from)),
            ("mems", self.cpuset_mems.clone().map(Value::from)),
        ]);
        // The kernel's closest to none, as the first process is there already.
        let pids = self.pids_limit.map(|limit| if limit == 0 { 1 } else { limit });
        let pids = object([("limit", pids.map(Value::from))]);
        let io = object([("weight", self.blkio_weight.map(Value::from))]);
        let resources = object([("memory", memory), ("cpu", cpu), ("pids", pids), ("blockIO", io)]);
        let resources = resources.unwrap_or_else(|| json!({}));
        serde_json::from_value(resources)
            .map_err(|source| CommandError::Malformed { path: "options".into(), source })
    }

    /// Changes the container's class of Intel's resource director, which must exist.
    fn update_rdt(&self, dir: &ContainerDir) -> Result<(), CommandError> {
        let schemata: Vec<&str> = [&self.l3_cache_schema, &self.mem_bw_schema]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        if schemata.is_empty() {
            return Ok(());
        }
        let config = dir.load_config()?;
        let rdt = config.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let class = rdt.and_then(|rdt| rdt.clos_id().as_deref()).unwrap_or(dir.id().as_str());
        let file = Path::new("/sys/fs/resctrl").join(class).join("schemata");
        for schema in schemata {
            std::fs::write(&file, format!("{schema}\n")).map_err(CommandError::io(format!(
                "write {schema:?} to {file:?}; is Intel RDT supported and linux.intelRdt in the bundle"
            )))?;
        }
        Ok(())
    }
}

/// An object of the members that there are; nothing if there are none.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Option<Value> {
    let object: Map<String, Value> =
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    let read = || CommandError::io(format!("read {file:?}"));
    if file != Path::new("-") {
        return read_bounded(file).map_err(read());
    }
    let mut text = Vec::new();
    std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut text).map_err(read())?;
    Ok(text)
}

fn parse(file: &Path, text: &[u8]) -> Result<LinuxResources, CommandError> {
    serde_json::from_slice(text)
        .map_err(|source| CommandError::Malformed { path: file.into(), source })
}

/// Reads an amount of memory: a number, and a unit of 1024's powers (`k`, `MB`, `GiB`, …).
fn parse_bytes(option: &'static str, text: &str) -> Result<i64, CommandError> {
    if text == "-1" {
        return Ok(-1);
    }
    let refused = || CommandError::Option {
        option,
        value: text.to_owned(),
        expected: "bytes such as 536870912 or 512m, or -1 for no limit",
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let exponent = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(refused()),
    };
    let factor = 1_i64 << (10 * exponent);
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor).ok_or_else(refused);
    }
    let fraction: f64 = number.parse().map_err(|_| refused())?;
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let bytes = fraction * factor as f64;
    #[expect(clippy::cast_precision_loss, reason = "the bound need not be exact")]
    let too_large = bytes >= i64::MAX as f64;
    if too_large {
        return Err(refused());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked above; parts of a byte are cut off"
    )]
    let bytes = bytes as i64;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn from_options(line: &[&str]) -> Value {
        let line = Line::parse_from([&["update"], line, &["id"]].concat());
        serde_json::to_value(line.update.resources_of_options().unwrap()).unwrap()
    }

    #[test]
    fn only_what_is_given_is_changed() {
        assert_eq!(from_options(&[]), json!({}));
        assert_eq!(from_options(&["--pids-limit", "0"]), json!({ "pids": { "limit": 1 } }));
        assert_eq!(from_options(&["--pids-limit", "-1"]), json!({ "pids": { "limit": -1 } }));
        assert_eq!(
            from_options(&["--memory", "64m", "--memory-swap", "-1", "--cpu-quota", "-1"]),
            json!({ "memory": { "limit": 67_108_864, "swap": -1 }, "cpu": { "quota": -1 } })
        );
        assert_eq!(
            from_options(&["--cpuset-cpus", "0", "--cpu-share", "7", "--blkio-weight", "30"]),
            json!({ "cpu": { "shares": 7, "cpus": "0" }, "blockIO": { "weight": 30 } })
        );
    }

    #[test]
    fn amounts_of_memory_are_read_in_every_usual_spelling() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("100b", Some(100)),
            ("1k", Some(1024)),
            ("1.5M", Some(1_572_864)),
            ("2 GiB", Some(2_147_483_648)),
            ("1p", Some(1 << 50)),
            ("9999999p", None),
            ("1e3", None),
            ("-2", None),
            ("x", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(parse_bytes("--memory", text).ok(), bytes, "{text:?}");
        }
    }

    #[test]
    fn a_file_may_have_any_part_of_the_resources() {
        let text =
            br#"{"memory":{"limit":0,"checkBeforeUpdate":true},"unified":{"memory.high":"1"}}"#;

        let resources = parse(Path::new("f"), text).unwrap();

        assert_eq!(resources.memory().unwrap().check_before_update(), Some(true));
        assert_eq!(resources.unified().as_ref().unwrap()["memory.high"], "1");
        assert!(parse(Path::new("f"), b"[").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,20}") {
            let _ = parse_bytes("--memory", &text);
        }
    }
}
