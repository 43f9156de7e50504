//! `keg.v1.Images`.

mod archive;
mod import;
mod list;
mod load;
mod pull;
mod push;
mod reports;
mod save;

use jiff::Timestamp;
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, ObjectType};
use keg_image::{Images as Store, PruneRequest, Reference, ReferrersRequest};
use keg_proto::keg::v1 as pb;
use keg_store::Explain;
use tonic::{Request, Response, Status, Streaming};

use super::Answers;
use crate::convert;
use crate::status::to_status;

/// The service.
#[derive(Debug)]
pub(crate) struct Images {
    engine: Engine,
    images: Store,
}

impl Images {
    /// Serves the images of a store; the engine knows who uses them.
    pub(crate) fn new(engine: Engine, images: Store) -> Self {
        Self { engine, images }
    }

    /// Runs `work`, which waits for the disk, on a thread made for waiting.
    async fn blocking<T: Send + 'static, E: Explain + Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Status> {
        let images = self.images.clone();
        tokio::task::spawn_blocking(move || work(&images))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| to_status(&error))
    }

    fn containers_of(&self, image: &keg_image::ImageRecord) -> usize {
        self.engine.image_users().iter().filter(|user| user.image_id == image.id).count()
    }
}

#[tonic::async_trait]
impl pb::images_server::Images for Images {
    type PullStream = Answers<pb::PullImageResponse>;
    type PushStream = Answers<pb::PushImageResponse>;
    type SaveStream = Answers<pb::SaveImagesResponse>;
    type LoadStream = Answers<pb::LoadImagesResponse>;

    async fn pull(
        &self,
        request: Request<pb::PullImageRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        pull::pull(&self.engine, &self.images, request.into_inner())
    }

    async fn import(
        &self,
        request: Request<Streaming<pb::ImportImageRequest>>,
    ) -> Result<Response<pb::ImportImageResponse>, Status> {
        import::import(&self.engine, &self.images, request.into_inner()).await
    }

    async fn list(
        &self,
        request: Request<pb::ListImagesRequest>,
    ) -> Result<Response<pb::ListImagesResponse>, Status> {
        let (request, users) = (request.into_inner(), self.engine.image_users());
        let list = self.blocking(move |images| list::list(images, &request, &users)).await?;
        Ok(Response::new(pb::ListImagesResponse { images: list }))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectImageRequest>,
    ) -> Result<Response<pb::InspectImageResponse>, Status> {
        let name = request.into_inner().image;
        let image = self.blocking(move |images| images.resolve(&name, None)).await?;
        Ok(Response::new(pb::InspectImageResponse {
            summary: Some(convert::image_to_pb(&image, self.containers_of(&image))),
            platform: Some(convert::platform_to_pb(&image.platform)),
            stored_bytes: i64::try_from(image.stored_bytes).unwrap_or(i64::MAX),
            config_json: image.config_json,
            manifest_json: image.manifest_json,
        }))
    }

    async fn tag(
        &self,
        request: Request<pb::TagImageRequest>,
    ) -> Result<Response<pb::TagImageResponse>, Status> {
        let request = request.into_inner();
        let target = Reference::parse(&request.target).map_err(|error| to_status(&error))?;
        self.blocking(move |images| images.tag(&request.source, &target)).await?;
        Ok(Response::new(pb::TagImageResponse {}))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveImageRequest>,
    ) -> Result<Response<pb::RemoveImageResponse>, Status> {
        let request = request.into_inner();
        let users = self.engine.image_users();
        let removed = self
            .blocking(move |images| images.remove(&request.image, request.force, &users))
            .await?;
        Ok(Response::new(pb::RemoveImageResponse {
            untagged: removed.untagged,
            deleted: removed.deleted,
        }))
    }

    async fn push(
        &self,
        request: Request<pb::PushImageRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        push::push(&self.engine, &self.images, request.into_inner())
    }

    async fn save(
        &self,
        request: Request<pb::SaveImagesRequest>,
    ) -> Result<Response<Self::SaveStream>, Status> {
        save::save(&self.images, request.into_inner())
    }

    async fn load(
        &self,
        request: Request<Streaming<pb::LoadImagesRequest>>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        load::load(&self.engine, &self.images, request.into_inner()).await
    }

    async fn history(
        &self,
        request: Request<pb::ImageHistoryRequest>,
    ) -> Result<Response<pb::ImageHistoryResponse>, Status> {
        let request = request.into_inner();
        let platform = request.platform.as_ref().map(convert::platform_from_pb);
        let history =
            self.blocking(move |images| images.history(&request.image, platform.as_ref()));
        let (image, steps) = history.await?;
        Ok(Response::new(pb::ImageHistoryResponse {
            steps: steps.iter().map(convert::history_step_to_pb).collect(),
            id: image.id.to_string(),
            names: image.names.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn prune(
        &self,
        request: Request<pb::PruneImagesRequest>,
    ) -> Result<Response<pb::PruneImagesResponse>, Status> {
        let request = request.into_inner();
        let prune = PruneRequest {
            all: request.all,
            until: request.until.map(convert::timestamp_from_pb).transpose()?,
            labels: request.labels,
            without_labels: request.without_labels,
        };
        let users = self.engine.image_users();
        let pruned = self.blocking(move |images| images.prune(&prune, &users)).await?;
        let reclaimed_bytes = i64::try_from(pruned.reclaimed_bytes).unwrap_or(i64::MAX);
        self.engine.events().publish(EngineEvent {
            time: Timestamp::now(),
            object: ObjectType::Image,
            action: "prune",
            id: String::new(),
            attributes: [("reclaimed".to_owned(), reclaimed_bytes.to_string())].into(),
        });
        Ok(Response::new(pb::PruneImagesResponse {
            untagged: pruned.untagged,
            deleted: pruned.deleted,
            reclaimed_bytes,
        }))
    }

    async fn meanings(
        &self,
        request: Request<pb::ImageMeaningsRequest>,
    ) -> Result<Response<pb::ImageMeaningsResponse>, Status> {
        let meanings = self.images.meanings(&request.get_ref().reference);
        let meanings = meanings.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::ImageMeaningsResponse {
            references: meanings.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn remote_tags(
        &self,
        request: Request<pb::RemoteTagsRequest>,
    ) -> Result<Response<pb::RemoteTagsResponse>, Status> {
        let request = request.into_inner();
        let repository =
            Reference::parse(&request.repository).map_err(|error| to_status(&error))?;
        let credentials = request.auth.and_then(convert::credentials_from_pb);
        let tags = self.images.remote_tags(&repository, credentials.as_ref()).await;
        let tags = tags.map_err(|error| to_status(&error))?;
        let named = |tag: &String| format!("{}:{tag}", repository.repository());
        Ok(Response::new(pb::RemoteTagsResponse { references: tags.iter().map(named).collect() }))
    }

    async fn referrers(
        &self,
        request: Request<pb::ImageReferrersRequest>,
    ) -> Result<Response<pb::ImageReferrersResponse>, Status> {
        let request = request.into_inner();
        let request = ReferrersRequest {
            reference: Reference::parse(&request.reference).map_err(|error| to_status(&error))?,
            platform: request.platform.as_ref().map(convert::platform_from_pb),
            artifact_type: (!request.artifact_type.is_empty()).then_some(request.artifact_type),
            credentials: request.auth.and_then(convert::credentials_from_pb),
        };
        let found = self.images.referrers(&request).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::ImageReferrersResponse {
            subject: Some(convert::descriptor_to_pb(&found.subject)),
            referrers: found.referrers.iter().map(convert::referrer_to_pb).collect(),
        }))
    }
}
