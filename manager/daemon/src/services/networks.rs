//! `keg.v1.Networks`.

use keg_engine::{Engine, NetworkFilters, NetworkView};
use keg_proto::keg::v1 as pb;
use tonic::{Request, Response, Status};

use crate::convert::network as convert;
use crate::status::{invalid, to_status};

/// The service.
#[derive(Debug)]
pub(crate) struct Networks {
    engine: Engine,
}

impl Networks {
    /// Serves the networks of an engine.
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl pb::networks_server::Networks for Networks {
    async fn create(
        &self,
        request: Request<pb::CreateNetworkRequest>,
    ) -> Result<Response<pb::CreateNetworkResponse>, Status> {
        let request = convert::request_from_pb(request.into_inner())?;
        let network =
            self.engine.create_network(request).await.map_err(|error| to_status(&error))?;
        let network = Some(convert::network_to_pb(&NetworkView::Network(Box::new(network))));
        Ok(Response::new(pb::CreateNetworkResponse { network }))
    }

    async fn list(
        &self,
        request: Request<pb::ListNetworksRequest>,
    ) -> Result<Response<pb::ListNetworksResponse>, Status> {
        let filters = convert::filters_from_pb(request.into_inner().filters);
        let filters = NetworkFilters::for_list(filters).map_err(|error| to_status(&error))?;
        let networks = self.engine.networks(&filters).await.map_err(|error| to_status(&error))?;
        let networks = networks.iter().map(convert::network_to_pb).collect();
        Ok(Response::new(pb::ListNetworksResponse { networks }))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectNetworkRequest>,
    ) -> Result<Response<pb::InspectNetworkResponse>, Status> {
        let name = request.into_inner().network;
        let (network, endpoints) =
            self.engine.inspect_network(&name).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::InspectNetworkResponse {
            network: Some(convert::network_to_pb(&network)),
            members: endpoints.iter().map(convert::member_to_pb).collect(),
        }))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveNetworkRequest>,
    ) -> Result<Response<pb::RemoveNetworkResponse>, Status> {
        let name = request.into_inner().network;
        self.engine.remove_network(&name).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RemoveNetworkResponse {}))
    }

    async fn prune(
        &self,
        request: Request<pb::PruneNetworksRequest>,
    ) -> Result<Response<pb::PruneNetworksResponse>, Status> {
        let filters = convert::filters_from_pb(request.into_inner().filters);
        let filters = NetworkFilters::for_prune(filters).map_err(|error| to_status(&error))?;
        let networks =
            self.engine.prune_networks(filters).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::PruneNetworksResponse { networks }))
    }

    async fn connect(
        &self,
        request: Request<pb::ConnectNetworkRequest>,
    ) -> Result<Response<pb::ConnectNetworkResponse>, Status> {
        let request = request.into_inner();
        let attachment =
            request.attachment.ok_or_else(|| invalid("attachment", "no network is named"))?;
        let attachment = convert::attachment_from_pb(attachment)?;
        self.engine
            .connect_network(&request.container, attachment)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::ConnectNetworkResponse {}))
    }

    async fn disconnect(
        &self,
        request: Request<pb::DisconnectNetworkRequest>,
    ) -> Result<Response<pb::DisconnectNetworkResponse>, Status> {
        let request = request.into_inner();
        self.engine
            .disconnect_network(&request.network, &request.container)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::DisconnectNetworkResponse {}))
    }
}
