//! One container in memory: its record, who waits for it, and whose turn it is.
//!
//! ```text
//!   start, remove, exit ──▶ turn() ── one at a time ──▶ apply(event) ──▶ watch ──▶ wait, logs, stop
//!   attach ──▶ Live { task, waiting } ◀── start hands the task to those who wait
//! ```
//!
//! Invariant: the lifecycle changes only while the turn is held, so that two clients that start,
//! stop and remove the same container never meet half-way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::error::EngineError;
use crate::health::{Health, HealthStatus};
use crate::id::ContainerId;
use crate::lifecycle::{Event, Exit, Lifecycle, Refused};
use crate::model::Record;
use crate::networking::LiveEndpoint;
use crate::shim::TaskClient;
use crate::shim::io::{IoError, Streams, StreamsWanted};

/// What those who wait are told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// How many times its process has ended since the daemon began to watch.
    pub exits: u64,
    /// How it ended last.
    pub last_exit: Option<Exit>,
    /// Whether its process runs, frozen or not.
    pub alive: bool,
    /// Whether it is gone.
    pub removed: bool,
}

/// What exists only while a container has a task.
#[derive(Debug, Default)]
struct Live {
    task: Option<TaskClient>,
    /// Clients that attached before the start; dropped unanswered if it fails.
    waiting: Vec<Waiting>,
    /// Whether somebody asked its process to end.
    stop_asked: bool,
    /// Whether a restart policy is about to start it anew.
    restart_planned: bool,
    /// How long the last pause before a restart was.
    last_pause: Option<Duration>,
    /// Whether its shim has told of a lack of memory.
    saw_oom: bool,
    /// Its interfaces on networks.
    endpoints: Vec<LiveEndpoint>,
}

/// A client that attached before there was a process.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// What it wants to be connected to.
    pub(crate) wanted: StreamsWanted,
    /// Where its connection goes.
    pub(crate) reply: oneshot::Sender<Result<Streams, IoError>>,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    id: ContainerId,
    record: RwLock<Arc<Record>>,
    turn: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
    progress: watch::Sender<Progress>,
}

/// The right to change a container's lifecycle, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    container: &'a Container,
    _guard: tokio::sync::MutexGuard<'a, ()>,
}

impl Container {
    /// Takes a record into memory.
    pub(crate) fn new(record: Record) -> Arc<Self> {
        let progress = Progress {
            last_exit: record.lifecycle.exit().cloned(),
            alive: record.lifecycle.is_alive(),
            ..Progress::default()
        };
        Arc::new(Self {
            id: record.id.clone(),
            record: RwLock::new(Arc::new(record)),
            turn: tokio::sync::Mutex::new(()),
            live: Mutex::default(),
            progress: watch::Sender::new(progress),
        })
    }

    /// Its id.
    pub(crate) fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its record as it is now.
    pub(crate) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its record, with what only memory knows, for those who look.
    pub(crate) fn view(&self) -> Arc<Record> {
        let record = self.record();
        if !record.lifecycle.is_alive() && self.live().restart_planned {
            return Arc::new(Record { is_restarting: true, ..Record::clone(&record) });
        }
        record
    }

    /// Its name, for texts.
    pub(crate) fn label(&self) -> String {
        self.record().name.as_str().to_owned()
    }

