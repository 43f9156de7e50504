//! Progress of many layers on one stream of answers.
//!
//! Layers report from several threads, and must not wait for a client. So what is not sent yet is
//! kept here, and of two reports of one layer in one phase only the later: the queue is never
//! longer than layers times phases.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keg_image::{LayerPhase, Progress, PullEvent};
use keg_proto::keg::v1 as pb;
use keg_store::Digest;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::super::Answers;

/// Answers that may wait for a client.
const QUEUE_LENGTH: usize = 16;

/// Does `work`, and answers with what it reports and then with what it returns. The work is called
/// off when the client goes away.
pub(super) fn follow<T, F>(
    to_pb: impl Fn(PullEvent) -> T + Send + Sync + 'static,
    work: impl FnOnce(Progress) -> F + Send + 'static,
) -> Response<Answers<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<Vec<T>, Status>> + Send,
{
    let (answers, receiver) = mpsc::channel(QUEUE_LENGTH);
    tokio::spawn(async move {
        let reports = Arc::new(Reports::default());
        let progress = {
            let reports = Arc::clone(&reports);
            Arc::new(move |event| reports.push(event))
        };
        let outcome = {
            let working = work(progress);
            tokio::pin!(working);
            loop {
                tokio::select! {
                    outcome = &mut working => break outcome,
                    () = reports.forward(&answers, &to_pb) => {}
                    () = answers.closed() => return,
                }
            }
        };
        reports.flush(&answers, &to_pb).await;
        let last: Vec<Result<T, Status>> = match outcome {
            Ok(last) => last.into_iter().map(Ok).collect(),
            Err(status) => vec![Err(status)],
        };
        for answer in last {
            // A client that is gone need not be told.
            let _ = answers.send(answer).await;
        }
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

/// Converts the progress of a layer.
pub(super) fn layer_to_pb(
    digest: &Digest,
    phase: LayerPhase,
    current_bytes: u64,
    total_bytes: u64,
) -> pb::LayerProgress {
    let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    pb::LayerProgress {
        digest: digest.to_string(),
        phase: phase_to_pb(phase).into(),
        current: bytes(current_bytes),
        total: bytes(total_bytes),
    }
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
        LayerPhase::Uploading => pb::LayerPhase::Uploading,
        LayerPhase::Uploaded => pb::LayerPhase::Uploaded,
        LayerPhase::Mounted => pb::LayerPhase::Mounted,
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
    async fn forward<T>(
        &self,
        answers: &mpsc::Sender<Result<T, Status>>,
        to_pb: &(impl Fn(PullEvent) -> T + Sync),
    ) {
        self.arrived.notified().await;
        self.flush(answers, to_pb).await;
    }

    /// Sends what there is.
    async fn flush<T>(
        &self,
        answers: &mpsc::Sender<Result<T, Status>>,
        to_pb: &(impl Fn(PullEvent) -> T + Sync),
    ) {
        // A permit first: while it is waited for, reports of one phase become one.
        while let Ok(permit) = answers.reserve().await {
            let Some(event) = self.queue().pop_front() else { return };
            permit.send(Ok(to_pb(event)));
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

#[cfg(test)]
mod tests {
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

        reports.flush(&answers, &|event| event).await;

        drop(answers);
        let mut sent = Vec::new();
        while let Some(Ok(answer)) = receiver.recv().await {
            if let PullEvent::Layer { phase, current_bytes, .. } = answer {
                sent.push((phase, current_bytes));
            }
        }
        let expected = [
            (LayerPhase::Downloading, 999),
            (LayerPhase::Extracting, 999),
            (LayerPhase::Downloaded, 9),
        ];
        assert_eq!(sent, expected);
    }
}
