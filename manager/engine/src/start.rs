//! Starts containers, and undoes what a start that fails has made.
//!
//! ```text
//!  bundle           state/tasks/NS/ID                       ◀─ from here on a crash is found
//!  shim start       a process, an address    ║ meanwhile prepare: files of /etc, volumes, user,
//!                                            ║ specification, which become the bundle's config.json
//!  Task.Create      root file system mounted, init waits
//!  networks         its namespace is there: interfaces, addresses, ports, names
//!  attach           clients that wait are connected: nothing is missed
//!  Task.Start       the program is executed   ║ meanwhile the record says Running
//!  watch            a task that waits for the exit
//! ```
//!
//! Every step is undone by [`Engine::tear_down`] if a later one fails: it asks the shim, and if
//! there is none to ask, runs the shim's `delete`.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use keg_proto::containerd::types::Mount as TaskMount;
use keg_store::Reason;
use oci_spec::runtime::Spec;

use crate::container::{Container, Turn, Waiting};
use crate::devices;
use crate::engine::{Engine, Shared, file_error};
use crate::error::EngineError;
use crate::etc_files;
use crate::foreign::let_systemd_make_the_cgroup;
use crate::idmap::unmappable;
use crate::labels::{Labels, Modules};
use crate::layered_root::LayeredRoot;
use crate::lifecycle::{Event, Exit, Lifecycle};
use crate::model::{ContainerDir, Record};
use crate::runtime_features::lacks_id_maps;
use crate::runtimes::Runtime;
use crate::shim::io::connect as io_connect;
use crate::shim::launch::runtime_options;
use crate::shim::task::{CreateTask, Stdio};
use crate::shim::{Bundle, LaunchError, TaskClient, TaskError};
use crate::signal::Signal;
use crate::spec::{self, Joins, NetworkOf};
use crate::users::{self, AccountFiles, Identity};
use crate::volumes::MountSources;

/// Largest `/etc/passwd` or `/etc/group` that is read.
const ACCOUNT_FILE_BYTES_MAX: u64 = 4 << 20;

/// The mount option by which our shim gives the root to the runtime as a descriptor (ARCHITECTURE.md,
/// "The seam between kegd and the shim"); relays and other runtimes get it mounted.
const DETACHED_ROOT: &str = "x-keg.detached";

/// What the shim is given.
pub(crate) struct Prepared {
    pub(crate) mounts: Vec<TaskMount>,
    pub(crate) stdio: Stdio,
    /// Kept until the task is made.
    pub(crate) sources: MountSources,
}

