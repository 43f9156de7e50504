//! `keg.v1.Images`.

mod import;
mod pull;

use keg_engine::Engine;
use keg_image::{Images as Store, Reference};
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
        let reference = request.into_inner().reference;
        let wanted = match reference.as_str() {
            "" => None,
            text => Some(Reference::parse_untagged(text).map_err(|error| to_status(&error))?),
        };
        let all = self.blocking(Store::list).await?;
        let images = all
            .iter()
            .filter(|image| {
                wanted.as_ref().is_none_or(|wanted| {
                    image.names.iter().any(|name| {
                        name.repository() == wanted.repository()
                            && wanted.tag().is_none_or(|tag| name.tag() == Some(tag))
                    })
                })
            })
            .map(|image| convert::image_to_pb(image, self.containers_of(image)))
            .collect();
        Ok(Response::new(pb::ListImagesResponse { images }))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectImageRequest>,
    ) -> Result<Response<pb::InspectImageResponse>, Status> {
        let name = request.into_inner().image;
        let image = self.blocking(move |images| images.resolve(&name, None)).await?;
        Ok(Response::new(pb::InspectImageResponse {
            summary: Some(convert::image_to_pb(&image, self.containers_of(&image))),
            platform: Some(pb::Platform {
                os: image.platform.os.clone(),
                architecture: image.platform.architecture.clone(),
                variant: image.platform.variant.clone(),
            }),
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
}
