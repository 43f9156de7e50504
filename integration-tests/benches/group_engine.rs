//! The engines: what people wait for and pay with `keg`, `docker`, `podman` and `ctr`.
//!
//! All run one image (static busybox), on private directories: kegd with keg-runtime, Debian's dockerd
//! in namespaces of its own (once with a bridge, once without), Debian's containerd, Podman if it works
//! here. `ctr` is no engine, but what the daemon alone costs. What is measured is the client, from its
//! start to its end; the processor's time is that of the whole machine meanwhile, daemons, shims, kernel
//! threads and all, so nothing else may run.
//!
//! `KEG_BENCH_CONTAINERS` is how many containers run while lists and memory are measured (200).

mod logs;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use keg_fixtures::{
    Containerd, Daemon, Dockerd, Machine as Network, PODMAN_CONFIG, Scratch, programs,
};
use nix::unistd::Pid;

use crate::group_runtime::Alone;
use crate::machine::Machine;
use crate::report::{self, BenchResult, Comparison, Measure, Value};
use crate::runner::{self, Figures, Sample, Side};

/// What a run leaves to be done after the client has ended is waited for, so that it is counted and
/// does not disturb the next one.
const SETTLE: Duration = Duration::from_millis(60);

/// Clients that start containers at the same time.
const CLIENTS: usize = 8;

/// Rounds in which Podman takes part: it takes a second for what others do in a tenth of it, and
/// ten for a removal, since its containers are given that long to end by themselves.
const PODMAN_ROUNDS_MAX: usize = 5;

/// Containers that each of them starts.
const STARTS_PER_CLIENT: usize = 5;

/// Measures the group.
///
/// # Errors
/// If a program is missing, or a run fails.
pub(crate) fn measure(rounds: usize) -> anyhow::Result<BenchResult> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the engine group starts daemons as root: run it as root");
    }
    let (keg, image) = keg();
    let plain = dockerd(Dockerd::new());
    let containerd = containerd();
    let podman = Podman::new();
    let mut engines = vec![keg_engine(&keg, &image), docker_engine(&plain)];
    engines.extend(podman.as_ref().map(Podman::engine));
    engines.push(ctr_engine(&containerd));
    let mut comparisons = Vec::new();
    let bridged = dockerd(Dockerd::with_bridge());
    let networked = [keg_engine(&keg, &image), docker_engine(&bridged)]
        .map(|engine| Engine { isolation: Vec::new(), ..engine });
    let figures = compare(&networked, rounds, |engine, _| engine.run_true())?;
    drop(networked);
    drop(bridged);
    comparisons.push(Comparison { task: "run --rm IMAGE true".into(), figures });
    let task = "run --rm --network none IMAGE true".into();
    let alone = Alone::new()?;
    let mut runs = sides(&engines.iter().collect::<Vec<_>>(), &|engine, _| engine.run_true());
    runs.push(alone.run_side());
    let figures = runner::compare(&mut runs, rounds)?;
    drop(runs);
    comparisons.push(Comparison { task, figures });
    comparisons.push(Comparison {
        task: "--version, the command line's start alone".into(),
        figures: command_lines(&engines, rounds)?,
    });
    comparisons.extend(lives(&engines, rounds)?);
    comparisons.push(logs::measure(&engines, rounds.min(10))?);
    let measures = crowd(&engines, rounds.min(20), &mut comparisons)?;
    Ok(BenchResult {
        group: "engine".into(),
        date: report::today()?,
        machine: Machine::here(),
        versions: engines.iter().map(|one| (one.name.clone(), one.version())).collect(),
        setting: "one image (static busybox), each engine with its own default runtime".into(),
        comparisons,
        measures,
    })
}

