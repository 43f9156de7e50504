//! One container and its supervisor, whichever that is.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};
use keg_fixtures::daemon::path_with_our_programs;
use keg_fixtures::wait::{PATIENCE, poll};
use keg_fixtures::{Bundle, Runtime, Scratch, programs};
use keg_proto::containerd::runc::v1::Options;
use keg_proto::containerd::runtime::bootstrap::v1::BootstrapResult;
use keg_proto::containerd::task::v2 as task;
use keg_ttrpc::Client;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use prost::Message;

use super::{number_of, succeed};
use crate::runner::Sample;

/// Service of shims that answer with an address, and of those that answer with more: the messages
/// are the same.
const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";

/// Takes the events of all shims, as a daemon would, and forgets them.
#[derive(Debug)]
pub(super) struct Events {
    scratch: Scratch,
}

impl Events {
    /// Listens, for as long as this process lives.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let scratch = Scratch::new();
        let listener = std::os::unix::net::UnixListener::bind(scratch.join("events.sock"))?;
        listener.set_nonblocking(true)?;
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            executor.block_on(async {
                let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
                while let Ok((connection, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let _ = keg_ttrpc::serve(connection, &Forget).await;
                    });
                }
            });
        });
        Ok(Self { scratch })
    }

    fn socket(&self) -> PathBuf {
        self.scratch.join("events.sock")
    }
}

struct Forget;

impl keg_ttrpc::Service for Forget {
    async fn call(&self, _: keg_ttrpc::Request) -> Result<Vec<u8>, keg_ttrpc::Status> {
        Ok(Vec::new())
    }
}

/// A supervisor's program.
#[derive(Debug)]
pub(super) struct Peer {
    events: PathBuf,
    name: String,
    program: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Keg,
    /// A shim for containerd that calls this runc, and the logs that it has.
    Shim(PathBuf, &'static [Output]),
    Conmon(PathBuf),
}

/// Where the container's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    None,
    Fifo,
    /// A file, as it comes.
    File,
    /// A log of our own writer's.
    Log(&'static str),
    /// conmon's.
    K8sFile,
}

impl Output {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Fifo => "fifo",
            Self::File => "file",
            Self::Log(format) => format,
            Self::K8sFile => "k8s-file",
        }
    }
}

impl Peer {
    pub(super) fn keg(events: &Events) -> Self {
        let program = programs::ours("containerd-shim-keg-v2");
        Self::of("containerd-shim-keg-v2", program, Kind::Keg, events)
    }

    /// `logs`: what its logs can be.
    pub(super) fn shim(
        name: &str,
        program: PathBuf,
        runc: PathBuf,
        logs: &'static [Output],
        events: &Events,
    ) -> Self {
        Self::of(name, program, Kind::Shim(runc, logs), events)
    }

    pub(super) fn conmon(program: PathBuf, runc: PathBuf, events: &Events) -> Self {
        Self::of("conmon", program, Kind::Conmon(runc), events)
    }

