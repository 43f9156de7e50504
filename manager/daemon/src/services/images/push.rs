//! `Images.Push`: an image goes to its registry.

use jiff::Timestamp;
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, ObjectType};
use keg_image::{Images, PullEvent, PushRequest, Reference};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::push_image_response::Event;
use tonic::{Response, Status};

use super::super::Answers;
use super::reports::{self, layer_to_pb};
use crate::convert;
use crate::status::{invalid, to_status};

/// Serves one call. The push is called off when the client goes away.
pub(super) fn push(
    engine: &Engine,
    images: &Images,
    request: pb::PushImageRequest,
) -> Result<Response<Answers<pb::PushImageResponse>>, Status> {
    let meanings = images.meanings(&request.reference).map_err(|error| to_status(&error))?;
    // Of several meanings, the one that is here.
    let is_here = |meaning: &&Reference| images.resolve(&meaning.to_string(), None).is_ok();
    let Some(reference) = meanings.iter().find(is_here).or(meanings.first()).cloned() else {
        return Err(invalid("reference", "it means nothing"));
    };
    let push = PushRequest {
        reference: reference.clone(),
        platform: request.platform.as_ref().map(convert::platform_from_pb),
        referrers: request.referrers,
        credentials: request.auth.and_then(convert::credentials_from_pb),
    };
    let (engine, images) = (engine.clone(), images.clone());
    Ok(reports::follow(event_to_pb, move |progress| async move {
        let pushed = images.push(push, progress).await.map_err(|error| to_status(&error))?;
        engine.events().publish(EngineEvent {
            time: Timestamp::now(),
            object: ObjectType::Image,
            action: "push",
            id: pushed.target.digest.to_string(),
            attributes: [("name".to_owned(), reference.to_string())].into(),
        });
        let done = pb::PushDone {
            target: Some(convert::descriptor_to_pb(&pushed.target)),
            missing: pushed.missing.iter().map(convert::platform_to_pb).collect(),
        };
        Ok(vec![pb::PushImageResponse { event: Some(Event::Done(done)) }])
    }))
}

fn event_to_pb(event: PullEvent) -> pb::PushImageResponse {
    let event = match event {
        PullEvent::Resolved { reference, layers, .. } => Event::Started(pb::PushStarted {
            reference: reference.to_string(),
            layers: layers.iter().map(convert::descriptor_to_pb).collect(),
        }),
        PullEvent::Layer { digest, phase, current_bytes, total_bytes } => {
            Event::Layer(layer_to_pb(&digest, phase, current_bytes, total_bytes))
        }
    };
    pb::PushImageResponse { event: Some(event) }
}