/// What it costs to start the programs that people type, and the least that starting one costs.
fn command_lines(engines: &[Engine<'_>], rounds: usize) -> anyhow::Result<Vec<Figures>> {
    let mut sides = sides(&engines.iter().collect::<Vec<_>>(), &|engine, _| {
        runner::measure(Command::new(&engine.program).arg("--version"), None)
    });
    sides.push(Side::new("/bin/true", || runner::measure(&Command::new("/bin/true"), None)));
    runner::compare(&mut sides, rounds)
}

/// `run -d`, `exec` and `rm -f`, which need each other.
fn lives(engines: &[Engine<'_>], rounds: usize) -> anyhow::Result<Vec<Comparison>> {
    let figures = compare(engines, rounds, |engine, round| {
        let name = format!("d{round}");
        let sample = engine.run_detached(&name)?;
        engine.remove(&name)?;
        Ok(sample)
    })?;
    let mut comparisons = vec![Comparison { task: "run -d, until it runs".into(), figures }];
    for engine in engines {
        engine.run_detached("exec")?;
    }
    let figures = compare(engines, rounds, |engine, round| engine.exec_true("exec", round))?;
    comparisons.push(Comparison { task: "exec CONTAINER true".into(), figures });
    for engine in engines {
        engine.remove("exec")?;
    }
    let removers: Vec<&Engine<'_>> = engines.iter().filter(|one| one.has_docker_commands).collect();
    let figures = compare_some(&removers, rounds, |engine, round| {
        let name = format!("r{round}");
        engine.run_detached(&name)?;
        engine.remove(&name)
    })?;
    comparisons.push(Comparison { task: "rm -f of a running container".into(), figures });
    Ok(comparisons)
}

/// What many containers cost: to start, to list, to keep.
fn crowd(
    engines: &[Engine<'_>],
    rounds: usize,
    comparisons: &mut Vec<Comparison>,
) -> anyhow::Result<Vec<Measure>> {
    let count: u32 = match env::var("KEG_BENCH_CONTAINERS") {
        Ok(text) => text.parse().context("KEG_BENCH_CONTAINERS is no number")?,
        Err(_) => 200,
    };
    let mut rates = Vec::new();
    let mut idle = Vec::new();
    let mut daemon = Vec::new();
    let mut each = Vec::new();
    let mut lists: Vec<Figures> = Vec::new();
    for engine in engines.iter().filter(|engine| engine.rounds_max == usize::MAX) {
        let value = |value| Value { side: engine.name.clone(), value };
        rates.push(value(start_rate(engine)?));
        let before = engine.memory();
        for index in 0..count {
            engine.run_detached(&format!("m{index}"))?;
        }
        let after = engine.memory();
        if let (Some(before), Some(after)) = (before, after) {
            idle.push(value(before.daemon / 1024.0));
            daemon.push(value(after.daemon / 1024.0));
            each.push(value((after.whole - before.whole) / 1024.0 / f64::from(count)));
        }
        lists.extend(compare_some(&[engine], rounds, |engine, _| engine.list())?);
        for index in 0..count {
            engine.remove(&format!("m{index}"))?;
        }
    }
    comparisons.push(Comparison { task: format!("ps with {count} containers"), figures: lists });
    let measure = |task: String, unit: &str, values| Measure { task, unit: unit.into(), values };
    Ok(vec![
        measure(format!("containers started per second by {CLIENTS} clients"), "1/s", rates),
        measure("memory of the idle daemon".into(), "MiB", idle),
        measure(format!("memory of the daemon with {count} containers"), "MiB", daemon),
        measure("memory per idle container, all processes of the engine".into(), "MiB", each),
    ])
}

/// How many containers come to run in a second while several clients ask for them.
fn start_rate(engine: &Engine<'_>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    (0..STARTS_PER_CLIENT).try_for_each(|index| {
                        engine.run_detached(&format!("s{client}-{index}")).map(drop)
                    })
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| match client.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a client panicked"),
        })
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    for client in 0..CLIENTS {
        for index in 0..STARTS_PER_CLIENT {
            engine.remove(&format!("s{client}-{index}"))?;
        }
    }
    Ok((CLIENTS * STARTS_PER_CLIENT) as f64 / seconds)
}

