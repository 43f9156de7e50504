//! How the container comes to be: by the runtime's `create`, or from a checkpoint.
//!
//! Whatever fails, what was made before it is undone: the container, then the mounts.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use keg_proto::containerd::events as pb;

use super::{CreateRequest, Slot, Supervisor, Task, TaskError};
use crate::bundle::{self, Bundle};
use crate::cgroup::Cgroups;
use crate::later::later;
use crate::oom::OomWatch;
use crate::process::{Happening, Process};
use crate::reaper::Pid;
use crate::rootfs;
use crate::runtime_cli::{Runtime, RuntimeError};
use crate::self_log;
use crate::stdio::{OurEnds, Owner, Streams};

/// What a container does when its memory begins to be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// Its program has not begun.
    Waits,
    /// It may be out of memory already.
    MayRun,
}

impl Supervisor {
    /// Makes the container; its program waits for [`Self::start`].
    pub(crate) async fn create(self: &Rc<Self>, request: CreateRequest) -> Result<Pid, TaskError> {
        if !matches!(*self.task.borrow(), Slot::Free) {
            return Err(TaskError::TaskExists { id: request.id });
        }
        *self.task.borrow_mut() = Slot::Taken;
        let created = self.create_in_slot(&request).await;
        let mut slot = self.task.borrow_mut();
        match created {
            Ok(task) => {
                let pid = task.init.phase().pid().unwrap_or(Pid(0));
                *slot = Slot::Task(Rc::clone(&task));
                drop(slot);
                self.settled.notify_waiters();
                self.announce_create(&task, &request, pid);
                Ok(pid)
            }
            Err(error) => {
                *slot = Slot::Free;
                // The daemon may have gone meanwhile, and wants no shim any more.
                self.ended.notify_waiters();
                self.settled.notify_waiters();
                Err(error)
            }
        }
    }

    async fn create_in_slot(
        self: &Rc<Self>,
        request: &CreateRequest,
    ) -> Result<Rc<Task>, TaskError> {
        let bundle = Bundle::new(&request.bundle);
        let streams = Streams::new(request.stdio.clone()).map_err(TaskError::Stdio)?;
        let runtime = Runtime::new(
            &request.options,
            &self.flags.daemon_dir(),
            &self.flags.namespace,
            bundle.dir(),
            Rc::clone(&self.reaper),
        );
        let record = runtime.record(streams.exit_record().map(|place| place.path.clone()));
        bundle.write_task_record(&record).map_err(TaskError::Bundle)?;
        let task = Rc::new(Task {
            id: request.id.clone(),
            own_pid_namespace: Cell::default(),
            runtime,
            init: Rc::new(Process::new("", streams, None)),
            execs: RefCell::default(),
            owner: Owner { user: request.options.io_uid, group: request.options.io_gid },
            has_rootfs_mounts: !request.rootfs.is_empty(),
            restore: RefCell::new(request.checkpoint.clone()),
            oom: RefCell::default(),
            oom_due: Cell::default(),
            exec_count: Cell::new(0),
            bundle,
        });
        let (mounts, place) = (&request.rootfs, task.bundle.rootfs());
        // CRIU restores into what is mounted.
        let root = if task.runtime.takes_descriptors() && request.checkpoint.is_none() {
            rootfs::make_root(mounts, &place)
        } else {
            rootfs::mount_all(mounts, &place).map(|()| None)
        };
        let root = root.map_err(TaskError::Rootfs)?;
        if request.checkpoint.is_some() {
            // A restored container has no state "created": Start restores it.
            task.look_at_bundle()?;
            return Ok(task);
        }
        if let Err(error) = self.create_init(&task, root).await {
            if let Err(unmount) = rootfs::unmount_all(&place) {
                self_log::warn("undo a failed create", &unmount);
            }
            return Err(error);
        }
        Ok(task)
    }

    async fn create_init(
        self: &Rc<Self>,
        task: &Rc<Task>,
        root: Option<OwnedFd>,
    ) -> Result<(), TaskError> {
        let adoption = self.reaper.adopt();
        let streams = &task.init.streams;
        let pid_file = task.bundle.init_pid_file();
        let (ends, ours) =
            streams.prepare(self.stdio_context(task)).await.map_err(TaskError::Stdio)?;
        // The first of the two is polled first: the shim reads while the runtime works.
        let (created, looked) = tokio::join!(
            task.runtime.create(&task.id, task.bundle.dir(), &pid_file, ends, root),
            async { task.look_at_bundle() },
        );
        if let Err(RuntimeError::Killed { .. }) = &created {
            // It had no time to undo what it did.
            self.discard(task).await;
        }
        created.map_err(TaskError::Runtime)?;
        let connected = match looked {
            Ok(()) => self.connect_init(task, ours).await,
            Err(error) => Err(error),
        };
        let pid = match connected {
            Ok(pid) => pid,
            Err(error) => {
                // The runtime made a container that nobody can use.
                self.discard(task).await;
                return Err(error);
            }
        };
        task.init.note(Happening::Created(pid)).map_err(TaskError::Phase)?;
        task.oom_due.set(Some(pid));
        let (supervisor, watched) = (Rc::clone(self), Rc::clone(task));
        later(move || supervisor.watch_oom(&watched, Watched::Waits));
        let exited = self.reaper.watch(pid);
        drop(adoption);
        tokio::task::spawn_local(Rc::clone(self).follow(
            Rc::clone(task),
            Rc::clone(&task.init),
            exited,
        ));
        Ok(())
    }