impl Engine {
    /// Starts a container; one that runs is left alone. Returns once its process runs.
    ///
    /// # Errors
    /// [`EngineError::Runtime`] if its command cannot be executed, and much else. The container is
    /// then as it was, and remembers why.
    pub async fn start(&self, name: &str) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a start", async move {
            {
                // Who starts it by hand lets a restart policy count anew.
                let turn = container.turn().await;
                let record = container.record();
                if !record.lifecycle.is_alive() && record.restart_count > 0 {
                    turn.commit(Record { restart_count: 0, ..Record::clone(&record) });
                }
            }
            engine.start_container(&container).await
        })
        .await
    }

    pub(crate) async fn start_container(
        &self,
        container: &Arc<Container>,
    ) -> Result<(), EngineError> {
        let turn = container.turn().await;
        let record = container.record();
        let label = || record.name.as_str().to_owned();
        match &record.lifecycle {
            Lifecycle::Created { .. } | Lifecycle::Exited { .. } => {}
            Lifecycle::Running { .. } => return Ok(()),
            Lifecycle::Paused { .. } => return Err(EngineError::Paused { container: label() }),
            Lifecycle::Removing => return Err(EngineError::BeingRemoved { container: label() }),
            Lifecycle::Dead { error } => {
                return Err(EngineError::Dead { container: label(), problem: error.clone() });
            }
        }
        match self.bring_up(container, &turn, &record).await {
            Ok(task) => {
                self.tell(&container.record(), "start", &[]);
                self.watch_exit(Arc::clone(container), task);
                self.watch_health(container);
                Ok(())
            }
            Err(error) => {
                self.start_failed(container, turn, &error).await;
                Err(error)
            }
        }
    }

    /// Remembers why a start failed. Nothing of the start is left by now.
    async fn start_failed(&self, container: &Arc<Container>, turn: Turn<'_>, error: &EngineError) {
        container.clear_task();
        let exit = Exit {
            code: error.exit_code(),
            exited_at: Timestamp::now(),
            oom_killed: false,
            error: error.chain(),
        };
        let code = exit.code.to_string();
        if let Err(error) = self.apply(&turn, Event::StartFailed(exit)).await {
            tracing::error!(container = %container.id(), error = %error.chain(),
                "cannot store that a start failed");
        }
        drop(turn);
        let record = container.record();
        self.tell(&record, "die", &[("exitCode", code)]);
        if record.host.auto_remove {
            self.auto_remove(container).await;
        }
    }

    async fn bring_up(
        &self,
        container: &Arc<Container>,
        turn: &Turn<'_>,
        record: &Arc<Record>,
    ) -> Result<TaskClient, EngineError> {
        let bundle = self.shared.bundle(&record.id);
        // What a crashed start left would be in the way of this one.
        if bundle.path().exists() {
            self.tear_down(record, None).await;
        }
        let runtime = runtime_of(&self.shared, record)?;
        let to_prepare = Arc::clone(record);
        let network_of = self.network_of(record)?;
        let joins = self.joins(record)?;
        let preparing = self.blocking("a bundle", move |shared| {
            prepare(shared, &to_prepare, network_of.as_ref(), &joins)
        });
        match self.run(container, turn, record, &bundle, (runtime, preparing)).await {
            Ok(task) => Ok(task),
            Err(error) => {
                let task = container.task();
                container.clear_task();
                self.tear_down(record, task).await;
                Err(error)
            }
        }
    }

    async fn run(
        &self,
        container: &Arc<Container>,
        turn: &Turn<'_>,
        record: &Arc<Record>,
        bundle: &Bundle,
        (runtime, preparing): (Runtime, impl Future<Output = Result<Prepared, EngineError>>),
    ) -> Result<TaskClient, EngineError> {
        let label = || record.name.as_str().to_owned();
        let (task, made) = self.make_task(record, bundle, runtime, preparing).await;
        let (task, pid) = match (task, made) {
            (Some(task), Ok(pid)) => (task, pid),
            (task, made) => {
                // The caller tears down by way of this connection.
                if let Some(task) = task {
                    drop(container.set_task(task));
                }
                return Err(made.err().unwrap_or_else(|| not_connected(label())));
            }
        };
        let waiting = container.set_task(task.clone());
        self.join_networks(container, record, pid).await?;
        futures_util::future::join_all(
            waiting.into_iter().map(|waiting| connect_waiting(&task, waiting)),
        )
        .await;

        let started = Event::Started { pid, at: Timestamp::now() };
        let running = match turn.after(started) {
            Ok(record) => record,
            Err(refused) => {
                tracing::error!(error = %refused, "a start came at the wrong time");
                Record::clone(record)
            }
        };
        let stored = running.clone();
        let (started, saved) = tokio::join!(
            task.start(""),
            self.blocking("a container's record", move |shared| shared.save(&stored)),
        );
        started.map_err(|error| runtime_error(label(), error))?;
        saved?;
        turn.commit(running);
        Ok(task)
    }

    /// Makes a bundle, starts a shim in it while `preparing` fills it, and lets the shim make the
    /// container, whose program then waits. Returns the connection, also if the making failed, and
    /// the process.
    pub(crate) async fn make_task(
        &self,
        record: &Record,
        bundle: &Bundle,
        runtime: Runtime,
        preparing: impl Future<Output = Result<Prepared, EngineError>>,
    ) -> (Option<TaskClient>, Result<u32, EngineError>) {
        let label = || record.name.as_str().to_owned();
        let launch = |source| EngineError::Launch { container: label(), source };
        let program = match runtime {
            Runtime::Program(program) => program,
            Runtime::Shim(shim) => {
                return self.make_foreign_task(record, bundle, preparing, shim).await;
            }
        };
        let options = runtime_options(
            &program.to_string_lossy(),
            record.id_range.map_or(0, |range| range.start),
        );
        let id = record.id.as_str();
        if let Err(source) = bundle.make() {
            return (None, Err(launch(source)));
        }
        let connecting = async {
            let address =
                self.shared.shim.start(id, bundle, options.as_ref()).await.map_err(launch)?;
            TaskClient::connect(id, &address)
                .await
                .map_err(|source| EngineError::Task { container: label(), source })
        };
        let (prepared, task) = match tokio::join!(preparing, connecting) {
            (Ok(prepared), Ok(task)) => (prepared, task),
            // What is wrong with the container tells more than what became of its shim.
            (Err(error), task) => return (task.ok(), Err(error)),
            (Ok(_), Err(error)) => return (None, Err(error)),
        };
        let create = CreateTask {
            bundle: bundle.path().to_owned(),
            rootfs: prepared.mounts,
            stdio: prepared.stdio,
            options,
        };
        let made = task.create(create).await.map_err(|error| runtime_error(label(), error));
        drop(prepared.sources);
        (Some(task), made)
    }

    /// Takes away what a start has made, or what is left of a container that has ended: task,
    /// shim, mounts, bundle. Whatever fails is logged; the next start of the daemon tries again.
    pub(crate) async fn tear_down(&self, record: &Record, task: Option<TaskClient>) {
        self.leave_networks(record).await;
        if let Some(task) = &task {
            // A task that has ended, or that was never made, cannot be killed, and need not be.
            let _ = task.kill("", Signal::KILL, true).await;
        }
        self.clear_away(record, task).await;
    }

    /// Takes away what is left of a container that has ended, its networks aside: task, shim, mounts,
    /// bundle. Failures are treated as by [`Self::tear_down`].
    pub(crate) async fn clear_away(&self, record: &Record, task: Option<TaskClient>) {
        let bundle = self.shared.bundle(&record.id);
        let id = record.id.as_str();
        let asked = match &task {
            Some(task) => end_task(task).await,
            None => false,
        };
        if !asked && let Err(error) = self.shared.delete_by_shim(id, &bundle).await {
            tracing::warn!(container = id, error = %chain(&error),
                "cannot clean up after a shim that is gone");
        }
        if let Some(foreign) = task.as_ref().and_then(TaskClient::foreign) {
            foreign.end_relay().await;
            if let Err(error) = foreign.unmount() {
                tracing::warn!(container = id, error = %chain(&error),
                    "cannot unmount a container's root");
            }
        }
        if let Err(error) =
            tokio::task::spawn_blocking(move || bundle.remove()).await.unwrap_or_else(|join| {
                Err(LaunchError::Bundle { path: "bundle".into(), source: io::Error::other(join) })
            })
        {
            tracing::warn!(container = id, error = %chain(&error), "cannot remove a bundle");
        }
        self.give_volumes_back(record).await;
    }
}

