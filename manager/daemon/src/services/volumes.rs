//! `keg.v1.Volumes`.

use std::collections::{BTreeMap, HashMap};

use keg_engine::Engine;
use keg_engine::volumes::VolumeQuery;
use keg_proto::keg::v1 as pb;
use tonic::{Request, Response, Status};

use crate::convert;
use crate::status::to_status;

/// The service.
#[derive(Debug)]
pub(crate) struct Volumes {
    engine: Engine,
}

impl Volumes {
    /// Serves the volumes of an engine.
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl pb::volumes_server::Volumes for Volumes {
    async fn create(
        &self,
        request: Request<pb::CreateVolumeRequest>,
    ) -> Result<Response<pb::CreateVolumeResponse>, Status> {
        let request = convert::volume_from_pb(request.into_inner());
        let made = self.engine.create_volume(request).await.map_err(|error| to_status(&error))?;
        let volume = Some(convert::volume_to_pb(made));
        Ok(Response::new(pb::CreateVolumeResponse { volume }))
    }

    async fn list(
        &self,
        request: Request<pb::ListVolumesRequest>,
    ) -> Result<Response<pb::ListVolumesResponse>, Status> {
        let request = request.into_inner();
        let query = VolumeQuery { filters: filters(request.filters), sizes: request.sizes };
        let found = self.engine.volumes(query).await.map_err(|error| to_status(&error))?;
        let volumes = found.into_iter().map(convert::volume_to_pb).collect();
        Ok(Response::new(pb::ListVolumesResponse { volumes }))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectVolumeRequest>,
    ) -> Result<Response<pb::InspectVolumeResponse>, Status> {
        let request = request.into_inner();
        let found = self.engine.inspect_volume(&request.name, request.size).await;
        let volume = Some(convert::volume_to_pb(found.map_err(|error| to_status(&error))?));
        Ok(Response::new(pb::InspectVolumeResponse { volume }))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveVolumeRequest>,
    ) -> Result<Response<pb::RemoveVolumeResponse>, Status> {
        let name = request.into_inner().name;
        self.engine.remove_volume(&name).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RemoveVolumeResponse {}))
    }

    async fn prune(
        &self,
        request: Request<pb::PruneVolumesRequest>,
    ) -> Result<Response<pb::PruneVolumesResponse>, Status> {
        let request = request.into_inner();
        let pruned = self.engine.prune_volumes(request.all, filters(request.filters)).await;
        let pruned = pruned.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::PruneVolumesResponse {
            volumes: pruned.names,
            reclaimed_bytes: pruned.reclaimed_bytes,
        }))
    }
}

fn filters(filters: HashMap<String, pb::VolumeFilterValues>) -> BTreeMap<String, Vec<String>> {
    filters.into_iter().map(|(key, values)| (key, values.values)).collect()
}
