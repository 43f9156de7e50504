//! Where a container is in its life, and what can happen to it there.
//!
//! ```text
//!            Started            Paused
//!  Created ───────────▶ Running ───────▶ Paused
//!   ▲ │ │                │  ▲ ◀───────────┘ │
//!   └─┘ │ StartFailed    │  │    Resumed    │
//!       │         Exited │  │ Started       │ Exited
//!       │                ▼  │               │
//!       │               Exited ◀────────────┘
//!       │ RemoveBegun    │  (StartFailed stays here)
//!       ▼                ▼
//!      Removing ───────▶ Dead: its leftovers cannot be taken away; Removing can be tried again
//!          RemoveFailed
//! ```
//!
//! The state is stored with the record, so that a daemon that starts knows what it left. Invariant:
//! [`Lifecycle::apply`] is the only way from one state to another.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a process ended, or why it never began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The process's own code, or 128 + n if signal n killed it.
    pub code: u32,
    /// When, by the host's clock.
    pub exited_at: Timestamp,
    /// Whether the kernel killed a process of the container for lack of memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// Why the engine could not start the process or lost sight of it; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// A state, with the data that exists in it and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Lifecycle {
    /// Made, never ran.
    Created {
        /// Why the last attempt to start it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Exit>,
    },
    /// Its process runs.
    Running {
        /// The process, in the host's PID namespace.
        pid: u32,
        /// When it started.
        started_at: Timestamp,
    },
    /// Its processes are frozen.
    Paused {
        /// The process, in the host's PID namespace.
        pid: u32,
        /// When it started.
        started_at: Timestamp,
    },
    /// Its process has ended.
    Exited {
        /// When it had started.
        started_at: Timestamp,
        /// How it ended.
        exit: Exit,
    },
    /// It is being taken away; nothing else can happen to it.
    Removing,
    /// Something of it could not be taken away.
    Dead {
        /// What, and why.
        error: String,
    },
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its process runs.
    Started {
        /// The process, in the host's PID namespace.
        pid: u32,
        /// When it started.
        at: Timestamp,
    },
    /// Its process could not be started.
    StartFailed(Exit),
    /// Its processes are frozen.
    Paused,
    /// Its processes go on.
    Resumed,
    /// Its process has ended.
    Exited(Exit),
    /// It is being taken away.
    RemoveBegun,
    /// It could not be taken away.
    RemoveFailed {
        /// What failed, and why.
        error: String,
    },
}

/// The event cannot happen in that state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {} cannot take {event:?}", state.name())]
pub struct Refused {
    /// Where the container was.
    pub state: Lifecycle,
    /// What was to happen.
    pub event: Event,
}

impl Lifecycle {
    /// Returns the state after `event`.
    ///
    /// # Errors
    /// [`Refused`] if the event cannot happen in this state.
    pub fn apply(self, event: Event) -> Result<Self, Refused> {
        match (self, event) {
            (Self::Created { .. } | Self::Exited { .. }, Event::Started { pid, at }) => {
                Ok(Self::Running { pid, started_at: at })
            }
            (Self::Created { .. }, Event::StartFailed(exit)) => {
                Ok(Self::Created { failure: Some(exit) })
            }
            (Self::Exited { started_at, .. }, Event::StartFailed(exit)) => {
                Ok(Self::Exited { started_at, exit })
            }
            (Self::Running { pid, started_at }, Event::Paused) => {
                Ok(Self::Paused { pid, started_at })
            }
            (Self::Paused { pid, started_at }, Event::Resumed) => {
                Ok(Self::Running { pid, started_at })
            }
            (
                Self::Running { started_at, .. } | Self::Paused { started_at, .. },
                Event::Exited(exit),
            ) => Ok(Self::Exited { started_at, exit }),
            (
                Self::Created { .. } | Self::Exited { .. } | Self::Dead { .. } | Self::Removing,
                Event::RemoveBegun,
            ) => Ok(Self::Removing),
            (Self::Removing, Event::RemoveFailed { error }) => Ok(Self::Dead { error }),
            (state, event) => Err(Refused { state, event }),
        }
    }

    /// The state's name, as `ps` and filters have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Exited { .. } => "exited",
            Self::Removing => "removing",
            Self::Dead { .. } => "dead",
        }
    }

    /// Whether there is a process, frozen or not.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Paused { .. })
    }

    /// The process, if there is one.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Running { pid, .. } | Self::Paused { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    /// When its process started last.
    pub fn started_at(&self) -> Option<Timestamp> {
        match self {
            Self::Running { started_at, .. }
            | Self::Paused { started_at, .. }
            | Self::Exited { started_at, .. } => Some(*started_at),
            _ => None,
        }
    }

    /// How its process ended last, or why it did not start.
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exited { exit, .. } | Self::Created { failure: Some(exit) } => Some(exit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: u32) -> Exit {
        Exit { code, exited_at: Timestamp::UNIX_EPOCH, oom_killed: false, error: String::new() }
    }

    fn states() -> Vec<Lifecycle> {
        let started_at = Timestamp::UNIX_EPOCH;
        vec![
            Lifecycle::Created { failure: None },
            Lifecycle::Created { failure: Some(exit(127)) },
            Lifecycle::Running { pid: 7, started_at },
            Lifecycle::Paused { pid: 7, started_at },
            Lifecycle::Exited { started_at, exit: exit(3) },
            Lifecycle::Removing,
            Lifecycle::Dead { error: "busy".into() },
        ]
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Started { pid: 8, at: Timestamp::UNIX_EPOCH },
            Event::StartFailed(exit(126)),
            Event::Paused,
            Event::Resumed,
            Event::Exited(exit(0)),
            Event::RemoveBegun,
            Event::RemoveFailed { error: "busy".into() },
        ]
    }

    #[test]
    fn exactly_the_drawn_edges_exist() {
        let allowed: Vec<(&str, String)> = states()
            .into_iter()
            .flat_map(|state| events().into_iter().map(move |event| (state.clone(), event)))
            .filter_map(|(state, event)| {
                let from = state.name();
                state.apply(event).ok().map(|to| (from, to.name().to_owned()))
            })
            .collect();

        let drawn = [
            ("created", "running"),
            ("created", "created"),
            ("created", "removing"),
            ("created", "running"),
            ("created", "created"),
            ("created", "removing"),
            ("running", "paused"),
            ("running", "exited"),
            ("paused", "running"),
            ("paused", "exited"),
            ("exited", "running"),
            ("exited", "exited"),
            ("exited", "removing"),
            ("removing", "removing"),
            ("removing", "dead"),
            ("dead", "removing"),
        ];
        assert_eq!(allowed, drawn.map(|(from, to)| (from, to.to_owned())));
    }

    #[test]
    fn a_failed_start_keeps_the_state_and_tells_why() {
        let created = Lifecycle::Created { failure: None };

        let after = created.apply(Event::StartFailed(exit(127))).unwrap();

        assert_eq!(after.exit().map(|exit| exit.code), Some(127));
        assert_eq!(after.name(), "created");
    }

    #[test]
    fn every_state_survives_storage() {
        for state in states() {
            let text = serde_json::to_string(&state).unwrap();

            assert_eq!(serde_json::from_str::<Lifecycle>(&text).unwrap(), state, "{text}");
        }
    }
}
