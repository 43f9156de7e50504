//! Removes containers.
//!
//! The record goes first, with name, id range and snapshot, in one transaction; then the files. A
//! crash between the two leaves files that nothing names, which the next start of the daemon finds.

use std::future::ready;
use std::sync::Arc;

use crate::container::{Container, Turn};
use crate::engine::{Engine, Shared};
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::{Event, Lifecycle};
use crate::model::Record;

impl Engine {
    /// Removes a container, its writable layer and its log; with `force`, kills it first; with
    /// `volumes`, removes the volumes too that nobody named and no other container uses.
    ///
    /// # Errors
    /// [`EngineError::Running`] without `force`, [`EngineError::BeingRemoved`].
    pub async fn remove(&self, name: &str, force: bool, volumes: bool) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a removal", async move {
            engine.remove_container(&container, force, volumes).await
        })
        .await
    }

    pub(crate) async fn remove_container(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<(), EngineError> {
        loop {
            let turn = container.turn().await;
            let record = container.record();
            let label = || record.name.as_str().to_owned();
            match &record.lifecycle {
                Lifecycle::Running { .. } | Lifecycle::Paused { .. } if force => {
                    // The exit needs its turn.
                    drop(turn);
                    self.kill_container(container).await?;
                    continue;
                }
                Lifecycle::Running { .. } | Lifecycle::Paused { .. } => {
                    return Err(EngineError::Running { container: label() });
                }
                Lifecycle::Removing => {
                    return Err(EngineError::BeingRemoved { container: label() });
                }
                Lifecycle::Created { .. } | Lifecycle::Exited { .. } | Lifecycle::Dead { .. } => {}
            }
            return self.remove_ended(container, turn, volumes, ready(())).await;
        }
    }

    /// Removes a container that does not run: what is known of it at once, which is when whoever waits
    /// for that is told; its files when `cleared` says that nothing uses them any more.
    pub(crate) async fn remove_ended(
        &self,
        container: &Arc<Container>,
        turn: Turn<'_>,
        volumes: bool,
        cleared: impl Future<Output = ()>,
    ) -> Result<(), EngineError> {
        let record = container.record();
        if let Ok(removing) = turn.after(Event::RemoveBegun) {
            turn.commit(removing);
        }
        let heir = self.heir(&record);
        let to_forget = Arc::clone(&record);
        let forgetting = self.blocking("a removal", move |shared| {
            forget_rows(shared, &to_forget, volumes, heir.as_ref())
        });
        let volumes = match forgetting.await {
            Ok(volumes) => volumes,
            Err(error) => {
                let failed = Event::RemoveFailed { error: error.chain() };
                if let Err(error) = self.apply(&turn, failed).await {
                    tracing::error!(container = %record.id, error = %error.chain(),
                        "cannot store that a removal failed");
                }
                return Err(error);
            }
        };
        self.forget(container.id());
        turn.gone();
        self.tell(&record, "destroy", &[]);
        cleared.await;
        let work = move |shared: &Shared| {
            remove_files(shared, &record);
            shared.remove_volume_files(&volumes);
            Ok(())
        };
        self.blocking("a removal", work).await
    }
}

impl Engine {
    /// Another container that has the same id range, which stays taken while one of them exists.
    fn heir(&self, record: &Record) -> Option<ContainerId> {
        record.id_range?;
        self.all()
            .iter()
            .find(|other| {
                *other.id() != record.id
                    && other.record().id_range == record.id_range
                    && other.record().lifecycle != Lifecycle::Removing
            })
            .map(|other| other.id().clone())
    }
}

/// Takes the container out of the database; returns the volumes that went with it.
fn forget_rows(
    shared: &Shared,
    record: &Record,
    volumes: bool,
    heir: Option<&ContainerId>,
) -> Result<Vec<String>, EngineError> {
    let (ns, id) = (&shared.settings.namespace, record.id.as_str());
    shared.store.transaction_outliving(record.durability(), |tx| {
        if let Some(heir) = heir {
            tx.pass_id_range(ns, id, heir.as_str())?;
        }
        tx.delete_container(ns, id)?;
        shared.snapshotter.remove_in(tx, ns, &record.snapshot_key)?;
        if volumes { shared.remove_anonymous_in(tx, record) } else { Ok(Vec::new()) }
    })
}

/// Takes away what nothing names any more. What cannot be is found when the daemon starts next.
fn remove_files(shared: &Shared, record: &Record) {
    let dir = shared.dir(&record.id);
    if let Err(error) = shared.store.trash().throw(dir.path()) {
        tracing::warn!(path = ?dir.path(), %error, "cannot remove the files of a removed container");
    }
    if let Err(error) = shared.snapshotter.cleanup() {
        tracing::warn!(error = %crate::start::chain(&error),
            "cannot remove the snapshot of a removed container");
    }
}