    async fn discard(&self, task: &Task) {
        if let Err(error) = task.runtime.delete(&task.id).await {
            self_log::warn("undo a failed create", &error);
        }
    }

    async fn connect_init(&self, task: &Task, ours: OurEnds) -> Result<Pid, TaskError> {
        task.init.streams.start(ours).await.map_err(TaskError::Stdio)?;
        bundle::read_pid(&task.bundle.init_pid_file()).map(Pid).map_err(TaskError::Bundle)
    }

    fn announce_create(&self, task: &Task, request: &CreateRequest, pid: Pid) {
        let stdio = request.stdio.clone();
        self.events.publish_later(&pb::TaskCreate {
            container_id: task.id.clone(),
            bundle: request.bundle.to_string_lossy().into_owned(),
            rootfs: request.rootfs.clone(),
            io: Some(pb::TaskIo {
                stdin: stdio.stdin,
                stdout: stdio.stdout,
                stderr: stdio.stderr,
                terminal: stdio.terminal,
            }),
            checkpoint: request
                .checkpoint
                .as_ref()
                .map_or_else(String::new, |path| path.to_string_lossy().into_owned()),
            pid: pid.number(),
        });
    }

    /// Makes and runs the container from a checkpoint.
    pub(super) async fn restore(
        self: &Rc<Self>,
        task: &Rc<Task>,
        checkpoint: &Path,
    ) -> Result<Pid, TaskError> {
        let adoption = self.reaper.adopt();
        let init = &task.init;
        let (ends, ours) =
            init.streams.prepare(self.stdio_context(task)).await.map_err(TaskError::Stdio)?;
        let pid_file = task.bundle.init_pid_file();
        let restored =
            task.runtime.restore(&task.id, task.bundle.dir(), &pid_file, checkpoint, ends).await;
        if let Err(RuntimeError::Killed { .. }) = &restored {
            self.discard(task).await;
        }
        restored.map_err(TaskError::Runtime)?;
        let pid = self.connect_init(task, ours).await?;
        init.streams.open_stdin().map_err(TaskError::Stdio)?;
        init.note(Happening::Started(pid)).map_err(TaskError::Phase)?;
        task.oom_due.set(Some(pid));
        self.watch_oom(task, Watched::MayRun);
        let container_id = task.id.clone();
        self.events.publish(&pb::TaskStart { container_id, pid: pid.number() });
        let exited = self.reaper.watch(pid);
        drop(adoption);
        tokio::task::spawn_local(Rc::clone(self).follow(Rc::clone(task), Rc::clone(init), exited));
        Ok(pid)
    }

    /// Lack of memory is reported while the container lives; that it is not watched is no reason
    /// to fail. What is watched already stays so.
    pub(super) fn watch_oom(self: &Rc<Self>, task: &Rc<Task>, watched: Watched) {
        let Some(pid) = task.oom_due.take() else { return };
        let watch = match Cgroups::of(pid.0) {
            Ok(cgroups) => OomWatch::new(&cgroups),
            Err(error) => return self_log::warn("watch the container's memory", &error),
        };
        let watch = match watch {
            Ok(Some(watch)) => Rc::new(watch),
            Ok(None) => return,
            Err(error) => return self_log::warn("watch the container's memory", &error),
        };
        *task.oom.borrow_mut() = Some(Rc::clone(&watch));
        let (supervisor, id) = (Rc::clone(self), task.id.clone());
        let init = Rc::downgrade(&task.init);
        tokio::task::spawn_local(async move {
            let mut missed = watched == Watched::MayRun && watch.kills() > 0;
            while missed || (watch.next().await && init.strong_count() > 0) {
                missed = false;
                supervisor.events.publish(&pb::TaskOom { container_id: id.clone() });
            }
        });
    }
}

impl Task {
    /// Reads what concerns the shim of the specification.
    fn look_at_bundle(&self) -> Result<(), TaskError> {
        let own = self.bundle.has_own_pid_namespace().map_err(TaskError::Bundle)?;
        self.own_pid_namespace.set(own);
        Ok(())
    }
}
