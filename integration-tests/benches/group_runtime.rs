//! The low-level runtimes on one bundle: `run`, create+start+delete, `exec`.
//!
//! The bundle has what a default container has: all namespaces with network, a cgroup with three
//! limits, the engine's capabilities and system call filter, the default mounts, `/bin/true`. The
//! *floor* (`floor/`) makes the system calls that it demands and nothing else. Everybody keeps state
//! in memory, as in the `/run` of a machine that was booted by an init system.
//!
//! A peer is what `KEG_PEER_CRUN`, `KEG_PEER_RUNC` or `KEG_PEER_YOUKI` lists (paths, divided by colons:
//! several versions can take part), else the program of that name on the path; one that is not there is
//! left out. crun refuses a hybrid cgroup layout, so it alone runs in a mount namespace where v2 is
//! hidden; it enters that before it starts.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use keg_fixtures::{Bundle, Scratch, programs};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use oci_spec::runtime::{Capabilities, Capability};
use serde_json::json;

use crate::machine::Machine;
use crate::report::{self, BenchResult, Comparison};
use crate::runner::{self, Sample, Side};

const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

/// Measures the group.
///
/// # Errors
/// If our own programs are not built, or a run fails.
pub(crate) fn measure(rounds: usize) -> anyhow::Result<BenchResult> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the runtime group starts containers as root: run it as root");
    }
    // What `create` leaves behind is adopted by this process, which can then wait for its end.
    nix::sys::prctl::set_child_subreaper(true)?;
    let scratch = Scratch::new();
    let hidden = WithoutV2::new()?;
    let roots = tempfile::Builder::new().prefix("keg-bench-").tempdir_in(memory_dir())?;
    let runtimes = runtimes(roots.path(), &hidden)?;
    let bundle = bundle(&["/bin/true"]);

    let floor = Floor::new(&scratch, &bundle, roots.path())?;
    let mut run_sides: Vec<Side<'_>> =
        runtimes.iter().map(|runtime| runtime.side(|one| one.run(&bundle))).collect();
    run_sides.push(Side::new("floor", || floor.run()));
    let run = runner::compare(&mut run_sides, rounds)?;

    let mut step_sides: Vec<Side<'_>> = runtimes
        .iter()
        .map(|runtime| runtime.side(|one| one.create_start_delete(&bundle)))
        .collect();
    step_sides.push(Side::new("floor", || floor.create_start_delete()));
    let steps = runner::compare(&mut step_sides, rounds)?;

    let exec = measure_exec(&runtimes, rounds)?;
    Ok(BenchResult {
        group: "runtime".into(),
        date: report::today()?,
        machine: Machine::here(),
        versions: runtimes
            .iter()
            .filter(|one| !one.name.contains(' '))
            .map(|one| (one.name.clone(), one.version.clone()))
            .collect(),
        setting: "`/bin/true` in all namespaces, a cgroup with limits, default seccomp filter"
            .into(),
        comparisons: vec![
            Comparison { task: "run".into(), figures: run },
            Comparison { task: "create + start + delete".into(), figures: steps },
            Comparison { task: "exec".into(), figures: exec },
        ],
        measures: Vec::new(),
    })
}

fn measure_exec(runtimes: &[Peer], rounds: usize) -> anyhow::Result<Vec<runner::Figures>> {
    let bundle = bundle(&["/bin/sleep", "3600"]);
    let started: Vec<(&Peer, Pid)> = runtimes
        .iter()
        .map(|runtime| Ok((runtime, runtime.create(&bundle)?.1)))
        .collect::<anyhow::Result<_>>()?;
    for (runtime, _) in &started {
        runtime.measure(runtime.command("start").arg(runtime.id()))?;
    }
    let mut sides: Vec<Side<'_>> = runtimes
        .iter()
        .map(|runtime| {
            runtime.side(|one| one.measure(one.command("exec").arg(one.id()).arg("/bin/true")))
        })
        .collect();
    let figures = runner::compare(&mut sides, rounds);
    for (runtime, init) in started {
        runtime.measure(runtime.command("kill").arg(runtime.id()).arg("KILL"))?;
        waitpid(init, None)?;
        runtime.measure(runtime.command("delete").arg(runtime.id()))?;
    }
    figures
}

