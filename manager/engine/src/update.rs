//! Changes what a container may use, and when it is started anew.

use std::sync::Arc;

use crate::container::Container;
use crate::create::check_limits;
use crate::devices::DeviceEdits;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::Lifecycle;
use crate::model::{Record, Resources};
use crate::restart::RestartPolicy;
use crate::spec::resources;
use crate::start::runtime_error;

/// What to change; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Limits.
    pub resources: Resources,
    /// When it is started anew.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Changes a container's limits and restart policy; one that runs feels it at once.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if the result makes no sense, [`EngineError::Runtime`] if the
    /// kernel refuses. Nothing is changed then.
    pub async fn update(&self, name: &str, update: Update) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached(
            "an update",
            async move { engine.update_container(&container, update).await },
        )
        .await
    }

    async fn update_container(
        &self,
        container: &Arc<Container>,
        update: Update,
    ) -> Result<(), EngineError> {
        let turn = container.turn().await;
        let record = container.record();
        if matches!(record.lifecycle, Lifecycle::Removing) {
            return Err(EngineError::BeingRemoved { container: container.label() });
        }
        let mut host = record.host.clone();
        host.resources = host.resources.changed_by(&update.resources).map_err(|source| {
            let container = record.id.as_str().to_owned();
            EngineError::DamagedRecord { container, source }
        })?;
        if let Some(restart) = update.restart {
            if host.auto_remove && restart != RestartPolicy::No {
                return Err(EngineError::InvalidField {
                    field: "restart",
                    problem: "a container that is removed when it ends cannot be restarted".into(),
                });
            }
            host.restart = restart;
        }
        check_limits(&self.shared, &host)?;
        let has_limits = update.resources != Resources::default();
        if has_limits && let Ok(task) = container.running_task() {
            // Devices are not what is changed here.
            let mut changed = resources::build(&host, &DeviceEdits::default());
            changed.set_devices(None);
            let json = serde_json::to_vec(&changed).map_err(|source| {
                let container = record.id.as_str().to_owned();
                EngineError::DamagedRecord { container, source }
            })?;
            task.update(json).await.map_err(|error| {
                runtime_error(container.label(), error).refused("its limits could not be changed")
            })?;
        }
        let changed = Record { host, ..Record::clone(&record) };
        let stored = changed.clone();
        self.blocking("a container's record", move |shared| shared.save(&stored)).await?;
        turn.commit(changed);
        self.tell(&record, "update", &[]);
        Ok(())
    }
}
