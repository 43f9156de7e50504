//! Where what a container writes is kept, and how much of it: `--log-driver` and `--log-opt`.
//!
//! The shim writes the log, so that it goes on without a daemon; what it cannot write is refused
//! when the container is made, and not found out when somebody looks for the log.

use std::collections::BTreeMap;

use keg_store::Durability;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::model::{ContainerConfig, ContainerDir};
use crate::start::percent_encode;

/// Least bytes of a log file; with less, rotation would be all that is done.
const FILE_BYTES_MIN: u64 = 4096;

/// What was asked for, as it was asked for; empty: the daemon's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogChoice {
    /// `json-file`, `local` or `none`; empty: `json-file`.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// How much of a log is kept, unless a container says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of a file before the next is begun.
    pub file_bytes: u64,
    /// Files, the current one included.
    pub files: u32,
}

/// What the choice comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    is_kept: bool,
    max_size_bytes: u64,
    max_files: u32,
    /// Whether a program waits, when its log cannot be written to.
    waits: bool,
    labels: Vec<String>,
    env: Vec<String>,
}

impl LogChoice {
    /// The driver's name.
    pub fn driver(&self) -> &str {
        if self.driver.is_empty() { "json-file" } else { &self.driver }
    }

    /// Whether there is a log that can be read.
    pub fn is_kept(&self) -> bool {
        self.driver() != "none"
    }

    /// Refuses drivers and options that there are not.
    pub(crate) fn check(&self, limits: LogLimits) -> Result<(), EngineError> {
        self.plan(limits).map(drop)
    }

    /// The address of the log, with what the record of the exit outlives (ARCHITECTURE.md, "The seam between kegd and the shim").
    pub(crate) fn uri(
        &self,
        limits: LogLimits,
        dir: &ContainerDir,
        exit: Durability,
    ) -> Result<String, EngineError> {
        let plan = self.plan(limits)?;
        let exit_outlives = match exit {
            Durability::PowerCut => "power-cut",
            Durability::Crash => "crash",
        };
        let exit = percent_encode(&dir.exit_record());
        let exit = format!("exit={exit}&exit-outlives={exit_outlives}");
        if !plan.is_kept {
            return Ok(format!("keg:?{exit}"));
        }
        let log = percent_encode(&dir.log());
        let on_full = if plan.waits { "block" } else { "drop" };
        Ok(format!(
            "keg://{log}?format=json-file&max-size={}&max-file={}&on-full={on_full}&{exit}",
            plan.max_size_bytes, plan.max_files,
        ))
    }

    /// What `logs --details` shows before each line: the labels and variables that were chosen.
    pub(crate) fn details(
        &self,
        limits: LogLimits,
        config: &ContainerConfig,
        env: &[String],
    ) -> Result<String, EngineError> {
        let plan = self.plan(limits)?;
        let mut details = BTreeMap::new();
        for name in &plan.labels {
            details.extend(config.labels.get(name).map(|value| (name.as_str(), value.as_str())));
        }
        let variables = env.iter().filter_map(|variable| variable.split_once('='));
        details.extend(variables.filter(|(name, _)| plan.env.iter().any(|wanted| wanted == name)));
        let pairs: Vec<String> =
            details.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(pairs.join(","))
    }

    fn plan(&self, limits: LogLimits) -> Result<Plan, EngineError> {
        let mut plan = Plan {
            is_kept: true,
            max_size_bytes: limits.file_bytes,
            max_files: limits.files,
            waits: false,
            labels: Vec::new(),
            env: Vec::new(),
        };
        match self.driver() {
            "json-file" | "local" => {}
            "none" => plan.is_kept = false,
            other => {
                return Err(EngineError::InvalidField {
                    field: "log_driver",
                    problem: format!(
                        "there is no driver {other:?}: give \"json-file\", \"local\" (the same) \
                         or \"none\", and let a collector of logs follow the files"
                    ),
                });
            }
        }
        for (name, value) in &self.options {
            plan.set(name, value).map_err(|problem| EngineError::InvalidField {
                field: "log_options",
                problem: format!("{name}={value}: {problem}"),
            })?;
        }
        Ok(plan)
    }
}

