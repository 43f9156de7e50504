//! What containers use, and changes of what they may use.

use keg_engine::{ContainerStats, Update};
use keg_proto::keg::v1 as pb;
use tonic::Status;

use super::resources::{resources_from_pb, restart_from_pb};
use super::timestamp_to_pb;

/// Converts what a container uses.
pub(crate) fn stats_to_pb(stats: &ContainerStats) -> pb::ContainerStats {
    let counted = &stats.counted;
    pb::ContainerStats {
        id: stats.id.clone(),
        name: stats.name.clone(),
        read_at: Some(timestamp_to_pb(stats.read_at)),
        cpu_percent: stats.cpu_percent,
        cpu_nsec: counted.cpu_nsec,
        memory_bytes: counted.memory_bytes,
        memory_limit_bytes: counted.memory_limit_bytes,
        network_received_bytes: counted.network_received_bytes,
        network_sent_bytes: counted.network_sent_bytes,
        block_read_bytes: counted.block_read_bytes,
        block_written_bytes: counted.block_written_bytes,
        pids: counted.pids,
        is_running: stats.is_running,
    }
}

/// Converts a change of limits, and tells whose.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field that makes no sense.
pub(crate) fn update_from_pb(request: pb::UpdateRequest) -> Result<(String, Update), Status> {
    let update = Update {
        resources: resources_from_pb(request.resources.unwrap_or_default())?,
        restart: request.restart_policy.map(restart_from_pb).transpose()?,
    };
    Ok((request.container, update))
}
