//! The Task service: messages in, one call of the supervisor, messages out.
//!
//! Versions 2 and 3 have the same messages under different names, so one implementation serves
//! both.

use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;

use keg_proto::containerd::runc::v1::{CheckpointOptions, ProcessDetails};
use keg_proto::containerd::task::v2 as pb;
use keg_proto::containerd::v1::types::{ProcessInfo, Status as TaskStatus};
use keg_ttrpc::{Code, Request, Service, Status};
use prost::Message;
use tokio::sync::oneshot;

use crate::bootstrap::decode_options;
use crate::clock::timestamp;
use crate::later::later;
use crate::process::{Phase, Process};
use crate::runtime_cli::{Reason, RuntimeError};
use crate::self_log::chain;
use crate::stats;
use crate::stdio::Request as StdioRequest;
use crate::supervisor::{CreateRequest, Supervisor, Task, TaskError};
use crate::sys;

/// Domain of the reasons that this service's errors carry.
const REASON_DOMAIN: &str = "keg.runtime";

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct TaskService {
    supervisor: Rc<Supervisor>,
}

impl Service for TaskService {
    async fn call(&self, request: Request) -> Result<Vec<u8>, Status> {
        if !matches!(
            request.service.as_str(),
            "containerd.task.v2.Task" | "containerd.task.v3.Task"
        ) {
            return Err(request.unimplemented());
        }
        if request.method == "Wait" {
            // Nothing is half done when its caller leaves.
            return self.wait(request.decode()?).await.map(|answer| answer.encode_to_vec());
        }
        let service = self.clone();
        to_its_end(async move { service.dispatch(request).await }).await
    }
}

/// Runs `work` in a task of its own, so that it ends whether or not its caller waits.
async fn to_its_end(
    work: impl Future<Output = Result<Vec<u8>, Status>> + 'static,
) -> Result<Vec<u8>, Status> {
    let (sender, receiver) = oneshot::channel();
    tokio::task::spawn_local(async move {
        // A caller that left needs no answer.
        let _ = sender.send(work.await);
        // What a method needed for a moment is not kept for the container's life.
        later(sys::trim_memory);
    });
    receiver.await.unwrap_or_else(|_| Err(Status::new(Code::Internal, "the method panicked")))
}

impl TaskService {
    pub(crate) fn new(supervisor: Rc<Supervisor>) -> Self {
        Self { supervisor }
    }

    async fn dispatch(&self, request: Request) -> Result<Vec<u8>, Status> {
        match request.method.as_str() {
            "Create" => encoded(self.create(request.decode()?).await?),
            "Start" => encoded(self.start(request.decode()?).await?),
            "State" => encoded(self.state(&request.decode()?)?),
            "Delete" => encoded(self.delete(request.decode()?).await?),
            "Pids" => encoded(self.pids(request.decode()?).await?),
            "Kill" => self.kill(request.decode()?).await,
            "Exec" => self.exec(request.decode()?),
            "ResizePty" => self.resize(&request.decode()?),
            "CloseIO" => self.close_io(&request.decode()?),
            "Pause" => self.pause(request.decode()?).await,
            "Resume" => self.resume(request.decode()?).await,
            "Update" => self.update(request.decode()?).await,
            "Checkpoint" => self.checkpoint(request.decode()?).await,
            "Stats" => encoded(self.stats(&request.decode()?)?),
            "Connect" => encoded(self.connect(request.decode()?).await?),
            "Shutdown" => {
                let input: pb::ShutdownRequest = request.decode()?;
                self.supervisor.shut_down(input.now);
                Ok(Vec::new())
            }
            _ => Err(request.unimplemented()),
        }
    }

    async fn create(&self, input: pb::CreateTaskRequest) -> Result<pb::CreateTaskResponse, Status> {
        let options = input.options.as_ref().and_then(decode_options).unwrap_or_default();
        let checkpoints = [&input.checkpoint, &options.criu_image_path];
        let checkpoint = checkpoints.into_iter().find(|path| !path.is_empty()).map(PathBuf::from);
        let request = CreateRequest {
            id: input.id,
            bundle: input.bundle.into(),
            rootfs: input.rootfs,
            stdio: StdioRequest {
                stdin: input.stdin,
                stdout: input.stdout,
                stderr: input.stderr,
                terminal: input.terminal,
            },
            checkpoint,
            options,
        };
        let pid = self.supervisor.create(request).await.map_err(status)?;
        Ok(pb::CreateTaskResponse { pid: pid.number() })
    }

