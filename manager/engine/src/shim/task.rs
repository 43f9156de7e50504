//! The Task API of one shim: `containerd.task.v2.Task`, or `v3` where another's shim wants that, whose
//! messages are the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keg_proto::containerd::task::v2 as api;
use keg_proto::containerd::types::Mount;
use keg_proto::containerd::v1::types::Status as WireStatus;
use keg_ttrpc::{CallError, Client, Code, ConnectError};
use prost_types::Any;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use super::foreign::{Bootstrap, Foreign, reason_of_words};
use super::launch::LaunchError;
use crate::model::TerminalSize;
use crate::signal::Signal;

const SERVICE: &str = "containerd.task.v2.Task";
const SERVICE_V3: &str = "containerd.task.v3.Task";

/// The header of ttrpc that names containerd's namespace, which other shims want.
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

/// How long a shim may take for what needs no program of the container to move.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a runtime may take to make or to start a container.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(120);

/// Domain of the reasons that a shim passes on from a runtime.
const RUNTIME_DOMAIN: &str = "keg.runtime";

/// Why a shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// Nobody serves the shim's socket.
    #[error("the shim of the container is not there")]
    Connect(#[source] ConnectError),
    /// The streams of a further process could not be made.
    #[error("make the streams of the process")]
    Relay(#[source] LaunchError),
    /// The call failed.
    #[error("the shim did not {action}")]
    Call {
        /// What it was asked for.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<CallError>,
    },
}

impl TaskError {
    /// The runtime's own reason, such as `COMMAND_NOT_FOUND`, if it gave one, or if its words tell.
    pub fn runtime_reason(&self) -> Option<String> {
        let status = self.status()?;
        match status.error_info() {
            Some(info) => (info.domain == RUNTIME_DOMAIN).then_some(info.reason),
            None => reason_of_words(&status.message).map(str::to_owned),
        }
    }

    /// Whether the shim says that there is no such task or process (any more).
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == Code::NotFound)
    }

    /// Whether the shim answered at all.
    pub fn was_answered(&self) -> bool {
        self.status().is_some()
    }

    /// What the shim answered.
    pub fn status(&self) -> Option<&keg_ttrpc::Status> {
        match self {
            Self::Call { source, .. } => source.status(),
            Self::Connect(_) | Self::Relay(_) => None,
        }
    }
}

/// Where a task is in its life, as its shim sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    /// Made; its program is not executed yet.
    Created,
    /// Its program runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Stopped,
    /// Something that this version does not know.
    Unknown,
}

/// What a shim tells of its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskState {
    /// Process id on the host.
    pub pid: u32,
    /// Where it is in its life.
    pub status: TaskStatus,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskExit {
    /// The process's own code, or 128 + n if signal n killed it.
    pub status: u32,
    /// When; `None` if the shim does not know.
    pub exited_at: Option<Timestamp>,
}

/// What a task is made from.
#[derive(Debug, Clone)]
pub struct CreateTask {
    /// Bundle directory.
    pub bundle: PathBuf,
    /// Root file system.
    pub rootfs: Vec<Mount>,
    /// Streams of the process.
    pub stdio: Stdio,
    /// Options of the runtime.
    pub options: Option<Any>,
}

/// Where a process's standard streams go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Gives it a terminal.
    pub terminal: bool,
    /// URI, or empty for `/dev/null`.
    pub stdin: String,
    /// URI.
    pub stdout: String,
    /// URI, or empty for nothing.
    pub stderr: String,
}

/// A process to run in a container besides its first.
#[derive(Debug, Clone)]
pub struct ExecTask {
    /// Id, unique in the container.
    pub exec_id: String,
    /// `process` object of the OCI runtime specification, as JSON.
    pub process_json: Vec<u8>,
    /// Its streams.
    pub stdio: Stdio,
    /// Whether nobody will ever attach to them.
    pub detached: bool,
}

/// A connection to the shim of one container. Clones share it.
#[derive(Debug, Clone)]
pub struct TaskClient {
    id: String,
    client: Client,
    service: &'static str,
    streams: StreamsOf,
}

/// Who has the streams of the shim's processes.
#[derive(Debug, Clone)]
enum StreamsOf {
    /// Our shim itself, behind this socket.
    Shim(PathBuf),
    /// A relay for each process, since the shim is another's.
    Relays(Arc<Foreign>),
}

impl TaskClient {
    /// Connects to the shim of container `id` at `address` (`unix:///…` or a path).
    ///
    /// # Errors
    /// [`TaskError::Connect`] if nobody serves it.
    pub async fn connect(id: &str, address: &str) -> Result<Self, TaskError> {
        let path = Path::new(address.strip_prefix("unix://").unwrap_or(address));
        let client = Client::connect(path).await.map_err(TaskError::Connect)?;
        let mut io_socket = path.as_os_str().to_owned();
        io_socket.push(".io");
        let streams = StreamsOf::Shim(io_socket.into());
        Ok(Self { id: id.to_owned(), client, service: SERVICE, streams })
    }

