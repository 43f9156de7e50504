//! `Images.Pull`: progress of many layers on one stream.

use jiff::Timestamp;
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, ObjectType};
use keg_image::{Credentials, Images, Platforms, PullEvent, PullRequest, Pulled, Reference};
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
    // What is malformed is told at once.
    images.meanings(&request.reference).map_err(|error| to_status(&error))?;
    let (engine, images) = (engine.clone(), images.clone());
    Ok(reports::follow(event_to_pb, move |progress| async move {
        let how = |reference| how(&request, reference);
        let pulling = images.pull_by_name(&request.reference, how, progress);
        let pulled = pulling.await.map_err(|error| to_status(&error))?;
        tell(&engine, &pulled);
        Ok(vec![done(&engine, &pulled)])
    }))
}

/// Says how one of the images is pulled that a name may mean.
fn how(request: &pb::PullImageRequest, reference: Reference) -> PullRequest {
    let platforms = request.platform.iter().chain(&request.more_platforms);
    PullRequest {
        platforms: match request.all_platforms {
            true => Platforms::All,
            false => Platforms::Only(platforms.map(convert::platform_from_pb).collect()),
        },
        referrers: request.referrers,
        credentials: credentials_for(request, reference.domain()),
        reference,
    }
}

/// Chooses the credentials that are for a registry: never those for another.
fn credentials_for(request: &pb::PullImageRequest, registry: &str) -> Option<Credentials> {
    let named = Reference::parse(&request.reference);
    let named = named.as_ref().map_or("", |reference| reference.domain());
    let is_for = |auth: &&pb::RegistryAuth| match auth.registry.as_str() {
        "" => registry == named,
        told => registry == told,
    };
    let auth = request.auth.iter().chain(&request.auths).find(is_for)?;
    convert::credentials_from_pb(auth.clone())
}

fn tell(engine: &Engine, pulled: &Pulled) {
    engine.events().publish(EngineEvent {
        time: Timestamp::now(),
        object: ObjectType::Image,
        action: "pull",
        id: pulled.image.id.to_string(),
        attributes: [("name".to_owned(), pulled.reference.to_string())].into(),
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
        PullEvent::Resolved { reference, target, layers, limit } => {
            Event::Resolved(pb::PullResolved {
                reference: reference.to_string(),
                target: Some(convert::descriptor_to_pb(&target)),
                layers: layers.iter().map(convert::descriptor_to_pb).collect(),
                limit: limit.as_ref().map(convert::rate_limit_to_pb),
            })
        }
        PullEvent::Layer { digest, phase, current_bytes, total_bytes } => {
            Event::Layer(layer_to_pb(&digest, phase, current_bytes, total_bytes))
        }
    };
    pb::PullImageResponse { event: Some(event) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_the_registry_that_they_are_for_alone() {
        let auth = |user: &str, registry: &str| pb::RegistryAuth {
            username: user.to_owned(),
            registry: registry.to_owned(),
            ..pb::RegistryAuth::default()
        };
        let request = pb::PullImageRequest {
            reference: "app".to_owned(),
            auth: Some(auth("hub", "")),
            auths: vec![auth("team", "registry.example")],
            ..pb::PullImageRequest::default()
        };
        let user = |registry: &str| match credentials_for(&request, registry) {
            Some(Credentials::Basic { username, .. }) => Some(username),
            _ => None,
        };

        assert_eq!(user("docker.io").as_deref(), Some("hub"));
        assert_eq!(user("registry.example").as_deref(), Some("team"));
        assert_eq!(user("elsewhere.example"), None);
    }
}
