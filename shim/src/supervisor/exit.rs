//! The end of a process: what is done before anyone is told.
//!
//! ```text
//! reaped ─▶ end what is left ─▶ drain its streams ─▶ exit record ─▶ Wait answers ─▶ event
//! ```

use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

use keg_proto::containerd::events as pb;
use tokio::sync::oneshot;

use super::{Supervisor, Task};
use crate::clock::timestamp;
use crate::exit_record::{ExitRecord, Place};
use crate::process::{Happening, Phase, Process};
use crate::reaper::{Exit, Pid};
use crate::self_log;

/// How long an exit waits for destinations that take the last output slowly.
const EXIT_DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How long the first process's exit waits for those of its execs, which the kernel ends with it.
const EXECS_LIMIT: Duration = Duration::from_secs(2);

/// How long a record waits for room on the disk before it is tried again: first, and at most.
const RECORD_PAUSES: Range<Duration> = Duration::from_millis(200)..Duration::from_secs(5);

const SIGKILL: u32 = 9;

impl Supervisor {
    /// Waits for the end of a process, and reports it after everything else about it.
    pub(super) async fn follow(
        self: Rc<Self>,
        task: Rc<Task>,
        process: Rc<Process>,
        exited: oneshot::Receiver<Exit>,
    ) {
        let Ok(exit) = exited.await else { return };
        let _turn = process.turn.lock().await;
        if process.exec_id.is_empty() {
            task.end_the_rest().await;
        }
        process.streams.drain(EXIT_DRAIN_LIMIT).await;
        let pid = process.phase().pid().unwrap_or(Pid(0));
        if let Some(place) = process.streams.exit_record() {
            // A short process may have ended before the runtime's `start` returned.
            let started_at = process.started_at().map(|started| started.min(exit.at));
            let mut record =
                ExitRecord::new(&task.id, &process.exec_id, pid, exit).started(started_at);
            record.oom_killed = task.oom.borrow().as_ref().is_some_and(|watch| watch.kills() > 0);
            if let Err(error) = record.write(place) {
                // Whoever waits must learn of the exit all the same.
                self_log::warn("the exit is reported before it is recorded", &error);
                let later = write_later(record, place.clone(), Rc::downgrade(&process));
                tokio::task::spawn_local(later);
            }
        }
        if let Err(error) = process.note(Happening::Exited(exit)) {
            self_log::warn("an exit came twice", &error);
            return;
        }
        if process.exec_id.is_empty() {
            self.ended.notify_waiters();
        }
        self.events.publish(&pb::TaskExit {
            container_id: task.id.clone(),
            id: task.name_of(&process),
            pid: pid.number(),
            exit_status: exit.status(),
            exited_at: Some(timestamp(exit.at)),
        });
    }
}

/// Records an exit when the disk has room again, unless the process is deleted before: then whoever
/// deleted it knows.
async fn write_later(record: ExitRecord, place: Place, process: Weak<Process>) {
    let mut pause = RECORD_PAUSES.start;
    loop {
        tokio::time::sleep(pause).await;
        if process.strong_count() == 0 {
            return;
        }
        if record.write(&place).is_ok() {
            return self_log::info("the exit is recorded now");
        }
        pause = (pause * 2).min(RECORD_PAUSES.end);
    }
}

impl Task {
    /// Ends what the first process left behind, and waits for the execs that go with it.
    async fn end_the_rest(&self) {
        if !self.own_pid_namespace.get() {
            match self.runtime.kill(&self.id, SIGKILL, true).await {
                Err(error) if error.reason().is_none() => {
                    self_log::warn("end the processes that the container left", &error);
                }
                // Nothing was left.
                _ => {}
            }
        }
        let execs: Vec<_> = self.execs.borrow().values().cloned().collect();
        let all = async {
            for exec in execs {
                if matches!(exec.phase(), Phase::Running { .. }) {
                    exec.exited().await;
                }
            }
        };
        let _ = tokio::time::timeout(EXECS_LIMIT, all).await;
    }
}
