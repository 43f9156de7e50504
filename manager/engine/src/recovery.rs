//! Brings the engine up to date when the daemon starts: what happened while it was away?
//!
//! ```text
//!  record        bundle, shim answers        what it means                        what is done
//!  any           yes, task runs or is paused  it ran on, or was just started      watch it
//!  running       yes, task is paused          the daemon died in a commit          let it go on
//!  any           yes, task is stopped         it ended while nobody was there     Exited, tear down
//!  running       yes, task is created         the daemon died in a start          start it
//!  not alive     yes, task is created         the same, before that was decided   tear down
//!  alive         no shim answers              shim killed, or machine restarted   Exited by its exit
//!                                                                                 record, or as killed
//!  not alive     no shim answers              the daemon died in a clean-up       tear down
//!  none          bundle or directory          the daemon died in a create/remove  remove them
//! ```
//!
//! Nothing is assumed of how the daemon ended: every step of every operation is one of these rows.

use std::collections::BTreeSet;
use std::future::ready;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keg_store::Container as StoredContainer;

use crate::container::Container;
use crate::engine::{EXTENSION, Engine, Shared, file_error};
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::{Event, Exit, Lifecycle};
use crate::model::Record;
use crate::shim::exit_record::ExitRecord;
use crate::shim::task::TaskStatus;
use crate::shim::{Bundle, TaskClient};
use crate::start::chain;

/// Exit code of a container that was running when the machine went down; Docker's own.
const UNKNOWN_EXIT: u32 = 255;

/// How often, and after which pause, a leftover that is still used is tried again.
const LEFTOVER_ATTEMPTS: usize = 20;
const LEFTOVER_PAUSE: Duration = Duration::from_millis(50);

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Containers there are.
    pub containers: usize,
    /// Those that run.
    pub running: usize,
    /// Directories of containers that do not exist.
    pub leftovers: usize,
}

impl Engine {
    /// Reads every record and finds out what became of each container. To be called once, before
    /// the first client is served.
    ///
    /// # Errors
    /// [`EngineError::Metadata`] if the records cannot be read. What cannot be found out of one
    /// container is logged, and does not keep the others from being served.
    pub async fn recover(&self) -> Result<Recovered, EngineError> {
        let stored = self
            .blocking("the containers' records", |shared| {
                let ns = &shared.settings.namespace;
                Ok(shared.store.read(|tx| tx.containers(ns))?)
            })
            .await?;
        let mut found = Recovered::default();
        let mut known = BTreeSet::new();
        let mut work = Vec::new();
        for stored in stored {
            known.insert(stored.id.clone());
            match decode(&stored) {
                Ok(record) => {
                    let container = Container::new(record);
                    self.insert(Arc::clone(&container));
                    found.containers += 1;
                    work.push(container);
                }
                Err(error) => tracing::error!(container = stored.id, error = %error.chain(),
                    "a container is left alone"),
            }
        }
        // Each has its own shim to wait for; together they take as long as the slowest.
        futures_util::future::join_all(
            work.iter().map(|container| self.recover_container(container)),
        )
        .await;
        self.recover_networks(&work).await;
        found.running =
            work.iter().filter(|container| container.record().lifecycle.is_alive()).count();
        found.leftovers = self.remove_leftovers(known).await?;
        self.blocking("volumes", |shared| shared.recover_volumes()).await?;
        self.start_what_should_run();
        Ok(found)
    }

    async fn recover_container(&self, container: &Arc<Container>) {
        let record = container.record();
        let bundle = self.shared.bundle(&record.id);
        let has_bundle = bundle.path().exists();
        if has_bundle && let Some(task) = self.shared.connect(record.id.as_str(), &bundle).await {
            self.ask(container, &record, task).await;
            return;
        }
        if record.lifecycle.is_alive() {
            if has_bundle {
                self.shim_is_gone(container).await;
            } else {
                self.state_is_gone(container).await;
            }
        } else if has_bundle {
            self.tear_down(&record, None).await;
            self.remove_if_wanted(container, &record).await;
        } else {
            self.remove_if_wanted(container, &record).await;
        }
    }

    /// A shim is there: it knows.
    async fn ask(&self, container: &Arc<Container>, record: &Arc<Record>, task: TaskClient) {
        match task.state().await {
            Ok(state) => match state.status {
                TaskStatus::Running | TaskStatus::Paused => {
                    self.adopt(container, task, state.pid, state.status).await;
                }
                TaskStatus::Stopped | TaskStatus::Unknown => {
                    self.ended_meanwhile(container, record, Some(task)).await;
                }
                TaskStatus::Created if record.lifecycle.is_alive() => {
                    self.finish_start(container, record, task).await;
                }
                TaskStatus::Created => self.tear_down(record, Some(task)).await,
            },
            Err(error) => {
                tracing::warn!(container = %record.id, error = %chain(&error),
                    "a shim does not tell the state of its container");
                // There is a shim and no task: the daemon died between the two.
                let task = error.is_not_found().then_some(task);
                self.ended_meanwhile(container, record, task).await;
            }
        }
    }

