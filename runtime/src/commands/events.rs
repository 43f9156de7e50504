//! `events`: what a container uses, and when it runs out of memory, as lines of JSON.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{CommandError, Context};
use crate::cgroup::stats::Stats;
use crate::cgroup::{Cgroup, CgroupError, OomNotice};
use crate::lifecycle::{Event, Lifecycle};
use crate::state_store::ContainerId;

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Time between two lines of figures, such as 500ms, 5s or 1m.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    interval: Duration,
    /// Print one line of figures and end.
    #[arg(long)]
    stats: bool,
    /// Name of the container.
    id: String,
}

/// A line of the output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

impl Events {
    pub(super) fn run(self, context: &Context) -> Result<u8, CommandError> {
        let dir = context.store.open(&ContainerId::new(self.id)?)?;
        let state = dir.load_existing()?;
        let lifecycle = dir.observe(&state);
        if matches!(lifecycle, Lifecycle::Stopped | Lifecycle::Creating) {
            lifecycle.apply(Event::Signalled)?;
        }
        let Some(cgroup) = state.open_cgroup() else {
            return Err(CommandError::Cgroup(CgroupError::NoHierarchy));
        };
        let id = dir.id().as_str();
        if self.stats {
            let stats = cgroup.stats().map_err(CommandError::Cgroup)?;
            return print(&Line { kind: "stats", id, data: Some(stats) }).map(|()| 0);
        }
        follow(&cgroup, id, self.interval)?;
        Ok(0)
    }
}

/// Prints until the container is gone, or until nobody reads any more.
fn follow(cgroup: &Cgroup, id: &str, interval: Duration) -> Result<(), CommandError> {
    let mut watch = cgroup.watch_oom().map_err(CommandError::Cgroup)?;
    let mut next = Instant::now() + interval;
    loop {
        match watch.wait(next.saturating_duration_since(Instant::now())) {
            Ok(OomNotice::OutOfMemory) => print(&Line { kind: "oom", id, data: None })?,
            Ok(OomNotice::Gone) => return Ok(()),
            Ok(OomNotice::Nothing) => {}
            Err(error) => return Err(CommandError::Cgroup(error)),
        }
        if Instant::now() < next {
            continue;
        }
        next += interval;
        match cgroup.stats() {
            Ok(stats) => print(&Line { kind: "stats", id, data: Some(stats) })?,
            // Its cgroup is removed directory by directory: one that is missing means the end.
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(CommandError::Cgroup(error)),
        }
    }
}

fn is_gone(error: &CgroupError) -> bool {
    use nix::errno::Errno;
    matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV))
}

fn print(line: &Line<'_>) -> Result<(), CommandError> {
    let text = serde_json::to_string(line).unwrap_or_default();
    writeln!(std::io::stdout(), "{text}").map_err(CommandError::io("print the events"))
}

/// Reads a duration as Go writes it: numbers with units, put together; more than nothing.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("{text:?} is no duration such as 500ms, 5s or 1m30s");
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refused)?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(refused()),
        };
        total += number.parse::<f64>().map_err(|_| refused())? * seconds;
        rest = tail;
    }
    match Duration::try_from_secs_f64(total) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("the interval must be longer than nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in
            [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5s", 1500), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text:?}");
        }
        for text in ["", "0s", "5", "s", "5x", "-5s", "1e9s", "."] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_event_without_data_has_none() {
        let line = Line { kind: "oom", id: "c", data: None };

        assert_eq!(serde_json::to_string(&line).unwrap(), r#"{"type":"oom","id":"c"}"#);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,20}") {
            let _ = parse_duration(&text);
        }
    }
}
