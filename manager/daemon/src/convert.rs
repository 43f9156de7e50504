//! Messages of keg.v1 and the engine's types, both ways. Nothing else knows both.
//!
//! A module for each family of messages; what all of them need is here.

mod container;
mod files;
mod health;
mod host;
mod image;
mod mounts;
pub(crate) mod network;
mod resources;
mod stats;
mod volumes;

use jiff::Timestamp;
use keg_engine::lifecycle::Exit;
use keg_engine::model::TerminalSize;
use keg_engine::signal::Signal;
use keg_engine::{EngineError, ProcessInfo};
use keg_image::Platform;
use keg_proto::keg::v1 as pb;
use tonic::Status;

pub(crate) use self::container::{
    create_from_pb, details_to_pb, root_directories_to_pb, size_of_to_pb, summary_to_pb,
};
pub(crate) use self::files::{change_to_pb, copy_target_from_pb, path_stat_to_pb};
pub(crate) use self::image::{
    credentials_from_pb, descriptor_to_pb, history_step_to_pb, image_to_pb, platform_to_pb,
    rate_limit_to_pb, referrer_to_pb, variant_to_pb,
};
pub(crate) use self::resources::resources_from_pb;
pub(crate) use self::stats::{stats_to_pb, update_from_pb};
pub(crate) use self::volumes::{volume_from_pb, volume_to_pb};
use crate::status::{invalid, to_status};

/// Converts a moment.
pub(crate) fn timestamp_to_pb(time: Timestamp) -> prost_types::Timestamp {
    // Nanoseconds of a moment before 1970 are negative here, and never on the wire.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// Converts a moment.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no such moment.
pub(crate) fn timestamp_from_pb(time: prost_types::Timestamp) -> Result<Timestamp, Status> {
    Timestamp::new(time.seconds, time.nanos)
        .map_err(|_| invalid("time", "the moment is out of range"))
}

/// Converts a signal; empty is none.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no such signal.
pub(crate) fn signal_from_pb(text: &str) -> Result<Option<Signal>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    Signal::parse(text).map(Some).map_err(|error| to_status(&EngineError::UnknownSignal(error)))
}

/// Converts the size of a terminal.
///
/// # Errors
/// `INVALID_ARGUMENT` beyond what a terminal can have.
pub(crate) fn size_from_pb(size: pb::TerminalSize) -> Result<TerminalSize, Status> {
    let cells = |count: u32| {
        u16::try_from(count).map_err(|_| invalid("terminal_size", "more than 65535 cells"))
    };
    Ok(TerminalSize { width: cells(size.width)?, height: cells(size.height)? })
}

/// Converts a platform.
pub(crate) fn platform_from_pb(platform: &pb::Platform) -> Platform {
    Platform::new(&platform.os, &platform.architecture, &platform.variant)
}

/// Converts how a process ended.
pub(crate) fn exit_to_pb(exit: &Exit) -> pb::ExitStatus {
    pb::ExitStatus {
        code: exit.code,
        exited_at: Some(timestamp_to_pb(exit.exited_at)),
        oom_killed: exit.oom_killed,
        error: exit.error.clone(),
    }
}

/// Converts a process of a container.
pub(crate) fn process_to_pb(process: ProcessInfo) -> pb::Process {
    pb::Process {
        pid: process.pid,
        parent_pid: process.parent_pid,
        uid: process.uid,
        started_at: Some(timestamp_to_pb(process.started_at)),
        cpu_usec: process.cpu_usec,
        terminal: process.terminal,
        command: process.command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_survive_the_wire() {
        for text in
            ["1970-01-01T00:00:00Z", "2026-11-22T01:02:03.000000004Z", "1969-12-31T23:59:59.5Z"]
        {
            let time: Timestamp = text.parse().unwrap();

            let wire = timestamp_to_pb(time);

            assert!((0..1_000_000_000).contains(&wire.nanos));
            assert_eq!(timestamp_from_pb(wire).unwrap(), time);
        }
    }
}
