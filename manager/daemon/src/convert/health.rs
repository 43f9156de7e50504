//! Health checks, and what they found.

use keg_engine::health::{Health, HealthCheck, OnUnhealthy};
use keg_proto::keg::v1 as pb;
use tonic::Status;

use super::timestamp_to_pb;
use crate::status::invalid;

/// Converts a check.
///
/// # Errors
/// `INVALID_ARGUMENT` if its test or what is to be done then is malformed.
pub(super) fn check_from_pb(check: pb::HealthCheck) -> Result<HealthCheck, Status> {
    let words: Vec<&str> = check.test.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["NONE"] | ["CMD", _, ..] | ["CMD-SHELL", _] => {}
        _ => {
            let problem = "a test is NONE, or CMD and a program, or CMD-SHELL and one line";
            return Err(invalid("health_check", problem));
        }
    }
    let on_failure = OnUnhealthy::parse(&check.on_failure).ok_or_else(|| {
        let problem = format!(
            "unknown action {:?}: give \"none\", \"kill\", \"restart\" or \"stop\"",
            check.on_failure
        );
        invalid("health_check", problem)
    })?;
    Ok(HealthCheck {
        test: check.test,
        interval_msec: check.interval_msec,
        timeout_msec: check.timeout_msec,
        start_period_msec: check.start_period_msec,
        start_interval_msec: check.start_interval_msec,
        retries: check.retries,
        on_failure,
    })
}

/// Converts a check.
pub(super) fn check_to_pb(check: &HealthCheck) -> pb::HealthCheck {
    pb::HealthCheck {
        test: check.test.clone(),
        interval_msec: check.interval_msec,
        timeout_msec: check.timeout_msec,
        start_period_msec: check.start_period_msec,
        start_interval_msec: check.start_interval_msec,
        retries: check.retries,
        on_failure: check.on_failure.as_str().to_owned(),
    }
}

/// Converts what is known of a container's health.
pub(super) fn health_to_pb(health: &Health) -> pb::Health {
    pb::Health {
        status: health.status.as_str().to_owned(),
        failing_streak: health.failing_streak,
        log: health
            .log
            .iter()
            .map(|probe| pb::HealthProbe {
                start: Some(timestamp_to_pb(probe.start)),
                end: Some(timestamp_to_pb(probe.end)),
                exit_code: probe.exit_code,
                output: probe.output.clone(),
            })
            .collect(),
    }
}
