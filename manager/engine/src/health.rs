//! Health checks: a program that is run in a container now and then, and says whether it works.
//!
//! ```text
//!              success                 failures in a row ≥ retries
//!  starting ───────────▶ healthy ───────────────────────────────▶ unhealthy
//!     │                     ◀──────────────── success ────────────────┘ ▲
//!     └──────────── failures after the start period ────────────────────┘
//! ```
//!
//! A task per running container that has a check waits, probes and judges; it ends with the
//! container's process. A probe that takes too long is killed. What changes the status is stored
//! with the record; the probes in between are in memory only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::exec::ExecRequest;
use crate::lifecycle::Lifecycle;
use crate::model::Record;
use crate::procfs;
use crate::shim::io::FromProcess;
use crate::signal::Signal;
use crate::stop::Patience;

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Probes that are remembered.
const LOG_LENGTH: usize = 5;
/// Bytes of a probe's output that are remembered.
const OUTPUT_BYTES: usize = 4096;

/// What is done with a container that became unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnhealthy {
    /// It is told, and no more.
    #[default]
    None,
    /// Its process is killed; its restart policy says what follows.
    Kill,
    /// It is restarted.
    Restart,
    /// It is stopped.
    Stop,
}

/// How to find out whether a container works. Zero: the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `NONE`, or `CMD` and arguments, or `CMD-SHELL` and a line; empty: the image's.
    pub test: Vec<String>,
    /// Milliseconds between probes.
    pub interval_msec: u64,
    /// Milliseconds that a probe may take.
    pub timeout_msec: u64,
    /// Milliseconds after the start in which failures do not count.
    pub start_period_msec: u64,
    /// Milliseconds between probes in that time.
    pub start_interval_msec: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// What is done then.
    pub on_failure: OnUnhealthy,
}

/// Whether a container works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It is not known yet.
    Starting,
    /// It does.
    Healthy,
    /// It does not.
    Unhealthy,
}

/// What is known of a container's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The judgement.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last probes, oldest first.
    pub log: VecDeque<Probe>,
}

/// What came of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// The program's exit code; -1 if it was killed or could not be run.
    pub exit_code: i32,
    /// What it wrote.
    pub output: String,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Starting => "health_status: starting",
            Self::Healthy => "health_status: healthy",
            Self::Unhealthy => "health_status: unhealthy",
        }
    }
}

impl OnUnhealthy {
    /// Parses `none`, `kill`, `restart`, `stop`; empty is `none`.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "" | "none" => Self::None,
            "kill" => Self::Kill,
            "restart" => Self::Restart,
            "stop" => Self::Stop,
            _ => return None,
        })
    }

    /// The word that [`OnUnhealthy::parse`] takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }
}

impl HealthCheck {
    /// Reads `config.Healthcheck` of an image's configuration, an extension of Docker's; times are
    /// nanoseconds there.
    pub(crate) fn of_image(config_json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Theirs {
            #[serde(default)]
            test: Option<Vec<String>>,
            #[serde(default)]
            interval: u64,
            #[serde(default)]
            timeout: u64,
            #[serde(default)]
            start_period: u64,
            #[serde(default)]
            start_interval: u64,
            #[serde(default)]
            retries: u32,
        }
        #[derive(Deserialize)]
        struct Config {
            #[serde(rename = "Healthcheck")]
            health_check: Option<Theirs>,
        }
        #[derive(Deserialize)]
        struct Image {
            config: Option<Config>,
        }
        let image: Image = serde_json::from_slice(config_json).ok()?;
        let theirs = image.config?.health_check?;
        let msec = |nanos: u64| nanos / 1_000_000;
        Some(Self {
            test: theirs.test.unwrap_or_default(),
            interval_msec: msec(theirs.interval),
            timeout_msec: msec(theirs.timeout),
            start_period_msec: msec(theirs.start_period),
            start_interval_msec: msec(theirs.start_interval),
            retries: theirs.retries,
            on_failure: OnUnhealthy::None,
        })
    }

    /// Completes a request's check from the image's; `None` if there is nothing to run.
    pub(crate) fn merge(asked: Option<Self>, of_image: Option<Self>) -> Option<Self> {
        let mut check = match (asked, of_image) {
            (None, of_image) => of_image?,
            (Some(asked), None) => asked,
            (Some(asked), Some(of_image)) => {
                let or = |asked: u64, of_image: u64| if asked == 0 { of_image } else { asked };
                Self {
                    test: if asked.test.is_empty() { of_image.test } else { asked.test },
                    interval_msec: or(asked.interval_msec, of_image.interval_msec),
                    timeout_msec: or(asked.timeout_msec, of_image.timeout_msec),
                    start_period_msec: or(asked.start_period_msec, of_image.start_period_msec),
                    start_interval_msec: or(
                        asked.start_interval_msec,
                        of_image.start_interval_msec,
                    ),
                    retries: if asked.retries == 0 { of_image.retries } else { asked.retries },
                    on_failure: asked.on_failure,
                }
            }
        };
        if check.command().is_none() && check.test.first().is_none_or(|first| first != "NONE") {
            check.test.clear();
        }
        (!check.test.is_empty()).then_some(check)
    }

