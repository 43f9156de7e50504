//! `Images.Pull`: progress of many layers on one stream.

use jiff::Timestamp;
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, ObjectType};
use keg_image::{Images, PullEvent, PullRequest, Pulled, Reference};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::pull_image_response::Event;
use tonic::{Response, Status};

use super::super::Answers;
use super::reports::{self, layer_to_pb};
use crate::convert;
use crate::status::to_status;

/// Serves one call. The pull is called off when the client goes away.
pub(super) fn pull(
    engine: &Engine,
    images: &Images,
    request: pb::PullImageRequest,
) -> Result<Response<Answers<pb::PullImageResponse>>, Status> {
    let reference = Reference::parse(&request.reference).map_err(|error| to_status(&error))?;
    let pull = PullRequest {
        reference,
        platform: request.platform.as_ref().map(convert::platform_from_pb),
        credentials: request.auth.and_then(convert::credentials_from_pb),
    };
    let (engine, images) = (engine.clone(), images.clone());
    let name = pull.reference.to_string();
    Ok(reports::follow(event_to_pb, move |progress| async move {
        let pulled = images.pull(pull, progress).await.map_err(|error| to_status(&error))?;
        tell(&engine, &name, &pulled);
        Ok(vec![done(&engine, &pulled)])
    }))
}

fn tell(engine: &Engine, name: &str, pulled: &Pulled) {
    engine.events().publish(EngineEvent {
        time: Timestamp::now(),
        object: ObjectType::Image,
        action: "pull",
        id: pulled.image.id.to_string(),
        attributes: [("name".to_owned(), name.to_owned())].into(),
    });
}

fn done(engine: &Engine, pulled: &Pulled) -> pb::PullImageResponse {
    let users = engine.image_users();
    let containers = users.iter().filter(|user| user.image_id == pulled.image.id).count();
    pb::PullImageResponse {
        event: Some(Event::Done(pb::PullDone {
            image: Some(convert::image_to_pb(&pulled.image, containers)),
            up_to_date: pulled.is_up_to_date,
        })),
    }
}

fn event_to_pb(event: PullEvent) -> pb::PullImageResponse {
    let event = match event {
        PullEvent::Resolved { reference, target, layers } => Event::Resolved(pb::PullResolved {
            reference: reference.to_string(),
            target: Some(convert::descriptor_to_pb(&target)),
            layers: layers.iter().map(convert::descriptor_to_pb).collect(),
        }),
        PullEvent::Layer { digest, phase, current_bytes, total_bytes } => {
            Event::Layer(layer_to_pb(&digest, phase, current_bytes, total_bytes))
        }
    };
    pb::PullImageResponse { event: Some(event) }
}
