//! Images, and what they are stored as.

use keg_image::ImageRecord;
use keg_proto::keg::v1 as pb;
use keg_store::Descriptor;

use super::timestamp_to_pb;

/// Converts an image to a line of a list; `containers` are made from it.
pub(crate) fn image_to_pb(image: &ImageRecord, containers: usize) -> pb::ImageSummary {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().clone());
    pb::ImageSummary {
        id: image.id.to_string(),
        names: image.names.iter().map(ToString::to_string).collect(),
        digests: image.digests.clone(),
        created_at: image.created_at.map(timestamp_to_pb),
        size_bytes: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
        labels: labels.unwrap_or_default(),
        target: Some(descriptor_to_pb(&image.target)),
        containers: i64::try_from(containers).unwrap_or(i64::MAX),
    }
}

/// Converts a content descriptor.
pub(crate) fn descriptor_to_pb(descriptor: &Descriptor) -> pb::Descriptor {
    pb::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size_bytes).unwrap_or(i64::MAX),
    }
}
