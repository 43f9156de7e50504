//! Images against the peers: pull, save, push, removal, load, from a registry on this machine.
//!
//! ```text
//! docker-registry ─┬─ this network namespace: keg, podman, ctr, skopeo, curl
//!   (one directory) └─ dockerd's own:          docker
//! ```
//!
//! The images hold the same files of this machine's `/usr/lib`, in many layers and in a single one. No two
//! layers are alike: an engine that knows a layer in another compression fetches nothing. What a daemon
//! does is measured with its client: its processor time is added, and its peak memory is that of the run,
//! file pages that are mapped included. The *floor* of a pull is `curl | pigz -d | tar -x` for each layer;
//! skopeo stores layers as they come and unpacks none.
//!
//! What is pushed goes to a registry of its own that is emptied each time, so that nothing is there
//! already and nothing can be mounted.
//!
//! Each case is printed as soon as it is over, and a peer that fails is missing from it and from nothing
//! else. `KEG_BENCH_IMAGE_MIB`, `KEG_BENCH_IMAGE_FILES` and `KEG_BENCH_IMAGE_BLOBS` make it smaller, to see
//! that it works; as it is, a round takes five to ten minutes.

mod content;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Containerd, Daemon, Dockerd, Outcome, Registry, Scratch, Tree, programs};
use nix::unistd::Pid;

use self::content::Content;
use crate::machine::{self, Machine};
use crate::report::{self, BenchResult, Comparison};
use crate::runner::{self, Sample, Side};

/// Bytes of the images, unpacked, in MiB.
const CONTENT_MIB: usize = 320;

/// Layers of the image of many.
const LAYERS: usize = 40;

/// Files of the image of many.
const FILES: usize = 100_000;

/// Blobs that a collection finds.
const BLOBS: usize = 10_000;

/// Most rounds: a run takes seconds, not milliseconds, and varies the less.
const MAX_ROUNDS: usize = 3;

/// How long a peer may take to bring an image or to remove one, on a busy disk.
const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// Measures the group.
///
/// # Errors
/// If our programs are missing, or the registry cannot be filled.
pub(crate) fn measure(rounds: usize) -> anyhow::Result<BenchResult> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the images group starts daemons as root: run it as root");
    }
    let rounds = rounds.clamp(1, MAX_ROUNDS);
    let scratch = Scratch::new();
    let (registry, target) = (Registry::new(), Registry::new());
    let content_mib = size("KEG_BENCH_IMAGE_MIB", CONTENT_MIB);
    let (files, blobs) =
        (size("KEG_BENCH_IMAGE_FILES", FILES), size("KEG_BENCH_IMAGE_BLOBS", BLOBS));
    let content = Content::collect(Path::new("/usr/lib"), (content_mib as u64) << 20)?;
    let make = |layers: usize, name: &str, compression: &str| {
        eprintln!("making the image {name:?}");
        let tag = format!("bench/{name}:1");
        content::push(&registry, &content.image(layers, name), &tag, compression, &scratch)
    };
    let peers = Peers::start(&registry, &target, &scratch);
    let mut cases = Cases { rounds, done: Vec::new() };

    let many = make(LAYERS, "many", "gzip")?;
    cases.measure(&format!("pull, {LAYERS} layers"), peers.pulls(&many, true));
    cases.measure("save", peers.saves(&many));
    cases.measure(&format!("push, {LAYERS} layers"), peers.pushes(&many));
    cases.measure("removal", peers.removals(&many));
    cases.measure("load", peers.loads(&many));
    peers.forget(&many);
    for (compression, docker_can) in [("gzip", true), ("zstd", false)] {
        let single = make(1, compression, compression)?;
        let task = format!("pull, one layer, {compression}");
        cases.measure(&task, peers.pulls(&single, docker_can));
        peers.forget(&single);
    }
    drop(content);
    eprintln!("making the image of {files} files");
    let image = content::of_many_files(files);
    let image = content::push(&registry, &image, "bench/files:1", "gzip", &scratch)?;
    cases.measure(&format!("pull, {files} files"), peers.pulls(&image, true));
    cases.measure(&format!("removal, {files} files"), peers.removals(&image));
    let layout = content::layout_with_blobs(&scratch, blobs)?;
    cases.measure(&format!("collection of {blobs} blobs"), peers.collections(&layout));
    Ok(BenchResult {
        group: "images".into(),
        date: report::today()?,
        machine: Machine::here(),
        versions: peers.versions(),
        setting: format!(
            "An image of {content_mib} MiB, from a registry on the same machine; directories on an ext4 \
             with a journal; daemons measured with their clients"
        ),
        measures: Vec::new(),
        comparisons: cases.done,
    })
}

