//! Where a container is in its life, and what may happen to it there. Pure.
//!
//! ```text
//!            InitReady          Started            InitExited
//! Creating ────────────▶ Created ─────▶ Running ─────────────▶ Stopped ──▶ deleted
//!                           │  Frozen │ ▲ Thawed                   ▲
//!                           │         ▼ │                          │
//!                           │        Paused ───────────────────────┤
//!                           └──────────────────────────────────────┘
//! ```
//!
//! No process of ours watches a container, so its state is not stored but observed: from what
//! `create` wrote down, and from what the kernel says of the process that it wrote down.

use std::fmt;

use nix::unistd::Pid;

/// Where a container is in its life (runtime-spec, runtime.md, "State"; `Paused` is an addition,
/// as in runc).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// `create` is at work, or was killed at it.
    Creating,
    /// Init waits for `start`.
    Created {
        /// The container's first process.
        init: Pid,
    },
    /// The program runs.
    Running {
        /// The container's first process.
        init: Pid,
    },
    /// The program is frozen.
    Paused {
        /// The container's first process.
        init: Pid,
    },
    /// Init has ended.
    Stopped,
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// `create` has finished.
    InitReady(Pid),
    /// `start` has let init execute the program.
    Started,
    /// The cgroup was frozen.
    Frozen,
    /// The cgroup was thawed.
    Thawed,
    /// Init has ended.
    InitExited,
    /// A signal is sent to init.
    Signalled,
    /// A process is added (`exec`).
    Joined,
    /// The container is written to disk.
    Checkpointed,
    /// The container is removed.
    Deleted,
}

/// An event that cannot happen in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// The state.
    pub state: Lifecycle,
    /// The event.
    pub event: Event,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.event, self.state) {
            (Event::Started, Lifecycle::Running { .. } | Lifecycle::Paused { .. }) => {
                f.write_str("cannot start an already running container")
            }
            (Event::Started, Lifecycle::Stopped) => {
                f.write_str("cannot start a container that has stopped")
            }
            (Event::Signalled, _) => f.write_str("container not running"),
            (Event::Joined, Lifecycle::Paused { .. }) => {
                f.write_str("cannot exec in a paused container (use --ignore-paused to override)")
            }
            (Event::Joined, Lifecycle::Stopped) => {
                f.write_str("cannot exec in a stopped container")
            }
            (Event::Checkpointed, state) => {
                write!(f, "container cannot be checkpointed in {state} state: start it first")
            }
            (Event::Frozen, state) => write!(f, "container not running or created: {state}"),
            (Event::Thawed, _) => f.write_str("container not paused"),
            (Event::Deleted, state) => {
                write!(f, "cannot delete container that is not stopped: {state} (use --force)")
            }
            (event, state) => write!(f, "{event:?} is impossible: the container is {state}"),
        }
    }
}

/// What was observed of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// The process that `create` wrote down; `None` before that.
    pub init: Option<Pid>,
    /// Whether that very process lives (a zombie does not).
    pub alive: bool,
    /// Whether it still waits for `start`.
    pub waiting: bool,
    /// Whether its cgroup is frozen.
    pub frozen: bool,
}

impl Lifecycle {
    /// Concludes the state.
    #[must_use]
    pub fn observe(observation: Observation) -> Self {
        match observation {
            Observation { init: None, .. } => Self::Creating,
            Observation { alive: false, .. } => Self::Stopped,
            Observation { init: Some(init), frozen: true, .. } => Self::Paused { init },
            Observation { init: Some(init), waiting: true, .. } => Self::Created { init },
            Observation { init: Some(init), .. } => Self::Running { init },
        }
    }

    /// Returns the state after `event`.
    ///
    /// # Errors
    /// [`Refused`] if it cannot happen in this state.
    pub fn apply(self, event: Event) -> Result<Self, Refused> {
        use Lifecycle::{Created, Creating, Paused, Running, Stopped};
        match (self, event) {
            (Creating, Event::InitReady(init)) => Ok(Created { init }),
            (Created { init }, Event::Started) | (Paused { init }, Event::Thawed) => {
                Ok(Running { init })
            }
            (Created { init } | Running { init }, Event::Frozen) => Ok(Paused { init }),
            (Created { .. } | Running { .. } | Paused { .. }, Event::InitExited)
            | (Stopped, Event::Deleted) => Ok(Stopped),
            (Created { .. } | Running { .. } | Paused { .. }, Event::Signalled)
            | (Created { .. } | Running { .. }, Event::Joined)
            | (Running { .. } | Paused { .. }, Event::Checkpointed) => Ok(self),
            (state, event) => Err(Refused { state, event }),
        }
    }

    /// Returns the first process, where there is one.
    #[must_use]
    pub fn init(self) -> Option<Pid> {
        match self {
            Self::Created { init } | Self::Running { init } | Self::Paused { init } => Some(init),
            Self::Creating | Self::Stopped => None,
        }
    }

    /// Returns the word that `state` and `list` print.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created { .. } => "created",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INIT: Pid = Pid::from_raw(42);

    #[test]
    fn a_whole_life_is_possible() {
        let life = [
            (Event::InitReady(INIT), "created"),
            (Event::Signalled, "created"),
            (Event::Started, "running"),
            (Event::Joined, "running"),
            (Event::Frozen, "paused"),
            (Event::Thawed, "running"),
            (Event::InitExited, "stopped"),
            (Event::Deleted, "stopped"),
        ];

        let mut state = Lifecycle::Creating;
        for (event, word) in life {
            state = state.apply(event).unwrap();
            assert_eq!(state.word(), word, "after {event:?}");
        }
    }

    #[test]
    fn refusals_are_worded_as_runc_words_them() {
        let cases = [
            (
                Lifecycle::Running { init: INIT },
                Event::Started,
                "cannot start an already running container",
            ),
            (Lifecycle::Stopped, Event::Started, "cannot start a container that has stopped"),
            (Lifecycle::Stopped, Event::Signalled, "container not running"),
            (Lifecycle::Stopped, Event::Joined, "cannot exec in a stopped container"),
            (Lifecycle::Stopped, Event::Thawed, "container not paused"),
        ];
        for (state, event, words) in cases {
            assert_eq!(state.apply(event).unwrap_err().to_string(), words);
        }
    }

    #[test]
    fn a_dead_init_is_stopped_whatever_else_was_seen() {
        for (waiting, frozen) in [(false, false), (true, false), (false, true), (true, true)] {
            let seen = Observation { init: Some(INIT), alive: false, waiting, frozen };
            assert_eq!(Lifecycle::observe(seen), Lifecycle::Stopped);
        }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop::sample::select(vec![
            Event::InitReady(INIT),
            Event::Started,
            Event::Frozen,
            Event::Thawed,
            Event::InitExited,
            Event::Signalled,
            Event::Joined,
            Event::Checkpointed,
            Event::Deleted,
        ])
    }

    proptest! {
        #[test]
        fn nothing_leads_back_out_of_stopped(events in prop::collection::vec(any_event(), 0..20)) {
            let mut state = Lifecycle::Creating;
            let mut stopped = false;
            for event in events {
                if let Ok(next) = state.apply(event) {
                    state = next;
                }
                stopped |= state == Lifecycle::Stopped;
                prop_assert!(!stopped || state == Lifecycle::Stopped);
            }
        }
    }
}