    /// Connects to another's shim, which serves container `id` as `bootstrap` says.
    ///
    /// # Errors
    /// [`TaskError::Connect`] if nobody serves it.
    pub async fn connect_foreign(
        id: &str,
        bootstrap: &Bootstrap,
        foreign: Foreign,
    ) -> Result<Self, TaskError> {
        let address = &bootstrap.address;
        let path = Path::new(address.strip_prefix("unix://").unwrap_or(address));
        let client = Client::connect(path).await.map_err(TaskError::Connect)?;
        let client = client.with_header(NAMESPACE_HEADER, foreign.namespace());
        let service = if bootstrap.version >= 3 { SERVICE_V3 } else { SERVICE };
        let streams = StreamsOf::Relays(Arc::new(foreign));
        Ok(Self { id: id.to_owned(), client, service, streams })
    }

    /// The shim, if it is another's.
    pub fn foreign(&self) -> Option<&Foreign> {
        match &self.streams {
            StreamsOf::Shim(_) => None,
            StreamsOf::Relays(foreign) => Some(foreign),
        }
    }

    /// The socket that carries the standard streams of a process.
    pub fn io_socket(&self, exec_id: &str) -> PathBuf {
        match &self.streams {
            StreamsOf::Shim(socket) => socket.clone(),
            StreamsOf::Relays(foreign) => foreign.attach_socket(exec_id),
        }
    }

    /// Whether the connection has ended, as when the shim died.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The process of the shim; `None` if it does not tell.
    pub async fn shim_pid(&self) -> Option<Pid> {
        let request = api::ConnectRequest { id: self.id.clone() };
        let told: api::ConnectResponse =
            self.call("Connect", "tell its process", &request, Some(CALL_TIMEOUT)).await.ok()?;
        Pid::from_raw(i32::try_from(told.shim_pid).ok().filter(|pid| *pid > 1)?)
    }

    /// Kills the shim, which has told that it is process `pid`.
    ///
    /// # Errors
    /// The kernel's, if that process cannot be killed.
    pub fn kill_shim(&self, pid: Pid) -> Result<(), Errno> {
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        // While it is connected, no other process can have got its number.
        match self.is_closed() {
            true => Ok(()),
            false => pidfd_send_signal(&process, rustix::process::Signal::KILL),
        }
    }