/// Returns a number that the environment may lower.
fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn installed(name: &str) -> anyhow::Result<PathBuf> {
    programs::installed(name).with_context(|| format!("{name} is not installed"))
}

/// What was measured so far.
struct Cases {
    rounds: usize,
    done: Vec<Comparison>,
}

impl Cases {
    /// Measures a case, and tells of it.
    fn measure(&mut self, task: &str, mut sides: Vec<Side<'_>>) {
        eprintln!("{task}");
        match runner::compare_long(&mut sides, self.rounds) {
            Ok(figures) => {
                let comparison = Comparison { task: task.to_owned(), figures };
                eprintln!("{}", report::comparison_table(&comparison));
                self.done.push(comparison);
            }
            Err(error) => eprintln!("{task}: left out, since we fail ourselves: {error:#}"),
        }
    }
}

/// All sides, each on directories of its own.
struct Peers<'a> {
    keg: Daemon,
    docker: Option<Dockerd>,
    containerd: Option<Containerd>,
    /// Where images are pushed to.
    target: &'a Registry,
    /// End before the registries whose files they serve.
    _registries: Vec<Tree>,
    scratch: &'a Scratch,
    counter: Cell<u32>,
}

impl<'a> Peers<'a> {
    fn start(registry: &Registry, target: &'a Registry, scratch: &'a Scratch) -> Self {
        // Whoever does not come up is missing from each case, and has said why.
        let docker = catch_unwind(Dockerd::new).ok();
        let serve = |docker: &Dockerd| {
            [registry, target].map(|one| one.serve_in_network_of(docker.pid())).into()
        };
        Self {
            _registries: docker.as_ref().map(serve).unwrap_or_default(),
            target,
            keg: Daemon::new().logging("info"),
            docker,
            containerd: catch_unwind(Containerd::new).ok(),
            scratch,
            counter: Cell::new(0),
        }
    }

    fn versions(&self) -> std::collections::BTreeMap<String, String> {
        let first_line = |outcome: Outcome| outcome.stdout.lines().next().unwrap_or("").to_owned();
        let of = |program: &str| {
            let found = programs::installed(program)?;
            Some(first_line(Outcome::of(Command::new(found).arg("--version"), PATIENCE)))
        };
        let peers =
            [("docker", "dockerd"), ("podman", "podman"), ("ctr", "ctr"), ("skopeo", "skopeo")];
        let known = peers.iter().filter_map(|(side, program)| Some(((*side).into(), of(program)?)));
        known.chain([("keg".to_owned(), first_line(self.keg.keg(["--version"])))]).collect()
    }

    fn command<S: AsRef<OsStr>>(&self, side: &str, arguments: &[S]) -> anyhow::Result<Command> {
        match side {
            "keg" => Ok(self.keg.keg_command(arguments)),
            "docker" => Ok(self.docker()?.docker_command(arguments)),
            "ctr" => Ok(self.containerd()?.ctr_command(arguments)),
            _ => {
                let mut command = Command::new(installed("podman")?);
                command.args(["--storage-driver", "overlay", "--root"]);
                command.arg(self.scratch.join("podman"));
                command.arg("--runroot").arg(self.scratch.join("podman-run")).args(arguments);
                Ok(command)
            }
        }
    }

    fn docker(&self) -> anyhow::Result<&Dockerd> {
        self.docker.as_ref().context("dockerd does not run")
    }

    fn containerd(&self) -> anyhow::Result<&Containerd> {
        self.containerd.as_ref().context("containerd does not run")
    }

    /// Measures a command of a side, with its daemon if it has one.
    fn run(&self, side: &str, arguments: &[&str]) -> anyhow::Result<Sample> {
        let mut command = self.command(side, arguments)?;
        let daemon = match side {
            "keg" => self.keg.pid(),
            "docker" => self.docker()?.pid(),
            "ctr" => self.containerd()?.pid(),
            _ => return runner::measure(&command, None),
        };
        with_daemon(daemon, &mut command)
    }

