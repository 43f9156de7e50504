//! `Images.Load`: an archive in pieces becomes images.

use jiff::Timestamp;
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, ObjectType};
use keg_image::{Images, Loaded, PullEvent};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::load_images_request::Part;
use keg_proto::keg::v1::load_images_response::Event;
use tonic::{Response, Status, Streaming};

use super::super::Answers;
use super::archive;
use super::reports::{self, layer_to_pb};
use crate::convert;
use crate::status::{invalid, to_status};

/// Serves one call. Loading is called off when the client goes away.
pub(super) async fn load(
    engine: &Engine,
    images: &Images,
    mut requests: Streaming<pb::LoadImagesRequest>,
) -> Result<Response<Answers<pb::LoadImagesResponse>>, Status> {
    let first = requests.message().await?.and_then(|request| request.part);
    let Some(Part::Start(start)) = first else {
        return Err(invalid("start", "the first message must say how to load"));
    };
    let platform = start.platform.as_ref().map(convert::platform_from_pb);
    let archive = archive::pieces(requests, |request| match request.part {
        Some(Part::Data(data)) => Some(data.into()),
        _ => None,
    });
    let (engine, images) = (engine.clone(), images.clone());
    Ok(reports::follow(event_to_pb, move |progress| async move {
        let loaded = images.load(archive, platform, progress).await;
        let loaded = loaded.map_err(|error| to_status(&error))?;
        Ok(loaded.iter().map(|loaded| told(&engine, loaded)).collect())
    }))
}

fn told(engine: &Engine, loaded: &Loaded) -> pb::LoadImagesResponse {
    engine.events().publish(EngineEvent {
        time: Timestamp::now(),
        object: ObjectType::Image,
        action: "load",
        id: loaded.image.id.to_string(),
        attributes: [("name".to_owned(), loaded.image.display_name())].into(),
    });
    let users = engine.image_users();
    let containers = users.iter().filter(|user| user.image_id == loaded.image.id).count();
    let image = pb::LoadedImage {
        image: Some(convert::image_to_pb(&loaded.image, containers)),
        names: loaded.names.iter().map(ToString::to_string).collect(),
    };
    pb::LoadImagesResponse { event: Some(Event::Image(image)) }
}

/// Converts progress; a load resolves nothing.
fn event_to_pb(event: PullEvent) -> pb::LoadImagesResponse {
    let event = match event {
        PullEvent::Resolved { .. } => None,
        PullEvent::Layer { digest, phase, current_bytes, total_bytes } => {
            Some(Event::Layer(layer_to_pb(&digest, phase, current_bytes, total_bytes)))
        }
    };
    pb::LoadImagesResponse { event }
}
