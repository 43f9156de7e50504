//! Runs a step of a build: a container that nobody lists, on files that are not an image yet.
//!
//! ```text
//!  plan ─▶ bundle, files of /etc ─▶ shim start ─▶ Task.Create ─▶ streams ─▶ Task.Start ─▶ wait
//!                                                                                          │
//!  whoever waits goes away ─▶ kill ─────────────────────────────────▶ delete, shutdown ◀───┘
//! ```
//!
//! The walls are those of every container: namespaces, an id range, capabilities, system calls. A
//! step has no record: what a daemon leaves that is killed in the middle, the next one finds as a
//! bundle without a container, and takes away.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use keg_network::NetworkMode;
use keg_store::Mount as RootMount;
use tokio::sync::{mpsc, oneshot};

use crate::container::Container;
use crate::create::{check_limits, random};
use crate::devices::{self, Device};
use crate::engine::{Engine, Shared, file_error};
use crate::error::EngineError;
use crate::etc_files;
use crate::id::{ContainerId, ContainerName};
use crate::idmap::unmappable;
use crate::lifecycle::Lifecycle;
use crate::model::{
    Attachment, ContainerConfig, ExtraHost, HostConfig, IdRange, ImageUse, Mount, MountSource,
    ProcessPlan, Record, Relabel, Resources, TerminalSize, Ulimit,
};
use crate::shim::io::{FromProcess, StreamsWanted, connect as io_connect};
use crate::shim::launch::runtime_options;
use crate::shim::task::{CreateTask, Stdio};
use crate::shim::{Bundle, TaskClient};
use crate::signal::Signal;
use crate::spec;
use crate::start::{root_of_task, runtime_error};
use crate::users::Identity;

/// What a step runs, and behind which walls.
#[derive(Debug, Clone)]
pub struct StepPlan {
    /// What is mounted as its root.
    pub root: Vec<RootMount>,
    /// Host ids that stand for its ids.
    pub id_range: IdRange,
    /// Who it is.
    pub identity: Identity,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, each name once.
    pub env: Vec<String>,
    /// Absolute; made by the caller.
    pub working_dir: PathBuf,
    /// Further mounts.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Network.
    pub network: NetworkMode,
    /// Takes down the walls that the engine itself puts up; the user namespace stays.
    pub privileged: bool,
    /// Host name.
    pub hostname: String,
    /// Further entries of `/etc/hosts`; `None`: the host's address, as the step sees it.
    pub extra_hosts: Vec<(String, Option<IpAddr>)>,
    /// Bytes of `/dev/shm`; `None`: the default.
    pub shm_size_bytes: Option<u64>,
    /// Limits of setrlimit(2).
    pub ulimits: Vec<Ulimit>,
    /// Limits of its control group.
    pub resources: Resources,
    /// Where that is made; empty: where those of containers are.
    pub cgroup_parent: String,
    /// Gives it a terminal of this size, and standard input.
    pub terminal: Option<TerminalSize>,
    /// Dropped when nothing of the step is left, whoever waited for it.
    pub keeps: Option<Arc<dyn Any + Send + Sync>>,
}

/// What a step writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOutput {
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
}

/// What goes to a step that has a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepInput {
    /// Bytes of standard input.
    Stdin(Bytes),
    /// The terminal's new size.
    Resize(TerminalSize),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepExit {
    /// The process's own code, or 128 + n if signal n killed it.
    pub code: u32,
    /// Places in its root at which something was mounted; the runtime makes those that are missing.
    pub mount_targets: Vec<PathBuf>,
}

