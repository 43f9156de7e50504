//! The container: what the Task API's methods do, without its messages.
//!
//! ```text
//! Create ─▶ mount rootfs ─▶ streams ─▶ runtime create ─▶ watch init ─▶ event
//! exit   ─▶ kill what is left ─▶ drain streams ─▶ exit record ─▶ Wait answers ─▶ event
//! Delete ─▶ runtime delete ─▶ close streams ─▶ unmount ─▶ event
//! ```
//!
//! There is at most one container. Methods run to their end even if the caller leaves, so they are
//! given to tasks of their own by whoever calls them; only `wait` may be dropped.

mod control;
mod create;
mod exec;
mod exit;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use keg_proto::containerd::events as pb;
use keg_proto::containerd::runc::v1::Options;
use keg_proto::containerd::types::Mount;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use self::create::Watched;
use crate::bootstrap::{Flags, remove_sockets};
use crate::bundle::{Bundle, BundleError};
use crate::cgroup::{CgroupError, Cgroups};
use crate::clock::timestamp;
use crate::events::Publisher;
use crate::oom::OomWatch;
use crate::process::{Happening, Phase, Process, Refused};
use crate::reaper::{Exit, Pid, Reaper};
use crate::rootfs::{self, RootfsError};
use crate::runtime_cli::{Runtime, RuntimeError};
use crate::stdio::{Context, Hub, Owner, Request, StdioError};

/// How long a deletion waits for output that is still under way.
const DELETE_DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long a deletion waits for a reader that is slow to open its FIFO: with the shim's end its
/// content would go.
const DELETE_TAKE_LIMIT: Duration = Duration::from_secs(2);

/// What `Create` is given.
#[derive(Debug)]
pub(crate) struct CreateRequest {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) stdio: Request,
    /// Directory of a checkpoint to restore.
    pub(crate) checkpoint: Option<PathBuf>,
    pub(crate) options: Options,
}

