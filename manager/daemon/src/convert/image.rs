//! Images, and what they are stored as.

use keg_image::registry::{RateLimit, Referrer};
use keg_image::{Credentials, HistoryStep, ImageRecord, Platform, Variant};
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
        stored_bytes: bytes(image.stored_bytes),
        variants: Vec::new(),
    }
}

/// Converts one platform of an image that has several.
pub(crate) fn variant_to_pb(variant: &Variant) -> pb::ImageVariant {
    pb::ImageVariant {
        platform: variant.platform.as_ref().map(platform_to_pb),
        digest: variant.manifest.to_string(),
        is_here: variant.is_here,
        stored_bytes: bytes(variant.stored_bytes),
        size_bytes: bytes(variant.size_bytes),
    }
}

/// Converts a platform.
pub(crate) fn platform_to_pb(platform: &Platform) -> pb::Platform {
    let Platform { os, architecture, variant } = platform.clone();
    pb::Platform { os, architecture, variant }
}

/// Converts a step of a build.
pub(crate) fn history_step_to_pb(step: &HistoryStep) -> pb::HistoryStep {
    pb::HistoryStep {
        created_at: step.created_at.map(timestamp_to_pb),
        created_by: step.created_by.clone(),
        size_bytes: bytes(step.size_bytes),
        author: step.author.clone(),
        comment: step.comment.clone(),
        layer: step.layer.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// Converts credentials; empty ones are none.
pub(crate) fn credentials_from_pb(auth: pb::RegistryAuth) -> Option<Credentials> {
    if !auth.identity_token.is_empty() {
        return Some(Credentials::IdentityToken(auth.identity_token));
    }
    let (username, password) = (auth.username, auth.password);
    (!username.is_empty()).then_some(Credentials::Basic { username, password })
}

/// Converts a count, of bytes mostly.
fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Converts a content descriptor.
pub(crate) fn descriptor_to_pb(descriptor: &Descriptor) -> pb::Descriptor {
    pb::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size_bytes).unwrap_or(i64::MAX),
    }
}

/// Converts what refers to an image.
pub(crate) fn referrer_to_pb(referrer: &Referrer) -> pb::Referrer {
    let Referrer { target, artifact_type, annotations } = referrer;
    pb::Referrer {
        target: Some(descriptor_to_pb(target)),
        artifact_type: artifact_type.clone(),
        annotations: annotations.clone().into_iter().collect(),
    }
}

/// Converts how much a registry lets be asked.
pub(crate) fn rate_limit_to_pb(limit: &RateLimit) -> pb::RateLimit {
    pb::RateLimit {
        remaining: bytes(limit.remaining),
        limit: limit.limit.map_or(0, bytes),
        window_secs: limit.window.map_or(0, |window| bytes(window.as_secs())),
    }
}
