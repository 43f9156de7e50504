//! `keg.v1.Files`.

use futures_util::stream;
use keg_engine::files::{ByteStream, CommitOptions};
use keg_engine::{Engine, EngineError};
use keg_image::Reference;
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::copy_from_response::Part as Outgoing;
use keg_proto::keg::v1::copy_to_request::Part as Incoming;
use tonic::{Request, Response, Status, Streaming};

use super::Answers;
use crate::convert;
use crate::status::{invalid, to_status};

/// The service.
#[derive(Debug)]
pub(crate) struct Files {
    engine: Engine,
}

impl Files {
    /// Serves the files of an engine's containers.
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl pb::files_server::Files for Files {
    type ExportStream = Answers<pb::ExportResponse>;
    type CopyFromStream = Answers<pb::CopyFromResponse>;

    async fn commit(
        &self,
        request: Request<pb::CommitRequest>,
    ) -> Result<Response<pb::CommitResponse>, Status> {
        let request = request.into_inner();
        let reference = match request.reference.as_str() {
            "" => None,
            text => Some(Reference::parse(text).map_err(|error| to_status(&error))?),
        };
        let options = CommitOptions {
            reference,
            author: request.author,
            message: request.message,
            changes: request.changes,
            pause: request.pause,
        };
        let image = self
            .engine
            .commit(&request.container, options)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::CommitResponse { image: Some(convert::image_to_pb(&image, 0)) }))
    }

    async fn export(
        &self,
        request: Request<pb::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let name = request.into_inner().container;
        let stream = self.engine.export(&name).await.map_err(|error| to_status(&error))?;
        let pieces = pieces(stream, |data| pb::ExportResponse { data });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn changes(
        &self,
        request: Request<pb::ChangesRequest>,
    ) -> Result<Response<pb::ChangesResponse>, Status> {
        let name = request.into_inner().container;
        let changes = self.engine.changes(&name).await.map_err(|error| to_status(&error))?;
        let changes = changes.iter().map(convert::change_to_pb).collect();
        Ok(Response::new(pb::ChangesResponse { changes }))
    }

    async fn stat_path(
        &self,
        request: Request<pb::StatPathRequest>,
    ) -> Result<Response<pb::StatPathResponse>, Status> {
        let request = request.into_inner();
        let stat = self
            .engine
            .stat_path(&request.container, &request.path, request.follow_link)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::StatPathResponse { stat: Some(convert::path_stat_to_pb(stat)) }))
    }

    async fn copy_from(
        &self,
        request: Request<pb::CopyFromRequest>,
    ) -> Result<Response<Self::CopyFromStream>, Status> {
        use futures_util::StreamExt as _;

        let request = request.into_inner();
        let (stat, stream) = self
            .engine
            .copy_from(&request.container, &request.path, request.follow_link)
            .await
            .map_err(|error| to_status(&error))?;
        let part = |part| pb::CopyFromResponse { part: Some(part) };
        let first = part(Outgoing::Stat(convert::path_stat_to_pb(stat)));
        let rest = pieces(stream, move |data| part(Outgoing::Data(data)));
        Ok(Response::new(Box::pin(stream::once(async { Ok(first) }).chain(rest))))
    }

    async fn copy_to(
        &self,
        request: Request<Streaming<pb::CopyToRequest>>,
    ) -> Result<Response<pb::CopyToResponse>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.part);
        let Some(Incoming::Start(start)) = first else {
            return Err(invalid("start", "the first message must say where to copy"));
        };
        let name = start.container.clone();
        let copy = self
            .engine
            .copy_to(&name, convert::copy_target_from_pb(start))
            .map_err(|error| to_status(&error))?;
        // An error here drops the copy: what is there by then stays, as with every copy.
        while let Some(request) = requests.message().await? {
            let Some(Incoming::Data(data)) = request.part else {
                return Err(invalid(
                    "data",
                    "a message after the first is no piece of the archive",
                ));
            };
            if !copy.send(data.into()).await {
                break;
            }
        }
        let size = copy.finish().await.map_err(|error| to_status(&error))?;
        let size_bytes = i64::try_from(size).unwrap_or(i64::MAX);
        Ok(Response::new(pb::CopyToResponse { size_bytes }))
    }
}

/// An archive's pieces as messages.
fn pieces<T>(
    stream: ByteStream,
    message: impl Fn(Vec<u8>) -> T,
) -> impl futures_util::Stream<Item = Result<T, Status>> {
    use futures_util::StreamExt as _;

    stream::unfold(stream, |mut stream| async move {
        let piece: Result<bytes::Bytes, EngineError> = stream.next().await?;
        Some((piece, stream))
    })
    .map(move |piece| match piece {
        Ok(piece) => Ok(message(piece.into())),
        Err(error) => Err(to_status(&error)),
    })
}
