//! Volumes.

use keg_engine::volumes::{DRIVER, VolumeDetails, VolumeRequest};
use keg_proto::keg::v1 as pb;

use super::timestamp_to_pb;

/// Converts a request for a volume.
pub(crate) fn volume_from_pb(request: pb::CreateVolumeRequest) -> VolumeRequest {
    VolumeRequest {
        name: request.name,
        driver: request.driver,
        options: request.options.into_iter().collect(),
        labels: request.labels.into_iter().collect(),
    }
}

/// Converts a volume.
pub(crate) fn volume_to_pb(details: VolumeDetails) -> pb::Volume {
    let volume = details.volume;
    pb::Volume {
        name: volume.name,
        driver: DRIVER.to_owned(),
        mountpoint: details.mountpoint.to_string_lossy().into_owned(),
        created_at: Some(timestamp_to_pb(volume.created_at)),
        labels: volume.labels.into_iter().collect(),
        options: volume.options.into_iter().collect(),
        anonymous: volume.anonymous,
        containers: details.users,
        size_bytes: details.size_bytes,
    }
}