/// keg-runtime alone and the bundle that the group runs: what an engine adds to.
pub(crate) struct Alone {
    peer: Peer,
    bundle: Bundle,
    _roots: tempfile::TempDir,
}

impl Alone {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let roots = tempfile::Builder::new().prefix("keg-bench-").tempdir_in(memory_dir())?;
        let program = programs::ours("keg-runtime");
        let peer = Peer {
            name: "keg-runtime run, alone".to_owned(),
            version: version(&program),
            program,
            root: roots.path().to_owned(),
            namespace: None,
        };
        Ok(Self { peer, bundle: bundle(&["/bin/true"]), _roots: roots })
    }

    pub(crate) fn run_side(&self) -> Side<'_> {
        self.peer.side(|peer| peer.run(&self.bundle))
    }
}

/// A runtime with runc's command line, on a root of its own.
struct Peer {
    name: String,
    program: PathBuf,
    root: PathBuf,
    namespace: Option<File>,
    version: String,
}

impl Peer {
    fn side<'a>(&'a self, run: impl Fn(&'a Self) -> anyhow::Result<Sample> + 'a) -> Side<'a> {
        Side::new(&self.name, move || run(self))
    }

    fn id(&self) -> String {
        let name = self.name.replace([' ', ','], "-");
        format!("keg-bench-{}-{name}", std::process::id())
    }

    fn command(&self, command: &str) -> Command {
        let mut line = Command::new(&self.program);
        line.arg("--root").arg(&self.root).arg(command);
        line
    }

    fn measure(&self, command: &Command) -> anyhow::Result<Sample> {
        runner::measure(command, self.namespace.as_ref())
    }

    fn run(&self, bundle: &Bundle) -> anyhow::Result<Sample> {
        self.measure(self.command("run").arg("--bundle").arg(bundle.path()).arg(self.id()))
    }

    fn create(&self, bundle: &Bundle) -> anyhow::Result<(Sample, Pid)> {
        let pid_file = self.root.join("pid");
        let mut command = self.command("create");
        command.arg("--bundle").arg(bundle.path()).arg("--pid-file").arg(&pid_file).arg(self.id());
        let sample = self.measure(&command)?;
        let pid = fs::read_to_string(&pid_file)?.trim().parse()?;
        Ok((sample, Pid::from_raw(pid)))
    }

    /// The three commands; the time in which the program itself runs is not counted.
    fn create_start_delete(&self, bundle: &Bundle) -> anyhow::Result<Sample> {
        let (created, init) = self.create(bundle)?;
        let started = self.measure(self.command("start").arg(self.id()))?;
        waitpid(init, None)?;
        let deleted = self.measure(self.command("delete").arg(self.id()))?;
        Ok(created.then(started).then(deleted))
    }
}

fn version(program: &Path) -> String {
    let text = Command::new(program).arg("--version").output().map(|out| out.stdout);
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let first = text.lines().next().unwrap_or_default();
    first.rsplit(' ').next().unwrap_or_default().to_owned()
}

/// A directory whose files are in memory.
fn memory_dir() -> &'static Path {
    Path::new("/dev/shm")
}

fn runtimes(roots: &Path, hidden: &WithoutV2) -> anyhow::Result<Vec<Peer>> {
    let mut found: Vec<Peer> = Vec::new();
    for (name, variable) in [
        ("keg-runtime", None),
        ("crun", Some("KEG_PEER_CRUN")),
        ("runc", Some("KEG_PEER_RUNC")),
        ("youki", Some("KEG_PEER_YOUKI")),
    ] {
        let named = variable.and_then(env::var_os);
        let programs: Vec<PathBuf> = match (variable, named) {
            (None, _) => vec![programs::ours(name)],
            (_, Some(named)) => env::split_paths(&named).collect(),
            (_, None) => programs::installed(name).into_iter().collect(),
        };
        for program in programs {
            let namespace = if name == "crun" { hidden.namespace()? } else { None };
            let version = version(&program);
            let first = found.iter().all(|peer| peer.name != name);
            let name = if first { name.to_owned() } else { format!("{name} {version}") };
            let root = roots.join(name.replace(' ', "-"));
            fs::create_dir(&root)?;
            found.push(Peer { name, program, root, namespace, version });
        }
    }
    Ok(found)
}

