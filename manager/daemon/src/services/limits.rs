//! `keg.v1.Limits`.

use futures_util::stream;
use keg_engine::{Engine, StatsQuery};
use keg_proto::keg::v1 as pb;
use tonic::{Request, Response, Status};

use super::Answers;
use crate::convert;
use crate::status::to_status;

/// The service.
#[derive(Debug)]
pub(crate) struct Limits {
    engine: Engine,
}

impl Limits {
    /// Serves the containers of an engine.
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl pb::limits_server::Limits for Limits {
    type StatsStream = Answers<pb::StatsResponse>;

    async fn stats(
        &self,
        request: Request<pb::StatsRequest>,
    ) -> Result<Response<Self::StatsStream>, Status> {
        use futures_util::StreamExt as _;

        let request = request.into_inner();
        let query = StatsQuery { containers: request.containers, all: request.all };
        let counting = self.engine.stats(query).await.map_err(|error| to_status(&error))?;
        let answers = stream::unfold(counting, |mut counting| async move {
            let containers = counting.next().await.iter().map(convert::stats_to_pb).collect();
            Some((Ok(pb::StatsResponse { containers }), counting))
        });
        let count = if request.once { 1 } else { usize::MAX };
        Ok(Response::new(Box::pin(answers.take(count))))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateRequest>,
    ) -> Result<Response<pb::UpdateResponse>, Status> {
        let (container, update) = convert::update_from_pb(request.into_inner())?;
        self.engine.update(&container, update).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::UpdateResponse { warnings: Vec::new() }))
    }
}