    fn of(name: &str, program: PathBuf, kind: Kind, events: &Events) -> Self {
        Self { name: name.to_owned(), program, kind, events: events.socket() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn version(&self) -> String {
        let flag = if matches!(self.kind, Kind::Conmon(_)) { "--version" } else { "-v" };
        let output = Command::new(&self.program).arg(flag).output().map(|out| out.stdout);
        let text = String::from_utf8_lossy(&output.unwrap_or_default()).into_owned();
        let line = text.lines().find(|line| line.to_lowercase().contains("version"));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
    }

    /// What its logs can be.
    pub(super) fn outputs(&self) -> &'static [Output] {
        match self.kind {
            Kind::Keg => &[Output::Log("raw"), Output::Log("cri"), Output::Log("json-file")],
            Kind::Shim(_, logs) => logs,
            Kind::Conmon(_) => &[Output::K8sFile],
        }
    }

    pub(super) fn has_attached_clients(&self) -> bool {
        matches!(self.kind, Kind::Keg)
    }

    pub(super) fn has_fifos(&self) -> bool {
        !matches!(self.kind, Kind::Conmon(_))
    }

    /// Makes a container whose program waits.
    pub(super) fn create(&self, bundle: Bundle, output: Output) -> anyhow::Result<Supervised> {
        let id = Runtime::new_id();
        let bundle = bundle.set("/linux/cgroupsPath", format!("/{id}"));
        let scratch = Scratch::new();
        match &self.kind {
            Kind::Conmon(runc) => self.conmon_create(runc, id, bundle, scratch),
            Kind::Keg => self.shim_create(None, id, bundle, scratch, output),
            Kind::Shim(runc, _) => self.shim_create(Some(runc), id, bundle, scratch, output),
        }
    }

    /// Makes a container that runs.
    pub(super) fn start(&self, bundle: Bundle, output: Output) -> anyhow::Result<Supervised> {
        let container = self.create(bundle, output)?;
        container.run()?;
        Ok(container)
    }

    fn shim_create(
        &self,
        runc: Option<&PathBuf>,
        id: String,
        bundle: Bundle,
        scratch: Scratch,
        output: Output,
    ) -> anyhow::Result<Supervised> {
        // Where a shim logs, and wants a reader: this descriptor.
        let log_fifo = bundle.path().join("log");
        nix::unistd::mkfifo(&log_fifo, nix::sys::stat::Mode::S_IRWXU)?;
        let log_reader =
            File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(log_fifo)?;
        let mut start = start_command(&self.program, &id, &bundle, &scratch);
        let started = start.env("TTRPC_ADDRESS", &self.events).output()?;
        if !started.status.success() || started.stdout.is_empty() {
            bail!("{:?}: {}", self.program, String::from_utf8_lossy(&started.stderr));
        }
        let (address, service) = match String::from_utf8(started.stdout.clone()) {
            Ok(address) if address.starts_with("unix://") => (address, TASK_V2),
            _ => (BootstrapResult::decode(started.stdout.as_slice())?.address, TASK_V3),
        };
        let socket = address.trim().trim_start_matches("unix://").to_owned();
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = executor.block_on(Client::connect(&socket))?;
        let mut request = task::CreateTaskRequest {
            id: id.clone(),
            bundle: bundle.path().display().to_string(),
            ..task::CreateTaskRequest::default()
        };
        let log = scratch.join("log").display().to_string();
        let mut fifos = Vec::new();
        match output {
            Output::None | Output::K8sFile => {}
            Output::File => {
                // containerd's shim cannot do without either of them.
                request.stdout = format!("file://{log}");
                request.stderr.clone_from(&request.stdout);
            }
            Output::Log(format) => {
                request.stdout = format!("keg://{log}?format={format}");
                request.stderr.clone_from(&request.stdout);
            }
            Output::Fifo => {
                let streams = [
                    ("in", &mut request.stdin),
                    ("out", &mut request.stdout),
                    ("err", &mut request.stderr),
                ];
                for (name, field) in streams {
                    let fifo = scratch.join(name);
                    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
                    *field = fifo.display().to_string();
                    // containerd's shim waits for the other end.
                    fifos.push(File::options().read(true).write(true).open(fifo)?);
                }
            }
        }
        request.options = runc.map(|runc| prost_types::Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: Options {
                binary_name: runc.display().to_string(),
                root: scratch.join("runc").display().to_string(),
                ..Options::default()
            }
            .encode_to_vec(),
        });
        let call = client.call(service, "Create", &request, Some(PATIENCE));
        let created: Result<task::CreateTaskResponse, _> = executor.block_on(call);
        created.with_context(|| words(log_reader.try_clone()))?;
        let pid = OnceCell::new();
        let held =
            Held::Shim { client, service, socket, executor, fifos, pid, _log_reader: log_reader };
        Ok(Supervised { held, id, scratch, _bundle: bundle })
    }