    /// Runs a command of a side that is not measured.
    fn prepare(&self, side: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command(side, arguments)?;
        let outcome = Outcome::of(&mut command, LONG_PATIENCE);
        if outcome.exit_code != 0 {
            bail!("{command:?} ended with {}: {}", outcome.exit_code, outcome.error);
        }
        Ok(())
    }

    /// Removes an image of a side, if it is there, and waits until its files are gone.
    fn remove(&self, side: &str, image: &str) {
        let remove: &[&str] = match side {
            "ctr" => &["image", "rm", "--sync", image],
            _ => &["rmi", "-f", image],
        };
        let _ = self.prepare(side, remove);
        if side == "keg" {
            let _ = self.prepare(side, &["image", "prune", "-f"]);
        }
    }

    /// Removes an image on all sides.
    fn forget(&self, image: &str) {
        for side in ["keg", "docker", "podman", "ctr"] {
            // One that hangs costs its own figures alone.
            let _ = catch_unwind(AssertUnwindSafe(|| self.remove(side, image)));
        }
    }

    /// Makes sure that a side has an image.
    fn have(&self, side: &str, image: &str) -> anyhow::Result<()> {
        let question = question_for(side, image);
        let there = Outcome::of(&mut self.command(side, &question)?, LONG_PATIENCE);
        if there.exit_code == 0 && !there.stdout.trim().is_empty() {
            return Ok(());
        }
        self.prepare(side, &pull_of(side, image))
    }

    fn pulls<'s>(&'s self, image: &'s str, docker_can: bool) -> Vec<Side<'s>> {
        let names = ["keg", "docker", "podman", "ctr"];
        let names = names.into_iter().filter(|name| docker_can || *name != "docker");
        let mut sides: Vec<Side<'s>> = names
            .map(|name| {
                Side::new(name, move || {
                    self.remove(name, image);
                    self.run(name, &pull_of(name, image))
                })
            })
            .collect();
        sides.push(Side::new("skopeo, no unpacking", move || {
            let directory = self.fresh("skopeo");
            let mut skopeo = Command::new(installed("skopeo")?);
            skopeo.args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"]);
            skopeo.arg(format!("docker://{image}")).arg(format!("dir:{}", directory.display()));
            let sample = runner::measure(&skopeo, None)?;
            fs::remove_dir_all(directory)?;
            Ok(sample)
        }));
        sides.push(Side::new("floor: curl, decompress, tar", move || {
            let directory = self.fresh("floor");
            fs::create_dir_all(&directory)?;
            let mut shell = Command::new("bash");
            shell.args(["-euo", "pipefail", "-c", &floor_script(image)?]).arg(&directory);
            let sample = runner::measure(&shell, None)?;
            fs::remove_dir_all(directory)?;
            Ok(sample)
        }));
        sides
    }