    /// The program and its arguments; `None` if nothing is to be run.
    fn command(&self) -> Option<Vec<String>> {
        let (kind, rest) = self.test.split_first()?;
        match (kind.as_str(), rest) {
            ("CMD", [_, ..]) => Some(rest.to_vec()),
            ("CMD-SHELL", [line]) => {
                Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()])
            }
            _ => None,
        }
    }

    fn timeout(&self) -> Duration {
        or_default(self.timeout_msec, TIMEOUT)
    }

    fn retries(&self) -> u32 {
        if self.retries == 0 { RETRIES } else { self.retries }
    }

    /// Whether failures do not count yet, so long after the start.
    fn is_starting(&self, age: Duration) -> bool {
        age < Duration::from_millis(self.start_period_msec)
    }

    /// How long to wait before the next probe.
    fn pause(&self, status: HealthStatus, age: Duration) -> Duration {
        if status == HealthStatus::Starting && self.is_starting(age) {
            or_default(self.start_interval_msec, START_INTERVAL)
        } else {
            or_default(self.interval_msec, INTERVAL)
        }
    }
}

fn or_default(msec: u64, default: Duration) -> Duration {
    if msec == 0 { default } else { Duration::from_millis(msec) }
}

impl Health {
    /// Nothing is known yet.
    pub(crate) fn starting() -> Self {
        Self { status: HealthStatus::Starting, failing_streak: 0, log: VecDeque::new() }
    }

    /// The judgement after one more probe, `age` after the start.
    fn after(mut self, probe: Probe, check: &HealthCheck, age: Duration) -> Self {
        if probe.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if self.status != HealthStatus::Starting || !check.is_starting(age) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries() {
                self.status = HealthStatus::Unhealthy;
            }
        }
        if self.log.len() == LOG_LENGTH {
            self.log.pop_front();
        }
        self.log.push_back(probe);
        self
    }
}

impl Engine {
    /// Probes a container that runs until it does not, if it has a check.
    pub(crate) fn watch_health(&self, container: &Arc<Container>) {
        let record = container.record();
        let Some(check) = record.config.health_check.clone() else { return };
        let Some(command) = check.command() else { return };
        let exits = container.watch().borrow().exits;
        let (engine, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let mut watch = container.watch();
            loop {
                let record = container.record();
                let Some(health) = &record.health else { return };
                let pause = check.pause(health.status, age(&record));
                let ended = watch.wait_for(|now| !now.alive || now.removed || now.exits != exits);
                // An answer means that it has ended, or that it is gone.
                if tokio::time::timeout(pause, ended).await.is_ok() {
                    return;
                }
                if matches!(container.record().lifecycle, Lifecycle::Running { .. }) {
                    let probe = engine.probe(&container, &command, check.timeout()).await;
                    if container.watch().borrow().exits != exits {
                        return;
                    }
                    engine.judge(&container, probe, &check).await;
                }
            }
        });
    }

    /// Runs the check once.
    async fn probe(
        &self,
        container: &Arc<Container>,
        command: &[String],
        timeout: Duration,
    ) -> Probe {
        let start = Timestamp::now();
        let request = ExecRequest { command: command.to_vec(), ..ExecRequest::default() };
        let (exit_code, output) = match self.exec(container.id().as_str(), request).await {
            Err(error) => (-1, error.chain()),
            Ok(mut exec) => {
                let mut output = Vec::new();
                let ended = tokio::time::timeout(timeout, async {
                    if let Some(streams) = &mut exec.streams {
                        collect(&mut streams.output, &mut output).await;
                    }
                    exec.ended().await
                })
                .await;
                match ended {
                    Ok(exit) => {
                        let code = exit.and_then(|exit| i32::try_from(exit.code).ok());
                        (code.unwrap_or(-1), String::from_utf8_lossy(&output).into_owned())
                    }
                    Err(_) => {
                        exec.kill().await;
                        let secs = timeout.as_secs_f64();
                        (-1, format!("Health check exceeded timeout ({secs} s)"))
                    }
                }
            }
        };
        Probe { start, end: Timestamp::now(), exit_code, output }
    }

    /// Enters what a probe found, tells of a change, and does what is to be done then.
    async fn judge(&self, container: &Arc<Container>, probe: Probe, check: &HealthCheck) {
        let changed = {
            let turn = container.turn().await;
            let record = container.record();
            let (Some(health), true) = (&record.health, record.lifecycle.is_alive()) else {
                return;
            };
            let before = health.status;
            let health = health.clone().after(probe, check, age(&record));
            let after = health.status;
            let judged = Record { health: Some(health), ..Record::clone(&record) };
            if before != after {
                let stored = judged.clone();
                let saved =
                    self.blocking("a container's health", move |shared| shared.save(&stored));
                if let Err(error) = saved.await {
                    tracing::warn!(container = %record.id, error = %error.chain(),
                        "cannot store a container's health");
                }
            }
            turn.commit(judged);
            (before != after).then_some(after)
        };
        let Some(status) = changed else { return };
        self.tell(&container.record(), status.event(), &[]);
        if status == HealthStatus::Unhealthy
            && let Err(error) = self.act_on_unhealthy(container, check.on_failure).await
        {
            tracing::warn!(container = %container.id(), error = %error.chain(),
                "cannot do what is to be done with an unhealthy container");
        }
    }

    async fn act_on_unhealthy(
        &self,
        container: &Arc<Container>,
        action: OnUnhealthy,
    ) -> Result<(), EngineError> {
        match action {
            OnUnhealthy::None => Ok(()),
            OnUnhealthy::Kill => self.signal(container, Signal::KILL).await,
            OnUnhealthy::Stop => self.stop_container(container, None, Patience::Default).await,
            OnUnhealthy::Restart => {
                self.restart(container.id().as_str(), None, Patience::Default).await
            }
        }
    }
}

