//! Benchmarks against the peers, as programs that print figures and ratios; they assert nothing.
//!
//! ```text
//! group (runtime, …) ──sides──▶ runner: rounds, shuffled ──samples──▶ report: JSON ─▶ table, chart, README
//! ```
//!
//! Every figure is a ratio against a peer in the same run: machines are noisy, and a round holds one
//! run of each side, in an order drawn anew. A result that is kept is committed as JSON under
//! `results/`; README's tables and charts are drawn from it (`draw`), never written by hand.

mod group_build;
mod group_engine;
mod group_images;
mod group_network;
mod group_runtime;
mod group_shim;
mod machine;
mod report;
mod runner;
mod sys;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use keg_fixtures::Outcome;
use keg_fixtures::wait::PATIENCE;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::report::BenchResult;

/// Size of the disk that [`on_a_journal`] makes; what is not written takes no room.
const JOURNALED_BYTES: u64 = 24 << 30;

const USAGE: &str = "\
usage: cargo bench -p keg-integration-tests -- GROUP [--rounds N] [--keep]
       cargo bench -p keg-integration-tests -- draw

groups:
  build      nothing changed, a late change, many steps, many files: keg, docker (two builders), buildah
  images     pull, load, save, push, removal, collection: keg, docker, podman, ctr, skopeo, a floor
  runtime    run, create+start+delete and exec of one bundle: keg-runtime, crun, runc, youki, floor
  engine     run, exec, rm, logs, ps, start rate and memory: keg, docker, podman, ctr
  network    the default network, ports, traffic and names: keg, docker, podman
  shim       memory, wake-ups, logs, latency and start of supervisors: our shim, containerd's and its Rust one, conmon

  --rounds N   runs of each side (default 30)
  --keep       writes results/GROUP.json, the result that README is drawn from
  draw         draws the charts and README's tables from the kept results";

fn main() -> ExitCode {
    // Cargo passes its own `--bench` along.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match bench(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &[String]) -> anyhow::Result<()> {
    let mut words = args.iter().map(String::as_str);
    let mut group = None;
    let mut rounds = 30;
    let mut keep = false;
    while let Some(word) = words.next() {
        match word {
            "--rounds" => {
                let number = words.next().context("--rounds wants a number")?;
                rounds = number.parse().with_context(|| format!("--rounds {number}"))?;
            }
            "--keep" => keep = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            word if group.is_none() && !word.starts_with('-') => group = Some(word),
            word => bail!("unknown argument {word:?}\n{USAGE}"),
        }
    }
    let result = match group {
        None | Some("runtime") => group_runtime::measure(rounds)?,
        Some("build") => group_build::measure(rounds)?,
        Some("engine") => group_engine::measure(rounds)?,
        Some("network") => in_memory(group_network::measure)(rounds)?,
        Some("images") => on_a_journal(group_images::measure)(rounds)?,
        Some("shim") => in_memory(group_shim::measure)(rounds)?,
        Some("draw") => return report::draw_all(&results_dir()),
        Some(other) => bail!("unknown group {other:?}\n{USAGE}"),
    };
    print!("{}", report::table(&result));
    if keep {
        let path = results_dir().join(format!("{}.json", result.group));
        report::write(&result, &path)?;
        println!("kept as {}; `draw` draws the charts and README's table from it", path.display());
    }
    Ok(())
}

/// Lets a group keep its directories in memory, of all sides: for what engines keep in `/run`, which is there
/// on a machine that was booted by an init system, and where a disk's file system should have no part.
///
/// An ext4 without a journal, as small virtual machines have it, looks through all inodes that were given
/// up in the last minute whenever a file is made, so that each start would be slower than the one before.
fn in_memory(
    measure: impl FnOnce(usize) -> anyhow::Result<BenchResult>,
) -> impl FnOnce(usize) -> anyhow::Result<BenchResult> {
    |rounds| {
        keep_mounts_to_ourselves()?;
        mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))
            .context("mount a tmpfs at /tmp")?;
        measure(rounds)
    }
}

/// Lets a group keep its directories, of all sides, on an ext4 with a journal, as machines have it: for
/// what makes and removes many files, where the one without (see [`in_memory`]) would measure who came
/// last. It lies in a file below /var/tmp, past the page cache, and goes with this process.
fn on_a_journal(
    measure: impl FnOnce(usize) -> anyhow::Result<BenchResult>,
) -> impl FnOnce(usize) -> anyhow::Result<BenchResult> {
    |rounds| {
        keep_mounts_to_ourselves()?;
        let image = tempfile::NamedTempFile::new_in("/var/tmp").context("make a disk's file")?;
        image.as_file().set_len(JOURNALED_BYTES).context("make room for a disk")?;
        let path = image.path().to_string_lossy().into_owned();
        told(&["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", &path])?;
        let device = told(&["losetup", "--find", "--show", "--direct-io=on", &path])?;
        let mounted = told(&["mount", &device, "/tmp"]);
        // It goes when the last mount of it does, and the file's room with it.
        told(&["losetup", "--detach", &device])?;
        drop(image);
        mounted?;
        std::fs::set_permissions("/tmp", Permissions::from_mode(0o1777)).context("open /tmp")?;
        measure(rounds)
    }
}

fn keep_mounts_to_ourselves() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace: run it as root")?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("keep mounts to ourselves")
}

/// Runs a program and returns the line that it prints.
fn told(words: &[&str]) -> anyhow::Result<String> {
    let outcome = Outcome::of(Command::new(words[0]).args(&words[1..]), PATIENCE);
    if outcome.exit_code != 0 {
        bail!("{words:?}: {}", outcome.text());
    }
    Ok(outcome.stdout.trim().to_owned())
}

fn results_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results")
}