    fn conmon_create(
        &self,
        runc: &Path,
        id: String,
        bundle: Bundle,
        scratch: Scratch,
    ) -> anyhow::Result<Supervised> {
        let mut command = Command::new(&self.program);
        command.args(["--cid", &id, "--cuuid", &id, "--name", &id, "--full-attach"]);
        command.arg("--runtime").arg(runc).arg("--bundle").arg(bundle.path());
        command.arg("--runtime-arg").arg("--root");
        command.arg("--runtime-arg").arg(scratch.directory("runc"));
        command.arg("--container-pidfile").arg(scratch.join("pid"));
        command.arg("--conmon-pidfile").arg(scratch.join("conmon"));
        command.arg("--exit-dir").arg(scratch.directory("exit"));
        command.arg("--log-path").arg(format!("k8s-file:{}", scratch.join("log").display()));
        succeed(&mut command)?;
        let number = |name: &str| {
            let read = || fs::read_to_string(scratch.join(name)).ok()?.trim().parse().ok();
            poll(PATIENCE, read).with_context(|| format!("conmon wrote no {name}"))
        };
        // The container is there when its pid file is.
        let _: u32 = number("pid")?;
        let supervisor = number("conmon")?;
        let held = Held::Conmon { runc: runc.to_owned(), supervisor };
        Ok(Supervised { held, id, scratch, _bundle: bundle })
    }
}

/// What a shim has logged, if it did at all.
fn words(log: std::io::Result<File>) -> String {
    let mut said = vec![0; 64 << 10];
    let count = log.and_then(|mut log| log.read(&mut said)).unwrap_or(0);
    format!("the shim's log: {}", String::from_utf8_lossy(&said[..count]).trim())
}

fn start_command(program: &Path, id: &str, bundle: &Bundle, scratch: &Scratch) -> Command {
    let mut command = Command::new(program);
    command.args(["-namespace", "bench", "-id", id, "-address"]).arg(scratch.join("d.sock"));
    command.args(["-publish-binary", "/bin/true", "start"]).current_dir(bundle.path());
    command
        .env("GRPC_ADDRESS", scratch.join("d.sock"))
        .env("NAMESPACE", "bench")
        .env("MAX_SHIM_VERSION", "2")
        .env("PATH", path_with_our_programs())
        .stdin(std::process::Stdio::null());
    command
}

/// A container with its supervisor; both end with the value.
#[derive(Debug)]
pub(super) struct Supervised {
    held: Held,
    id: String,
    scratch: Scratch,
    _bundle: Bundle,
}

#[derive(Debug)]
enum Held {
    Shim {
        client: Client,
        service: &'static str,
        socket: String,
        executor: tokio::runtime::Runtime,
        fifos: Vec<File>,
        pid: OnceCell<u32>,
        _log_reader: File,
    },
    Conmon {
        runc: PathBuf,
        supervisor: u32,
    },
}

