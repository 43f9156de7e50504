//! Runs the sides of a comparison in turn, in an order drawn anew each round.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use keg_fixtures::programs;
use serde::{Deserialize, Serialize};

use crate::sys;

/// How long a run of a long task may take for there to be another one.
const SLOW: Duration = Duration::from_secs(60);

/// What one run of one side cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) peak_kib: u64,
}

impl Sample {
    /// The cost of two steps, one after the other.
    pub(crate) fn then(self, next: Self) -> Self {
        Self {
            wall: self.wall + next.wall,
            cpu: self.cpu + next.cpu,
            peak_kib: self.peak_kib.max(next.peak_kib),
        }
    }
}

/// One of the programs that are compared: a name, and how to run it once.
pub(crate) struct Side<'a> {
    pub(crate) name: String,
    pub(crate) run: Box<dyn FnMut() -> anyhow::Result<Sample> + 'a>,
    /// In how many rounds it takes part, the first ones: for programs so slow that they would cost
    /// all others most of the time.
    pub(crate) rounds_max: usize,
}

impl<'a> Side<'a> {
    /// One that takes part in all rounds.
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnMut() -> anyhow::Result<Sample> + 'a,
    ) -> Self {
        Self { name: name.into(), run: Box::new(run), rounds_max: usize::MAX }
    }
}

/// A distribution, in the unit that its field's name tells.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) p25: f64,
    pub(crate) median: f64,
    pub(crate) p75: f64,
    pub(crate) max: f64,
}

/// All runs of one side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) side: String,
    pub(crate) runs: usize,
    pub(crate) wall_ms: Spread,
    pub(crate) cpu_ms: Spread,
    pub(crate) peak_kib: Spread,
}

/// Runs `sides` for `rounds` rounds after one that does not count.
///
/// # Errors
/// The first run that fails ends the comparison: a figure without it would lie.
pub(crate) fn compare(sides: &mut [Side<'_>], rounds: usize) -> anyhow::Result<Vec<Figures>> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::with_capacity(rounds); sides.len()];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut order: Vec<usize> = (0..sides.len()).collect();
    for round in 0..=rounds {
        shuffle(&mut order, &mut random);
        for &index in &order {
            let side = &mut sides[index];
            if round > side.rounds_max {
                continue;
            }
            let sample = (side.run)().with_context(|| side.name.clone())?;
            if round > 0 {
                samples[index].push(sample);
            }
        }
    }
    Ok(sides.iter().zip(&samples).map(|(side, samples)| figures(&side.name, samples)).collect())
}

/// Runs `sides` as [`compare`] does, for tasks of many seconds: there is no round that does not count, a side
/// that takes longer than [`SLOW`] is run no more, and one that fails is left out, with a word on standard
/// error.
///
/// # Errors
/// If the first side, which is ours, fails.
pub(crate) fn compare_long(sides: &mut [Side<'_>], rounds: usize) -> anyhow::Result<Vec<Figures>> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); sides.len()];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut order: Vec<usize> = (0..sides.len()).collect();
    for _ in 0..rounds {
        shuffle(&mut order, &mut random);
        let mut still = Vec::new();
        for index in order {
            let side = &mut sides[index];
            // Fixtures panic where a test would have failed.
            let outcome = catch_unwind(AssertUnwindSafe(|| (side.run)()));
            match outcome.unwrap_or_else(|_| bail!("it panicked")) {
                Ok(sample) => {
                    samples[index].push(sample);
                    still.extend((sample.wall < SLOW).then_some(index));
                }
                Err(error) if index == 0 => return Err(error.context(side.name.clone())),
                Err(error) => {
                    eprintln!("{}: left out: {error:#}", side.name);
                    samples[index].clear();
                }
            }
        }
        order = still;
    }
    let all = sides.iter().zip(&samples).filter(|(_, samples)| !samples.is_empty());
    Ok(all.map(|(side, samples)| figures(&side.name, samples)).collect())
}

/// Runs `command` to its end, in `namespace` if it is open on a mount namespace, and measures it.
/// Of what the command carries, program, arguments and added variables are passed on.
///
/// # Errors
/// If it cannot be started, or its exit code is not 0; with what it wrote to standard error.
pub(crate) fn measure(command: &Command, namespace: Option<&File>) -> anyhow::Result<Sample> {
    let mut meter = Command::new(programs::ours("keg-meter"));
    meter.arg(command.get_program()).args(command.get_args());
    meter.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(namespace) = namespace {
        sys::start_in_mount_namespace(&mut meter, namespace);
    }
    // What the command leaves running may keep its standard error open: a file has no end to wait for.
    let mut errors = tempfile::tempfile()?;
    meter.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
    let output = meter.spawn().and_then(std::process::Child::wait_with_output)?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = report.split_whitespace().map(str::parse::<u64>);
    let mut number = || numbers.next()?.ok();
    let sample = (|| {
        let (code, wall, cpu, peak) = (number()?, number()?, number()?, number()?);
        let (wall, cpu) = (Duration::from_nanos(wall), Duration::from_micros(cpu));
        Some((code, Sample { wall, cpu, peak_kib: peak }))
    })();
    match sample {
        Some((0, sample)) => Ok(sample),
        failed => {
            let mut text = String::new();
            errors.rewind()?;
            errors.read_to_string(&mut text)?;
            let code = failed.map_or_else(|| "no report".to_owned(), |(code, _)| code.to_string());
            bail!("{command:?} ended with {code}: {}", text.trim())
        }
    }
}

/// Fisher and Yates, with xorshift: reproducible, and good enough to break patterns.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let chosen = usize::try_from(*random % (last as u64 + 1)).unwrap_or(0);
        order.swap(last, chosen);
    }
}

fn figures(side: &str, samples: &[Sample]) -> Figures {
    let of = |value: fn(&Sample) -> f64| spread(samples.iter().map(value).collect());
    Figures {
        side: side.to_owned(),
        runs: samples.len(),
        wall_ms: of(|sample| sample.wall.as_secs_f64() * 1e3),
        cpu_ms: of(|sample| sample.cpu.as_secs_f64() * 1e3),
        peak_kib: of(|sample| sample.peak_kib as f64),
    }
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values.get((values.len().max(1) - 1) * quarter / 4).copied();
    let [min, p25, median, p75, max] = std::array::from_fn(|quarter| at(quarter).unwrap_or(0.0));
    Spread { min, p25, median, p75, max }
}