fn compare(
    engines: &[Engine<'_>],
    rounds: usize,
    run: impl Fn(&Engine<'_>, usize) -> anyhow::Result<Sample>,
) -> anyhow::Result<Vec<Figures>> {
    compare_some(&engines.iter().collect::<Vec<_>>(), rounds, run)
}

fn compare_some(
    engines: &[&Engine<'_>],
    rounds: usize,
    run: impl Fn(&Engine<'_>, usize) -> anyhow::Result<Sample>,
) -> anyhow::Result<Vec<Figures>> {
    runner::compare(&mut sides(engines, &run), rounds)
}

/// One side per engine. Its runs are numbered, since names of containers are used once.
fn sides<'a>(
    engines: &[&'a Engine<'_>],
    run: &'a dyn Fn(&Engine<'_>, usize) -> anyhow::Result<Sample>,
) -> Vec<Side<'a>> {
    engines
        .iter()
        .map(|&engine| {
            let mut round = 0;
            let numbered = move || {
                round += 1;
                run(engine, round)
            };
            Side { rounds_max: engine.rounds_max, ..Side::new(&engine.name, numbered) }
        })
        .collect()
}

/// An engine's command line.
struct Engine<'a> {
    name: String,
    program: PathBuf,
    prefix: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    image: String,
    /// What keeps containers off the network.
    isolation: Vec<String>,
    has_docker_commands: bool,
    /// What keeps its `wait` from looking a few times per second only.
    wait_options: &'static [&'static str],
    /// In how many rounds it takes part. One that is limited has no crowds either.
    rounds_max: usize,
    /// The processes that it consists of, its containers included; `None` where nothing stays.
    pids: Option<Box<dyn Fn() -> Vec<Pid> + Sync + 'a>>,
}

/// Proportional set sizes, in KiB.
struct Memory {
    daemon: f64,
    whole: f64,
}

impl Engine<'_> {
    /// Takes a command line that ends in `--`: what stands before is used for every call.
    fn from_command(name: &str, command: &Command, image: &str) -> Self {
        let words = command.get_args().filter(|word| *word != "--").map(OsStr::to_owned);
        let environment = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        Self {
            name: name.to_owned(),
            program: command.get_program().into(),
            prefix: words.collect(),
            environment: environment.collect(),
            image: image.to_owned(),
            isolation: Vec::new(),
            has_docker_commands: true,
            wait_options: &[],
            rounds_max: usize::MAX,
            pids: None,
        }
    }

    fn command<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).args(words.into_iter().map(|word| word.as_ref().to_owned()));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run_true(&self) -> anyhow::Result<Sample> {
        let mut words: Vec<&str> = vec!["run", "--rm"];
        words.extend(self.isolation.iter().map(String::as_str));
        words.push(&self.image);
        if !self.has_docker_commands {
            words.push("t");
        }
        words.push("true");
        settled(&self.command(words))
    }

    fn run_detached(&self, name: &str) -> anyhow::Result<Sample> {
        let mut words: Vec<&str> = vec!["run", "-d"];
        words.extend(self.isolation.iter().map(String::as_str));
        if self.has_docker_commands {
            words.extend(["--name", name, &self.image]);
        } else {
            words.extend([&self.image, name]);
        }
        words.extend(["sleep", "100000"]);
        settled(&self.command(words))
    }

    fn exec_true(&self, name: &str, round: usize) -> anyhow::Result<Sample> {
        if self.has_docker_commands {
            return settled(&self.command(["exec", name, "true"]));
        }
        let id = format!("x{round}");
        settled(&self.command(["task", "exec", "--exec-id", &id, name, "true"]))
    }

    fn remove(&self, name: &str) -> anyhow::Result<Sample> {
        if self.has_docker_commands {
            return settled(&self.command(["rm", "-f", name]));
        }
        settled(&self.command(["task", "rm", "--force", name]))?;
        settled(&self.command(["container", "rm", name]))
    }

    fn list(&self) -> anyhow::Result<Sample> {
        let words = if self.has_docker_commands { vec!["ps"] } else { vec!["task", "ls"] };
        settled(&self.command(words))
    }

    fn version(&self) -> String {
        let output = self.command(["--version"]).stdin(Stdio::null()).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let number = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
        text.split_whitespace().find(number).unwrap_or_default().trim_matches(',').to_owned()
    }

    fn memory(&self) -> Option<Memory> {
        let mut memory = Memory { daemon: 0.0, whole: 0.0 };
        for pid in self.pids.as_ref()?() {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let comm = comm.trim();
            // The container's own process costs everybody the same, and our supervisor is no part.
            if ["sleep", "busybox", "keg-supervise"].contains(&comm) {
                continue;
            }
            let size = proportional_set_kib(pid).unwrap_or(0.0);
            memory.whole += size;
            if ["kegd", "dockerd", "containerd"].contains(&comm) {
                memory.daemon += size;
            }
        }
        Some(memory)
    }
}

