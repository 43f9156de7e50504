//! `keg.v1.Containers`.

mod attach;
mod exec;
mod streams;

use futures_util::{StreamExt, stream};
use keg_engine::id::ContainerName;
use keg_engine::log::{LogEntry, LogQuery, LogStream};
use keg_engine::model::Record;
use keg_engine::signal::Signal;
use keg_engine::{Engine, EngineError, ListQuery, LogsRequest, Patience, WaitCondition};
use keg_proto::keg::v1 as pb;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};

use super::Answers;
use crate::convert;
use crate::status::{invalid, to_status};

/// The service.
#[derive(Debug)]
pub(crate) struct Containers {
    engine: Engine,
}

impl Containers {
    /// Serves the containers of an engine.
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl pb::containers_server::Containers for Containers {
    type AttachStream = Answers<pb::AttachResponse>;
    type ExecStream = Answers<pb::ExecResponse>;
    type LogsStream = Answers<pb::LogEntry>;

    async fn create(
        &self,
        request: Request<pb::CreateContainerRequest>,
    ) -> Result<Response<pb::CreateContainerResponse>, Status> {
        let caller = caller(&request);
        let request = convert::create_from_pb(request.into_inner(), caller)?;
        let created = self.engine.create(request).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::CreateContainerResponse {
            id: created.id.as_str().to_owned(),
            name: created.name.as_str().to_owned(),
            warnings: created.warnings,
        }))
    }

    async fn start(
        &self,
        request: Request<pb::StartContainerRequest>,
    ) -> Result<Response<pb::StartContainerResponse>, Status> {
        let name = request.into_inner().container;
        self.engine.start(&name).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::StartContainerResponse {}))
    }

    async fn stop(
        &self,
        request: Request<pb::StopContainerRequest>,
    ) -> Result<Response<pb::StopContainerResponse>, Status> {
        let request = request.into_inner();
        let patience = patience(request.timeout_secs);
        let signal = convert::signal_from_pb(&request.signal)?;
        self.engine
            .stop(&request.container, signal, patience)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::StopContainerResponse {}))
    }

    async fn kill(
        &self,
        request: Request<pb::KillContainerRequest>,
    ) -> Result<Response<pb::KillContainerResponse>, Status> {
        let request = request.into_inner();
        let signal = convert::signal_from_pb(&request.signal)?.unwrap_or(Signal::KILL);
        self.engine.kill(&request.container, signal).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::KillContainerResponse {}))
    }

    async fn wait(
        &self,
        request: Request<pb::WaitContainerRequest>,
    ) -> Result<Response<pb::WaitContainerResponse>, Status> {
        let request = request.into_inner();
        let condition = match request.condition() {
            pb::WaitCondition::Unspecified | pb::WaitCondition::NotRunning => {
                WaitCondition::NotRunning
            }
            pb::WaitCondition::NextExit => WaitCondition::NextExit,
            pb::WaitCondition::Removed => WaitCondition::Removed,
        };
        let exit = self
            .engine
            .wait(&request.container, condition)
            .await
            .map_err(|error| to_status(&error))?;
        let status = exit.as_ref().map(convert::exit_to_pb).unwrap_or_default();
        Ok(Response::new(pb::WaitContainerResponse { status: Some(status) }))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveContainerRequest>,
    ) -> Result<Response<pb::RemoveContainerResponse>, Status> {
        let request = request.into_inner();
        self.engine
            .remove(&request.container, request.force, request.volumes)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RemoveContainerResponse {}))
    }

    async fn list(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Result<Response<pb::ListContainersResponse>, Status> {
        let request = request.into_inner();
        let mut query = ListQuery {
            all: request.all,
            limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0),
            filters: request
                .filters
                .into_iter()
                .map(|(key, values)| (key, values.values))
                .collect(),
            sizes: request.sizes,
        };
        if let Some(networks) = query.filters.get_mut("network") {
            self.engine.name_networks(networks).await;
        }
        let records = self.engine.list(&query).map_err(|error| to_status(&error))?;
        let volumes = self.engine.settings().volumes();
        let summary = |record: &Record| {
            convert::summary_to_pb(record, &volumes, &self.engine.endpoints(&record.id))
        };
        let mut containers: Vec<_> = records.iter().map(|record| summary(record)).collect();
        let named = self.engine.images_still_named(records.clone()).await;
        let named = named.map_err(|error| to_status(&error))?;
        for (container, _) in containers.iter_mut().zip(named).filter(|(_, is_named)| !is_named) {
            container.image.clone_from(&container.image_id);
        }
        if query.sizes {
            let sizes = self.engine.sizes(records).await.map_err(|error| to_status(&error))?;
            for (container, size) in containers.iter_mut().zip(sizes) {
                container.size = Some(convert::size_of_to_pb(size));
            }
        }
        Ok(Response::new(pb::ListContainersResponse { containers }))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectContainerRequest>,
    ) -> Result<Response<pb::InspectContainerResponse>, Status> {
        let request = request.into_inner();
        let details = self.engine.inspect(&request.container).map_err(|error| to_status(&error))?;
        let mut answer = convert::details_to_pb(&details);
        if let (true, Some(summary)) = (request.size, &mut answer.summary) {
            let sizes = self.engine.sizes(vec![details.record.clone()]).await;
            let sizes = sizes.map_err(|error| to_status(&error))?;
            summary.size = sizes.first().copied().map(convert::size_of_to_pb);
        }
        let directories = self.engine.root_directories(details.record).await;
        answer.root_directories =
            directories.map_err(|error| to_status(&error))?.map(convert::root_directories_to_pb);
        Ok(Response::new(answer))
    }

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        attach::attach(&self.engine, request.into_inner()).await
    }

    async fn logs(
        &self,
        request: Request<pb::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let both = !request.stdout && !request.stderr;
        let query = LogQuery {
            tail: request.tail,
            since: request.since.map(convert::timestamp_from_pb).transpose()?,
            until: request.until.map(convert::timestamp_from_pb).transpose()?,
            without_stdout: !both && !request.stdout,
            without_stderr: !both && !request.stderr,
        };
        let asked = LogsRequest { query, follow: request.follow, details: request.details };
        let log =
            self.engine.logs(&request.container, asked).await.map_err(|error| to_status(&error))?;
        let details = log.details().to_owned();
        let batches = stream::unfold(log, |mut log| async move {
            let batch = log.next().await?;
            Some((batch, log))
        });
        let entries = batches.flat_map(move |batch| {
            let told = |entry| pb::LogEntry { details: details.clone(), ..entry_to_pb(entry) };
            stream::iter(match batch {
                Ok(entries) => entries.into_iter().map(|entry| Ok(told(entry))).collect(),
                Err(error) => vec![Err(to_status(&error))],
            })
        });
        Ok(Response::new(Box::pin(entries)))
    }

    async fn resize_terminal(
        &self,
        request: Request<pb::ResizeTerminalRequest>,
    ) -> Result<Response<pb::ResizeTerminalResponse>, Status> {
        let request = request.into_inner();
        let size = request.size.ok_or_else(|| invalid("size", "no size is given"))?;
        let size = convert::size_from_pb(size)?;
        self.engine.resize(&request.container, size).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::ResizeTerminalResponse {}))
    }

    async fn exec(
        &self,
        request: Request<Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        exec::exec(&self.engine, request.into_inner()).await
    }

    async fn restart(
        &self,
        request: Request<pb::RestartContainerRequest>,
    ) -> Result<Response<pb::RestartContainerResponse>, Status> {
        let request = request.into_inner();
        let signal = convert::signal_from_pb(&request.signal)?;
        self.engine
            .restart(&request.container, signal, patience(request.timeout_secs))
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RestartContainerResponse {}))
    }

    async fn pause(
        &self,
        request: Request<pb::PauseContainerRequest>,
    ) -> Result<Response<pb::PauseContainerResponse>, Status> {
        let name = request.into_inner().container;
        self.engine.pause(&name).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::PauseContainerResponse {}))
    }

    async fn unpause(
        &self,
        request: Request<pb::UnpauseContainerRequest>,
    ) -> Result<Response<pb::UnpauseContainerResponse>, Status> {
        let name = request.into_inner().container;
        self.engine.resume(&name).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::UnpauseContainerResponse {}))
    }

    async fn rename(
        &self,
        request: Request<pb::RenameContainerRequest>,
    ) -> Result<Response<pb::RenameContainerResponse>, Status> {
        let request = request.into_inner();
        let name = ContainerName::parse(&request.name)
            .map_err(|error| to_status(&EngineError::InvalidId(error)))?;
        self.engine.rename(&request.container, name).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::RenameContainerResponse {}))
    }

    async fn top(
        &self,
        request: Request<pb::TopRequest>,
    ) -> Result<Response<pb::TopResponse>, Status> {
        let request = request.into_inner();
        let name = request.container;
        if !request.ps_options.is_empty() {
            let listed = self.engine.top_by_ps(&name, &request.ps_options).await;
            let table = listed.map_err(|error| to_status(&error))?;
            return Ok(Response::new(pb::TopResponse {
                titles: table.titles,
                rows: table.rows.into_iter().map(|cells| pb::TopRow { cells }).collect(),
                ..pb::TopResponse::default()
            }));
        }
        let processes = self.engine.top(&name).await.map_err(|error| to_status(&error))?;
        let processes = processes.into_iter().map(convert::process_to_pb).collect();
        Ok(Response::new(pb::TopResponse { processes, ..pb::TopResponse::default() }))
    }

    async fn prune(
        &self,
        request: Request<pb::PruneContainersRequest>,
    ) -> Result<Response<pb::PruneContainersResponse>, Status> {
        let filters = request.into_inner().filters;
        let filters = filters.into_iter().map(|(key, values)| (key, values.values)).collect();
        let pruned = self.engine.prune(filters).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::PruneContainersResponse {
            containers: pruned.containers,
            reclaimed_bytes: i64::try_from(pruned.reclaimed_bytes).unwrap_or(i64::MAX),
        }))
    }
}

/// User and group of who asks, if a socket of this machine tells.
fn caller<T>(request: &Request<T>) -> Option<(u32, u32)> {
    let peer = request.extensions().get::<UdsConnectInfo>()?.peer_cred?;
    Some((peer.uid(), peer.gid()))
}

/// Negative seconds mean for ever.
fn patience(timeout_secs: Option<i32>) -> Patience {
    match timeout_secs {
        None => Patience::Default,
        Some(secs) => u32::try_from(secs).map_or(Patience::Endless, Patience::Secs),
    }
}

fn entry_to_pb(entry: LogEntry) -> pb::LogEntry {
    let stream = match entry.stream {
        LogStream::Stdout => pb::Stream::Stdout,
        LogStream::Stderr => pb::Stream::Stderr,
    };
    pb::LogEntry {
        time: Some(convert::timestamp_to_pb(entry.time)),
        stream: stream.into(),
        data: entry.data,
        details: String::new(),
    }
}