/// How long ago the container started, by a clock that nobody sets. One that has ended is as young
/// as can be: nobody waits for it any more.
fn age(record: &Record) -> Duration {
    record.lifecycle.pid().and_then(procfs::age).unwrap_or_default()
}

/// Reads what a probe writes to its end, and keeps the beginning.
async fn collect(streams: &mut crate::shim::io::StreamReader, output: &mut Vec<u8>) {
    loop {
        match streams.next_output().await {
            Ok(FromProcess::Stdout(data) | FromProcess::Stderr(data)) => {
                let room = OUTPUT_BYTES.saturating_sub(output.len());
                output.extend_from_slice(&data[..data.len().min(room)]);
            }
            // What cannot be read is no part of the judgement.
            Ok(FromProcess::End { .. }) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(exit_code: i32) -> Probe {
        let time = Timestamp::UNIX_EPOCH;
        Probe { start: time, end: time, exit_code, output: String::new() }
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_mends_it() {
        let check = HealthCheck { retries: 2, start_period_msec: 1000, ..HealthCheck::default() };
        let (young, old) = (Duration::from_millis(500), Duration::from_millis(1500));
        // exit code, age, status, streak after it
        let table = [
            (1, young, "starting", 0),
            (1, old, "starting", 1),
            (1, old, "unhealthy", 2),
            (0, old, "healthy", 0),
            (7, young, "healthy", 1),
            (-1, old, "unhealthy", 2),
            (0, old, "healthy", 0),
        ];
        let mut health = Health::starting();
        for (code, age, status, streak) in table {
            health = health.after(probe(code), &check, age);
            assert_eq!((health.status.as_str(), health.failing_streak), (status, streak));
        }
        assert_eq!(health.log.len(), LOG_LENGTH);
    }

    #[test]
    fn a_request_completes_the_images_check_or_takes_it_away() {
        let json = br#"{"config": {"Healthcheck": {"Test": ["CMD-SHELL", "true"],
            "Interval": 7000000000, "Retries": 9}}}"#;
        let of_image = HealthCheck::of_image(json);
        let own = |test: &[&str]| HealthCheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            timeout_msec: 5,
            ..HealthCheck::default()
        };

        let inherited = HealthCheck::merge(None, of_image.clone()).unwrap();
        let mixed = HealthCheck::merge(Some(own(&[])), of_image.clone()).unwrap();
        let none = HealthCheck::merge(Some(own(&["NONE"])), of_image).unwrap();

        assert_eq!(inherited.command().unwrap(), ["/bin/sh", "-c", "true"]);
        assert_eq!((mixed.interval_msec, mixed.timeout_msec, mixed.retries()), (7000, 5, 9));
        assert!(none.command().is_none());
        assert!(HealthCheck::merge(Some(own(&[])), None).is_none());
        assert!(HealthCheck::of_image(b"{}").is_none());
    }

    #[test]
    fn probes_are_frequent_only_until_the_first_success_in_the_start_period() {
        let check = HealthCheck { start_period_msec: 1000, ..HealthCheck::default() };
        let (young, old) = (Duration::ZERO, Duration::from_secs(2));

        assert_eq!(check.pause(HealthStatus::Starting, young), START_INTERVAL);
        assert_eq!(check.pause(HealthStatus::Starting, old), INTERVAL);
        assert_eq!(check.pause(HealthStatus::Healthy, young), INTERVAL);
    }
}