fn proportional_set_kib(pid: Pid) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Runs a client to its end, and waits for what goes on behind it.
pub(crate) fn settled(command: &Command) -> anyhow::Result<Sample> {
    let before = machine_cpu()?;
    let sample = runner::measure(command, None)?;
    std::thread::sleep(SETTLE);
    Ok(Sample { cpu: machine_cpu()?.saturating_sub(before), ..sample })
}

/// Time that all processors have worked since the machine was booted.
fn machine_cpu() -> anyhow::Result<Duration> {
    let v1 = Path::new("/sys/fs/cgroup/cpuacct/cpuacct.usage");
    if v1.exists() {
        return Ok(Duration::from_nanos(fs::read_to_string(v1)?.trim().parse()?));
    }
    let text = fs::read_to_string("/sys/fs/cgroup/cpu.stat")?;
    let usec = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(Duration::from_micros(usec.context("cpu.stat has no usage_usec")?.trim().parse()?))
}

/// kegd in a network namespace of its own, with an image; it logs as people have it.
fn keg() -> (Daemon, String) {
    let (daemon, image) = Daemon::on(&Network::new(), "");
    (daemon.logging("info"), image)
}

pub(crate) fn rootfs_archive(scratch: &Scratch) -> anyhow::Result<PathBuf> {
    let root = scratch.directory("rootfs");
    keg_fixtures::bundle::fill_rootfs(&root);
    let archive = scratch.join("rootfs.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive)?);
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &root)?;
    builder.finish()?;
    Ok(archive)
}

fn keg_engine<'a>(keg: &'a Daemon, image: &str) -> Engine<'a> {
    Engine {
        isolation: vec!["--network".into(), "none".into()],
        pids: Some(Box::new(|| keg.pids())),
        ..Engine::from_command("keg", &keg.keg_command(["--"]), image)
    }
}

fn dockerd(daemon: Dockerd) -> Dockerd {
    daemon.import_busybox();
    daemon
}

fn docker_engine(docker: &Dockerd) -> Engine<'_> {
    Engine {
        isolation: vec!["--network".into(), "none".into()],
        pids: Some(Box::new(|| docker.pids())),
        ..Engine::from_command("docker", &docker.docker_command(["--"]), Dockerd::BUSYBOX)
    }
}

fn containerd() -> Containerd {
    let daemon = Containerd::new();
    daemon.import_busybox();
    daemon
}

fn ctr_engine(containerd: &Containerd) -> Engine<'_> {
    Engine {
        has_docker_commands: false,
        pids: Some(Box::new(|| containerd.pids())),
        ..Engine::from_command("ctr", &containerd.ctr_command(["--"]), Containerd::BUSYBOX)
    }
}

/// Podman with directories of its own.
struct Podman {
    program: PathBuf,
    scratch: Scratch,
}

impl Podman {
    /// Sets it up with the image; `None` where it is not installed or cannot run a container.
    fn new() -> Option<Self> {
        let podman = Self { program: programs::installed("podman")?, scratch: Scratch::new() };
        let archive = rootfs_archive(&podman.scratch).ok()?;
        let engine = podman.engine();
        let import = engine.command(["import", archive.to_str()?, "bench"]).output().ok()?;
        if !import.status.success() {
            eprintln!("podman is left out: {}", String::from_utf8_lossy(&import.stderr).trim());
            return None;
        }
        let tried = engine.run_true();
        drop(engine);
        match tried {
            Ok(_) => Some(podman),
            Err(error) => {
                eprintln!("podman is left out: {error:#}");
                None
            }
        }
    }

    fn engine(&self) -> Engine<'_> {
        // What it asks for otherwise, a machine may refuse.
        const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.scratch.join("root"));
        command.arg("--runroot").arg(self.scratch.join("run"));
        command.arg("--tmpdir").arg(self.scratch.join("tmp"));
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.env("CONTAINERS_CONF", self.scratch.file("containers.conf", PODMAN_CONFIG));
        // Debian's crun does not run on every layout of cgroups.
        command.args(["--runtime", "runc", "--"]);
        Engine {
            isolation: ["--network", "none"].into_iter().chain(LIMITS).map(Into::into).collect(),
            rounds_max: PODMAN_ROUNDS_MAX,
            wait_options: &["--interval", "10ms"],
            ..Engine::from_command("podman", &command, "bench")
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.engine().command(["rm", "-fa"]).output();
        let _ = self.engine().command(["rmi", "-fa"]).output();
        self.scratch.unmount();
    }
}