impl Supervised {
    /// Runs the container's program.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        match &self.held {
            Held::Conmon { runc, .. } => succeed(self.runc(runc).args(["start", &self.id])),
            Held::Shim { .. } => {
                let id = self.id.clone();
                let request = task::StartRequest { id, exec_id: String::new() };
                let _: task::StartResponse = self.call("Start", &request)?;
                Ok(())
            }
        }
    }

    /// Waits for its end, after which its log is complete.
    pub(super) fn wait(&self) -> anyhow::Result<()> {
        match &self.held {
            Held::Conmon { .. } => {
                let exit = self.scratch.join("exit").join(&self.id);
                poll(PATIENCE, || exit.exists().then_some(())).context("conmon wrote no exit")
            }
            Held::Shim { .. } => {
                let id = self.id.clone();
                let request = task::WaitRequest { id, exec_id: String::new() };
                let _: task::WaitResponse = self.call("Wait", &request)?;
                Ok(())
            }
        }
    }

    /// Where its log is.
    pub(super) fn log_file(&self) -> PathBuf {
        self.scratch.join("log")
    }

    /// Where attached clients meet it.
    pub(super) fn attach_socket(&self) -> anyhow::Result<String> {
        match &self.held {
            Held::Shim { socket, .. } => Ok(format!("{socket}.io")),
            Held::Conmon { .. } => bail!("conmon's clients are not ours"),
        }
    }

    /// The other ends of standard input and output.
    pub(super) fn fifos(&self) -> anyhow::Result<(&File, &File)> {
        match &self.held {
            Held::Shim { fifos, .. } if fifos.len() == 3 => Ok((&fifos[0], &fifos[1])),
            _ => bail!("its streams are no FIFOs"),
        }
    }

    /// Its process id, which a shim is asked for once.
    fn supervisor(&self) -> anyhow::Result<u32> {
        match &self.held {
            Held::Conmon { supervisor, .. } => Ok(*supervisor),
            Held::Shim { pid, .. } => {
                if let Some(pid) = pid.get() {
                    return Ok(*pid);
                }
                let request = task::ConnectRequest { id: self.id.clone() };
                let answer: task::ConnectResponse = self.call("Connect", &request)?;
                Ok(*pid.get_or_init(|| answer.shim_pid))
            }
        }
    }

    pub(super) fn pss_kib(&self) -> anyhow::Result<u64> {
        number_of(self.supervisor()?, "smaps_rollup", "Pss:")
    }

    pub(super) fn threads(&self) -> anyhow::Result<u64> {
        number_of(self.supervisor()?, "status", "Threads:")
    }

    /// How often its threads were put on a processor.
    pub(super) fn switches(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.supervisor()?))? {
            let task = task?.file_name().to_string_lossy().parse()?;
            sum += number_of(task, "status", "voluntary_ctxt_switches:")?;
        }
        Ok(sum)
    }

    fn runc(&self, runc: &Path) -> Command {
        let mut command = Command::new(runc);
        command.arg("--root").arg(self.scratch.join("runc"));
        command
    }

    fn call<Req, Resp>(&self, method: &str, request: &Req) -> anyhow::Result<Resp>
    where
        Req: Message,
        Resp: Message + Default,
    {
        let Held::Shim { client, service, executor, .. } = &self.held else {
            bail!("conmon has no calls")
        };
        Ok(executor.block_on(client.call(service, method, request, Some(PATIENCE)))?)
    }

    fn end(&self) -> anyhow::Result<()> {
        let id = || self.id.clone();
        let supervisor = Pid::from_raw(i32::try_from(self.supervisor()?)?);
        match &self.held {
            Held::Conmon { runc, .. } => {
                succeed(self.runc(runc).args(["delete", "--force", &self.id]))?;
            }
            Held::Shim { .. } => {
                let request =
                    task::KillRequest { id: id(), signal: 9, all: true, ..Default::default() };
                // It may have ended by itself.
                let _: anyhow::Result<()> = self.call("Kill", &request);
                self.wait()?;
                let request = task::DeleteRequest { id: id(), exec_id: String::new() };
                let _: task::DeleteResponse = self.call("Delete", &request)?;
                let request = task::ShutdownRequest { id: id(), now: true };
                // Who shuts down need not answer.
                let _: anyhow::Result<()> = self.call("Shutdown", &request);
            }
        }
        // Adopted by this process.
        let _ = kill(supervisor, Signal::SIGKILL);
        let _ = waitpid(supervisor, None);
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("bench: {} is not ended: {error:#}", self.id);
        }
    }
}

/// What keg-runtime itself needs for a start.
pub(super) fn runtime_alone(bundle: Bundle) -> anyhow::Result<Sample> {
    let scratch = Scratch::new();
    let id = Runtime::new_id();
    let bundle = bundle.set("/linux/cgroupsPath", format!("/{id}"));
    let runtime = |args: &[&str]| {
        let mut command = Command::new(programs::ours("keg-runtime"));
        command.arg("--root").arg(scratch.join("root")).args(args);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    };
    let run = |mut command: Command| {
        let status = command.stdin(std::process::Stdio::null()).status()?;
        if status.success() { Ok(()) } else { bail!("{command:?}: {status}") }
    };
    let pid_file = scratch.join("pid").display().to_string();
    let path = bundle.path().display().to_string();
    let begin = Instant::now();
    run(runtime(&["create", "--bundle", &path, "--pid-file", &pid_file, &id]))?;
    run(runtime(&["start", &id]))?;
    let wall = begin.elapsed();
    let init = Pid::from_raw(fs::read_to_string(&pid_file)?.trim().parse()?);
    run(runtime(&["kill", &id, "KILL"]))?;
    waitpid(init, None)?;
    run(runtime(&["delete", &id]))?;
    Ok(Sample { wall, ..Sample::default() })
}