    async fn start(&self, input: pb::StartRequest) -> Result<pb::StartResponse, Status> {
        let pid = self.supervisor.start(&input.id, &input.exec_id).await.map_err(status)?;
        Ok(pb::StartResponse { pid: pid.number() })
    }

    fn state(&self, input: &pb::StateRequest) -> Result<pb::StateResponse, Status> {
        let found = self.supervisor.process(&input.id, &input.exec_id).map_err(status)?;
        Ok(describe(&found.0, &found.1))
    }

    async fn delete(&self, input: pb::DeleteRequest) -> Result<pb::DeleteResponse, Status> {
        let deleted = self.supervisor.delete(&input.id, &input.exec_id).await;
        let (pid, exit) = deleted.map_err(status)?;
        Ok(pb::DeleteResponse {
            pid: pid.number(),
            exit_status: exit.map_or(0, |exit| exit.status()),
            exited_at: exit.map(|exit| timestamp(exit.at)),
        })
    }

    async fn wait(&self, input: pb::WaitRequest) -> Result<pb::WaitResponse, Status> {
        let (_, process) = self.supervisor.process(&input.id, &input.exec_id).map_err(status)?;
        let exit = process.exited().await;
        Ok(pb::WaitResponse {
            exit_status: exit.map_or(0, |exit| exit.status()),
            exited_at: exit.map(|exit| timestamp(exit.at)),
        })
    }

    async fn pids(&self, input: pb::PidsRequest) -> Result<pb::PidsResponse, Status> {
        let pids = self.supervisor.pids(&input.id).await.map_err(status)?;
        let describe = |(pid, exec_id): (u32, Option<String>)| ProcessInfo {
            pid,
            info: exec_id.map(|exec_id| prost_types::Any {
                type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
                value: ProcessDetails { exec_id }.encode_to_vec(),
            }),
        };
        Ok(pb::PidsResponse { processes: pids.into_iter().map(describe).collect() })
    }

    async fn kill(&self, input: pb::KillRequest) -> Result<Vec<u8>, Status> {
        let killed = self.supervisor.kill(&input.id, &input.exec_id, input.signal, input.all).await;
        empty(killed)
    }

    fn exec(&self, input: pb::ExecProcessRequest) -> Result<Vec<u8>, Status> {
        let stdio = StdioRequest {
            stdin: input.stdin,
            stdout: input.stdout,
            stderr: input.stderr,
            terminal: input.terminal,
        };
        let spec = input.spec.map(|any| any.value).unwrap_or_default();
        empty(self.supervisor.exec(&input.id, &input.exec_id, spec, stdio))
    }

    fn resize(&self, input: &pb::ResizePtyRequest) -> Result<Vec<u8>, Status> {
        let (_, process) = self.supervisor.process(&input.id, &input.exec_id).map_err(status)?;
        empty(process.streams.resize(input.width, input.height).map_err(TaskError::Stdio))
    }

    fn close_io(&self, input: &pb::CloseIoRequest) -> Result<Vec<u8>, Status> {
        let (_, process) = self.supervisor.process(&input.id, &input.exec_id).map_err(status)?;
        if input.stdin {
            process.streams.close_stdin();
        }
        Ok(Vec::new())
    }

    async fn pause(&self, input: pb::PauseRequest) -> Result<Vec<u8>, Status> {
        empty(self.supervisor.pause(&input.id).await)
    }

    async fn resume(&self, input: pb::ResumeRequest) -> Result<Vec<u8>, Status> {
        empty(self.supervisor.resume(&input.id).await)
    }

    async fn update(&self, input: pb::UpdateTaskRequest) -> Result<Vec<u8>, Status> {
        let resources = input.resources.map(|any| any.value).unwrap_or_default();
        empty(self.supervisor.update(&input.id, &resources).await)
    }

