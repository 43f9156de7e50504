//! The server on `events.sock` that shims publish to (`containerd.services.events.ttrpc.v1`).
//!
//! The engine learns of exits by waiting for them, which loses none; what it takes from here is
//! what it cannot wait for. A shim whose daemon is away goes on without: events are news, not state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keg_proto::containerd::events::TaskOom;
use keg_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use keg_ttrpc::{Request, Service, Status};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// Connections served at once. A shim keeps none open; this bounds what a stranger could open.
const CONNECTIONS_MAX: usize = 1024;

/// What a shim tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShimEvent {
    /// The kernel killed a process of the container for lack of memory.
    OutOfMemory {
        /// The container.
        container: String,
    },
}

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("make the socket for events {path:?}")]
pub struct ListenError {
    /// The socket.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

#[derive(Debug)]
struct Forward {
    sink: mpsc::Sender<ShimEvent>,
}

impl Service for Forward {
    async fn call(&self, request: Request) -> Result<Vec<u8>, Status> {
        if request.service != SERVICE || request.method != "Forward" {
            return Err(request.unimplemented());
        }
        let message: ForwardRequest = request.decode()?;
        let event = message.envelope.and_then(|envelope| {
            let any = envelope.event?;
            match envelope.topic.as_str() {
                "/tasks/oom" => TaskOom::decode(any.value.as_slice())
                    .ok()
                    .map(|oom| ShimEvent::OutOfMemory { container: oom.container_id }),
                _ => None,
            }
        });
        if let Some(event) = event {
            // A full queue loses news, and never makes a shim wait.
            let _ = self.sink.try_send(event);
        }
        Ok(Vec::new())
    }
}

/// Makes the socket; whoever was there before is gone, since one daemon at a time has the state.
///
/// # Errors
/// [`ListenError`] if it cannot be made.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |source| ListenError { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(fail)?;
    Ok(listener)
}

/// Serves the socket until the future is dropped.
pub async fn serve(listener: UnixListener, sink: mpsc::Sender<ShimEvent>) {
    let service = Arc::new(Forward { sink });
    let connections = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    if let Err(error) = keg_ttrpc::serve(socket, &*service).await {
                        tracing::debug!(error = %error, "a shim's connection for events broke");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: give those that are open time to close.
                tracing::warn!(error = %error, "cannot accept a shim's connection for events");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keg_proto::containerd::types::Envelope;
    use keg_ttrpc::Client;
    use prost_types::Any;

    use super::*;

    #[tokio::test]
    async fn an_event_of_interest_arrives_and_others_are_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sock");
        let (sink, mut events) = mpsc::channel(8);
        tokio::spawn(serve(listen(&path).unwrap(), sink));
        let client = Client::connect(&path).await.unwrap();

        for (topic, value) in [
            ("/tasks/start", Vec::new()),
            ("/tasks/oom", TaskOom { container_id: "abc".into() }.encode_to_vec()),
        ] {
            let envelope = Envelope {
                topic: topic.into(),
                event: Some(Any { type_url: "containerd.events.TaskOOM".into(), value }),
                ..Envelope::default()
            };
            let request = ForwardRequest { envelope: Some(envelope) };
            let _: () = client.call(SERVICE, "Forward", &request, None).await.unwrap();
        }

        let event = events.recv().await;
        assert_eq!(event, Some(ShimEvent::OutOfMemory { container: "abc".into() }));
    }
}