/// Why a method failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("task {id:?} does not exist here: create it first")]
    NoTask { id: String },
    #[error("exec {exec_id:?} does not exist in task {id:?}")]
    NoExec { id: String, exec_id: String },
    #[error("task {id:?} exists already: one shim has one container")]
    TaskExists { id: String },
    #[error("exec {exec_id:?} exists already")]
    ExecExists { exec_id: String },
    #[error("process already finished")]
    Finished,
    #[error("process not created")]
    NotCreated,
    #[error(transparent)]
    Phase(Refused),
    #[error("exec without a process to run")]
    NoSpec,
    #[error("update without resources")]
    NoResources,
    #[error("checkpoint without a path: give one in the request or as image path of its options")]
    NoImagePath,
    #[error("signal {0} does not exist")]
    NoSignal(u32),
    #[error("send signal {signal} to process {pid}")]
    Signal {
        signal: u32,
        pid: i32,
        #[source]
        source: rustix::io::Errno,
    },
    #[error(transparent)]
    Runtime(RuntimeError),
    #[error("mount the root filesystem")]
    Rootfs(#[source] RootfsError),
    #[error("unmount the root filesystem")]
    Unmount(#[source] RootfsError),
    #[error("set up the standard streams")]
    Stdio(#[source] StdioError),
    #[error("use the bundle")]
    Bundle(#[source] BundleError),
    #[error("measure the container")]
    Cgroup(#[source] CgroupError),
}

/// The shim's one container, its surroundings, and its end.
#[derive(Debug)]
pub(crate) struct Supervisor {
    flags: Flags,
    socket: PathBuf,
    reaper: Rc<Reaper>,
    events: Rc<Publisher>,
    task: RefCell<Slot>,
    shutdown: Notify,
    /// Told when the container's first process has ended.
    ended: Notify,
    /// Told when a container has come to be, or has not.
    settled: Notify,
}

/// Whether there is a container.
#[derive(Debug)]
enum Slot {
    Free,
    /// One is being made.
    Taken,
    Task(Rc<Task>),
}

/// A container.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) bundle: Bundle,
    runtime: Runtime,
    pub(crate) init: Rc<Process>,
    execs: RefCell<HashMap<String, Rc<Process>>>,
    owner: Owner,
    own_pid_namespace: Cell<bool>,
    has_rootfs_mounts: bool,
    restore: RefCell<Option<PathBuf>>,
    oom: RefCell<Option<Rc<OomWatch>>>,
    /// Whose cgroup is yet to be watched.
    oom_due: Cell<Option<Pid>>,
    exec_count: Cell<u64>,
}

impl Supervisor {
    pub(crate) fn new(
        flags: Flags,
        socket: PathBuf,
        reaper: Rc<Reaper>,
        events: Rc<Publisher>,
    ) -> Self {
        let task = RefCell::new(Slot::Free);
        let [shutdown, ended, settled] = [Notify::new(), Notify::new(), Notify::new()];
        Self { flags, socket, reaper, events, task, shutdown, ended, settled }
    }

    fn stdio_context<'a>(&'a self, task: &'a Task) -> Context<'a> {
        Context {
            namespace: &self.flags.namespace,
            id: &task.id,
            socket: &self.socket,
            owner: task.owner,
        }
    }

    /// Returns the container if it is `id`.
    pub(crate) fn task(&self, id: &str) -> Result<Rc<Task>, TaskError> {
        match &*self.task.borrow() {
            Slot::Task(task) if task.id == id => Ok(Rc::clone(task)),
            _ => Err(TaskError::NoTask { id: id.to_owned() }),
        }
    }

    /// Returns a process of the container.
    pub(crate) fn process(
        &self,
        id: &str,
        exec_id: &str,
    ) -> Result<(Rc<Task>, Rc<Process>), TaskError> {
        let task = self.task(id)?;
        let process = task.process(exec_id)?;
        Ok((task, process))
    }

    /// Returns where clients of a process meet it.
    pub(crate) fn hub(&self, exec_id: &str) -> Option<Rc<Hub>> {
        let slot = self.task.borrow();
        let Slot::Task(task) = &*slot else { return None };
        task.process(exec_id).ok().map(|process| Rc::clone(process.streams.hub()))
    }

    /// Executes the program of a process.
    pub(crate) async fn start(self: &Rc<Self>, id: &str, exec_id: &str) -> Result<Pid, TaskError> {
        let (task, process) = self.process(id, exec_id)?;
        let _turn = process.turn.lock().await;
        if !exec_id.is_empty() {
            return self.start_exec(&task, &process).await;
        }
        if let Some(checkpoint) = task.restore.take() {
            return self.restore(&task, &checkpoint).await;
        }
        let Phase::Created { pid } = process.phase() else {
            return Err(TaskError::Phase(process.phase().refuse("start")));
        };
        process.streams.open_stdin().map_err(TaskError::Stdio)?;
        // The first of the two is polled first: the runtime is on its way while the shim looks for the cgroup.
        let (started, ()) = tokio::join!(task.runtime.start(id), async {
            self.watch_oom(&task, Watched::MayRun);
        });
        started.map_err(TaskError::Runtime)?;
        process.note(Happening::Started(pid)).map_err(TaskError::Phase)?;
        let container_id = task.id.clone();
        self.events.publish(&pb::TaskStart { container_id, pid: pid.number() });
        Ok(pid)
    }

    /// Forgets a process that has ended or never started, and with the first one the container.
    pub(crate) async fn delete(
        &self,
        id: &str,
        exec_id: &str,
    ) -> Result<(Pid, Option<Exit>), TaskError> {
        let (task, process) = self.process(id, exec_id)?;
        let _turn = process.turn.lock().await;
        let exit = match process.phase() {
            Phase::Running { .. } | Phase::Paused { .. } => {
                return Err(TaskError::Phase(process.phase().refuse("delete")));
            }
            Phase::Stopped { exit, .. } => Some(exit),
            Phase::Added | Phase::Created { .. } => None,
        };
        let pid = process.phase().pid().unwrap_or(Pid(0));
        process.streams.drain(DELETE_DRAIN_LIMIT).await;
        process.streams.taken(DELETE_TAKE_LIMIT).await;
        if exec_id.is_empty() {
            task.runtime.delete(id).await.map_err(TaskError::Runtime)?;
            process.streams.close();
            if task.has_rootfs_mounts {
                rootfs::unmount_all(&task.bundle.rootfs()).map_err(TaskError::Unmount)?;
            }
            *self.task.borrow_mut() = Slot::Free;
            self.events.publish(&pb::TaskDelete {
                container_id: task.id.clone(),
                pid: pid.number(),
                exit_status: exit.map_or(0, Exit::status),
                exited_at: exit.map(|exit| timestamp(exit.at)),
                id: task.id.clone(),
            });
        } else {
            // Of this no event tells: readers take any deletion for the container's.
            process.streams.close();
            task.execs.borrow_mut().remove(exec_id);
        }
        Ok((pid, exit))
    }

    /// Lists the container's processes, each with the exec that made it.
    pub(crate) async fn pids(&self, id: &str) -> Result<Vec<(u32, Option<String>)>, TaskError> {
        let task = self.task(id)?;
        let pids = task.runtime.processes(id).await.map_err(TaskError::Runtime)?;
        let execs = task.execs.borrow();
        let exec_of = |pid: u32| {
            let of =
                |exec: &&Rc<Process>| exec.phase().pid().is_some_and(|known| known.number() == pid);
            execs.values().find(of).map(|exec| exec.exec_id.clone())
        };
        Ok(pids.into_iter().map(|pid| (pid, exec_of(pid))).collect())
    }

    /// Finds the container's cgroups.
    pub(crate) fn cgroups(&self, id: &str) -> Result<Cgroups, TaskError> {
        let task = self.task(id)?;
        match task.init.phase() {
            Phase::Created { pid } | Phase::Running { pid } | Phase::Paused { pid } => {
                Cgroups::of(pid.0).map_err(TaskError::Cgroup)
            }
            Phase::Added | Phase::Stopped { .. } => Err(TaskError::Finished),
        }
    }

    /// Ends the shim, unless there is a container and `now` is not asked for. Its name is free before
    /// that is answered: the next container of this name may follow at once.
    pub(crate) fn shut_down(&self, now: bool) {
        if now || matches!(*self.task.borrow(), Slot::Free) {
            remove_sockets(&self.socket);
            self.shutdown.notify_one();
        }
    }

    /// Waits until no container is about to come to be.
    pub(crate) async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if !matches!(*self.task.borrow(), Slot::Taken) {
                return;
            }
            settled.await;
        }
    }

    /// Whether there is anything to supervise.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(*self.task.borrow(), Slot::Free)
    }

    /// Whether the container's first process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        match &*self.task.borrow() {
            Slot::Task(task) => matches!(task.init.phase(), Phase::Stopped { .. }),
            Slot::Free | Slot::Taken => false,
        }
    }

    /// Waits for the next end of a container's first process.
    pub(crate) fn ended(&self) -> Notified<'_> {
        self.ended.notified()
    }

    /// Waits until the shim is to end.
    pub(crate) async fn shutdown_wanted(&self) {
        self.shutdown.notified().await;
    }
}

impl Task {
    fn process(&self, exec_id: &str) -> Result<Rc<Process>, TaskError> {
        if exec_id.is_empty() {
            return Ok(Rc::clone(&self.init));
        }
        self.execs
            .borrow()
            .get(exec_id)
            .cloned()
            .ok_or_else(|| TaskError::NoExec { id: self.id.clone(), exec_id: exec_id.to_owned() })
    }

    /// The name of a process in events: the container's for the first one.
    pub(crate) fn name_of(&self, process: &Process) -> String {
        if process.exec_id.is_empty() { self.id.clone() } else { process.exec_id.clone() }
    }
}
