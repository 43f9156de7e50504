//! Changes of containers that exist: restart, rename; and their processes.

use std::sync::Arc;

use crate::container::Container;
use crate::engine::{EXTENSION, Engine, encode};
use crate::error::EngineError;
use crate::id::ContainerName;
use crate::lifecycle::Lifecycle;
use crate::model::Record;
use crate::procfs::{self, ProcessInfo};
use crate::signal::Signal;
use crate::stop::Patience;

impl Engine {
    /// Stops a container if it runs, and starts it. One that removes itself when it ends is started
    /// before it can.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::start`].
    pub async fn restart(
        &self,
        name: &str,
        signal: Option<Signal>,
        patience: Patience,
    ) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a restart", async move {
            if container.record().host.auto_remove && container.record().lifecycle.is_alive() {
                return Err(EngineError::InvalidField {
                    field: "container",
                    problem: format!(
                        "{} removes itself when it stops, and cannot be restarted",
                        container.label()
                    ),
                });
            }
            engine.stop_container(&container, signal, patience).await?;
            engine.start_container(&container).await?;
            engine.tell(&container.record(), "restart", &[]);
            Ok(())
        })
        .await
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`EngineError::Metadata`] if another container has it.
    pub async fn rename(&self, name: &str, new: ContainerName) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a rename", async move { engine.rename_container(&container, new).await })
            .await
    }

    async fn rename_container(
        &self,
        container: &Arc<Container>,
        new: ContainerName,
    ) -> Result<(), EngineError> {
        let turn = container.turn().await;
        let record = container.record();
        if record.name == new {
            return Err(EngineError::InvalidField {
                field: "name",
                problem: format!("the container is called {new} already"),
            });
        }
        if record.lifecycle == Lifecycle::Removing {
            return Err(EngineError::BeingRemoved { container: container.label() });
        }
        let renamed = Record { name: new.clone(), ..Record::clone(&record) };
        let (stored, old) = (renamed.clone(), record.name.clone());
        self.blocking("a rename", move |shared| {
            let (ns, id) = (&shared.settings.namespace, stored.id.as_str());
            let json = encode(&stored)?;
            shared.store.transaction(|tx| {
                tx.release_name(ns, old.as_str())?;
                tx.reserve_name(ns, stored.name.as_str(), id)?;
                tx.set_container_extension(ns, id, EXTENSION, &json)
            })?;
            Ok(())
        })
        .await?;
        turn.commit(renamed);
        self.rename_on_networks(container).await;
        self.tell(&container.record(), "rename", &[("oldName", record.name.to_string())]);
        Ok(())
    }

    /// Lists the processes of a container, by their ids on the host.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`].
    pub async fn top(&self, name: &str) -> Result<Vec<ProcessInfo>, EngineError> {
        let container = self.find(name)?;
        let task = container.running_task()?;
        let mut pids = task
            .pids()
            .await
            .map_err(|source| EngineError::Task { container: container.label(), source })?;
        pids.sort_unstable();
        self.blocking("a list of processes", move |_| Ok(procfs::describe(&pids))).await
    }
}
