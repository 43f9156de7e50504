//! `keg.v1.Builds`.

mod describe;
mod request;
mod session;
mod shell;

use std::sync::Arc;

use jiff::Timestamp;
use keg_build::session::Session;
use keg_build::{Builder, Built, Event, Failure, Progress, StepState};
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, ObjectType};
use keg_image::{Images, SaveRequest};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::build_request::Part;
use keg_proto::keg::v1::build_response::Event as Answer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Answers;
use crate::convert;
use crate::status::{invalid, to_status};
use session::Remote;

/// Messages that wait for the client.
const ANSWERS: usize = 256;
/// Bytes of the output in one message.
const PIECE_BYTES: usize = 256 * 1024;

/// The service.
#[derive(Debug)]
pub(crate) struct Builds {
    builder: Builder,
    engine: Engine,
    images: Images,
}

type Sink = mpsc::Sender<Result<pb::BuildResponse, Status>>;

impl Builds {
    /// Serves the builds of a builder.
    pub(crate) fn new(builder: Builder, engine: Engine, images: Images) -> Self {
        Self { builder, engine, images }
    }
}

#[tonic::async_trait]
impl pb::builds_server::Builds for Builds {
    type BuildStream = Answers<pb::BuildResponse>;

    async fn build(
        &self,
        request: Request<Streaming<pb::BuildRequest>>,
    ) -> Result<Response<Self::BuildStream>, Status> {
        let mut requests = request.into_inner();
        let Some(Part::Start(start)) = requests.message().await?.and_then(|first| first.part)
        else {
            return Err(invalid("start", "the first message must say what to build"));
        };
        let wanted = request::Wanted::parse(start)?;
        let (sink, answers) = mpsc::channel(ANSWERS);
        let work = Work {
            builder: self.builder.clone(),
            engine: self.engine.clone(),
            images: self.images.clone(),
            sink: sink.clone(),
        };
        let remote = Arc::new(Remote::new(sink.clone()));
        let listening = tokio::spawn(session::listen(Arc::clone(&remote), requests));
        tokio::spawn(async move {
            let building = work.run(wanted, remote);
            // Whoever does not listen any more has given the build up.
            tokio::select! {
                outcome = building => {
                    if let Err(status) = outcome {
                        let _ = sink.send(Err(status)).await;
                    }
                }
                () = sink.closed() => {}
            }
            listening.abort();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn disk_usage(
        &self,
        _: Request<pb::BuildDiskUsageRequest>,
    ) -> Result<Response<pb::BuildDiskUsageResponse>, Status> {
        let usage = self.builder.disk_usage().await.map_err(|error| to_status(&error))?;
        let entries = usage.results.into_iter().map(|(result, is_shared)| pb::BuildCacheEntry {
            id: result.key,
            description: result.description,
            size_bytes: i64::try_from(result.size_bytes).unwrap_or(i64::MAX),
            created_at: Some(convert::timestamp_to_pb(result.created_at)),
            used_at: Some(convert::timestamp_to_pb(result.used_at)),
            uses: result.uses,
            is_shared,
        });
        Ok(Response::new(pb::BuildDiskUsageResponse {
            entries: entries.collect(),
            context_bytes: i64::try_from(usage.context_bytes).unwrap_or(i64::MAX),
            mount_bytes: i64::try_from(usage.mount_bytes).unwrap_or(i64::MAX),
        }))
    }

    async fn prune(
        &self,
        request: Request<pb::PruneBuildsRequest>,
    ) -> Result<Response<pb::PruneBuildsResponse>, Status> {
        let request = request.into_inner();
        let wanted = keg_build::Prune {
            all: request.all,
            keep_bytes: u64::try_from(request.keep_bytes).unwrap_or_default(),
            unused_for_secs: request.unused_for_secs.max(0),
            filters: request
                .filters
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, keg_build::FilterError>>()
                .map_err(|error| to_status(&error))?,
        };
        let pruned = self.builder.prune(wanted).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::PruneBuildsResponse {
            deleted: pruned.deleted,
            freed_bytes: i64::try_from(pruned.freed_bytes).unwrap_or(i64::MAX),
        }))
    }
}

/// One call.
struct Work {
    builder: Builder,
    engine: Engine,
    images: Images,
    sink: Sink,
}

impl Work {
    async fn run(self, wanted: request::Wanted, remote: Arc<Remote>) -> Result<(), Status> {
        let (events, mut told) = mpsc::unbounded_channel();
        let progress = Progress::new(events);
        let telling = async {
            while let Some(event) = told.recv().await {
                self.send(event_to_pb(event)).await;
            }
        };
        let request::Wanted { request, output, call } = wanted;
        let tags = request.tags.clone();
        let session: Arc<dyn Session> = remote.clone();
        if call != pb::BuildCall::Unspecified {
            return self.describe(request, session, call).await;
        }
        let building = async {
            let outcome = if request.check_only {
                self.builder.check(request, session, progress).await.map(|()| None)
            } else {
                self.builder.build(request, session, progress).await.map(Some)
            };
            // All that it told is sent before its outcome: the sender is gone by now.
            outcome
        };
        let (outcome, ()) = tokio::join!(building, telling);
        let built = match outcome {
            Ok(built) => built.unwrap_or_default(),
            Err(failure) => return Err(self.failed(failure).await),
        };
        if let Some(image) = &built.image {
            self.engine.events().publish(EngineEvent {
                time: Timestamp::now(),
                object: ObjectType::Image,
                action: "build",
                id: image.id.to_string(),
                attributes: [("name".to_owned(), image.display_name())].into(),
            });
        }
        for archive in built.caches.clone() {
            let cache = u32::try_from(archive.index + 1).unwrap_or(u32::MAX);
            self.send_archive(cache, move |writer| {
                archive.archive(writer).map_err(|error| to_status(&error))
            })
            .await?;
        }
        self.send_output(&built, output, &tags, &remote).await?;
        self.send(Answer::Done(done_to_pb(&built))).await;
        Ok(())
    }