impl Engine {
    /// Ends a container's hold on its volumes, on a thread made for waiting if it has any.
    pub(crate) async fn give_volumes_back(&self, record: &Record) {
        self.shared.unmount_shared_memory(record);
        if record.mounts.is_empty() {
            return;
        }
        let record = record.clone();
        let released = self.blocking("a container's volumes", move |shared| {
            shared.release_volumes(&record);
            Ok(())
        });
        if let Err(error) = released.await {
            tracing::warn!(error = %error.chain(), "cannot give volumes back");
        }
    }
}

/// What runs a container.
pub(crate) fn runtime_of(shared: &Shared, record: &Record) -> Result<Runtime, EngineError> {
    shared
        .settings
        .runtime(&record.host.runtime)
        .map_err(|error| EngineError::InvalidField { field: "runtime", problem: error.to_string() })
}

/// That a shim made a container without being connected to cannot be.
fn not_connected(container: String) -> EngineError {
    EngineError::NotRunning { container, state: "without a shim" }
}

/// Connects a client that attached before the start. That it went away meanwhile is no error, and
/// that it cannot be connected is its own.
async fn connect_waiting(task: &TaskClient, waiting: Waiting) {
    if waiting.reply.is_closed() {
        return;
    }
    let streams = io_connect(&task.io_socket(""), &waiting.wanted).await;
    let _ = waiting.reply.send(streams);
}

/// Deletes a task that has ended and ends its shim. Returns whether the shim did all of it.
async fn end_task(task: &TaskClient) -> bool {
    let deleted = match task.delete("").await {
        Ok(_) => true,
        Err(error) => error.is_not_found(),
    };
    deleted && task.shutdown().await.is_ok()
}