    /// The start was written down, and the word to the shim was not sent, or is under way still.
    async fn finish_start(
        &self,
        container: &Arc<Container>,
        record: &Arc<Record>,
        task: TaskClient,
    ) {
        let error = match task.start("").await {
            Ok(pid) => return self.adopt(container, task, pid, TaskStatus::Running).await,
            Err(error) => error,
        };
        match task.state().await {
            Ok(state) if matches!(state.status, TaskStatus::Running | TaskStatus::Paused) => {
                self.adopt(container, task, state.pid, state.status).await;
            }
            Ok(state) if state.status == TaskStatus::Stopped => {
                self.ended_meanwhile(container, record, Some(task)).await;
            }
            _ => {
                tracing::warn!(container = %record.id, error = %chain(&error),
                    "a start that the daemon's end has cut short cannot be finished");
                self.tear_down(record, Some(task)).await;
                self.never_ran(container).await;
            }
        }
    }

    /// It runs: it is known again, and waited for again.
    async fn adopt(
        &self,
        container: &Arc<Container>,
        task: TaskClient,
        pid: u32,
        status: TaskStatus,
    ) {
        let turn = container.turn().await;
        let at = Timestamp::now();
        let lifecycle = container.record().lifecycle.clone();
        let events = match (&lifecycle, status) {
            (Lifecycle::Running { .. }, TaskStatus::Paused) => match task.resume().await {
                // Frozen for a commit, or for somebody who was never told so.
                Ok(()) => vec![],
                Err(error) => {
                    tracing::warn!(container = %container.id(), error = %chain(&error),
                        "a container that was frozen when the daemon died cannot go on");
                    vec![Event::Paused]
                }
            },
            (Lifecycle::Paused { .. }, TaskStatus::Running) => vec![Event::Resumed],
            (Lifecycle::Running { .. } | Lifecycle::Paused { .. }, _) => vec![],
            // Its start was not acknowledged, and yet it happened.
            (_, TaskStatus::Paused) => vec![Event::Started { pid, at }, Event::Paused],
            _ => vec![Event::Started { pid, at }],
        };
        for event in events {
            if let Err(error) = self.apply(&turn, event).await {
                tracing::error!(container = %container.id(), error = %error.chain(),
                    "cannot store what became of a container");
            }
        }
        self.shared.adopt_volumes(&container.record());
        drop(container.set_task(task.clone()));
        drop(turn);
        self.watch_exit(Arc::clone(container), task);
        self.watch_health(container);
    }

    /// It ended, and its shim waits to be asked.
    async fn ended_meanwhile(
        &self,
        container: &Arc<Container>,
        record: &Arc<Record>,
        task: Option<TaskClient>,
    ) {
        if let Some(task) = task.as_ref().filter(|task| task.foreign().is_some())
            && let Ok(exit) = task.wait("").await
        {
            self.settle(container, task, exit).await;
        }
        if record.lifecycle.is_alive() {
            let answer = match &task {
                Some(task) => task.wait("").await.ok(),
                None => None,
            };
            let exit = self.exit_of(container, answer).await;
            self.ended(container, ready(exit), task).await;
            return;
        }
        // It was started and ended before its start was stored, or its clean-up was cut short.
        let id = record.id.clone();
        let exit = self
            .blocking("an exit record", move |shared| {
                ExitRecord::read(&shared.dir(&id).exit_record()).map_err(EngineError::ExitRecord)
            })
            .await
            .ok()
            .flatten();
        if let (Some(exit), Lifecycle::Created { .. }) = (exit, &record.lifecycle) {
            let at = exit.started_at.unwrap_or(exit.exited_at);
            let turn = container.turn().await;
            for event in [Event::Started { pid: 0, at }, Event::Exited(exit.exit())] {
                if let Err(error) = self.apply(&turn, event).await {
                    tracing::error!(container = %container.id(), error = %error.chain(),
                        "cannot store what became of a container");
                }
            }
        }
        self.tear_down(record, task).await;
        self.remove_if_wanted(container, record).await;
    }

    /// The shim of a running container was killed.
    async fn shim_is_gone(&self, container: &Arc<Container>) {
        let exit = self.exit_of(container, None).await;
        self.ended(container, ready(exit), None).await;
    }

