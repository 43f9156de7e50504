//! `Images.Pull`: progress of many layers on one stream.
//!
//! Layers report from several threads, and must not wait for a client. So what is not sent yet is
//! kept here, and of two reports of one layer in one phase only the later: the queue is never
//! longer than layers times phases.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, ObjectType};
use keg_image::{Credentials, Images, LayerPhase, PullEvent, PullRequest, Pulled, Reference};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::pull_image_response::Event;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::super::Answers;
use crate::convert;
use crate::status::to_status;

/// Answers that may wait for a client.
const QUEUE_LENGTH: usize = 16;

/// Serves one call. The pull is called off when the client goes away.
pub(super) fn pull(
    engine: &Engine,
    images: &Images,
    request: pb::PullImageRequest,
) -> Result<Response<Answers<pb::PullImageResponse>>, Status> {
    let reference = Reference::parse(&request.reference).map_err(|error| to_status(&error))?;
    let pull = PullRequest {
        reference,
        platform: request.platform.as_ref().map(convert::platform_from_pb),
        credentials: request.auth.and_then(credentials),
    };
    let (engine, images) = (engine.clone(), images.clone());
    let (answers, receiver) = mpsc::channel(QUEUE_LENGTH);
    tokio::spawn(async move {
        let reports = Arc::new(Reports::default());
        let progress = {
            let reports = Arc::clone(&reports);
            Arc::new(move |event| reports.push(event))
        };
        let name = pull.reference.to_string();
        let outcome = {
            let pulling = images.pull(pull, progress);
            tokio::pin!(pulling);
            loop {
                tokio::select! {
                    outcome = &mut pulling => break outcome,
                    () = reports.forward(&answers) => {}
                    () = answers.closed() => return,
                }
            }
        };
        reports.flush(&answers).await;
        let last = match outcome {
            Ok(pulled) => {
                tell(&engine, &name, &pulled);
                Ok(done(&engine, &pulled))
            }
            Err(error) => Err(to_status(&error)),
        };
        // A client that is gone need not be told.
        let _ = answers.send(last).await;
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

fn credentials(auth: pb::RegistryAuth) -> Option<Credentials> {
    if !auth.identity_token.is_empty() {
        return Some(Credentials::IdentityToken(auth.identity_token));
    }
    let (username, password) = (auth.username, auth.password);
    (!username.is_empty()).then_some(Credentials::Basic { username, password })
}

fn tell(engine: &Engine, name: &str, pulled: &Pulled) {
    engine.events().publish(EngineEvent {
        time: Timestamp::now(),
        object: ObjectType::Image,
        action: "pull",
        id: pulled.image.id.to_string(),
        attributes: [("name".to_owned(), name.to_owned())].into(),
    });
}

fn done(engine: &Engine, pulled: &Pulled) -> pb::PullImageResponse {
    let users = engine.image_users();
    let containers = users.iter().filter(|user| user.image_id == pulled.image.id).count();
    pb::PullImageResponse {
        event: Some(Event::Done(pb::PullDone {
            image: Some(convert::image_to_pb(&pulled.image, containers)),
            up_to_date: pulled.is_up_to_date,
        })),
    }
}

/// What is not sent yet.
#[derive(Debug, Default)]
struct Reports {
    queue: Mutex<VecDeque<PullEvent>>,
    arrived: Notify,
}

impl Reports {
    /// Adds a report; replaces the last one of the same layer if its phase is the same.
    fn push(&self, event: PullEvent) {
        let mut queue = self.queue();
        let last = queue.iter_mut().rev().find(|queued| same_layer(queued, &event));
        match (last, &event) {
            (
                Some(PullEvent::Layer { phase, current_bytes, .. }),
                PullEvent::Layer { phase: new_phase, current_bytes: new_bytes, .. },
            ) if phase == new_phase => *current_bytes = *new_bytes,
            _ => queue.push_back(event),
        }
        drop(queue);
        self.arrived.notify_one();
    }

    /// Waits for reports and sends them.
    async fn forward(&self, answers: &mpsc::Sender<Result<pb::PullImageResponse, Status>>) {
        self.arrived.notified().await;
        self.flush(answers).await;
    }

    /// Sends what there is.
    async fn flush(&self, answers: &mpsc::Sender<Result<pb::PullImageResponse, Status>>) {
        // A permit first: while it is waited for, reports of one phase become one.
        while let Ok(permit) = answers.reserve().await {
            let Some(event) = self.queue().pop_front() else { return };
            permit.send(Ok(event_to_pb(event)));
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<PullEvent>> {
        // A panic while it is held leaves a queue that is still whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same_layer(one: &PullEvent, other: &PullEvent) -> bool {
    match (one, other) {
        (PullEvent::Layer { digest: one, .. }, PullEvent::Layer { digest: other, .. }) => {
            one == other
        }
        _ => false,
    }
}

fn event_to_pb(event: PullEvent) -> pb::PullImageResponse {
    let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let event = match event {
        PullEvent::Resolved { reference, target, layers } => Event::Resolved(pb::PullResolved {
            reference: reference.to_string(),
            target: Some(convert::descriptor_to_pb(&target)),
            layers: layers.iter().map(convert::descriptor_to_pb).collect(),
        }),
        PullEvent::Layer { digest, phase, current_bytes, total_bytes } => {
            Event::Layer(pb::LayerProgress {
                digest: digest.to_string(),
                phase: phase_to_pb(phase).into(),
                current: bytes(current_bytes),
                total: bytes(total_bytes),
            })
        }
    };
    pb::PullImageResponse { event: Some(event) }
}

fn phase_to_pb(phase: LayerPhase) -> pb::LayerPhase {
    match phase {
        LayerPhase::Waiting => pb::LayerPhase::Waiting,
        LayerPhase::Downloading => pb::LayerPhase::Downloading,
        LayerPhase::Downloaded => pb::LayerPhase::Downloaded,
        LayerPhase::Extracting => pb::LayerPhase::Extracting,
        LayerPhase::Complete => pb::LayerPhase::Complete,
        LayerPhase::Exists => pb::LayerPhase::Exists,
        LayerPhase::Retrying => pb::LayerPhase::Retrying,
    }
}

#[cfg(test)]
mod tests {
    use keg_store::Digest;

    use super::*;

    fn report(layer: &str, phase: LayerPhase, current_bytes: u64) -> PullEvent {
        let digest = Digest::sha256(layer.as_bytes());
        PullEvent::Layer { digest, phase, current_bytes, total_bytes: 9 }
    }

    #[tokio::test]
    async fn reports_of_one_phase_become_one_and_phases_stay_in_order() {
        let reports = Reports::default();
        for bytes in 0..1000 {
            reports.push(report("a", LayerPhase::Downloading, bytes));
            reports.push(report("b", LayerPhase::Extracting, bytes));
        }
        reports.push(report("a", LayerPhase::Downloaded, 9));
        let (answers, mut receiver) = mpsc::channel(QUEUE_LENGTH);

        reports.flush(&answers).await;

        drop(answers);
        let mut sent = Vec::new();
        while let Some(Ok(answer)) = receiver.recv().await {
            if let Some(Event::Layer(layer)) = answer.event {
                sent.push((layer.phase(), layer.current));
            }
        }
        let expected = [
            (pb::LayerPhase::Downloading, 999),
            (pb::LayerPhase::Extracting, 999),
            (pb::LayerPhase::Downloaded, 9),
        ];
        assert_eq!(sent, expected);
    }
}
