//! Networks: what the default one adds to `run`, many containers, many ports, throughput, latency.
//!
//! Each engine has a host of its own (a network namespace) and another machine beside it, so that
//! nothing of this touches the machine's own interfaces and firewall. Docker is Debian's dockerd
//! with its default bridge, Podman is Debian's; one that is not there, or that cannot run a
//! container here, is left out and said so.
//!
//! What moves bytes is the same program on all sides (`keg-probe`), and it takes the time itself.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use keg_fixtures::{
    Daemon, Machine as Host, Outcome, PODMAN_CONFIG, Scratch, Tree, programs, wait,
};

use crate::machine::Machine;
use crate::report::{BenchResult, Comparison, today};
use crate::runner::{self, Figures, Sample, Side};

/// Mebibytes that are sent to measure throughput.
const MEBIBYTES: &str = "512";
/// Rounds of what takes moments: one run tells little.
const SHORT_ROUNDS_MIN: usize = 24;
/// Runs between the same containers.
const RUNS_OF_A_PAIR: usize = 6;
/// Connections that are made to measure latency.
const CONNECTIONS: &str = "1000";
/// Names that are asked for.
const QUERIES: &str = "2000";
/// Containers that run beside the one that is started.
const MANY_CONTAINERS: usize = 200;
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What Podman is told of limits on a machine that may not raise them: what it asks for otherwise is
/// refused by the kernel.
const PODMAN_LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
/// Rounds in which Podman takes part: a start with a hundred ports takes it ten seconds.
const PODMAN_ROUNDS_MAX: usize = 3;
/// Where the other machine finds the host.
const HOST: &str = "192.0.2.1";

/// Measures the group.
///
/// # Errors
/// If our own programs are not built, or a run fails.
pub(crate) fn measure(rounds: usize) -> anyhow::Result<BenchResult> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the network group starts containers as root: run it as root");
    }
    let keg = Keg::new("");
    let bypass = Keg::new("[network]\npublish = \"bypass\"\n");
    let scratch = Scratch::new();
    let peers = peers(&scratch);
    let engines = || -> Vec<&dyn Engine> {
        let peers = peers.iter().map(|peer| -> &dyn Engine { peer.as_ref() });
        std::iter::once::<&dyn Engine>(&keg).chain(peers).collect()
    };
    let few = rounds.clamp(1, 5);
    let many_rounds = rounds.max(SHORT_ROUNDS_MIN);
    let compare = |task: &str, figures: Vec<Figures>| Comparison { task: task.into(), figures };
    let mut comparisons = Vec::new();
    for (task, network) in [("run, default network", ""), ("run, no network", "none")] {
        let mut sides: Vec<Side<'_>> =
            engines().into_iter().map(|engine| run_side(engine, network, 0)).collect();
        comparisons.push(compare(task, runner::compare(&mut sides, rounds)?));
    }
    let mut sides = Vec::new();
    for engine in engines() {
        for ports in [1, 100] {
            let mut side = run_side(engine, "", ports);
            if engine.name() != keg.name() {
                side.rounds_max = side.rounds_max.min(few);
            }
            side.name =
                format!("{}, {ports} port{}", engine.name(), if ports == 1 { "" } else { "s" });
            sides.push(side);
        }
    }
    comparisons.push(compare("run, published ports", runner::compare(&mut sides, many_rounds)?));
    drop(sides);
    comparisons.push(compare("run, first and 200th container", many(&keg, many_rounds)?));
    comparisons.extend(traffic(&keg, &bypass, &peers, many_rounds)?);
    comparisons.push(compare("2,000 DNS queries", names(&keg, &peers, few)?));
    let versions = engines().iter().map(|one| (one.name().to_owned(), one.version())).collect();
    Ok(BenchResult {
        group: "network".into(),
        date: today()?,
        machine: Machine::here(),
        versions,
        setting: "`run --rm` of `true`; traffic between static programs in containers; directories in memory".into(),
        comparisons,
        measures: Vec::new(),
    })
}