fn bundle(command: &[&str]) -> Bundle {
    let all = CAPABILITIES.iter().copied().collect::<Capabilities>();
    let filter = keg_engine::spec::seccomp::default_filter(&all);
    let names: Vec<String> = CAPABILITIES.iter().map(|one| format!("CAP_{one}")).collect();
    Bundle::busybox()
        .command(command)
        .set(
            "/process/capabilities",
            json!({
                "bounding": names, "effective": names, "permitted": names,
            }),
        )
        .set("/linux/seccomp", json!(filter))
        .edit(|spec| {
            let resources = &mut spec["linux"]["resources"];
            resources["memory"] = json!({"limit": 256 << 20});
            resources["cpu"] = json!({"quota": 100_000, "period": 100_000});
            resources["pids"] = json!({"limit": 256});
        })
}

/// The floor program, with the bundle's filter compiled for it.
struct Floor {
    program: PathBuf,
    rootfs: PathBuf,
    filter: PathBuf,
    fifo: PathBuf,
}

impl Floor {
    fn new(scratch: &Scratch, bundle: &Bundle, roots: &Path) -> anyhow::Result<Self> {
        let filter = serde_json::from_value(bundle.spec()["linux"]["seccomp"].clone())?;
        let program = keg_runtime::security::seccomp::Program::prepare(&filter, None)?;
        let filter = scratch.file("filter.bpf", program.to_bytes());
        let (program, rootfs) = (programs::ours("keg-floor"), bundle.rootfs());
        Ok(Self { program, rootfs, filter, fifo: roots.join("floor") })
    }

    fn name() -> String {
        format!("keg-bench-{}-floor", std::process::id())
    }

    fn command(&self, command: &str) -> Command {
        let mut line = Command::new(&self.program);
        line.arg(command);
        line
    }

    fn run(&self) -> anyhow::Result<Sample> {
        let mut line = self.command("run");
        runner::measure(line.arg(&self.rootfs).arg(Self::name()).arg(&self.filter), None)
    }

    /// As the runtimes do it, with three starts of the program.
    fn create_start_delete(&self) -> anyhow::Result<Sample> {
        let mut create = self.command("create");
        let pid_file = self.fifo.with_extension("pid");
        create.arg(&self.rootfs).arg(Self::name()).arg(&self.filter).arg(&self.fifo).arg(&pid_file);
        let created = runner::measure(&create, None)?;
        let init = Pid::from_raw(fs::read_to_string(&pid_file)?.trim().parse()?);
        let started = runner::measure(self.command("start").arg(&self.fifo), None)?;
        waitpid(init, None)?;
        let mut delete = self.command("delete");
        let deleted = runner::measure(delete.arg(Self::name()).arg(&self.fifo), None)?;
        Ok(created.then(started).then(deleted))
    }
}

/// A mount namespace in which the hierarchy of cgroup v2 beside v1's is not to be seen. It lives as
/// long as this value.
struct WithoutV2 {
    keeper: Option<Child>,
}

const UNIFIED: &str = "/sys/fs/cgroup/unified";

impl WithoutV2 {
    fn new() -> anyhow::Result<Self> {
        if !Path::new(UNIFIED).join("cgroup.procs").exists() {
            return Ok(Self { keeper: None });
        }
        let script = format!("umount {UNIFIED} && echo ready && read -r end");
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let mut line = String::new();
        let stdout = keeper.stdout.take().context("unshare has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("cannot hide {UNIFIED} from crun");
        }
        Ok(Self { keeper: Some(keeper) })
    }

    fn namespace(&self) -> anyhow::Result<Option<File>> {
        let Some(keeper) = &self.keeper else { return Ok(None) };
        Ok(Some(File::open(format!("/proc/{}/ns/mnt", keeper.id()))?))
    }
}

impl Drop for WithoutV2 {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            // Its standard input closes, `read` returns, and it ends.
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}