    /// Makes the container; its program is not executed yet. Returns its process id.
    ///
    /// # Errors
    /// [`TaskError::Call`], with the runtime's reason if it gave one.
    pub async fn create(&self, task: CreateTask) -> Result<u32, TaskError> {
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: task.bundle.to_string_lossy().into_owned(),
            rootfs: task.rootfs,
            terminal: task.stdio.terminal,
            stdin: task.stdio.stdin,
            stdout: task.stdio.stdout,
            stderr: task.stdio.stderr,
            options: task.options,
            ..api::CreateTaskRequest::default()
        };
        let response: api::CreateTaskResponse =
            self.call("Create", "make the container", &request, Some(RUNTIME_TIMEOUT)).await?;
        Ok(response.pid)
    }

    /// Executes the program of the container, or of an exec process. Returns its process id.
    ///
    /// # Errors
    /// [`TaskError::Call`], with the runtime's reason if it gave one.
    pub async fn start(&self, exec_id: &str) -> Result<u32, TaskError> {
        let request = api::StartRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        let response: api::StartResponse =
            self.call("Start", "start the process", &request, Some(RUNTIME_TIMEOUT)).await?;
        Ok(response.pid)
    }

    /// Adds a process to a running container; [`Self::start`] runs it.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn exec(&self, exec: ExecTask) -> Result<(), TaskError> {
        let stdio = match &self.streams {
            StreamsOf::Shim(_) => exec.stdio,
            // To no stream at all, `/dev/null` is connected.
            StreamsOf::Relays(_) if exec.detached && !exec.stdio.terminal => Stdio::default(),
            StreamsOf::Relays(foreign) => foreign
                .relay(&exec.exec_id, &exec.stdio, Vec::new())
                .await
                .map_err(TaskError::Relay)?,
        };
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.exec_id,
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: exec.process_json,
            }),
        };
        let _: () = self.call("Exec", "add the process", &request, Some(CALL_TIMEOUT)).await?;
        Ok(())
    }

    /// Waits until the process has ended, however long that takes.
    ///
    /// # Errors
    /// [`TaskError::Call`], also when the shim dies meanwhile.
    pub async fn wait(&self, exec_id: &str) -> Result<TaskExit, TaskError> {
        let request = api::WaitRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        let response: api::WaitResponse =
            self.call("Wait", "wait for the process", &request, None).await?;
        Ok(TaskExit {
            status: response.exit_status,
            exited_at: response.exited_at.and_then(timestamp),
        })
    }

    /// Asks where the container is in its life.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn state(&self) -> Result<TaskState, TaskError> {
        let request = api::StateRequest { id: self.id.clone(), exec_id: String::new() };
        let response: api::StateResponse =
            self.call("State", "tell the state", &request, Some(CALL_TIMEOUT)).await?;
        let status = match response.status() {
            WireStatus::Created => TaskStatus::Created,
            WireStatus::Running => TaskStatus::Running,
            WireStatus::Paused | WireStatus::Pausing => TaskStatus::Paused,
            WireStatus::Stopped => TaskStatus::Stopped,
            WireStatus::Unknown => TaskStatus::Unknown,
        };
        Ok(TaskState { pid: response.pid, status })
    }

    /// Sends a signal to a process, or with `all` to every process of the container.
    ///
    /// # Errors
    /// [`TaskError::Call`]; not found means that it has ended.
    pub async fn kill(&self, exec_id: &str, signal: Signal, all: bool) -> Result<(), TaskError> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            signal: signal.number().into(),
            all,
        };
        self.call("Kill", "send the signal", &request, Some(CALL_TIMEOUT)).await
    }

    /// Sets the size of a process's terminal.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn resize(&self, exec_id: &str, size: TerminalSize) -> Result<(), TaskError> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            width: size.width.into(),
            height: size.height.into(),
        };
        self.call("ResizePty", "resize the terminal", &request, Some(CALL_TIMEOUT)).await
    }

    /// Freezes the container's processes.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn pause(&self) -> Result<(), TaskError> {
        let request = api::PauseRequest { id: self.id.clone() };
        self.call("Pause", "pause the container", &request, Some(CALL_TIMEOUT)).await
    }

    /// Lets the container's processes go on.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn resume(&self) -> Result<(), TaskError> {
        let request = api::ResumeRequest { id: self.id.clone() };
        self.call("Resume", "resume the container", &request, Some(CALL_TIMEOUT)).await
    }

    /// Lists the container's processes, by their ids on the host.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn pids(&self) -> Result<Vec<u32>, TaskError> {
        let request = api::PidsRequest { id: self.id.clone() };
        let response: api::PidsResponse =
            self.call("Pids", "list the processes", &request, Some(CALL_TIMEOUT)).await?;
        Ok(response.processes.into_iter().map(|process| process.pid).collect())
    }

    /// Changes limits; `resources_json` is `linux.resources` of the runtime specification.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn update(&self, resources_json: Vec<u8>) -> Result<(), TaskError> {
        let request = api::UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
                    .to_owned(),
                value: resources_json,
            }),
            ..api::UpdateTaskRequest::default()
        };
        self.call("Update", "change the limits", &request, Some(CALL_TIMEOUT)).await
    }

    /// Returns what the container's cgroup counts, in the form that its type URL names.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn stats(&self) -> Result<Option<Any>, TaskError> {
        let request = api::StatsRequest { id: self.id.clone() };
        let response: api::StatsResponse =
            self.call("Stats", "count", &request, Some(CALL_TIMEOUT)).await?;
        Ok(response.stats)
    }

    /// Removes what is left of an ended process, or of the container.
    ///
    /// # Errors
    /// [`TaskError::Call`].
    pub async fn delete(&self, exec_id: &str) -> Result<TaskExit, TaskError> {
        let request = api::DeleteRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        let response: api::DeleteResponse =
            self.call("Delete", "remove the process", &request, Some(RUNTIME_TIMEOUT)).await?;
        Ok(TaskExit {
            status: response.exit_status,
            exited_at: response.exited_at.and_then(timestamp),
        })
    }

    /// Ends the shim, if it has no container.
    ///
    /// # Errors
    /// [`TaskError::Call`], unless it ended before it could answer.
    pub async fn shutdown(&self) -> Result<(), TaskError> {
        self.end(false).await
    }

    /// Ends the shim, whatever it is in the middle of.
    ///
    /// # Errors
    /// [`TaskError::Call`], unless it ended before it could answer.
    pub async fn shutdown_now(&self) -> Result<(), TaskError> {
        self.end(true).await
    }

    async fn end(&self, now: bool) -> Result<(), TaskError> {
        let request = api::ShutdownRequest { id: self.id.clone(), now };
        let outcome: Result<(), _> =
            self.call("Shutdown", "end", &request, Some(CALL_TIMEOUT)).await;
        match outcome {
            Err(TaskError::Call { source, .. }) if matches!(*source, CallError::Closed { .. }) => {
                Ok(())
            }
            other => other,
        }
    }

    async fn call<Req, Resp>(
        &self,
        method: &str,
        action: &'static str,
        request: &Req,
        timeout: Option<Duration>,
    ) -> Result<Resp, TaskError>
    where
        Req: prost::Message,
        Resp: prost::Message + Default,
    {
        self.client
            .call(self.service, method, request, timeout)
            .await
            .map_err(|source| TaskError::Call { action, source: Box::new(source) })
    }
}

/// Converts from the wire; `None` for a moment that cannot be.
fn timestamp(wire: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(wire.seconds, wire.nanos).ok()
}
