//! What is done to a container that exists: signals, freezing, limits, checkpoints.

use std::fs;
use std::path::Path;

use keg_proto::containerd::events as pb;
use keg_proto::containerd::runc::v1::CheckpointOptions;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Supervisor, TaskError};
use crate::bundle;
use crate::process::{Happening, Phase};
use crate::reaper::Pid;
use crate::runtime_cli::Reason;

impl Supervisor {
    /// Sends a signal to a process, or to all of the container.
    pub(crate) async fn kill(
        &self,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), TaskError> {
        let (task, process) = self.process(id, exec_id)?;
        let pid = match process.phase() {
            Phase::Added => return Err(TaskError::NotCreated),
            Phase::Stopped { .. } => return Err(TaskError::Finished),
            Phase::Created { pid } | Phase::Running { pid } | Phase::Paused { pid } => pid,
        };
        if !exec_id.is_empty() && !all {
            return signal_process(pid, signal);
        }
        match task.runtime.kill(id, signal, all).await {
            Err(error) if error.reason() == Some(Reason::CONTAINER_NOT_RUNNING) => {
                Err(TaskError::Finished)
            }
            other => other.map_err(TaskError::Runtime),
        }
    }

    /// Freezes the container.
    pub(crate) async fn pause(&self, id: &str) -> Result<(), TaskError> {
        let task = self.task(id)?;
        let _turn = task.init.turn.lock().await;
        task.init.phase().apply(Happening::Frozen).map_err(TaskError::Phase)?;
        task.runtime.pause(id).await.map_err(TaskError::Runtime)?;
        task.init.note(Happening::Frozen).map_err(TaskError::Phase)?;
        self.events.publish(&pb::TaskPaused { container_id: id.to_owned() });
        Ok(())
    }

    /// Thaws the container.
    pub(crate) async fn resume(&self, id: &str) -> Result<(), TaskError> {
        let task = self.task(id)?;
        let _turn = task.init.turn.lock().await;
        task.init.phase().apply(Happening::Thawed).map_err(TaskError::Phase)?;
        task.runtime.resume(id).await.map_err(TaskError::Runtime)?;
        task.init.note(Happening::Thawed).map_err(TaskError::Phase)?;
        self.events.publish(&pb::TaskResumed { container_id: id.to_owned() });
        Ok(())
    }

    /// Changes the limits; `resources` is the runtime-spec's object as JSON.
    pub(crate) async fn update(&self, id: &str, resources: &[u8]) -> Result<(), TaskError> {
        let task = self.task(id)?;
        if resources.is_empty() {
            return Err(TaskError::NoResources);
        }
        let _turn = task.init.turn.lock().await;
        if let phase @ (Phase::Added | Phase::Stopped { .. }) = task.init.phase() {
            return Err(TaskError::Phase(phase.refuse("update")));
        }
        let file = task.bundle.dir().join("resources.json");
        bundle::write(file.clone(), resources).map_err(TaskError::Bundle)?;
        let updated = task.runtime.update(id, &file).await.map_err(TaskError::Runtime);
        // It goes with the bundle at the latest.
        let _ = fs::remove_file(file);
        updated
    }

    /// Writes the container to disk.
    pub(crate) async fn checkpoint(
        &self,
        id: &str,
        path: &str,
        options: &CheckpointOptions,
    ) -> Result<(), TaskError> {
        let task = self.task(id)?;
        let image = if options.image_path.is_empty() { path } else { &options.image_path };
        if image.is_empty() {
            return Err(TaskError::NoImagePath);
        }
        // The exit that a checkpoint may bring is told of after the checkpoint.
        let _turn = task.init.turn.lock().await;
        if !matches!(task.init.phase(), Phase::Running { .. } | Phase::Paused { .. }) {
            return Err(TaskError::Phase(task.init.phase().refuse("checkpoint")));
        }
        task.runtime.checkpoint(id, Path::new(image), options).await.map_err(TaskError::Runtime)?;
        let checkpoint = image.to_owned();
        self.events.publish(&pb::TaskCheckpointed { container_id: id.to_owned(), checkpoint });
        Ok(())
    }
}

fn signal_process(pid: Pid, signal: u32) -> Result<(), TaskError> {
    let failed = |source| match source {
        rustix::io::Errno::SRCH => TaskError::Finished,
        source => TaskError::Signal { signal, pid: pid.0, source },
    };
    let number = i32::try_from(signal).ok().and_then(Signal::from_named_raw);
    let number = number.ok_or(TaskError::NoSignal(signal))?;
    let target = rustix::process::Pid::from_raw(pid.0).ok_or(TaskError::NotCreated)?;
    let process = pidfd_open(target, PidfdFlags::empty()).map_err(failed)?;
    pidfd_send_signal(process, number).map_err(failed)
}