/// Fills the bundle, and makes all that it refers to.
pub(crate) fn prepare(
    shared: &Shared,
    record: &Record,
    network_of: Option<&NetworkOf>,
    joins: &Joins,
) -> Result<Prepared, EngineError> {
    let dir = shared.dir(&record.id);
    let owner = record.id_range.map_or(0, |range| range.start);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir.path())
        .map_err(file_error("make", dir.path()))?;
    // The exit of an earlier run must not be taken for that of this one.
    remove_if_there(&dir.exit_record())?;
    let sources = shared.hold_volumes(record)?;
    shared.mount_shared_memory(record, spec::shm_bytes(record))?;
    if network_of.is_none() {
        etc_files::write(record, &dir, owner)?;
    }
    let etc_dir = network_of.map_or(&dir, |other| &other.dir);
    shared.selinux.label_files(record, &etc_files::paths(etc_dir), network_of.is_some())?;

    let ns = &shared.settings.namespace;
    let mut mounts = shared.snapshotter.mounts(ns, &record.snapshot_key)?;
    if record.host.auto_remove {
        mounts.iter_mut().try_for_each(make_volatile)?;
    }
    shared.selinux.label_root(record, &mut mounts)?;
    let identity = identity(shared, record)?;
    let devices = devices::edits(record).map_err(|source| EngineError::Device {
        container: record.name.as_str().to_owned(),
        source: Box::new(source),
    })?;
    let input = spec::Input {
        record,
        identity: &identity,
        dir: &dir,
        sources: &sources.paths,
        unmappable: &unmappable(&sources.paths),
        last_capability: shared.host.last_capability,
        network_of,
        joins,
        init: init_program(shared, record)?,
        labels: &shared.labels(record)?,
        devices: &devices,
        kernel: &shared.host.kernel,
    };
    let runtime = runtime_of(shared, record)?;
    let mut spec = spec::build(&input).map_err(EngineError::Spec)?;
    check_id_maps(&runtime, &spec, record)?;
    if matches!(&runtime, Runtime::Shim(shim) if shim.options.systemd_cgroup) {
        let_systemd_make_the_cgroup(&mut spec, record);
    }
    let json = serde_json::to_vec(&spec).map_err(|source| EngineError::DamagedRecord {
        container: record.id.as_str().to_owned(),
        source,
    })?;

    shared.bundle(&record.id).configure(&json).map_err(|source| EngineError::Launch {
        container: record.name.as_str().to_owned(),
        source,
    })?;
    Ok(Prepared {
        mounts: root_of_task(mounts, &spec),
        stdio: stdio(shared, record, &dir)?,
        sources,
    })
}

impl Shared {
    /// What a container's processes and files are labelled with.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] for a label that cannot be had here.
    pub(crate) fn labels(&self, record: &Record) -> Result<Labels, EngineError> {
        let apparmor = Modules::ask().choose(&record.host)?;
        Ok(Labels { apparmor, selinux: self.selinux.of(record)?.cloned() })
    }
}

/// Refuses mounts with id maps where the runtime would mount them without.
fn check_id_maps(runtime: &Runtime, spec: &Spec, record: &Record) -> Result<(), EngineError> {
    let mut mapped = spec.mounts().iter().flatten().filter(|mount| mount.uid_mappings().is_some());
    let (Some(mount), Some(program)) = (mapped.next(), runtime.others_program()) else {
        return Ok(());
    };
    if !lacks_id_maps(&program) {
        return Ok(());
    }
    Err(EngineError::NoIdMaps {
        container: record.name.as_str().to_owned(),
        target: mount.destination().clone(),
        runtime: program,
    })
}

/// Lets a root that is thrown away at the end go without the sync of the whole file system below it,
/// which takes as long as others have something to write there (overlayfs, "Volatile mount").
fn make_volatile(mount: &mut keg_store::Mount) -> Result<(), EngineError> {
    let work = mount.options.iter().find_map(|option| option.strip_prefix("workdir="));
    let Some(work) = work.filter(|_| mount.type_ == "overlay") else { return Ok(()) };
    // The mark of a mount before, as of a start that failed, keeps the kernel from mounting anew.
    let mark = Path::new(work).join("work/incompat");
    match std::fs::remove_dir_all(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file_error("remove", &mark)(error));
        }
        _ => mount.options.push("volatile".to_owned()),
    }
    Ok(())
}

