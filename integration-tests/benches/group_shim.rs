//! Supervisors of one container each: memory, wake-ups, logs, latency, and the time of a start.
//!
//! | side | is given |
//! | --- | --- |
//! | containerd-shim-keg-v2 | keg-runtime, its own log writer |
//! | containerd-shim-runc-v2 | runc; it has no log writer, so output goes to a file as it is |
//! | the Rust shim of containerd/rust-extensions | runc; it hands FIFOs on to the container and has no logs at all |
//! | conmon | runc; its `k8s-file` log, which is CRI's format |
//!
//! Peers are found on the path, or by `KEG_PEER_SHIM_RUNC`, `KEG_PEER_SHIM_RUST`, `KEG_PEER_CONMON`;
//! one that is not there is left out. The floor of a log is `cat > file` at the end of a pipe.

mod latency;
mod supervised;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use keg_fixtures::{Bundle, Scratch, programs};

use self::supervised::{Events, Output, Peer, Supervised};
use crate::machine::Machine;
use crate::report::{BenchResult, Comparison, Measure, Value, today};
use crate::runner::{self, Sample, Side};

/// How long an idle supervisor is watched.
const IDLE: Duration = Duration::from_secs(4);

/// Lines of 80 octets that a container logs as fast as it can.
const LINES: u64 = 2_000_000;
const LINE_BYTES: u64 = 80;

/// Measures the group.
///
/// # Errors
/// If our own programs are not built, or a run fails.
pub(crate) fn measure(rounds: usize) -> anyhow::Result<BenchResult> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the shim group starts containers as root: run it as root");
    }
    nix::sys::prctl::set_child_subreaper(true)?;
    let events = Events::listen()?;
    let peers = peers(&events);
    let mut measures = idle(&peers)?;
    measures.push(log_throughput(&peers, rounds.clamp(3, 10))?);
    measures.push(latency::measure(&peers)?);
    Ok(BenchResult {
        group: "shim".into(),
        date: today()?,
        machine: Machine::here(),
        versions: peers.iter().map(|peer| (peer.name().to_owned(), peer.version())).collect(),
        setting: "one busybox container per supervisor, all namespaces, a cgroup; bundles in memory, as in `/run`".into(),
        comparisons: vec![Comparison { task: "start".into(), figures: starts(&peers, rounds)? }],
        measures,
    })
}

fn peers(events: &Events) -> Vec<Peer> {
    let found = |variable: &str, name: &str| {
        env::var_os(variable).map(PathBuf::from).or_else(|| programs::installed(name))
    };
    let mut peers = vec![Peer::keg(events)];
    let Some(runc) = found("KEG_PEER_RUNC", "runc") else { return peers };
    let go = found("KEG_PEER_SHIM_RUNC", "containerd-shim-runc-v2");
    let rust = env::var_os("KEG_PEER_SHIM_RUST").map(PathBuf::from);
    let shims: [(_, _, &[Output]); 2] =
        [("containerd-shim-runc-v2", go, &[Output::File]), ("rust-extensions shim", rust, &[])];
    for (name, program, logs) in shims {
        peers.extend(program.map(|program| Peer::shim(name, program, runc.clone(), logs, events)));
    }
    let conmon = found("KEG_PEER_CONMON", "conmon");
    peers.extend(conmon.map(|program| Peer::conmon(program, runc, events)));
    peers
}

/// Memory with more and more containers, and what one does while nothing happens.
fn idle(peers: &[Peer]) -> anyhow::Result<Vec<Measure>> {
    let largest = env::var("KEG_BENCH_CONTAINERS").ok().and_then(|text| text.parse().ok());
    let counts = [1, 50, 500].into_iter().filter(|count| *count <= largest.unwrap_or(50_usize));
    let mut measures: Vec<Measure> = counts
        .map(|count| named(&format!("memory of a supervisor, {count} of them"), "KiB PSS"))
        .collect();
    let mut wakes = named("idle supervisor", "wake-ups per second");
    let mut threads = named("idle supervisor's threads", "threads");
    for peer in peers {
        for measure in &mut measures {
            let count = measure.task.split(' ').rev().nth(2).and_then(|text| text.parse().ok());
            let count: usize = count.context("a count")?;
            let all: Vec<Supervised> = (0..count)
                .map(|_| peer.start(bundle(&["/bin/sleep", "3600"]), Output::None))
                .collect::<anyhow::Result<_>>()?;
            if count == 1 {
                // What the start has left to do is no idling, nor is the question for the
                // process id, whose connection ends after its answer.
                all[0].threads()?;
                std::thread::sleep(IDLE / 2);
                let before = all[0].switches()?;
                std::thread::sleep(IDLE);
                let switches = all[0].switches()? - before;
                wakes.push(peer, switches as f64 / IDLE.as_secs_f64());
                threads.push(peer, all[0].threads()? as f64);
            }
            let pss = all.iter().map(Supervised::pss_kib).sum::<anyhow::Result<u64>>()?;
            measure.push(peer, pss as f64 / count as f64);
        }
    }
    measures.extend([wakes, threads]);
    Ok(measures)
}