    async fn checkpoint(&self, input: pb::CheckpointTaskRequest) -> Result<Vec<u8>, Status> {
        let options = match &input.options {
            None => CheckpointOptions::default(),
            Some(any) => CheckpointOptions::decode(any.value.as_slice()).map_err(|error| {
                Status::new(Code::InvalidArgument, format!("not valid CheckpointOptions: {error}"))
            })?,
        };
        empty(self.supervisor.checkpoint(&input.id, &input.path, &options).await)
    }

    fn stats(&self, input: &pb::StatsRequest) -> Result<pb::StatsResponse, Status> {
        let cgroups = self.supervisor.cgroups(&input.id).map_err(status)?;
        Ok(pb::StatsResponse { stats: Some(stats::measure(&cgroups)) })
    }

    async fn connect(&self, input: pb::ConnectRequest) -> Result<pb::ConnectResponse, Status> {
        // What is being made for a daemon that was killed may yet fail.
        self.supervisor.settled().await;
        if self.supervisor.is_idle() {
            // A daemon that was killed before `Create` asks this when it comes back, and would keep a
            // shim that answers: nobody could make or remove the container any more (containerd 1.6).
            return Err(status(TaskError::NoTask { id: input.id }));
        }
        let task = self.supervisor.task(&input.id).ok();
        let pid = task.and_then(|task| task.init.phase().pid());
        Ok(pb::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid.map_or(0, |pid| pid.number()),
            ..pb::ConnectResponse::default()
        })
    }
}

fn encoded(answer: impl Message) -> Result<Vec<u8>, Status> {
    Ok(answer.encode_to_vec())
}

fn empty(outcome: Result<(), TaskError>) -> Result<Vec<u8>, Status> {
    outcome.map(|()| Vec::new()).map_err(status)
}

fn describe(task: &Task, process: &Process) -> pb::StateResponse {
    let stdio = process.streams.request();
    let (code, exit) = match process.phase() {
        Phase::Added | Phase::Created { .. } => (TaskStatus::Created, None),
        Phase::Running { .. } => (TaskStatus::Running, None),
        Phase::Paused { .. } => (TaskStatus::Paused, None),
        Phase::Stopped { exit, .. } => (TaskStatus::Stopped, Some(exit)),
    };
    pb::StateResponse {
        id: task.name_of(process),
        bundle: task.bundle.dir().to_string_lossy().into_owned(),
        pid: process.phase().pid().map_or(0, |pid| pid.number()),
        status: code.into(),
        stdin: stdio.stdin.clone(),
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        terminal: stdio.terminal,
        exit_status: exit.map_or(0, |exit| exit.status()),
        exited_at: exit.map(|exit| timestamp(exit.at)),
        exec_id: process.exec_id.clone(),
    }
}

/// Maps every failure to what a caller sees: a code, the whole story, and a reason for machines.
#[expect(clippy::needless_pass_by_value, reason = "for use with map_err")]
fn status(error: TaskError) -> Status {
    let reason = match &error {
        TaskError::Runtime(error) => error.reason(),
        _ => None,
    };
    let code = match &error {
        TaskError::NoTask { .. } | TaskError::NoExec { .. } | TaskError::Finished => Code::NotFound,
        TaskError::TaskExists { .. } | TaskError::ExecExists { .. } => Code::AlreadyExists,
        TaskError::Phase(_) | TaskError::NotCreated => Code::FailedPrecondition,
        TaskError::NoSpec
        | TaskError::NoResources
        | TaskError::NoImagePath
        | TaskError::NoSignal(_) => Code::InvalidArgument,
        TaskError::Runtime(RuntimeError::Failed { .. })
            if reason == Some(Reason::CONTAINER_NOT_FOUND) =>
        {
            Code::NotFound
        }
        TaskError::Runtime(_)
        | TaskError::Signal { .. }
        | TaskError::Rootfs(_)
        | TaskError::Unmount(_)
        | TaskError::Stdio(_)
        | TaskError::Bundle(_)
        | TaskError::Cgroup(_) => Code::Unknown,
    };
    let status = Status::new(code, chain(&error));
    match reason {
        Some(reason) => status.with_reason(reason, REASON_DOMAIN),
        None => status,
    }
}