/// An engine with Docker's command line, on a host of its own.
trait Engine: Sync {
    fn name(&self) -> &str;
    /// What every container of it is started with.
    fn run_flags(&self) -> &'static [&'static str] {
        &[]
    }
    /// In how many rounds of a comparison of starts it takes part.
    fn rounds_max(&self) -> usize {
        usize::MAX
    }
    fn image(&self) -> &str;
    fn version(&self) -> String;
    fn command(&self, arguments: &[&str]) -> Command;
    fn host(&self) -> &Host;
    fn outside(&self) -> &Host;

    /// Runs a command to its end and measures it.
    fn measured(&self, arguments: &[&str]) -> anyhow::Result<Sample> {
        self.host().run(|| runner::measure(&self.command(arguments), None))
    }

    /// Starts a container that stays.
    fn start(&self, arguments: &[&str]) -> anyhow::Result<()> {
        self.told(&[&["run", "-d"], self.run_flags(), arguments].concat()).map(drop)
    }

    /// Runs a command to its end and returns what it prints.
    fn told(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let outcome = self.host().run(|| Outcome::of(&mut self.command(arguments), PATIENCE));
        if outcome.exit_code != 0 {
            bail!("{} {arguments:?}: {}", self.name(), outcome.text());
        }
        Ok(outcome.stdout)
    }
}

fn run_side<'a>(engine: &'a dyn Engine, network: &'a str, ports: u16) -> Side<'a> {
    // Podman has no ranges of one port.
    let range = |ports: u16| match ports {
        1 => "20000:20000".to_owned(),
        _ => format!("20000-{0}:20000-{0}", 19999 + ports),
    };
    let run = move || {
        let range = range(ports);
        let mut arguments = [&["run", "--rm"], engine.run_flags()].concat();
        if !network.is_empty() {
            arguments.extend(["--network", network]);
        }
        if ports > 0 {
            arguments.extend(["-p", &range]);
        }
        arguments.extend([engine.image(), "/bin/busybox", "true"]);
        engine.measured(&arguments)
    };
    Side { rounds_max: engine.rounds_max(), ..Side::new(engine.name(), run) }
}

/// The same start alone, and beside many others.
fn many(keg: &Keg, rounds: usize) -> anyhow::Result<Vec<Figures>> {
    let mut alone = [run_side(keg, "", 0)];
    alone[0].name = "keg, first".into();
    let mut figures = runner::compare(&mut alone, rounds)?;
    let names: Vec<String> = (0..MANY_CONTAINERS).map(|number| format!("idle{number}")).collect();
    for name in &names {
        keg.told(&["run", "-d", "--name", name, keg.image(), "/probe", "pause"])?;
    }
    let mut crowded = [run_side(keg, "", 0)];
    crowded[0].name = "keg, 200th".into();
    figures.extend(runner::compare(&mut crowded, rounds)?);
    let removal: Vec<&str> =
        ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
    keg.told(&removal)?;
    Ok(figures)
}

/// Throughput and latency, between containers and from another machine by a published port.
fn traffic(
    keg: &Keg,
    bypass: &Keg,
    peers: &[Box<dyn Engine>],
    rounds: usize,
) -> anyhow::Result<Vec<Comparison>> {
    let peers = peers.iter().map(|peer| -> &dyn Engine { peer.as_ref() });
    let engines = [keg as &dyn Engine, bypass].into_iter().chain(peers);
    let pairs: Vec<Pair<'_>> = engines.map(Pair::new).collect();
    let compare = |task: &str, measure: fn(&Pair<'_>) -> anyhow::Result<Sample>| {
        let sides = pairs.iter().map(|pair| Side::new(pair.engine.name(), move || measure(pair)));
        let figures = runner::compare(&mut sides.collect::<Vec<_>>(), rounds)?;
        anyhow::Ok(Comparison { task: task.into(), figures })
    };
    let comparisons = vec![
        compare("512 MiB between containers", |pair| pair.inside("drink", MEBIBYTES))?,
        compare("1,000 connections between containers", |pair| pair.inside("knock", CONNECTIONS))?,
        compare("512 MiB by a published port", |pair| pair.published("drink", MEBIBYTES))?,
        compare("1,000 connections by a published port", |pair| {
            pair.published("knock", CONNECTIONS)
        })?,
    ];
    for pair in &pairs {
        pair.remove()?;
    }
    Ok(comparisons)
}

/// Containers that exchange bytes. They are made anew every few runs: where the kernel happens to put what
/// belongs to a pair of them weighs more than what engines do differently.
struct Pair<'a> {
    engine: &'a dyn Engine,
    runs: Cell<usize>,
}

impl<'a> Pair<'a> {
    fn new(engine: &'a dyn Engine) -> Self {
        Self { engine, runs: Cell::new(0) }
    }

    /// From one container to the other.
    fn inside(&self, action: &str, amount: &str) -> anyhow::Result<Sample> {
        self.renew()?;
        let (server, port) = server_of(action);
        let format = "{{.NetworkSettings.IPAddress}}";
        let told = self.engine.told(&["inspect", "-f", format, server])?;
        let address = format!("{}:{port}", told.trim());
        taken(&self.engine.told(&["exec", "client", "/probe", action, &address, amount])?)
    }