impl Plan {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let list = || value.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        match (name, value) {
            _ if !self.is_kept => return Err("without a log there are no options".to_owned()),
            // Docker's word for no limit; ours is the daemon's, so that no disk is filled.
            ("max-size", "-1") => {
                return Err("a log has a limit here: give a size, as in 100m".to_owned());
            }
            ("max-size", _) => {
                let bytes = bytes(value).filter(|bytes| *bytes >= FILE_BYTES_MIN);
                let wrong = || format!("give a size of at least {FILE_BYTES_MIN}, as in 10m");
                self.max_size_bytes = bytes.ok_or_else(wrong)?;
            }
            ("max-file", _) => {
                let files = value.parse().ok().filter(|files| (1..=1000).contains(files));
                self.max_files = files.ok_or_else(|| "give a number from 1 to 1000".to_owned())?;
            }
            ("mode", "blocking") => self.waits = true,
            ("mode", "non-blocking") => self.waits = false,
            ("mode", _) => return Err("give \"blocking\" or \"non-blocking\"".to_owned()),
            ("compress", "false") => {}
            ("compress", _) => {
                return Err("files are kept as they were written, so that they can be read at \
                            once: give compress=false, or nothing"
                    .to_owned());
            }
            ("labels", _) => self.labels = list(),
            ("env", _) => self.env = list(),
            _ => {
                return Err(
                    "there is no such option; there are max-size, max-file, mode, labels, \
                            env, and compress=false"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// Understands `10m`, as Docker does: powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let text = text.strip_suffix('i').unwrap_or(text);
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' => (text.get(..text.len() - 1)?, 10),
        b'm' => (text.get(..text.len() - 1)?, 20),
        b'g' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::id::ContainerId;

    const LIMITS: LogLimits = LogLimits { file_bytes: 1 << 20, files: 5 };

    fn choice(driver: &str, options: &[(&str, &str)]) -> LogChoice {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        LogChoice { driver: driver.to_owned(), options: options.iter().map(owned).collect() }
    }

    fn uri(choice: &LogChoice) -> Result<String, String> {
        let dir = ContainerDir::new(Path::new("/c"), &ContainerId::from_random([7; 32]));
        choice.uri(LIMITS, &dir, Durability::Crash).map_err(|error| error.to_string())
    }

    #[test]
    fn options_reach_the_shim() {
        let all = choice(
            "json-file",
            &[("max-size", "10m"), ("max-file", "3"), ("mode", "blocking"), ("compress", "false")],
        );

        let told = uri(&all).unwrap();

        assert!(told.contains("max-size=10485760&max-file=3&on-full=block&exit=/c/"), "{told}");
        assert!(uri(&choice("none", &[])).unwrap().starts_with("keg:?exit=/c/"));
        assert!(uri(&choice("", &[])).unwrap().contains("on-full=drop"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let table = [
            (choice("syslog", &[]), "no driver \"syslog\""),
            (choice("", &[("max-size", "10x")]), "max-size=10x"),
            (choice("", &[("max-size", "1")]), "at least 4096"),
            (choice("", &[("max-size", "-1")]), "has a limit"),
            (choice("", &[("max-file", "0")]), "max-file=0"),
            (choice("local", &[("compress", "true")]), "compress=true"),
            (choice("", &[("mode", "x")]), "mode=x"),
            (choice("", &[("tag", "x")]), "no such option"),
            (choice("none", &[("max-size", "1m")]), "without a log"),
        ];
        for (choice, expected) in table {
            let error = uri(&choice).unwrap_err();
            assert!(error.contains(expected), "{choice:?}: {error}");
        }
    }

    #[test]
    fn details_are_the_labels_and_variables_that_were_chosen() {
        let chosen = choice("", &[("labels", "tier,absent"), ("env", "A,B")]);
        let config = ContainerConfig {
            labels: [("tier".to_owned(), "db".to_owned()), ("other".to_owned(), "x".to_owned())]
                .into(),
            ..ContainerConfig::default()
        };
        let env = ["A=1".to_owned(), "C=3".to_owned()];

        let details = chosen.details(LIMITS, &config, &env).unwrap();

        assert_eq!(details, "A=1,tier=db");
    }
}