    /// Answers what a Dockerfile offers.
    async fn describe(
        &self,
        request: keg_build::BuildRequest,
        session: Arc<dyn Session>,
        call: pb::BuildCall,
    ) -> Result<(), Status> {
        // There is nothing to wait for but the answer.
        let (events, _) = mpsc::unbounded_channel();
        let progress = Progress::new(events);
        let mut done = pb::BuildDone::default();
        let outcome = match call {
            pb::BuildCall::Outline => {
                let outline = self.builder.outline(request, session, progress).await;
                outline.map(|outline| done.outline = Some(describe::outline_to_pb(outline)))
            }
            _ => {
                let targets = self.builder.targets(request, session, progress).await;
                targets.map(|targets| done.targets = Some(describe::targets_to_pb(targets)))
            }
        };
        if let Err(failure) = outcome {
            return Err(self.failed(failure).await);
        }
        self.send(Answer::Done(done)).await;
        Ok(())
    }

    async fn send(&self, event: Answer) {
        // Who went away is noticed elsewhere.
        let _ = self.sink.send(Ok(pb::BuildResponse { event: Some(event) })).await;
    }

    async fn failed(&self, failure: Failure) -> Status {
        if let Some(excerpt) = failure.excerpt {
            let number = |line: usize| u32::try_from(line).unwrap_or(u32::MAX);
            self.send(Answer::Failure(pb::BuildFailure {
                first_line: number(excerpt.first_line),
                lines: excerpt.lines,
                blamed_first: number(excerpt.blamed.0),
                blamed_last: number(excerpt.blamed.1),
            }))
            .await;
        }
        to_status(&failure.error)
    }

