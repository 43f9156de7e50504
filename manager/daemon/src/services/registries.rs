//! `keg.v1.Registries`.

use keg_image::Images;
use keg_proto::keg::v1 as pb;
use tonic::{Request, Response, Status};

use crate::convert;
use crate::status::{invalid, to_status};

/// Answers if a client does not say how many it wants, and at most.
const DEFAULT_LIMIT: usize = 25;
const MAX_LIMIT: usize = 1000;

/// The service.
#[derive(Debug)]
pub(crate) struct Registries {
    images: Images,
}

impl Registries {
    /// Asks registries as pulls do.
    pub(crate) fn new(images: Images) -> Self {
        Self { images }
    }
}

#[tonic::async_trait]
impl pb::registries_server::Registries for Registries {
    async fn login(
        &self,
        request: Request<pb::LoginRequest>,
    ) -> Result<Response<pb::LoginResponse>, Status> {
        let request = request.into_inner();
        let credentials = request
            .auth
            .and_then(convert::credentials_from_pb)
            .ok_or_else(|| invalid("auth", "no credentials are given"))?;
        let was_asked = self
            .images
            .login(&request.registry, credentials)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::LoginResponse { registry: request.registry, was_asked }))
    }

    async fn search(
        &self,
        request: Request<pb::SearchRequest>,
    ) -> Result<Response<pb::SearchResponse>, Status> {
        let request = request.into_inner();
        let limit = match usize::try_from(request.limit).unwrap_or(MAX_LIMIT) {
            0 => DEFAULT_LIMIT,
            limit => limit.min(MAX_LIMIT),
        };
        let credentials = request.auth.and_then(convert::credentials_from_pb);
        let found = self
            .images
            .search(&request.term, limit, credentials)
            .await
            .map_err(|error| to_status(&error))?;
        let results = found
            .into_iter()
            .map(|hit| pb::SearchResult {
                name: hit.name,
                description: hit.description,
                stars: hit.stars,
                is_official: hit.is_official,
            })
            .collect();
        Ok(Response::new(pb::SearchResponse { results }))
    }
}
