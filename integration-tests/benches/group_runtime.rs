//! The low-level runtimes on one bundle: `run`, create+start+delete, `exec`.
//!
//! The bundle has what a default container has: all namespaces with network, a cgroup with three
//! limits, the engine's capabilities and system call filter, the default mounts, `/bin/true`. The
//! *floor* (`floor/`) makes the system calls that it demands and nothing else.
//!
//! A peer is `KEG_PEER_CRUN`, `KEG_PEER_RUNC` or `KEG_PEER_YOUKI`, else the program of that name on
//! the path; one that is not there is left out. crun refuses a hybrid cgroup layout, so it alone runs in
//! a mount namespace where v2 is hidden; it enters that before it starts.

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
use crate::report::{BenchResult, Comparison};
use crate::runner::{self, Sample, Side};
use crate::sys;

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
    let runtimes = runtimes(&scratch, &hidden)?;
    let bundle = bundle(&["/bin/true"]);

    let floor = Floor::new(&scratch, &bundle)?;
    let mut run_sides: Vec<Side<'_>> =
        runtimes.iter().map(|runtime| runtime.side(|one| one.run(&bundle))).collect();
    run_sides.push(Side { name: "floor".into(), run: Box::new(|| floor.run()) });
    let run = runner::compare(&mut run_sides, rounds)?;

    let mut step_sides: Vec<Side<'_>> = runtimes
        .iter()
        .map(|runtime| runtime.side(|one| one.create_start_delete(&bundle)))
        .collect();
    let steps = runner::compare(&mut step_sides, rounds)?;

    let exec = measure_exec(&runtimes, rounds)?;
    Ok(BenchResult {
        group: "runtime".into(),
        date: today()?,
        machine: Machine::here(),
        versions: runtimes.iter().map(|one| (one.name.clone(), one.version())).collect(),
        setting: "`/bin/true` in all namespaces, a cgroup with limits, default seccomp filter"
            .into(),
        comparisons: vec![
            Comparison { task: "run".into(), figures: run },
            Comparison { task: "create + start + delete".into(), figures: steps },
            Comparison { task: "exec".into(), figures: exec },
        ],
    })
}

fn measure_exec(runtimes: &[Peer], rounds: usize) -> anyhow::Result<Vec<runner::Figures>> {
    let bundle = bundle(&["/bin/sleep", "3600"]);
    let started: Vec<(&Peer, Pid)> = runtimes
        .iter()
        .map(|runtime| Ok((runtime, runtime.create(&bundle)?.1)))
        .collect::<anyhow::Result<_>>()?;
    for (runtime, _) in &started {
        runner::measure(runtime.command("start").arg(runtime.id()))?;
    }
    let mut sides: Vec<Side<'_>> = runtimes
        .iter()
        .map(|runtime| {
            runtime.side(|one| runner::measure(one.command("exec").arg(one.id()).arg("/bin/true")))
        })
        .collect();
    let figures = runner::compare(&mut sides, rounds);
    for (runtime, init) in started {
        runner::measure(runtime.command("kill").arg(runtime.id()).arg("KILL"))?;
        waitpid(init, None)?;
        runner::measure(runtime.command("delete").arg(runtime.id()))?;
    }
    figures
}

/// A runtime with runc's command line, on a root of its own.
struct Peer {
    name: String,
    program: PathBuf,
    root: PathBuf,
    namespace: Option<File>,
}

impl Peer {
    fn side<'a>(&'a self, run: impl Fn(&'a Self) -> anyhow::Result<Sample> + 'a) -> Side<'a> {
        Side { name: self.name.clone(), run: Box::new(move || run(self)) }
    }

    fn id(&self) -> String {
        format!("keg-bench-{}-{}", std::process::id(), self.name)
    }

    fn command(&self, command: &str) -> Command {
        let mut line = Command::new(&self.program);
        line.arg("--root").arg(&self.root).arg(command);
        if let Some(namespace) = &self.namespace {
            sys::start_in_mount_namespace(&mut line, namespace);
        }
        line
    }

    fn run(&self, bundle: &Bundle) -> anyhow::Result<Sample> {
        runner::measure(self.command("run").arg("--bundle").arg(bundle.path()).arg(self.id()))
    }

    fn create(&self, bundle: &Bundle) -> anyhow::Result<(Sample, Pid)> {
        let pid_file = self.root.join("pid");
        let mut command = self.command("create");
        command.arg("--bundle").arg(bundle.path()).arg("--pid-file").arg(&pid_file).arg(self.id());
        let sample = runner::measure(&mut command)?;
        let pid = fs::read_to_string(&pid_file)?.trim().parse()?;
        Ok((sample, Pid::from_raw(pid)))
    }

    /// The three commands; the time in which the program itself runs is not counted.
    fn create_start_delete(&self, bundle: &Bundle) -> anyhow::Result<Sample> {
        let (created, init) = self.create(bundle)?;
        let started = runner::measure(self.command("start").arg(self.id()))?;
        waitpid(init, None)?;
        let deleted = runner::measure(self.command("delete").arg(self.id()))?;
        Ok(created.then(started).then(deleted))
    }

    fn version(&self) -> String {
        let text = Command::new(&self.program).arg("--version").output().map(|out| out.stdout);
        let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
        let first = text.lines().next().unwrap_or_default();
        first.rsplit(' ').next().unwrap_or_default().to_owned()
    }
}

fn runtimes(scratch: &Scratch, hidden: &WithoutV2) -> anyhow::Result<Vec<Peer>> {
    let mut found = Vec::new();
    for (name, variable) in [
        ("keg-runtime", None),
        ("crun", Some("KEG_PEER_CRUN")),
        ("runc", Some("KEG_PEER_RUNC")),
        ("youki", Some("KEG_PEER_YOUKI")),
    ] {
        let program = match variable {
            None => Some(programs::ours(name)),
            Some(variable) => {
                env::var_os(variable).map(PathBuf::from).or_else(|| programs::installed(name))
            }
        };
        let Some(program) = program else { continue };
        let namespace = if name == "crun" { hidden.namespace()? } else { None };
        let root = scratch.directory(&format!("root-{name}"));
        found.push(Peer { name: name.to_owned(), program, root, namespace });
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
}

impl Floor {
    fn new(scratch: &Scratch, bundle: &Bundle) -> anyhow::Result<Self> {
        let filter = serde_json::from_value(bundle.spec()["linux"]["seccomp"].clone())?;
        let program = keg_runtime::security::seccomp::Program::prepare(&filter, None)?;
        let filter = scratch.file("filter.bpf", program.to_bytes());
        Ok(Self { program: programs::ours("keg-floor"), rootfs: bundle.rootfs(), filter })
    }

    fn run(&self) -> anyhow::Result<Sample> {
        let name = format!("keg-bench-{}-floor", std::process::id());
        let mut command = Command::new(&self.program);
        runner::measure(command.arg(&self.rootfs).arg(name).arg(&self.filter))
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

fn today() -> anyhow::Result<String> {
    let out = Command::new("date").arg("+%F").output().context("cannot ask for the date")?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}