    fn saves<'s>(&'s self, image: &'s str) -> Vec<Side<'s>> {
        let save = move |side: &'static str| {
            Side::new(side, move || {
                self.have(side, image)?;
                let archive = self.archive_of(side);
                // Podman refuses to write over a file.
                let _ = fs::remove_file(&archive);
                match side {
                    "ctr" => self.run(side, &["image", "export", &archive, image]),
                    _ => self.run(side, &["save", "-o", &archive, image]),
                }
            })
        };
        ["keg", "docker", "podman", "ctr"].map(save).into()
    }

    /// All load the same archive: Docker's, which all of them read, or else ours, which is as good.
    fn loads<'s>(&'s self, image: &'s str) -> Vec<Side<'s>> {
        let archives = ["docker", "keg"].map(|side| self.archive_of(side));
        let archive = archives.into_iter().find(|path| Path::new(path).exists());
        let archive = archive.unwrap_or_default();
        let load = move |side: &'static str| {
            let archive = archive.clone();
            Side::new(side, move || {
                self.remove(side, image);
                self.run(side, &["load", "-q", "-i", &archive])
            })
        };
        ["keg", "docker", "podman"].map(load).into()
    }

    fn pushes<'s>(&'s self, image: &'s str) -> Vec<Side<'s>> {
        let name = |side: &str| {
            self.target.clear();
            format!("{}/{side}:1", self.target.address())
        };
        let push = move |side: &'static str| {
            Side::new(side, move || {
                self.have(side, image)?;
                let name = name(side);
                self.prepare(side, &["tag", image, &name])?;
                let sample = self.run(side, &["push", "-q", &name]);
                self.prepare(side, &["rmi", &name])?;
                sample
            })
        };
        let mut sides: Vec<Side<'s>> = ["keg", "docker"].map(push).into();
        sides.push(Side::new("skopeo, registry to registry", move || {
            let mut skopeo = Command::new(installed("skopeo")?);
            skopeo.args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"]);
            skopeo.arg("--dest-tls-verify=false").arg(format!("docker://{image}"));
            skopeo.arg(format!("docker://{}", name("skopeo")));
            runner::measure(&skopeo, None)
        }));
        sides
    }

    fn removals<'s>(&'s self, image: &'s str) -> Vec<Side<'s>> {
        let remove = move |side: &'static str| {
            Side::new(side, move || {
                self.have(side, image)?;
                let sample = match side {
                    "ctr" => self.run(side, &["image", "rm", "--sync", image]),
                    _ => self.run(side, &["rmi", "-f", image]),
                }?;
                // What our removal leaves to be done must not slow the next side down.
                self.remove(side, image);
                Ok(sample)
            })
        };
        let mut sides: Vec<Side<'s>> = vec![remove("keg")];
        sides.push(Side::new("keg, until the files are gone", move || {
            self.have("keg", image)?;
            let named = self.run("keg", &["rmi", "-f", image])?;
            Ok(named.then(self.run("keg", &["image", "prune", "-f"])?))
        }));
        sides.extend(["docker", "podman", "ctr"].map(remove));
        sides
    }

    /// Loads a layout with blobs that no image needs, and measures their collection.
    fn collections<'s>(&'s self, layout: &'s str) -> Vec<Side<'s>> {
        vec![Side::new("keg", move || {
            self.prepare("keg", &["load", "-q", "-i", layout])?;
            self.run("keg", &["image", "prune", "-af"])
        })]
    }

    fn archive_of(&self, side: &str) -> String {
        self.scratch.join(format!("{side}.tar")).display().to_string()
    }

    fn fresh(&self, name: &str) -> PathBuf {
        self.counter.set(self.counter.get() + 1);
        self.scratch.join(format!("{name}-{}", self.counter.get()))
    }
}

/// Says how a side pulls.
fn pull_of<'s>(side: &str, image: &'s str) -> Vec<&'s str> {
    match side {
        "ctr" => vec!["image", "pull", "--plain-http", image],
        "podman" => vec!["pull", "-q", "--tls-verify=false", image],
        _ => vec!["pull", "-q", image],
    }
}

/// Says how a side is asked for an image: it prints something if it is there.
fn question_for(side: &str, image: &str) -> Vec<String> {
    match side {
        "ctr" => ["image", "ls", "-q", &format!("name=={image}")].map(str::to_owned).into(),
        _ => ["images", "-q", image].map(str::to_owned).into(),
    }
}

/// A script that fetches and unpacks the layers of an image, one after the other as tar must, in the
/// directory that it is called by.
fn floor_script(image: &str) -> anyhow::Result<String> {
    let mut skopeo = Command::new(installed("skopeo")?);
    skopeo.args(["inspect", "--raw", "--tls-verify=false"]).arg(format!("docker://{image}"));
    let manifest: serde_json::Value = Outcome::of(&mut skopeo, PATIENCE).success().json();
    let (registry, rest) = image.split_once('/').context("an image's registry")?;
    let repository = rest.split(':').next().unwrap_or(rest);
    let mut script = "cd \"$0\"\n".to_owned();
    for layer in manifest["layers"].as_array().context("layers")? {
        let digest = layer["digest"].as_str().context("a digest")?;
        let is_zstd = layer["mediaType"].as_str().is_some_and(|kind| kind.contains("zstd"));
        let decompress = if is_zstd { "zstd -dc" } else { "pigz -dc" };
        script += &format!(
            "curl -sf http://{registry}/v2/{repository}/blobs/{digest} | {decompress} | tar -x\n"
        );
    }
    Ok(script + "sync -f .\n")
}

/// Runs a client, and adds what its daemon spends meanwhile.
fn with_daemon(daemon: Pid, client: &mut Command) -> anyhow::Result<Sample> {
    let before = machine::cpu_of_tree(daemon)?;
    machine::forget_peak(daemon)?;
    let sample = runner::measure(client, None)?;
    let after = machine::cpu_of_tree(daemon)?;
    Ok(Sample {
        wall: sample.wall,
        cpu: sample.cpu + after.saturating_sub(before),
        peak_kib: machine::peak_kib_of(daemon)?,
    })
}