impl Engine {
    /// Runs a step to its end. `output` gets what it writes and sets its pace. If the caller stops
    /// waiting, the step is killed and cleaned up all the same.
    ///
    /// # Errors
    /// [`EngineError::Runtime`] if its program cannot be executed, and what else can go wrong when
    /// a container starts. Nothing is left of it then.
    pub async fn run_step(
        &self,
        plan: StepPlan,
        output: mpsc::Sender<StepOutput>,
        input: Option<mpsc::Receiver<StepInput>>,
    ) -> Result<StepExit, EngineError> {
        let engine = self.clone();
        // Dropped with the caller.
        let (_alive, gone) = oneshot::channel::<()>();
        Self::detached("a build step", async move {
            let id = ContainerId::from_random(random()?);
            let mut record = record(&plan, id)?;
            check_limits(&engine.shared, &record.host)?;
            // Its categories are its own until it has ended.
            let chosen = engine.choose_labels(&record.host)?;
            record.selinux = chosen.as_ref().map(|chosen| chosen.labels.clone());
            let outcome = engine.run_recorded(&plan, &record, output, input, gone).await;
            let dir = engine.shared.dir(&record.id);
            let path = dir.path().to_owned();
            if let Err(error) = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path))
                .await
                .unwrap_or_else(|join| Err(std::io::Error::other(join)))
            {
                tracing::warn!(step = %record.id, %error, "cannot remove the files of a build step");
            }
            outcome
        })
        .await
    }

    async fn run_recorded(
        &self,
        plan: &StepPlan,
        record: &Record,
        output: mpsc::Sender<StepOutput>,
        input: Option<mpsc::Receiver<StepInput>>,
        gone: oneshot::Receiver<()>,
    ) -> Result<StepExit, EngineError> {
        let (to_prepare, plan) = (record.clone(), plan.clone());
        let prepared = self
            .blocking("a build step", move |shared| {
                prepare(shared, &to_prepare, &plan).inspect_err(|_| {
                    let _ = shared.bundle(&to_prepare.id).remove();
                })
            })
            .await?;
        let bundle = self.shared.bundle(&record.id);
        let mut task = None;
        let outcome =
            self.start_and_wait(record, &bundle, prepared, (output, input, gone), &mut task).await;
        self.tear_down(record, task).await;
        outcome
    }

    async fn start_and_wait(
        &self,
        record: &Record,
        bundle: &Bundle,
        prepared: Prepared,
        (output, input, gone): (
            mpsc::Sender<StepOutput>,
            Option<mpsc::Receiver<StepInput>>,
            oneshot::Receiver<()>,
        ),
        slot: &mut Option<TaskClient>,
    ) -> Result<StepExit, EngineError> {
        let label = || record.name.as_str().to_owned();
        let id = record.id.as_str();
        let owner = record.id_range.map_or(0, |range| range.start);
        let options = runtime_options(&prepared.runtime, owner);
        let address = self
            .shared
            .shim
            .start(id, bundle, options.as_ref())
            .await
            .map_err(|source| EngineError::Launch { container: label(), source })?;
        let task = TaskClient::connect(id, &address)
            .await
            .map_err(|source| EngineError::Task { container: label(), source })?;
        *slot = Some(task.clone());
        let create = CreateTask {
            bundle: bundle.path().to_owned(),
            rootfs: prepared.mounts,
            stdio: prepared.stdio,
            options,
        };
        let pid = task.create(create).await.map_err(|error| runtime_error(label(), error))?;
        self.join_networks(&Container::new(record.clone()), record, pid).await?;
        let wanted = StreamsWanted {
            stdin: input.is_some(),
            stdout: true,
            stderr: !record.config.tty,
            ..StreamsWanted::default()
        };
        let streams = io_connect(&task.io_socket(""), &wanted)
            .await
            .map_err(|source| EngineError::Streams { container: label(), source })?;
        task.start("").await.map_err(|error| runtime_error(label(), error))?;

        let (mut from, mut to) = (streams.output, streams.input);
        let reading = async {
            loop {
                let piece = match from.next_output().await {
                    Ok(FromProcess::Stdout(bytes)) => StepOutput::Stdout(bytes),
                    Ok(FromProcess::Stderr(bytes)) => StepOutput::Stderr(bytes),
                    Ok(FromProcess::End { .. }) | Err(_) => break,
                };
                // Who does not listen any more does not stop the step; whoever waits does.
                let _ = output.send(piece).await;
            }
        };
        let writing = async {
            let Some(mut input) = input else { return std::future::pending().await };
            while let Some(piece) = input.recv().await {
                match piece {
                    StepInput::Stdin(bytes) => {
                        let _ = to.stdin(&bytes).await;
                    }
                    StepInput::Resize(size) => {
                        let _ = task.resize("", size).await;
                    }
                }
            }
            let _ = to.stdin_end().await;
            std::future::pending::<()>().await
        };
        let ending = async {
            if gone.await.is_err() {
                let _ = task.kill("", Signal::KILL, true).await;
            }
            std::future::pending::<()>().await
        };
        let waiting = async { tokio::join!(task.wait(""), reading).0 };
        let exit = tokio::select! {
            exit = waiting => exit,
            () = writing => unreachable!("it waits for ever"),
            () = ending => unreachable!("it waits for ever"),
        };
        let exit = exit.map_err(|source| EngineError::Task { container: label(), source })?;
        Ok(StepExit { code: exit.status, mount_targets: prepared.targets })
    }
}

/// What the shim is given.
struct Prepared {
    mounts: Vec<keg_proto::containerd::types::Mount>,
    stdio: Stdio,
    runtime: String,
    targets: Vec<PathBuf>,
}

