//! One process of the container: its first one, or one that `Exec` added.
//!
//! ```text
//!          Created             Started            Frozen
//!  Added ──────────▶ Created ──────────▶ Running ────────▶ Paused
//!    │                  │                   │ ◀───────────── │
//!    │ Started (exec)   │ Exited            │ Exited  Thawed │ Exited
//!    └───────▶ Running  └──────────────▶ Stopped ◀───────────┘
//! ```

use std::cell::{Cell, RefCell};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::reaper::{Exit, Pid};
use crate::stdio::Streams;

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Known, but the kernel has no process for it yet.
    Added,
    /// The kernel's process waits to execute the program.
    Created { pid: Pid },
    /// The program runs.
    Running { pid: Pid },
    /// The container is frozen.
    Paused { pid: Pid },
    /// It has ended.
    Stopped { pid: Pid, exit: Exit },
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    Created(Pid),
    Started(Pid),
    Frozen,
    Thawed,
    Exited(Exit),
}

/// Something cannot happen to a process in this phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} a {phase} process")]
pub(crate) struct Refused {
    pub(crate) operation: &'static str,
    pub(crate) phase: &'static str,
}

impl Phase {
    /// Returns the phase after `happening`.
    pub(crate) fn apply(self, happening: Happening) -> Result<Self, Refused> {
        use Happening::{Created, Exited, Frozen, Started, Thawed};
        match (self, happening) {
            (Self::Added, Created(pid)) => Ok(Self::Created { pid }),
            (Self::Added | Self::Created { .. }, Started(pid)) => Ok(Self::Running { pid }),
            (Self::Running { pid }, Frozen) => Ok(Self::Paused { pid }),
            (Self::Paused { pid }, Thawed) => Ok(Self::Running { pid }),
            (
                Self::Created { pid } | Self::Running { pid } | Self::Paused { pid },
                Exited(exit),
            ) => Ok(Self::Stopped { pid, exit }),
            (phase, happening) => {
                let operation = match happening {
                    Created(_) => "create",
                    Started(_) => "start",
                    Frozen => "pause",
                    Thawed => "resume",
                    Exited(_) => "end",
                };
                Err(phase.refuse(operation))
            }
        }
    }

    pub(crate) fn refuse(self, operation: &'static str) -> Refused {
        Refused { operation, phase: self.name() }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added | Self::Created { .. } => "created",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Stopped { .. } => "stopped",
        }
    }

    pub(crate) fn pid(self) -> Option<Pid> {
        match self {
            Self::Added => None,
            Self::Created { pid }
            | Self::Running { pid }
            | Self::Paused { pid }
            | Self::Stopped { pid, .. } => Some(pid),
        }
    }
}

/// A process and what the shim holds for it.
#[derive(Debug)]
pub(crate) struct Process {
    /// Empty for the first process.
    pub(crate) exec_id: String,
    pub(crate) streams: Streams,
    /// The runtime-spec's process object, until it is started.
    pub(crate) spec: RefCell<Option<Vec<u8>>>,
    /// Held while the process is started or deleted, and while its exit is handled: so that these
    /// are reported in this order.
    pub(crate) turn: tokio::sync::Mutex<()>,
    phase: Cell<Phase>,
    started_at: Cell<Option<SystemTime>>,
    exit: watch::Sender<Option<Exit>>,
}

impl Process {
    pub(crate) fn new(exec_id: &str, streams: Streams, spec: Option<Vec<u8>>) -> Self {
        Self {
            exec_id: exec_id.to_owned(),
            streams,
            spec: RefCell::new(spec),
            turn: tokio::sync::Mutex::new(()),
            phase: Cell::new(Phase::Added),
            started_at: Cell::new(None),
            exit: watch::Sender::new(None),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn started_at(&self) -> Option<SystemTime> {
        self.started_at.get()
    }

    /// Notes what happened, and tells who waits for the end.
    pub(crate) fn note(&self, happening: Happening) -> Result<(), Refused> {
        self.phase.set(self.phase.get().apply(happening)?);
        match happening {
            Happening::Started(_) => self.started_at.set(Some(SystemTime::now())),
            Happening::Exited(exit) => drop(self.exit.send_replace(Some(exit))),
            Happening::Created(_) | Happening::Frozen | Happening::Thawed => {}
        }
        Ok(())
    }

    /// Waits for the end.
    pub(crate) async fn exited(&self) -> Option<Exit> {
        let mut exit = self.exit.subscribe();
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reaper::Cause;

    const PID: Pid = Pid(7);

    fn exit() -> Exit {
        Exit { cause: Cause::Code(0), at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn the_phases_follow_the_drawing() {
        use Happening::{Created, Exited, Frozen, Started, Thawed};
        let stopped = Phase::Stopped { pid: PID, exit: exit() };
        let (created, running, paused) =
            (Phase::Created { pid: PID }, Phase::Running { pid: PID }, Phase::Paused { pid: PID });
        let all = [Created(PID), Started(PID), Frozen, Thawed, Exited(exit())];
        for (phase, after) in [
            (Phase::Added, [Some(created), Some(running), None, None, None]),
            (created, [None, Some(running), None, None, Some(stopped)]),
            (running, [None, None, Some(paused), None, Some(stopped)]),
            (paused, [None, None, None, Some(running), Some(stopped)]),
            (stopped, [None, None, None, None, None]),
        ] {
            for (happening, expected) in all.into_iter().zip(after) {
                assert_eq!(phase.apply(happening).ok(), expected, "{phase:?} {happening:?}");
            }
        }
    }

    #[test]
    fn a_refusal_says_what_and_why() {
        let refused = Phase::Paused { pid: PID }.apply(Happening::Started(PID)).unwrap_err();

        assert_eq!(refused.to_string(), "cannot start a paused process");
    }
}