/// The program that is put before a container's, if that was asked for.
fn init_program<'a>(shared: &'a Shared, record: &Record) -> Result<Option<&'a Path>, EngineError> {
    if !record.host.init {
        return Ok(None);
    }
    match &shared.settings.init {
        Some(program) => Ok(Some(program)),
        None => Err(EngineError::NoInit { container: record.name.as_str().to_owned() }),
    }
}

/// The mounts of a snapshot as the Task API has them. Where no hook wants to see the root from outside,
/// the shim need not mount it on the host: each mount there makes every later start dearer.
pub(crate) fn root_of_task(mounts: Vec<keg_store::Mount>, spec: &Spec) -> Vec<TaskMount> {
    let detached = spec.hooks().is_none().then(|| DETACHED_ROOT.to_owned());
    let of_task = |mount: keg_store::Mount| TaskMount {
        r#type: mount.type_,
        source: mount.source.to_string_lossy().into_owned(),
        target: String::new(),
        options: mount.options.into_iter().chain(detached.clone()).collect(),
    };
    mounts.into_iter().map(of_task).collect()
}

/// Where the shim is to take and put the streams of the first process (ARCHITECTURE.md, "The seam
/// between kegd and the shim").
pub(crate) fn stdio(
    shared: &Shared,
    record: &Record,
    dir: &ContainerDir,
) -> Result<Stdio, EngineError> {
    let stdout = record.host.log.uri(shared.settings.log, dir, record.durability())?;
    Ok(Stdio {
        terminal: record.config.tty,
        stdin: if record.config.open_stdin { "keg:".to_owned() } else { String::new() },
        stderr: if record.config.tty { String::new() } else { stdout.clone() },
        stdout,
    })
}

/// Writes a path as a part of a URI (RFC 3986, section 2.1).
pub(crate) fn percent_encode(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;

    path.as_os_str()
        .as_bytes()
        .iter()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                char::from(*byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Looks the container's user up in its own files.
pub(crate) fn identity(shared: &Shared, record: &Record) -> Result<Identity, EngineError> {
    user_identity(shared, record, &record.process.user, &record.host.group_add)
}

/// Looks any user up in a container's own files.
pub(crate) fn user_identity(
    shared: &Shared,
    record: &Record,
    user: &str,
    groups: &[String],
) -> Result<Identity, EngineError> {
    let label = || record.name.as_str().to_owned();
    let layers_error = |source| EngineError::Layers { container: label(), source };
    let ns = &shared.settings.namespace;
    let key = &record.snapshot_key;
    let mut layers = vec![shared.snapshotter.directory(ns, key)?];
    if let Some(parent) = shared.snapshotter.stat(ns, key)?.parent {
        layers.extend(shared.snapshotter.layers(ns, &parent)?);
    }
    let root = LayeredRoot::open(&layers).map_err(layers_error)?;
    let read = |path: &str| -> Result<String, EngineError> {
        let content = root.read(Path::new(path), ACCOUNT_FILE_BYTES_MAX).map_err(layers_error)?;
        Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let files = AccountFiles { passwd: &passwd, group: &group };
    users::resolve(user, groups, files)
        .map_err(|source| EngineError::User { container: label(), source })
}

fn remove_if_there(path: &Path) -> Result<(), EngineError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// A failure of the runtime in the runtime's own words; other failures of a shim stay what they
/// are.
pub(crate) fn runtime_error(container: String, error: TaskError) -> EngineError {
    let Some(status) = error.status() else {
        return EngineError::Task { container, source: error };
    };
    let reason = match error.runtime_reason().as_deref() {
        Some("COMMAND_NOT_FOUND") => Reason::CommandNotFound,
        Some("COMMAND_NOT_EXECUTABLE") => Reason::CommandNotExecutable,
        Some("UNSUPPORTED_BY_HOST") => Reason::UnsupportedByHost,
        Some("INVALID_ARGUMENT") => Reason::InvalidArgument,
        _ => Reason::RuntimeFailed,
    };
    EngineError::Runtime { container, complaint: status.message.clone(), reason }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_uris_keep_their_meaning() {
        assert_eq!(percent_encode(Path::new("/a b/c?d&e%é")), "/a%20b/c%3Fd%26e%25%C3%A9");
    }
}
