//! The root of a container as its processes see it, mounts and all.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::container::{Container, Turn};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::Lifecycle;
use crate::model::Record;
use crate::runtimes::Runtime;
use crate::shim::TaskClient;
use crate::shim::task::Stdio;
use crate::spec::Joins;
use crate::start::prepare;

use super::FilesError;

/// The program of a container that is made for looking at: a runtime wants one that can be executed, and
/// the container's own may be missing, as in an image that holds files to be copied out and nothing else.
const NEVER_RUN: &str = "/proc/self/exe";

/// A container's root. One that was made for looking at is taken away by [`View::close`].
pub(super) struct View<'a> {
    engine: Engine,
    record: Arc<Record>,
    root: OwnedFd,
    /// The task that was made for it, and the turn that nobody else has meanwhile.
    made: Option<(TaskClient, Turn<'a>)>,
}

impl<'a> View<'a> {
    /// Opens the root of a container.
    pub(super) async fn open(
        engine: &Engine,
        container: &'a Arc<Container>,
    ) -> Result<View<'a>, EngineError> {
        loop {
            if let Some(view) = Self::of_running(engine, container).await? {
                return Ok(view);
            }
            let turn = container.turn().await;
            let record = container.record();
            match &record.lifecycle {
                Lifecycle::Created { .. } | Lifecycle::Exited { .. } => {
                    return Self::of_stopped(engine, record, turn).await;
                }
                // It was started while the turn was waited for.
                Lifecycle::Running { .. } | Lifecycle::Paused { .. } => {}
                Lifecycle::Removing => {
                    return Err(EngineError::BeingRemoved { container: container.label() });
                }
                Lifecycle::Dead { error } => {
                    let (container, problem) = (container.label(), error.clone());
                    return Err(EngineError::Dead { container, problem });
                }
            }
        }
    }

    /// The root; it stays valid after the view was closed, but then nothing is mounted there.
    pub(super) fn root(&self) -> Result<OwnedFd, EngineError> {
        self.root.try_clone().map_err(|source| EngineError::File {
            action: "open",
            path: "the container's root".into(),
            source,
        })
    }

    /// The container's record.
    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Takes away what was made for looking.
    pub(super) async fn close(self) {
        drop(self.root);
        if let Some((task, _turn)) = self.made {
            self.engine.tear_down(&self.record, Some(task)).await;
        }
    }

    /// Opens the root of a container that runs; `None` if it does not, or does no more.
    async fn of_running(
        engine: &Engine,
        container: &Container,
    ) -> Result<Option<View<'a>>, EngineError> {
        let record = container.record();
        let (Some(pid), Some(task)) = (record.lifecycle.pid(), container.task()) else {
            return Ok(None);
        };
        let Ok(root) = root_of(pid) else { return Ok(None) };
        // That the shim still has this process proves that the id was not another's by then.
        match task.state().await {
            Ok(state) if state.pid == pid && container.record().lifecycle.pid() == Some(pid) => {
                Ok(Some(View { engine: engine.clone(), record, root, made: None }))
            }
            _ => Ok(None),
        }
    }

    /// Makes a task of a container that does not run, whose program waits and never runs.
    async fn of_stopped(
        engine: &Engine,
        record: Arc<Record>,
        turn: Turn<'a>,
    ) -> Result<View<'a>, EngineError> {
        let bundle = engine.shared.bundle(&record.id);
        if bundle.path().exists() {
            engine.tear_down(&record, None).await;
        }
        let mut to_prepare = Record::clone(&record);
        to_prepare.process.args = vec![NEVER_RUN.to_owned()];
        // Whoever runs it: for this any will do.
        let runtime = Runtime::Program(engine.shared.settings.own_runtime());
        let preparing = engine.blocking("a bundle", move |shared| {
            let mut prepared = prepare(shared, &to_prepare, None, &Joins::default())?;
            // Nothing is written, and nobody shall take this for the end of a run.
            prepared.stdio = Stdio {
                terminal: false,
                stdin: String::new(),
                stdout: String::new(),
                stderr: String::new(),
            };
            Ok(prepared)
        });
        let (task, outcome) = engine.make_task(&record, &bundle, runtime, preparing).await;
        let opened = match outcome {
            Ok(pid) => root_of(pid).map_err(|source| EngineError::Files {
                container: record.name.as_str().to_owned(),
                source,
            }),
            Err(error) => Err(error),
        };
        match (opened, task) {
            (Ok(root), Some(task)) => {
                Ok(View { engine: engine.clone(), record, root, made: Some((task, turn)) })
            }
            (Ok(_), None) => unreachable!("a task that was not connected to has no process"),
            (Err(error), task) => {
                engine.tear_down(&record, task).await;
                Err(error)
            }
        }
    }
}

fn root_of(pid: u32) -> Result<OwnedFd, FilesError> {
    let path = format!("/proc/{pid}/root");
    // The one magic link that is followed: it is the kernel's, and names no file of the container.
    rustix::fs::open(
        path.as_str(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(FilesError::at("open", path.as_ref()))
}
