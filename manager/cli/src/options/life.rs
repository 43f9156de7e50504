//! Flags of `run` and `create` that concern a container's life: health checks, and the init.

use clap::Args;
use keg_proto::keg::v1::HealthCheck;

/// Why a health check cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LifeError {
    /// Not a duration.
    #[error(
        "{flag}: {text:?} is no duration: give a number with a unit, as in 500ms, 30s or 1m30s"
    )]
    Duration { flag: &'static str, text: String },
    /// A check, and none.
    #[error("--no-healthcheck excludes the --health flags")]
    CheckAndNone,
}

// No doc comment: see `commands`.
#[derive(Debug, Args)]
#[command(next_display_order = None)]
pub(crate) struct LifeFlags {
    /// Line for the shell that finds out whether it works
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between two checks (default: 30s)
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// What to do when it became unhealthy: none, kill, restart or stop
    #[arg(long, value_name = "ACTION", default_value = "", hide_default_value = true)]
    health_on_failure: String,
    /// Failures in a row that make it unhealthy (default: 3)
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<u32>,
    /// Time between two checks in the start period (default: 5s)
    #[arg(long, value_name = "DURATION")]
    health_start_interval: Option<String>,
    /// Time after the start in which failures do not count (default: 0s)
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    /// Time that a check may take (default: 30s)
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// Put a small program before its own, which passes signals on and reaps orphans
    #[arg(long)]
    pub(crate) init: bool,
    /// Do without the image's health check
    #[arg(long)]
    no_healthcheck: bool,
}

impl LifeFlags {
    /// The check that the flags describe; `None` if they say nothing.
    ///
    /// # Errors
    /// [`LifeError`].
    pub(crate) fn health_check(&self) -> Result<Option<HealthCheck>, LifeError> {
        let msec = |flag, text: &Option<String>| match text {
            None => Ok(0),
            Some(text) => {
                duration_msec(text).ok_or_else(|| LifeError::Duration { flag, text: text.clone() })
            }
        };
        let mut check = HealthCheck {
            test: Vec::new(),
            interval_msec: msec("--health-interval", &self.health_interval)?,
            timeout_msec: msec("--health-timeout", &self.health_timeout)?,
            start_period_msec: msec("--health-start-period", &self.health_start_period)?,
            start_interval_msec: msec("--health-start-interval", &self.health_start_interval)?,
            retries: self.health_retries.unwrap_or_default(),
            on_failure: self.health_on_failure.clone(),
        };
        if let Some(line) = self.health_cmd.as_ref().filter(|line| !line.is_empty()) {
            check.test = vec!["CMD-SHELL".to_owned(), line.clone()];
        }
        let says_something = check != HealthCheck::default();
        match (self.no_healthcheck, says_something) {
            (true, true) => Err(LifeError::CheckAndNone),
            (true, false) => {
                check.test = vec!["NONE".to_owned()];
                Ok(Some(check))
            }
            (false, says_something) => Ok(says_something.then_some(check)),
        }
    }
}

/// Understands durations as Go writes them: "1h2m3.5s", "250ms"; in whole milliseconds.
fn duration_msec(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total_usec) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_usec: u64 = match unit {
            "us" | "µs" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().ok()?;
        let mut usec = whole.checked_mul(unit_usec)?;
        let mut place = unit_usec;
        for digit in part.bytes() {
            place /= 10;
            usec = usec.checked_add(u64::from(digit.checked_sub(b'0')?).checked_mul(place)?)?;
        }
        total_usec = total_usec.checked_add(usec)?;
        rest = after;
    }
    // Less than a millisecond is not none.
    (total_usec > 0).then_some((total_usec / 1000).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let table = [
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("250ms", Some(250)),
            ("1.5s", Some(1500)),
            ("1h", Some(3_600_000)),
            ("10us", Some(1)),
            ("0", Some(0)),
            ("5", None),
            ("s", None),
            ("", None),
            ("1x", None),
            ("-1s", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration_msec(text), expected, "{text:?}");
        }
    }
}