    async fn send_output(
        &self,
        built: &Built,
        output: request::Output,
        tags: &[keg_image::Reference],
        remote: &Remote,
    ) -> Result<(), Status> {
        match output {
            request::Output::None => Ok(()),
            request::Output::Push => self.push(tags, remote).await,
            request::Output::Files => {
                let files = built.files.clone();
                let write = move |writer: &mut PieceWriter| {
                    files.archive(writer).map_err(|error| to_status(&error))
                };
                self.send_archive(0, write).await
            }
            request::Output::Archive => {
                let images = self.images.clone();
                let names: Vec<String> = match (tags, &built.image) {
                    ([], Some(image)) => vec![image.id.to_string()],
                    (tags, _) => tags.iter().map(ToString::to_string).collect(),
                };
                let request = SaveRequest { images: names, ..SaveRequest::default() };
                self.send_archive(0, move |writer| {
                    images.save(&request, writer).map_err(|error| to_status(&error))
                })
                .await
            }
        }
    }

    async fn push(&self, tags: &[keg_image::Reference], remote: &Remote) -> Result<(), Status> {
        for reference in tags {
            let credentials = remote
                .credentials(reference.domain())
                .await
                .map_err(|error| Status::cancelled(error.to_string()))?;
            let request = keg_image::PushRequest {
                reference: reference.clone(),
                platform: None,
                referrers: false,
                credentials,
            };
            self.images.push(request, Arc::new(|_| {})).await.map_err(|error| to_status(&error))?;
        }
        Ok(())
    }

    /// Sends what `write` writes, in pieces, at the pace of the client; `cache` as in `OutputPiece`.
    async fn send_archive(
        &self,
        cache: u32,
        write: impl FnOnce(&mut PieceWriter) -> Result<(), Status> + Send + 'static,
    ) -> Result<(), Status> {
        let sink = self.sink.clone();
        tokio::task::spawn_blocking(move || {
            let mut writer = PieceWriter { sink, cache, piece: Vec::with_capacity(PIECE_BYTES) };
            write(&mut writer)?;
            std::io::Write::flush(&mut writer).map_err(|error| Status::cancelled(error.to_string()))
        })
        .await
        .map_err(|error| Status::internal(error.to_string()))?
    }
}

/// Cuts an archive into messages.
pub(crate) struct PieceWriter {
    sink: Sink,
    cache: u32,
    piece: Vec<u8>,
}

impl std::io::Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.piece);
        let event = Some(Answer::Output(pb::OutputPiece { data, cache: self.cache }));
        self.sink
            .blocking_send(Ok(pb::BuildResponse { event }))
            .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

fn event_to_pb(event: Event) -> Answer {
    let now = || Some(convert::timestamp_to_pb(Timestamp::now()));
    match event {
        Event::Step { id, name, state } => {
            let (state, error) = match state {
                StepState::Started => (pb::BuildStepState::Started, String::new()),
                StepState::Cached => (pb::BuildStepState::Cached, String::new()),
                StepState::Done => (pb::BuildStepState::Done, String::new()),
                StepState::Failed(why) => (pb::BuildStepState::Failed, why),
                StepState::Canceled => (pb::BuildStepState::Canceled, String::new()),
            };
            Answer::Step(pb::BuildStep { id, name, state: state.into(), error, at: now() })
        }
        Event::Log { id, is_stderr, bytes } => {
            Answer::Log(pb::BuildLog { step: id, is_stderr, data: bytes.into(), at: now() })
        }
        Event::Status { id, name, current, total, is_done } => Answer::Status(pb::BuildStatus {
            step: id,
            name,
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            is_done,
        }),
        Event::Warning { line, check, message } => Answer::Warning(pb::BuildWarning {
            description: keg_build::check_description(check).to_owned(),
            line: line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0),
            check: check.to_owned(),
            message,
        }),
    }
}

fn done_to_pb(built: &Built) -> pb::BuildDone {
    pb::BuildDone {
        image_id: built.image.as_ref().map(|image| image.id.to_string()).unwrap_or_default(),
        target: built.target.as_ref().map(convert::descriptor_to_pb),
        materials: built.materials.iter().cloned().collect(),
        sent_bytes: i64::try_from(built.sent_bytes).unwrap_or(i64::MAX),
        ..pb::BuildDone::default()
    }
}
