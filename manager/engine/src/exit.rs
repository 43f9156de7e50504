//! Learns that containers end, and takes away what they leave.
//!
//! One task per running container waits at its shim. When the answer comes, the exit is stored,
//! then told, then the task and the shim are ended. A shim that dies before it answers has left an
//! exit record, or none: then its `delete` is run, and the container is marked as killed.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::container::{Container, Turn};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::{Event, Exit};
use crate::model::Record;
use crate::shim::TaskClient;
use crate::shim::exit_record::ExitRecord;
use crate::shim::task::TaskExit;
use crate::start::chain;

/// Exit code of a process that was killed because nobody was left to wait for it.
const KILLED: u32 = 137;
/// Pauses before what could not be stored is tried again: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

impl Engine {
    /// Waits, in a task of its own, for the end of a container that runs.
    pub(crate) fn watch_exit(&self, container: Arc<Container>, task: TaskClient) {
        if task.foreign().is_some() {
            self.watch_relay(Arc::clone(&container), task.clone());
        }
        let engine = self.clone();
        tokio::spawn(async move {
            let is_foreign = task.foreign().is_some();
            let (answer, task) = match task.wait("").await {
                Ok(exit) => {
                    let is_of_use = engine.settle(&container, &task, exit).await;
                    (Some(exit), is_of_use.then_some(task))
                }
                Err(error) => {
                    tracing::warn!(container = %container.id(), error = %chain(&error),
                        "the shim of a running container does not answer any more");
                    (None, None)
                }
            };
            if is_foreign {
                // Its `delete` may be what tells, and is the clearing away too.
                let exit = engine.exit_of(&container, answer).await;
                engine.ended(&container, std::future::ready(exit), task).await;
                return;
            }
            engine.ended(&container, engine.exit_of(&container, answer), task).await;
        });
    }

    /// Puts together what is known of an exit: the shim's answer, and its record on the disk.
    pub(crate) async fn exit_of(&self, container: &Container, answer: Option<TaskExit>) -> Exit {
        let id = container.id().clone();
        let record = self
            .blocking("an exit record", move |shared| {
                ExitRecord::read(&shared.dir(&id).exit_record()).map_err(EngineError::ExitRecord)
            })
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(container = %container.id(), error = %error.chain(),
                    "an exit record cannot be read");
                None
            });
        match (answer, record) {
            (Some(answer), record) => Exit {
                code: answer.status,
                exited_at: answer.exited_at.unwrap_or_else(Timestamp::now),
                oom_killed: record.is_some_and(|record| record.oom_killed),
                error: String::new(),
            },
            (None, Some(record)) => record.exit(),
            (None, None) => self.exit_by_delete(container).await.unwrap_or_else(|| Exit {
                code: KILLED,
                exited_at: Timestamp::now(),
                oom_killed: false,
                error: "the container's shim ended before it could tell how the process ended"
                    .to_owned(),
            }),
        }
    }

    /// Stores and tells that a container has ended, and how, and takes away what it left.
    pub(crate) async fn ended(
        &self,
        container: &Arc<Container>,
        exit: impl Future<Output = Exit>,
        task: Option<TaskClient>,
    ) {
        let _clearing = self.shared.clearing.read().await;
        let turn = container.turn().await;
        let record = container.record();
        if !record.lifecycle.is_alive() {
            return;
        }
        // The shim has written the exit down, so neither needs the other to be done.
        if record.host.auto_remove && record.mounts.is_empty() {
            let (cleared, is_cleared) = oneshot::channel();
            let removal = async {
                self.tell_exit(container, &turn, &record, exit).await;
                let cleared = async { is_cleared.await.unwrap_or_default() };
                let removed = self.remove_ended(container, turn, true, cleared).await;
                self.note_removal(container, removed);
            };
            let clearing = async {
                self.clear_away(&record, task).await;
                // Nobody waits where the removal has failed already.
                let _ = cleared.send(());
            };
            tokio::join!(removal, clearing);
            return;
        }
        let telling = self.tell_exit(container, &turn, &record, exit);
        tokio::join!(telling, self.clear_away(&record, task));
        drop(turn);
        if record.host.auto_remove {
            self.auto_remove(container).await;
        } else {
            self.restart_if_wanted(container, &record);
        }
    }

    async fn tell_exit(
        &self,
        container: &Arc<Container>,
        turn: &Turn<'_>,
        record: &Record,
        exit: impl Future<Output = Exit>,
    ) {
        let exit = exit.await;
        let code = exit.code.to_string();
        // Who is told that it has ended can have its ports at once.
        self.leave_networks(record).await;
        self.remember_exit(container, turn, record, exit).await;
        self.tell(record, "die", &[("exitCode", code), ("execDuration", duration(record))]);
        container.clear_task();
    }

    async fn remember_exit(
        &self,
        container: &Arc<Container>,
        turn: &Turn<'_>,
        record: &Record,
        exit: Exit,
    ) {
        let exited = Event::Exited(exit);
        if !record.host.auto_remove {
            match self.apply(turn, exited.clone()).await {
                Ok(()) => return,
                // What runs no more must not be shown as running because the disk is full.
                Err(error) => {
                    tracing::error!(container = %record.id, error = %error.chain(),
                        "cannot store that a container ended");
                    self.store_later(container);
                }
            }
        }
        // What is removed at once is not stored before: if the daemon is killed in between, the next
        // one finds the shim's record of the exit.
        if let Ok(record) = turn.after(exited) {
            turn.commit(record);
        }
    }

    /// Stores a container as it is as soon as the disk takes it.
    fn store_later(&self, container: &Arc<Container>) {
        let (engine, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let mut pause = FIRST_RETRY;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
                let _turn = container.turn().await;
                if container.watch().borrow().removed {
                    return;
                }
                let record = Record::clone(&container.record());
                let save = engine.blocking("a record", move |shared| shared.save(&record));
                if save.await.is_ok() {
                    tracing::info!(container = %container.id(),
                        "what could not be stored of a container is stored now");
                    return;
                }
            }
        });
    }

    /// Removes a container whose maker asked for that, once it has ended.
    pub(crate) async fn auto_remove(&self, container: &Arc<Container>) {
        let removed = self.remove_container(container, false, true).await;
        self.note_removal(container, removed);
    }

    fn note_removal(&self, container: &Container, removed: Result<(), EngineError>) {
        match removed {
            Ok(())
            | Err(EngineError::BeingRemoved { .. } | EngineError::NoSuchContainer { .. }) => {}
            Err(error) => tracing::warn!(container = %container.id(), error = %error.chain(),
                "cannot remove a container that has ended"),
        }
    }
}

/// Whole seconds that the process ran.
fn duration(record: &Record) -> String {
    let started = record.lifecycle.started_at().unwrap_or_else(Timestamp::now);
    // A clock that went back meanwhile must not make it negative.
    Timestamp::now().duration_since(started).as_secs().max(0).to_string()
}
