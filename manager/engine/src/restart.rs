//! Restart policies: what ended is started anew, with growing pauses.
//!
//! A container that ends soon after each start is tried less and less often, up to once a minute;
//! one that ran for ten seconds begins anew with a short pause. Who stops a container, or kills it,
//! ends that until somebody starts it. After the daemon or the machine was restarted, what should
//! run is started like after an exit.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::engine::Engine;
use crate::lifecycle::{Exit, Lifecycle};
use crate::model::Record;

/// Pause before the first attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long to wait for a container that is needed by another.
const NEEDED_WITHIN: Duration = Duration::from_secs(30);
/// A container that ran so long is not failing.
const STABLE: Duration = Duration::from_secs(10);

/// When a container is started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// If its process failed.
    OnFailure {
        /// At most so many times in a row; `None`: for ever.
        max_retries: Option<u32>,
    },
    /// Whenever it ends, unless somebody stops it; and when the daemon starts in any case.
    Always,
    /// Whenever it ends, unless somebody stops it, then not when the daemon starts either.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether a container that has ended is to be started anew. `asked` says whether somebody
    /// asked it to stop.
    fn wants_after_exit(self, exit: &Exit, asked: bool, restarts: u32) -> bool {
        !asked
            && match self {
                Self::No => false,
                Self::OnFailure { max_retries } => {
                    exit.code != 0 && max_retries.is_none_or(|max| restarts < max)
                }
                Self::Always | Self::UnlessStopped => true,
            }
    }

    /// Whether a container that does not run is to be started when the daemon starts.
    fn wants_after_boot(self, exit: &Exit, asked: bool, restarts: u32) -> bool {
        self == Self::Always || self.wants_after_exit(exit, asked, restarts)
    }

    /// Its name, as `docker run --restart` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure { .. } => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }
}

/// How long a run took. A clock that was set back meanwhile makes it short, one that was set forward
/// makes it long: the next pause is too long or too short by that, and those after it are right.
fn length(started: Timestamp, ended: Timestamp) -> Duration {
    Duration::try_from(ended.duration_since(started)).unwrap_or_default()
}

/// How long to wait before the next attempt, after a run of `ran` and a pause of `last`.
fn next_pause(last: Option<Duration>, ran: Duration) -> Duration {
    match last {
        Some(last) if ran < STABLE => (last * 2).min(LONGEST_PAUSE),
        _ => FIRST_PAUSE,
    }
}

impl Engine {
    /// Starts a container that has ended anew, if its policy wants that.
    pub(crate) fn restart_if_wanted(&self, container: &Arc<Container>, ended: &Record) {
        let record = container.record();
        let Lifecycle::Exited { exit, .. } = &record.lifecycle else { return };
        let (policy, restarts) = (record.host.restart, record.restart_count);
        if policy.wants_after_exit(exit, record.stop_asked, restarts) {
            let started = ended.lifecycle.started_at().unwrap_or(exit.exited_at);
            self.restart_later(container, length(started, exit.exited_at));
        }
    }

    /// Starts what should run and does not, once the daemon knows its containers.
    pub(crate) fn start_what_should_run(&self) {
        for container in self.all() {
            let record = container.record();
            let Lifecycle::Exited { exit, .. } = &record.lifecycle else { continue };
            let policy = record.host.restart;
            if policy.wants_after_boot(exit, record.stop_asked, record.restart_count) {
                self.restart_later(&container, STABLE);
            }
        }
    }

    fn restart_later(&self, container: &Arc<Container>, ran: Duration) {
        let Some(pause) = container.plan_restart(|last| next_pause(last, ran)) else { return };
        let (engine, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let mut watch = container.watch();
            let overtaken = tokio::time::timeout(
                pause,
                watch.wait_for(|progress| progress.alive || progress.removed),
            )
            .await
            .is_ok();
            engine.await_needs(&container).await;
            // Somebody started, stopped or removed it meanwhile.
            if !container.take_planned_restart() || overtaken {
                return;
            }
            if let Err(error) = engine.start_anew(&container).await {
                tracing::warn!(container = %container.id(), error = %error.chain(),
                    "a restart policy could not start a container");
            }
        });
    }

    /// Waits, for a while, until the containers run whose namespaces this one shares.
    async fn await_needs(&self, container: &Container) {
        for id in Self::needs(&container.record()) {
            let Ok(other) = self.find(&id) else { continue };
            let mut watch = other.watch();
            let runs = watch.wait_for(|progress| progress.alive || progress.removed);
            // One that does not start in time makes this start fail, with its name.
            let _ = tokio::time::timeout(NEEDED_WITHIN, runs).await;
        }
    }

    async fn start_anew(&self, container: &Arc<Container>) -> Result<(), crate::EngineError> {
        {
            let turn = container.turn().await;
            let record = container.record();
            if !matches!(record.lifecycle, Lifecycle::Exited { .. }) {
                return Ok(());
            }
            // Stored together with the start.
            let restart_count = record.restart_count.saturating_add(1);
            turn.commit(Record { restart_count, ..Record::clone(&record) });
        }
        self.start_container(container).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: u32) -> Exit {
        Exit { code, exited_at: Timestamp::UNIX_EPOCH, oom_killed: false, error: String::new() }
    }

    #[test]
    fn policies_decide_as_dockers_do() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let some = OnFailure { max_retries: Some(2) };
        let any = OnFailure { max_retries: None };
        // policy, code, asked to stop, restarts so far; after exit, after boot
        let table = [
            (No, 1, false, 0, false, false),
            (any, 0, false, 0, false, false),
            (any, 1, false, 99, true, true),
            (any, 1, true, 0, false, false),
            (some, 1, false, 1, true, true),
            (some, 1, false, 2, false, false),
            (Always, 0, false, 0, true, true),
            (Always, 0, true, 0, false, true),
            (UnlessStopped, 0, false, 0, true, true),
            (UnlessStopped, 0, true, 0, false, false),
        ];
        for (policy, code, asked, restarts, after_exit, after_boot) in table {
            let exit = exit(code);
            let outcome = (
                policy.wants_after_exit(&exit, asked, restarts),
                policy.wants_after_boot(&exit, asked, restarts),
            );
            assert_eq!(outcome, (after_exit, after_boot), "{policy:?} {code} {asked} {restarts}");
        }
    }

    #[test]
    fn a_clock_that_jumps_spoils_one_pause_and_no_more() {
        let at = |secs: i64| Timestamp::from_second(secs).expect("a moment");
        let last = Some(Duration::from_secs(1));

        let went_back = next_pause(last, length(at(1_000_000), at(1)));
        let went_on = next_pause(last, length(at(1), at(1_000_000)));

        assert_eq!((went_back, went_on), (Duration::from_secs(2), FIRST_PAUSE));
        let after = next_pause(Some(went_back), length(at(2), at(3)));
        assert_eq!(after, Duration::from_secs(4));
    }

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew_after_a_stable_run() {
        let mut pause = next_pause(None, Duration::ZERO);
        assert_eq!(pause, FIRST_PAUSE);
        for _ in 0..20 {
            pause = next_pause(Some(pause), Duration::from_secs(1));
        }
        assert_eq!(pause, LONGEST_PAUSE);
        assert_eq!(next_pause(Some(pause), STABLE), FIRST_PAUSE);
    }
}
