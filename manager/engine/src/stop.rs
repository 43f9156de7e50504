//! Signals to containers: kill at once, stop with patience; wait for what comes of it.
//!
//! None of this takes the container's turn: a container can be killed while a start waits or
//! another client stops it. What follows from a signal is the exit, which the watching task learns.

use std::sync::Arc;
use std::time::Duration;

use crate::container::{Container, Progress};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::{Event, Exit, Lifecycle};
use crate::signal::Signal;
use crate::start::chain;

/// How long a process may take to die once it was killed; longer, and it is stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// How patient a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As the container says, else the daemon.
    Default,
    /// So many seconds.
    Secs(u32),
    /// For ever.
    Endless,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run, now or later.
    NotRunning,
    /// Its process ends, also if it is not started yet.
    NextExit,
    /// It is gone.
    Removed,
}

impl Engine {
    /// Asks the process to end, and kills it if it does not in time. A container that does not run
    /// is left alone.
    ///
    /// # Errors
    /// [`EngineError::Timeout`] if it cannot even be killed.
    pub async fn stop(
        &self,
        name: &str,
        signal: Option<Signal>,
        patience: Patience,
    ) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a stop", async move {
            engine.stop_container(&container, signal, patience).await
        })
        .await
    }

    pub(crate) async fn stop_container(
        &self,
        container: &Arc<Container>,
        signal: Option<Signal>,
        patience: Patience,
    ) -> Result<(), EngineError> {
        let record = container.record();
        container.ask_stop();
        if !record.lifecycle.is_alive() {
            return Ok(());
        }
        let grace = match patience {
            Patience::Default => Some(
                record.config.stop_timeout_secs.unwrap_or(self.shared.settings.stop_timeout_secs),
            ),
            Patience::Secs(secs) => Some(secs),
            Patience::Endless => None,
        };
        let signal = signal.unwrap_or(record.process.stop_signal);
        // Zero seconds of patience are none: the signal would only race with the kill.
        if grace != Some(0) {
            self.signal(container, signal).await?;
            let grace = grace.map(|secs| Duration::from_secs(secs.into()));
            if ended_within(container, grace).await {
                self.tell(&record, "stop", &[]);
                return Ok(());
            }
        }
        self.kill_container(container).await?;
        self.tell(&record, "stop", &[]);
        Ok(())
    }

    /// Sends one signal.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`].
    pub async fn kill(&self, name: &str, signal: Signal) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a signal", async move {
            container.running_task()?;
            if signal == Signal::KILL || signal == container.record().process.stop_signal {
                container.ask_stop();
            }
            engine.signal(&container, signal).await
        })
        .await
    }

    /// Kills a container and waits until it has ended.
    ///
    /// # Errors
    /// [`EngineError::Timeout`] if it has not within 30 seconds.
    pub(crate) async fn kill_container(
        &self,
        container: &Arc<Container>,
    ) -> Result<(), EngineError> {
        self.signal(container, Signal::KILL).await?;
        if ended_within(container, Some(KILL_TIMEOUT)).await {
            return Ok(());
        }
        Err(EngineError::Timeout {
            container: container.label(),
            what: "end after it was killed",
            secs: KILL_TIMEOUT.as_secs(),
        })
    }

    /// Sends a signal, and lets a frozen container go on so that it takes it. One that has ended
    /// meanwhile is no error.
    pub(crate) async fn signal(
        &self,
        container: &Arc<Container>,
        signal: Signal,
    ) -> Result<(), EngineError> {
        let Some(task) = container.task() else { return Ok(()) };
        let task_error = |source| EngineError::Task { container: container.label(), source };
        match task.kill("", signal, false).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other.map_err(task_error)?,
        }
        self.tell(&container.record(), "kill", &[("signal", signal.number().to_string())]);
        let is_fatal = signal == Signal::KILL || signal == container.record().process.stop_signal;
        if is_fatal && matches!(container.record().lifecycle, Lifecycle::Paused { .. }) {
            self.resume_container(container).await?;
        }
        Ok(())
    }

    /// Freezes a container's processes.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], [`EngineError::Paused`].
    pub async fn pause(&self, name: &str) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a pause", async move {
            let turn = container.turn().await;
            let task = container.running_task()?;
            if matches!(container.record().lifecycle, Lifecycle::Paused { .. }) {
                return Err(EngineError::Paused { container: container.label() });
            }
            task.pause()
                .await
                .map_err(|source| EngineError::Task { container: container.label(), source })?;
            if let Err(error) = engine.apply(&turn, Event::Paused).await {
                // Nobody would know that it is frozen, nor thaw it.
                if let Err(error) = task.resume().await {
                    tracing::error!(container = %container.id(), error = %chain(&error),
                        "a container is frozen, and that could not be stored");
                }
                return Err(error);
            }
            engine.tell(&container.record(), "pause", &[]);
            Ok(())
        })
        .await
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], also for one that runs and is not paused.
    pub async fn resume(&self, name: &str) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a resumption", async move {
            container.running_task()?;
            if !matches!(container.record().lifecycle, Lifecycle::Paused { .. }) {
                return Err(EngineError::NotPaused { container: container.label() });
            }
            engine.resume_container(&container).await
        })
        .await
    }

    /// Freezes a container that runs, for a while: that is seen and not stored, so that the next
    /// daemon lets it go on if this one dies. Returns whether it is frozen.
    pub(crate) async fn freeze(&self, container: &Arc<Container>) -> bool {
        let turn = container.turn().await;
        let Ok(task) = container.running_task() else { return false };
        let runs = matches!(container.record().lifecycle, Lifecycle::Running { .. });
        if !runs || task.pause().await.is_err() {
            return false;
        }
        if let Ok(record) = turn.after(Event::Paused) {
            turn.commit(record);
        }
        self.tell(&container.record(), "pause", &[]);
        true
    }

    async fn resume_container(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        let turn = container.turn().await;
        if !matches!(container.record().lifecycle, Lifecycle::Paused { .. }) {
            return Ok(());
        }
        let Some(task) = container.task() else { return Ok(()) };
        match task.resume().await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other
                .map_err(|source| EngineError::Task { container: container.label(), source })?,
        }
        if let Err(error) = self.apply(&turn, Event::Resumed).await {
            // What runs must not be shown as frozen because the disk is full.
            tracing::error!(container = %container.id(), error = %error.chain(),
                "cannot store that a container goes on");
            if let Ok(record) = turn.after(Event::Resumed) {
                turn.commit(record);
            }
        }
        self.tell(&container.record(), "unpause", &[]);
        Ok(())
    }

    /// Waits until a condition holds; returns how the process ended last, if it ever did.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`].
    pub async fn wait(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<Option<Exit>, EngineError> {
        let container = self.find(name)?;
        let mut watch = container.watch();
        let exits = watch.borrow().exits;
        let holds = |progress: &Progress| match condition {
            WaitCondition::NotRunning => !progress.alive,
            WaitCondition::NextExit => progress.exits > exits || progress.removed,
            WaitCondition::Removed => progress.removed,
        };
        // The sender lives in `container`, which this call holds.
        let progress = watch.wait_for(holds).await;
        Ok(progress.ok().and_then(|progress| progress.last_exit.clone()))
    }
}

/// Whether the container's process ends in time; `None` means for ever.
async fn ended_within(container: &Container, grace: Option<Duration>) -> bool {
    let mut watch = container.watch();
    let ended = watch.wait_for(|progress| !progress.alive);
    match grace {
        Some(grace) => tokio::time::timeout(grace, ended).await.is_ok(),
        None => ended.await.is_ok(),
    }
}