fn log_throughput(peers: &[Peer], rounds: usize) -> anyhow::Result<Measure> {
    let mut measure = named("log of 80-byte lines, as fast as they can be written", "MiB/s");
    let lines = LINES.to_string();
    let command = ["/probe", "lines", &lines, "80"];
    type Run<'a> = (String, Box<dyn Fn() -> anyhow::Result<Duration> + 'a>);
    let mut sides: Vec<Run<'_>> = Vec::new();
    for peer in peers {
        for output in peer.outputs().iter().copied() {
            let run = move || {
                let container = peer.create(bundle(&command), output)?;
                let begin = Instant::now();
                container.run()?;
                container.wait()?;
                Ok(begin.elapsed())
            };
            sides.push((format!("{} {}", peer.name(), output.name()), Box::new(run)));
        }
    }
    sides.push(("cat > file".into(), Box::new(cat)));
    let mut best: Vec<Duration> = vec![Duration::MAX; sides.len()];
    for _ in 0..rounds {
        for ((_, run), best) in sides.iter().zip(&mut best) {
            *best = run()?.min(*best);
        }
    }
    for ((side, _), best) in sides.iter().zip(best) {
        let mib = (LINES * LINE_BYTES) as f64 / f64::from(1 << 20);
        measure.values.push(Value { side: side.clone(), value: mib / best.as_secs_f64() });
    }
    Ok(measure)
}

/// The same lines through a pipe into a file, without container and supervisor.
fn cat() -> anyhow::Result<Duration> {
    let scratch = Scratch::new();
    let script = format!(
        "{} lines {LINES} {LINE_BYTES} | cat >{}",
        programs::ours("keg-probe").display(),
        scratch.join("log").display()
    );
    let begin = Instant::now();
    let status = Command::new("sh").args(["-c", &script]).status()?;
    if !status.success() {
        bail!("{script}: {status}");
    }
    Ok(begin.elapsed())
}

/// From nothing to a running program; beside keg-runtime's own part of it.
fn starts(peers: &[Peer], rounds: usize) -> anyhow::Result<Vec<runner::Figures>> {
    let command = ["/bin/sleep", "3600"];
    let mut sides: Vec<Side<'_>> = peers
        .iter()
        .map(|peer| {
            let run = move || {
                let bundle = bundle(&command);
                let begin = Instant::now();
                let container = peer.start(bundle, Output::None)?;
                let wall = begin.elapsed();
                drop(container);
                Ok(Sample { wall, ..Sample::default() })
            };
            Side::new(peer.name(), run)
        })
        .collect();
    sides.push(Side::new("keg-runtime create + start", || {
        supervised::runtime_alone(bundle(&command))
    }));
    runner::compare(&mut sides, rounds)
}

fn bundle(command: &[&str]) -> Bundle {
    Bundle::busybox().command(command)
}

fn named(task: &str, unit: &str) -> Measure {
    Measure { task: task.to_owned(), unit: unit.to_owned(), values: Vec::new() }
}

impl Measure {
    fn push(&mut self, peer: &Peer, value: f64) {
        self.values.push(Value { side: peer.name().to_owned(), value });
    }
}

/// Runs a command that must succeed, with nothing on its streams.
fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

/// Reads a number of a process out of `/proc`: the sum over the lines that start with `key`.
fn number_of(pid: u32, file: &str, key: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let numbers = text.lines().filter_map(|line| {
        line.strip_prefix(key)?
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    Ok(numbers.sum::<u64>())
}
