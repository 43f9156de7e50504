//! Containers whose shim is another's: what our own shim does for others, and kegd for these.
//!
//! ```text
//!  make     claim the bundle ─▶ relay (root, FIFOs, log) ─▶ shim start ─▶ Task.Create
//!  run      a relay that dies is started anew, and goes on where the FIFOs stand
//!  end      Task.Wait ─▶ exit record ─▶ Task.Delete, the relay's last bytes ─▶ told
//!  no shim  its `delete` tells the exit
//! ```
//!
//! The exit record comes before the deletion, after which the shim knows nothing any more: a daemon that
//! dies anywhere in between is followed by one that finds the exit here or there.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keg_store::Durability;
use oci_spec::runtime::Spec;
use rustix::process::Pid;

use crate::container::Container;
use crate::engine::{Engine, Shared, file_error};
use crate::error::EngineError;
use crate::lifecycle::Exit;
use crate::model::Record;
use crate::runtimes::ForeignShim;
use crate::shim::exit_record::ExitRecord;
use crate::shim::foreign::relay_ended;
use crate::shim::task::{CreateTask, TaskExit};
use crate::shim::{Bundle, Foreign, LaunchError, TaskClient};
use crate::start::{Prepared, chain, runtime_error, stdio};

/// How long a relay may take to pass on what an ended process has left.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How often in a row a relay is started anew.
const RELAY_ATTEMPTS: usize = 5;
/// How long the last of these must have lived for the count to begin anew.
const RELAY_LIFE: Duration = Duration::from_secs(60);
/// Pause before a relay is started anew.
const RELAY_PAUSE: Duration = Duration::from_millis(100);

impl Shared {
    /// The shim at a bundle that is not ours; `None` if it is.
    pub(crate) fn foreign(&self, id: &str, bundle: &Bundle) -> Option<Foreign> {
        Foreign::of_bundle(&self.shim, id, bundle)
    }

    /// Connects to the shim of a bundle, whosever it is; `None` if none answers.
    pub(crate) async fn connect(&self, id: &str, bundle: &Bundle) -> Option<TaskClient> {
        if let Some(foreign) = self.foreign(id, bundle) {
            let bootstrap = foreign.bootstrap()?;
            return TaskClient::connect_foreign(id, &bootstrap, foreign).await.ok();
        }
        match bundle.address() {
            Ok(Some(address)) => TaskClient::connect(id, &address).await.ok(),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(container = id, error = %chain(&error),
                    "cannot read the address of a shim");
                None
            }
        }
    }

    /// Cleans up by the program of the shim, which is gone, whosever it was; and unmounts the root of
    /// another's, which does not know of it.
    pub(crate) async fn delete_by_shim(
        &self,
        id: &str,
        bundle: &Bundle,
    ) -> Result<TaskExit, LaunchError> {
        let Some(foreign) = self.foreign(id, bundle) else {
            return self.shim.delete(id, bundle).await;
        };
        let deleted = foreign.delete().await;
        foreign.end_relay().await;
        foreign.unmount()?;
        deleted
    }
}

impl Engine {
    /// As [`Engine::make_task`], with another's shim.
    pub(crate) async fn make_foreign_task(
        &self,
        record: &Record,
        bundle: &Bundle,
        preparing: impl Future<Output = Result<Prepared, EngineError>>,
        shim: ForeignShim,
    ) -> (Option<TaskClient>, Result<u32, EngineError>) {
        let container = || record.name.as_str().to_owned();
        let launch = |source| EngineError::Launch { container: container(), source };
        let id = record.id.as_str();
        let owner = record.id_range.map_or(0, |range| range.start);
        let state = self.shared.settings.state.join("runtime");
        let options = shim.options(owner, &state);
        let foreign = Foreign::new(&self.shared.shim, shim.program, id, bundle);
        // Before a daemon that comes back could take it for ours.
        if let Err(source) = bundle.make().and_then(|()| foreign.claim()) {
            return (None, Err(launch(source)));
        }
        // Other shims read the specification when they start.
        let prepared = match preparing.await {
            Ok(prepared) => prepared,
            Err(error) => return (None, Err(error)),
        };
        let launched = async {
            let stdio = foreign.relay("", &prepared.stdio, prepared.mounts).await?;
            let bootstrap = foreign.start().await?;
            Ok((stdio, bootstrap))
        };
        let (stdio, bootstrap) = match launched.await {
            Ok(launched) => launched,
            Err(source) => return (None, Err(launch(source))),
        };
        let task = match TaskClient::connect_foreign(id, &bootstrap, foreign).await {
            Ok(task) => task,
            Err(source) => {
                return (None, Err(EngineError::Task { container: container(), source }));
            }
        };
        let bundle = bundle.path().to_owned();
        let create = CreateTask { bundle, rootfs: Vec::new(), stdio, options };
        let made = task.create(create).await.map_err(|error| {
            if !error.was_answered()
                && let Some(words) = task.foreign().map(Foreign::last_words)
            {
                tracing::warn!(container = id, words, "a shim ended while it made a container");
            }
            runtime_error(container(), error)
        });
        drop(prepared.sources);
        (Some(task), made)
    }