    /// From the other machine to a published port.
    fn published(&self, action: &str, amount: &str) -> anyhow::Result<Sample> {
        self.renew()?;
        let probe = programs::ours("keg-probe");
        let (_, port) = server_of(action);
        let line = format!("{} {action} {HOST}:{port} {amount}", probe.display());
        taken(&self.engine.outside().sh(&line))
    }

    fn renew(&self) -> anyhow::Result<()> {
        let runs = self.runs.get();
        self.runs.set(runs + 1);
        if !runs.is_multiple_of(RUNS_OF_A_PAIR) {
            return Ok(());
        }
        if runs > 0 {
            self.remove()?;
        }
        for (action, serving) in [("drink", "pour"), ("knock", "serve")] {
            let (name, port) = server_of(action);
            let published = format!("{port}:{port}");
            let flags = ["--name", name, "-p", &published, self.engine.image(), "/probe"];
            self.engine.start(&[&flags[..], &[serving, &port.to_string(), "x"]].concat())?;
        }
        self.engine.start(&["--name", "client", self.engine.image(), "/probe", "pause"])
    }

    fn remove(&self) -> anyhow::Result<()> {
        // Before it removes one, Podman asks it to end, and waits ten seconds.
        for action in [&["kill"][..], &["rm", "-f"]] {
            self.engine.told(&[action, &["source", "server", "client"]].concat())?;
        }
        Ok(())
    }
}

/// Who answers what a probe does, and on which port.
fn server_of(action: &str) -> (&'static str, u16) {
    if action == "drink" { ("source", 9000) } else { ("server", 9001) }
}

/// Names of containers, asked of a user-defined network's resolver.
fn names(keg: &Keg, peers: &[Box<dyn Engine>], rounds: usize) -> anyhow::Result<Vec<Figures>> {
    let with_names = peers.iter().filter(|peer| peer.name() == "docker");
    let with_names = with_names.map(|peer| -> &dyn Engine { peer.as_ref() });
    let engines: Vec<&dyn Engine> = std::iter::once::<&dyn Engine>(keg).chain(with_names).collect();
    for engine in &engines {
        engine.told(&["network", "create", "named"])?;
        for name in ["asked", "asker"] {
            let flags = ["run", "-d", "--network", "named", "--name", name];
            engine.told(&[&flags[..], &[engine.image(), "/probe", "pause"]].concat())?;
        }
    }
    let sides = engines.iter().map(|engine| {
        let run = move || {
            taken(&engine.told(&["exec", "asker", "/probe", "ask-names", "asked", QUERIES])?)
        };
        Side::new(engine.name(), run)
    });
    let figures = runner::compare(&mut sides.collect::<Vec<_>>(), rounds)?;
    for engine in &engines {
        engine.told(&["rm", "-f", "asked", "asker"])?;
        engine.told(&["network", "rm", "named"])?;
    }
    Ok(figures)
}

/// What a probe has measured, in microseconds.
fn taken(told: &str) -> anyhow::Result<Sample> {
    let microseconds = told.trim().parse().with_context(|| format!("{told:?} is no time"))?;
    Ok(Sample { wall: Duration::from_micros(microseconds), ..Sample::default() })
}

/// kegd on a host of its own.
struct Keg {
    name: &'static str,
    daemon: Daemon,
    image: String,
    host: Host,
    outside: Host,
}

impl Keg {
    fn new(settings: &str) -> Self {
        let (host, outside) = Host::pair();
        let (daemon, image) = Daemon::on(&host, settings);
        let name = if settings.is_empty() { "keg" } else { "keg, publish = bypass" };
        Self { name, daemon, image, host, outside }
    }
}

impl Engine for Keg {
    fn name(&self) -> &str {
        self.name
    }

    fn image(&self) -> &str {
        &self.image
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.daemon.keg_command(arguments)
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn outside(&self) -> &Host {
        &self.outside
    }
}

/// Debian's dockerd, with its default bridge, or Debian's podman, on a host of its own.
struct Peer {
    name: &'static str,
    program: PathBuf,
    before: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    host: Host,
    outside: Host,
    run_flags: &'static [&'static str],
    /// Its server, which ends before its directories go.
    _server: Option<Tree>,
    /// Directories of its own, in which it leaves file systems mounted.
    scratch: Option<Scratch>,
}

