//! A container that writes as fast as it can, its output kept by the log driver that Docker has by default.

use std::time::Instant;

use super::{Engine, SETTLE, compare_some, machine_cpu};
use crate::report::Comparison;
use crate::runner::{self, Sample};

/// Lines of 80 octets, the line feed included: a second's work or two for the slowest.
const LINES: usize = 500_000;

/// The same for all, and never reached: who rotates writes as much, but keeps less.
const LOG: [&str; 4] = ["--log-driver", "json-file", "--log-opt", "max-size=1g"];

/// Measures the log of [`LINES`]: `run -d` and `wait`, less the same of a container that writes nothing.
///
/// Podman calls the log of its own format by this name, too.
///
/// # Errors
/// If a run fails, or a log lacks its last line.
pub(super) fn measure(engines: &[Engine<'_>], rounds: usize) -> anyhow::Result<Comparison> {
    let with_logs: Vec<_> = engines.iter().filter(|one| one.has_docker_commands).collect();
    let figures = compare_some(&with_logs, rounds, |engine, round| {
        let nothing = write(engine, &format!("l0-{round}"), 0)?;
        let all = write(engine, &format!("l{round}"), LINES)?;
        Ok(Sample {
            wall: all.wall.saturating_sub(nothing.wall),
            cpu: all.cpu.saturating_sub(nothing.cpu),
            peak_kib: 0,
        })
    })?;
    Ok(Comparison { task: format!("log of {LINES} 80-byte lines by json-file"), figures })
}

/// What it takes from the start of a container that writes so many lines until its end has been told.
fn write(engine: &Engine<'_>, name: &str, lines: usize) -> anyhow::Result<Sample> {
    let count = lines.to_string();
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(engine.isolation.iter().map(String::as_str));
    words.extend(LOG);
    words.extend([engine.image.as_str(), "/probe", "lines", &count, "80"]);
    let run = engine.command(words);
    let mut words = vec!["wait"];
    words.extend(engine.wait_options);
    words.push(name);
    let wait = engine.command(words);
    let (begin, before) = (Instant::now(), machine_cpu()?);
    runner::measure(&run, None)?;
    runner::measure(&wait, None)?;
    let wall = begin.elapsed();
    std::thread::sleep(SETTLE);
    let sample = Sample { wall, cpu: machine_cpu()?.saturating_sub(before), peak_kib: 0 };
    if lines > 0 {
        let last = engine.command(["logs", "--tail", "1", name]).output()?.stdout;
        let last = String::from_utf8_lossy(&last).into_owned();
        anyhow::ensure!(last.trim_end().ends_with(&count), "{name}'s log ends with {last:?}");
    }
    engine.remove(name)?;
    Ok(sample)
}