    /// Keeps, in a task of its own, the relay of a running container alive, as long as the container
    /// is.
    pub(crate) fn watch_relay(&self, container: Arc<Container>, task: TaskClient) {
        let engine = self.clone();
        tokio::spawn(async move {
            let mut attempts = 0;
            loop {
                let begun = tokio::time::Instant::now();
                if relay_ended(&task.io_socket("")).await {
                    return;
                }
                attempts = if begun.elapsed() > RELAY_LIFE { 0 } else { attempts + 1 };
                tokio::time::sleep(RELAY_PAUSE).await;
                if task.is_closed() || container.task().is_none() || attempts > RELAY_ATTEMPTS {
                    return;
                }
                if let Err(error) = engine.restart_relay(&container, &task).await {
                    tracing::warn!(container = %container.id(), error = %chain(&error),
                        "the relay of a container's streams is gone and cannot be started anew");
                    return;
                }
                tracing::warn!(container = %container.id(),
                    "the relay of a container's streams was gone and is started anew");
            }
        });
    }

    async fn restart_relay(
        &self,
        container: &Container,
        task: &TaskClient,
    ) -> Result<(), EngineError> {
        let Some(foreign) = task.foreign() else { return Ok(()) };
        let record = container.record();
        let streams = stdio(&self.shared, &record, &self.shared.dir(&record.id))?;
        foreign
            .relay("", &streams, Vec::new())
            .await
            .map(drop)
            .map_err(|source| EngineError::Launch { container: container.label(), source })
    }

    /// Makes durable how a container of another's shim ended, and waits until all that it wrote is in
    /// its log and with its clients. A container of our own shim needs neither.
    ///
    /// Returns whether the shim is of any further use: one that hangs is killed, so that its `delete` can
    /// clean up as after any shim that is gone.
    pub(crate) async fn settle(
        &self,
        container: &Container,
        task: &TaskClient,
        exit: TaskExit,
    ) -> bool {
        if task.foreign().is_none() {
            return true;
        }
        let record = container.record();
        let ended = ExitRecord {
            status: exit.status,
            oom_killed: container.saw_oom(),
            started_at: record.lifecycle.started_at(),
            exited_at: exit.exited_at.unwrap_or_else(Timestamp::now),
        };
        let stored = self.blocking("an exit record", move |shared| {
            let path = shared.dir(&record.id).exit_record();
            write_exit(&path, &ended, record.durability()).map_err(file_error("write", &path))
        });
        if let Err(error) = stored.await {
            // It is told as ever, and the record says so once there is room.
            tracing::warn!(container = %container.id(), error = %error.chain(),
                "cannot store how a container ended");
        }
        let socket = task.io_socket("");
        let passed_on = tokio::time::timeout(DRAIN_TIMEOUT, relay_ended(&socket));
        // The deletion closes the shim's ends of the streams, if descendants still hold theirs.
        let deleted = tokio::time::timeout(DRAIN_TIMEOUT, task.delete(""));
        // Whom to kill is asked while it may still answer.
        let (deleted, passed_on, shim) = tokio::join!(deleted, passed_on, task.shim_pid());
        if passed_on.is_err() {
            tracing::warn!(container = %container.id(),
                "the output of a container that has ended does not end");
        }
        if deleted.is_ok() {
            return true;
        }
        let killed = shim.map(|pid| task.kill_shim(pid));
        tracing::warn!(container = %container.id(), waited_secs = DRAIN_TIMEOUT.as_secs(),
            pid = shim.map(Pid::as_raw_pid), killed = matches!(killed, Some(Ok(()))),
            "a shim hangs while it deletes a container that has ended");
        false
    }

    /// How a container ended whose shim is gone without a word: what another's shim finds out in its
    /// `delete`.
    pub(crate) async fn exit_by_delete(&self, container: &Container) -> Option<Exit> {
        let id = container.id().as_str();
        let bundle = self.shared.bundle(container.id());
        self.shared.foreign(id, &bundle)?;
        match self.shared.delete_by_shim(id, &bundle).await {
            Ok(TaskExit { status, exited_at }) if status != 0 => Some(Exit {
                code: status,
                exited_at: exited_at.unwrap_or_else(Timestamp::now),
                oom_killed: container.saw_oom(),
                error: "the container's shim ended before the container did".to_owned(),
            }),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(container = id, error = %chain(&error),
                    "cannot clean up after a shim that is gone");
                None
            }
        }
    }
}

/// Names the control group as systemd's driver wants it, `SLICE:PREFIX:NAME`, where a runtime leaves
/// the making to systemd. A parent that is no slice cannot be one: systemd's own is used.
pub(crate) fn let_systemd_make_the_cgroup(spec: &mut Spec, record: &Record) {
    let parent = record.host.cgroup_parent.rsplit('/').next().unwrap_or_default();
    let slice = if parent.ends_with(".slice") { parent } else { "system.slice" };
    let path = PathBuf::from(format!("{slice}:keg:{}", record.id.as_str()));
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(Some(path));
    }
}

/// Writes an exit record as our shim does.
fn write_exit(path: &Path, exit: &ExitRecord, durability: Durability) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    if matches!(durability, Durability::PowerCut) {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        let exit = ExitRecord {
            status: 137,
            oom_killed: true,
            started_at: None,
            exited_at: Timestamp::from_second(1_800_000_000).unwrap(),
        };

        write_exit(&path, &exit, Durability::PowerCut).unwrap();

        assert_eq!(ExitRecord::read(&path).unwrap(), Some(exit));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