impl Drop for Peer {
    /// Takes away what it leaves, also after a run that failed: that error is the one to be seen.
    fn drop(&mut self) {
        let Some(scratch) = self.scratch.take() else { return };
        for arguments in [["rm", "-f", "-t", "0", "-a"].as_slice(), &["rmi", "-f", "-a"]] {
            let _ = self.told(arguments);
        }
        scratch.unmount();
    }
}

impl Engine for Peer {
    fn name(&self) -> &str {
        self.name
    }

    fn run_flags(&self) -> &'static [&'static str] {
        self.run_flags
    }

    fn rounds_max(&self) -> usize {
        if self.scratch.is_some() { PODMAN_ROUNDS_MAX } else { usize::MAX }
    }

    fn image(&self) -> &str {
        "keg-bench"
    }

    fn version(&self) -> String {
        let text = self.told(&["--version"]).unwrap_or_default();
        let words = text.split_whitespace().nth(2).unwrap_or_default();
        words.trim_end_matches(',').to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.before).args(arguments);
        command.envs(self.environment.iter().map(|(key, value)| (*key, value)));
        command
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn outside(&self) -> &Host {
        &self.outside
    }
}

/// The peers that are there and that can run a container here.
fn peers(scratch: &Scratch) -> Vec<Box<dyn Engine>> {
    let archive = scratch.join("rootfs.tar");
    let candidates = [docker(scratch), podman()];
    let mut peers: Vec<Box<dyn Engine>> = Vec::new();
    for peer in candidates.into_iter().flatten() {
        let ready = image(&archive).and_then(|()| {
            peer.told(&["import", &archive.to_string_lossy(), peer.image()])?;
            let first = ["run", "--rm"];
            let command = [peer.image(), "/bin/busybox", "true"];
            peer.told(&[&first, peer.run_flags(), &command].concat())
        });
        match ready {
            Ok(_) => peers.push(Box::new(peer)),
            Err(error) => eprintln!("{} is left out: {error:#}", peer.name),
        }
    }
    peers
}

/// A root file system with busybox and the probe.
fn image(archive: &Path) -> anyhow::Result<()> {
    let mut builder = tar::Builder::new(File::create(archive)?);
    let busybox = programs::installed("busybox").context("busybox is not installed")?;
    builder.append_path_with_name(busybox, "bin/busybox")?;
    builder.append_path_with_name(programs::ours("keg-probe"), "probe")?;
    Ok(builder.finish()?)
}

fn docker(scratch: &Scratch) -> Option<Peer> {
    let (server, program) = (programs::installed("dockerd")?, programs::installed("docker")?);
    let (host, outside) = Host::pair();
    let socket = scratch.join("docker.sock");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(server);
    command.arg("--data-root").arg(scratch.join("docker"));
    command.arg("--exec-root").arg(scratch.join("docker-run"));
    command.arg("--pidfile").arg(scratch.join("docker.pid"));
    command.arg("--config-file").arg(scratch.file("docker.json", "{}"));
    command.arg(format!("--host=unix://{}", socket.display()));
    command.args(["--storage-driver=overlay2", "--cgroup-parent=/keg-bench-docker"]);
    let tree = host.run(|| Tree::spawn(&command));
    let up = wait::poll(PATIENCE, || socket.exists().then_some(()));
    if up.is_none() {
        eprintln!("docker is left out: {}", tree.stderr());
        return None;
    }
    let address = format!("unix://{}", socket.display()).into();
    let environment =
        vec![("DOCKER_HOST", address), ("DOCKER_CONFIG", scratch.join("docker-client"))];
    let before = Vec::new();
    Some(Peer {
        name: "docker",
        program,
        before,
        environment,
        host,
        outside,
        run_flags: &[],
        _server: Some(tree),
        scratch: None,
    })
}

fn podman() -> Option<Peer> {
    let program = programs::installed("podman")?;
    let scratch = Scratch::new();
    let (host, outside) = Host::pair();
    let place = |name: &str| scratch.join(name).to_string_lossy().into_owned();
    let before = vec![
        "--root".to_owned(),
        place("podman"),
        "--runroot".to_owned(),
        place("podman-run"),
        "--tmpdir".to_owned(),
        place("podman-tmp"),
        "--cgroup-manager=cgroupfs".to_owned(),
        "--runtime=runc".to_owned(),
    ];
    let environment = vec![("CONTAINERS_CONF", scratch.file("containers.conf", PODMAN_CONFIG))];
    Some(Peer {
        name: "podman",
        program,
        before,
        environment,
        host,
        outside,
        run_flags: &PODMAN_LIMITS,
        _server: None,
        scratch: Some(scratch),
    })
}
