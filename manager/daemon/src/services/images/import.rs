//! `Images.Import`: an archive in pieces becomes an image.

use jiff::Timestamp;
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, ObjectType};
use keg_image::{Images, ImportRequest, Reference};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::import_image_request::Part;
use tonic::{Response, Status, Streaming};

use super::archive;
use crate::convert;
use crate::status::{invalid, to_status};

/// Serves one call. The import is called off when the client goes away.
pub(super) async fn import(
    engine: &Engine,
    images: &Images,
    mut requests: Streaming<pb::ImportImageRequest>,
) -> Result<Response<pb::ImportImageResponse>, Status> {
    let first = requests.message().await?.and_then(|request| request.part);
    let Some(Part::Start(start)) = first else {
        return Err(invalid("start", "the first message must say what to import"));
    };
    let reference = match start.reference.as_str() {
        "" => None,
        text => Some(Reference::parse(text).map_err(|error| to_status(&error))?),
    };
    let request = ImportRequest {
        reference,
        changes: start.changes,
        message: start.message,
        platform: start.platform.as_ref().map(convert::platform_from_pb),
    };
    let archive: archive::Pieces = match start.url.as_str() {
        "" => archive::pieces(requests, |request| match request.part {
            Some(Part::Data(data)) => Some(data.into()),
            _ => None,
        }),
        url => Box::pin(images.download(url).await.map_err(|error| to_status(&error))?),
    };
    let image = images.import(request, archive).await.map_err(|error| to_status(&error))?;
    engine.events().publish(EngineEvent {
        time: Timestamp::now(),
        object: ObjectType::Image,
        action: "import",
        id: image.id.to_string(),
        attributes: [("name".to_owned(), image.display_name())].into(),
    });
    Ok(Response::new(pb::ImportImageResponse { image: Some(convert::image_to_pb(&image, 0)) }))
}