/// A record for what is made of records: the specification, the bundle, the clean-up. It is never
/// stored.
fn record(plan: &StepPlan, id: ContainerId) -> Result<Record, EngineError> {
    let name =
        ContainerName::parse(&format!("build-{}", id.short())).map_err(EngineError::InvalidId)?;
    let config = ContainerConfig {
        hostname: plan.hostname.clone(),
        tty: plan.terminal.is_some(),
        open_stdin: plan.terminal.is_some(),
        terminal_size: plan.terminal,
        ..ContainerConfig::default()
    };
    let networks = match &plan.network {
        NetworkMode::Network(name) => vec![Attachment::to(name)],
        _ => Vec::new(),
    };
    let extra_hosts = plan
        .extra_hosts
        .iter()
        .map(|(name, address)| ExtraHost { name: name.clone(), address: *address });
    let host = HostConfig {
        networks,
        extra_hosts: extra_hosts.collect(),
        network_mode: Some(plan.network.clone()),
        privileged: plan.privileged,
        shm_size_bytes: plan.shm_size_bytes,
        ulimits: plan.ulimits.clone(),
        resources: plan.resources.clone(),
        devices: plan.devices.clone(),
        cgroup_parent: plan.cgroup_parent.clone(),
        ..HostConfig::default()
    };
    Ok(Record {
        id,
        name,
        created_at: Timestamp::now(),
        image: ImageUse { reference: String::new(), id: String::new(), platform: String::new() },
        config,
        host,
        mounts: plan.mounts.clone(),
        process: ProcessPlan {
            args: plan.args.clone(),
            entrypoint_count: 0,
            env: plan.env.clone(),
            working_dir: plan.working_dir.clone(),
            user: String::new(),
            stop_signal: Signal::KILL,
        },
        id_range: Some(plan.id_range),
        snapshot_key: String::new(),
        selinux: None,
        restart_count: 0,
        stop_asked: false,
        health: None,
        is_restarting: false,
        lifecycle: Lifecycle::Created { failure: None },
    })
}

/// Writes the bundle and all that it refers to.
fn prepare(shared: &Shared, record: &Record, plan: &StepPlan) -> Result<Prepared, EngineError> {
    let dir = shared.dir(&record.id);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir.path())
        .map_err(file_error("make", dir.path()))?;
    etc_files::write(record, &dir, plan.id_range.start)?;
    shared.selinux.label_files(record, &etc_files::paths(&dir), false)?;
    let bound = plan.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { path, .. } => Some((mount.target.clone(), path.clone())),
        MountSource::Volume { .. } | MountSource::Tmpfs { .. } => None,
    });
    let sources: BTreeMap<_, _> = bound.collect();
    // They are the builder's own, and other steps may have them too.
    for path in sources.values() {
        shared.selinux.relabel_volume(record, path, Relabel::None)?;
    }
    let devices = devices::edits(record).map_err(|source| EngineError::Device {
        container: record.name.as_str().to_owned(),
        source: Box::new(source),
    })?;
    let input = spec::Input {
        record,
        identity: &plan.identity,
        dir: &dir,
        sources: &sources,
        unmappable: &unmappable(&sources),
        last_capability: shared.host.last_capability,
        joins: &spec::Joins::default(),
        init: None,
        labels: &shared.labels(record)?,
        network_of: None,
        devices: &devices,
        kernel: &shared.host.kernel,
    };
    let spec = spec::build(&input).map_err(EngineError::Spec)?;
    let json = serde_json::to_vec(&spec).map_err(|source| EngineError::DamagedRecord {
        container: record.id.as_str().to_owned(),
        source,
    })?;
    let bundle = shared.bundle(&record.id);
    bundle.make().and_then(|()| bundle.configure(&json)).map_err(|source| EngineError::Launch {
        container: record.name.as_str().to_owned(),
        source,
    })?;
    let tty = record.config.tty;
    let mut root = plan.root.clone();
    shared.selinux.label_root(record, &mut root)?;
    Ok(Prepared {
        mounts: root_of_task(root, &spec),
        stdio: Stdio {
            terminal: tty,
            stdin: if tty { "keg:".to_owned() } else { String::new() },
            stdout: "keg:".to_owned(),
            stderr: if tty { String::new() } else { "keg:".to_owned() },
        },
        runtime: shared.settings.own_runtime().to_string_lossy().into_owned(),
        targets: spec.mounts().iter().flatten().map(|mount| mount.destination().clone()).collect(),
    })
}