    /// Waits for the right to change its lifecycle.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn { container: self, _guard: self.turn.lock().await }
    }

    /// What happens to it, as it happens.
    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The connection to its shim, while it has one.
    pub(crate) fn task(&self) -> Option<TaskClient> {
        self.live().task.clone()
    }

    /// The connection to its shim, if its process runs.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], [`EngineError::BeingRemoved`].
    pub(crate) fn running_task(&self) -> Result<TaskClient, EngineError> {
        let record = self.record();
        let not_running = || EngineError::NotRunning {
            container: record.name.as_str().to_owned(),
            state: record.lifecycle.name(),
        };
        match &record.lifecycle {
            Lifecycle::Running { .. } | Lifecycle::Paused { .. } => {
                self.task().ok_or_else(not_running)
            }
            Lifecycle::Removing => {
                Err(EngineError::BeingRemoved { container: record.name.as_str().to_owned() })
            }
            _ => Err(not_running()),
        }
    }

    /// Returns the task, or a promise of a connection to the next one.
    pub(crate) fn task_or_wait(
        &self,
        wanted: &StreamsWanted,
    ) -> Result<TaskClient, oneshot::Receiver<Result<Streams, IoError>>> {
        let mut live = self.live();
        if let Some(task) = &live.task {
            return Ok(task.clone());
        }
        // Who gave up waiting makes room for who comes.
        live.waiting.retain(|waiting| !waiting.reply.is_closed());
        let (reply, promise) = oneshot::channel();
        live.waiting.push(Waiting { wanted: wanted.clone(), reply });
        Err(promise)
    }

    /// Makes the task known, and returns those who waited for it.
    pub(crate) fn set_task(&self, task: TaskClient) -> Vec<Waiting> {
        let mut live = self.live();
        live.task = Some(task);
        live.stop_asked = false;
        live.saw_oom = false;
        std::mem::take(&mut live.waiting)
    }

    /// Forgets the task; who waited for one is told that there is none.
    pub(crate) fn clear_task(&self) {
        let mut live = self.live();
        live.task = None;
        live.waiting.clear();
        live.endpoints.clear();
    }

    /// Remembers that somebody asked the process to end, and that no policy shall start it anew.
    pub(crate) fn ask_stop(&self) {
        let mut live = self.live();
        live.stop_asked = true;
        live.restart_planned = false;
    }

    /// Whether somebody asked the process to end.
    pub(crate) fn stop_asked(&self) -> bool {
        self.live().stop_asked
    }

    /// Plans a restart after the pause that `next` makes of the last one; `None` if one is planned.
    pub(crate) fn plan_restart(
        &self,
        next: impl FnOnce(Option<Duration>) -> Duration,
    ) -> Option<Duration> {
        let mut live = self.live();
        if live.restart_planned {
            return None;
        }
        live.restart_planned = true;
        let pause = next(live.last_pause);
        live.last_pause = Some(pause);
        Some(pause)
    }

    /// Takes the plan back to carry it out; false if somebody else has called it off.
    pub(crate) fn take_planned_restart(&self) -> bool {
        std::mem::take(&mut self.live().restart_planned)
    }

    /// Remembers that the kernel killed a process of it for lack of memory.
    pub(crate) fn note_oom(&self) {
        self.live().saw_oom = true;
    }

    /// Whether its shim has told of a lack of memory since it started.
    pub(crate) fn saw_oom(&self) -> bool {
        self.live().saw_oom
    }

    /// Its interfaces on networks, while it runs.
    pub(crate) fn endpoints(&self) -> Vec<LiveEndpoint> {
        self.live().endpoints.clone()
    }

    /// Remembers its interfaces on networks.
    pub(crate) fn set_endpoints(&self, endpoints: Vec<LiveEndpoint>) {
        self.live().endpoints = endpoints;
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // A panic while it is held leaves it whole: every change is one assignment.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The record as it would be after `event`; nothing is changed.
    ///
    /// # Errors
    /// [`Refused`] if the event cannot happen now.
    pub(crate) fn after(&self, event: Event) -> Result<Record, Refused> {
        let record = self.container.record();
        let stop_asked = match &event {
            Event::Exited(_) => self.container.stop_asked(),
            Event::Started { .. } => false,
            _ => record.stop_asked,
        };
        let health = match &event {
            Event::Started { .. } => {
                record.config.health_check.as_ref().map(|_| Health::starting())
            }
            // What does not run does not work, as in Docker.
            Event::Exited(_) => record
                .health
                .clone()
                .map(|health| Health { status: HealthStatus::Unhealthy, ..health }),
            _ => record.health.clone(),
        };
        let lifecycle = record.lifecycle.clone().apply(event)?;
        Ok(Record { lifecycle, stop_asked, health, ..Record::clone(&record) })
    }

    /// Makes `record` the container's, once it is stored, and tells who waits.
    pub(crate) fn commit(&self, record: Record) {
        let before = self.container.record().lifecycle.is_alive();
        let after = record.lifecycle.clone();
        *self.container.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
        self.container.progress.send_modify(|progress| {
            progress.alive = after.is_alive();
            if let Some(exit) = after.exit() {
                progress.last_exit = Some(exit.clone());
            }
            if before && matches!(after, Lifecycle::Exited { .. }) {
                progress.exits += 1;
            }
        });
    }

    /// Tells who waits that the container is gone.
    pub(crate) fn gone(&self) {
        self.container.progress.send_modify(|progress| {
            progress.alive = false;
            progress.removed = true;
        });
    }
}