    /// The machine was restarted: nothing runs, and `--state` is empty.
    async fn state_is_gone(&self, container: &Arc<Container>) {
        let mut exit = self.exit_of(container, None).await;
        if !exit.error.is_empty() {
            exit = Exit {
                code: UNKNOWN_EXIT,
                error: "the host went down while the container ran".to_owned(),
                ..exit
            };
        }
        let turn = container.turn().await;
        if let Err(error) = self.apply(&turn, Event::Exited(exit)).await {
            tracing::error!(container = %container.id(), error = %error.chain(),
                "cannot store what became of a container");
        }
        drop(turn);
        self.remove_if_wanted(container, &container.record()).await;
    }

    /// The daemon died while it started the container, and it cannot be started now.
    async fn never_ran(&self, container: &Arc<Container>) {
        let turn = container.turn().await;
        let exit = Exit {
            code: 125,
            exited_at: Timestamp::now(),
            oom_killed: false,
            error: "the daemon was killed while it started the container".to_owned(),
        };
        if let Err(error) = self.apply(&turn, Event::Exited(exit)).await {
            tracing::error!(container = %container.id(), error = %error.chain(),
                "cannot store what became of a container");
        }
    }

    /// Removes a container that ended and whose maker asked for that.
    async fn remove_if_wanted(&self, container: &Arc<Container>, record: &Record) {
        let ended = matches!(container.record().lifecycle, Lifecycle::Exited { .. });
        if record.host.auto_remove && ended {
            self.auto_remove(container).await;
        }
    }

    /// Removes what belongs to containers that do not exist: a create or a removal that was cut
    /// short, or a container that was removed by hand from the database.
    async fn remove_leftovers(&self, known: BTreeSet<String>) -> Result<usize, EngineError> {
        let (bundles, dirs) = self
            .blocking("leftovers", move |shared| {
                let tasks = strangers(&shared.settings.tasks(), &known)?;
                let dirs = strangers(&shared.settings.containers(), &known)?;
                Ok((tasks, dirs))
            })
            .await?;
        let count = bundles.union(&dirs).count();
        for id in &bundles {
            self.remove_leftover(id).await;
        }
        self.blocking("leftovers", move |shared| remove_dirs(shared, &dirs)).await?;
        Ok(count)
    }

    /// Removes the bundle of a container that does not exist, and what runs in it.
    async fn remove_leftover(&self, id: &str) {
        let bundle = Bundle::new(&self.shared.settings.tasks(), id);
        if let Some(task) = self.shared.connect(id, &bundle).await {
            let _ = task.kill("", crate::signal::Signal::KILL, true).await;
            let _ = task.delete("").await;
            let _ = task.shutdown_now().await;
        }
        for attempt in 1..=LEFTOVER_ATTEMPTS {
            // Also after a shim that answered: it may have been in the middle of a create.
            let cleaned = self.shared.delete_by_shim(id, &bundle).await;
            if let Err(error) = bundle.remove() {
                if attempt < LEFTOVER_ATTEMPTS {
                    tokio::time::sleep(LEFTOVER_PAUSE).await;
                    continue;
                }
                tracing::warn!(container = id, error = %chain(&error), "cannot remove a bundle");
            }
            if let Err(error) = cleaned {
                tracing::warn!(container = id, error = %chain(&error),
                    "cannot clean up after a container that does not exist");
            }
            return;
        }
    }
}

fn decode(stored: &StoredContainer) -> Result<Record, EngineError> {
    let json = stored.extensions.get(EXTENSION).map(Vec::as_slice).unwrap_or_default();
    serde_json::from_slice(json)
        .map_err(|source| EngineError::DamagedRecord { container: stored.id.clone(), source })
}

/// Names in a directory that are ids of no container there is. What is named otherwise is not ours.
fn strangers(dir: &Path, known: &BTreeSet<String>) -> Result<BTreeSet<String>, EngineError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(file_error("read", dir)(error)),
    };
    let mut strangers = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(file_error("read", dir))?.file_name();
        let Ok(id) = name.into_string() else { continue };
        if ContainerId::parse(&id).is_ok() && !known.contains(&id) {
            strangers.insert(id);
        }
    }
    Ok(strangers)
}

fn remove_dirs(shared: &Shared, ids: &BTreeSet<String>) -> Result<(), EngineError> {
    for id in ids {
        let dir = shared.settings.containers().join(id);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", &dir)(error));
            }
            _ => {}
        }
    }
    // A removal that was cut short leaves its snapshot's directory too.
    shared.snapshotter.cleanup()?;
    Ok(())
}
