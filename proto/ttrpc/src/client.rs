//! The client's end: one connection, any number of calls at once.
//!
//! ```text
//! call() ── queue ──▶ task: writes requests, reads responses ──▶ the waiting call()
//! ```
//!
//! One spawned task owns the socket. It ends when the peer closes the connection, or when the last
//! [`Client`] is dropped; in both cases every waiting call fails with [`CallError::Closed`].

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use keg_proto::ttrpc as wire;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::frame::{Decoder, Frame, FrameError, Kind};
use crate::status::Status;

/// Requests that wait to be written; further calls wait for room.
const QUEUE_LENGTH: usize = 64;

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
#[error("connect to {path:?}")]
pub struct ConnectError {
    /// The socket.
    pub path: PathBuf,
    /// The kernel's answer: `NotFound` or `ConnectionRefused` when nobody serves it.
    #[source]
    pub source: io::Error,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server answered with an error.
    #[error("{service}/{method}")]
    Status {
        /// The service that was called.
        service: String,
        /// The method that was called.
        method: String,
        /// The answer.
        #[source]
        status: Status,
    },
    /// The connection ended before the answer came.
    #[error("{service}/{method}: the connection was closed before it answered")]
    Closed {
        /// The service that was called.
        service: String,
        /// The method that was called.
        method: String,
    },
    /// No answer came in time. The server may still be at work.
    #[error("{service}/{method}: no answer within {timeout:?}")]
    TimedOut {
        /// The service that was called.
        service: String,
        /// The method that was called.
        method: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The request cannot be sent.
    #[error("{service}/{method}: request refused")]
    Request {
        /// The service that was called.
        service: String,
        /// The method that was called.
        method: String,
        /// What is wrong with it.
        #[source]
        source: FrameError,
    },
    /// The answer is not what the method returns.
    #[error("{service}/{method}: the answer cannot be decoded")]
    Response {
        /// The service that was called.
        service: String,
        /// The method that was called.
        method: String,
        /// What is wrong with it.
        #[source]
        source: prost::DecodeError,
    },
}

impl CallError {
    /// Returns the server's answer, if it is one that failed.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Status { status, .. } => Some(status),
            _ => None,
        }
    }
}

/// A connection to a ttrpc server; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    headers: Vec<wire::KeyValue>,
    requests: mpsc::Sender<Bytes>,
}

#[derive(Debug, Default)]
struct Shared {
    next_stream: AtomicU32,
    waiting: Waiting,
}

/// Who waits for which stream. `None` once the connection is gone.
#[derive(Debug)]
struct Waiting(Mutex<Option<HashMap<u32, oneshot::Sender<Outcome>>>>);

type Outcome = Result<wire::Response, prost::DecodeError>;

impl Default for Waiting {
    fn default() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }
}

impl Waiting {
    fn with<T>(
        &self,
        change: impl FnOnce(&mut Option<HashMap<u32, oneshot::Sender<Outcome>>>) -> T,
    ) -> T {
        // A panic while it is held leaves a map that is still whole.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Forgets a call that is over, or was given up by dropping its future.
struct Registration<'a> {
    shared: &'a Shared,
    stream_id: u32,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.shared.waiting.with(|waiting| waiting.as_mut().map(|map| map.remove(&self.stream_id)));
    }
}

impl Client {
    /// Connects to the unix socket `path`.
    ///
    /// Must be called within a tokio runtime, which then runs the connection's task.
    ///
    /// # Errors
    /// [`ConnectError`] with the kernel's answer.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ConnectError { path: path.to_owned(), source })?;
        Ok(Self::over(stream))
    }

    /// Makes a client of a connection that is there.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        let shared = Arc::new(Shared::default());
        let (requests, queue) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(run(stream, queue, Arc::clone(&shared)));
        Self { shared, headers: Vec::new(), requests }
    }

    /// Adds a header to every call of this clone, as servers want that ask for a namespace.
    #[must_use]
    pub fn with_header(mut self, key: &str, value: &str) -> Self {
        self.headers.push(wire::KeyValue { key: key.to_owned(), value: value.to_owned() });
        self
    }

    /// Whether the connection has ended; every further call would fail.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.waiting.with(|waiting| waiting.is_none())
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }

    /// Calls `service`'s `method` and waits for its answer, at most `timeout`, which the server is
    /// told too. Dropping the future gives the call up.
    ///
    /// # Errors
    /// [`CallError::Status`] is the server's own answer; all others mean that there was none.
    pub async fn call<Req, Resp>(
        &self,
        service: &str,
        method: &str,
        request: &Req,
        timeout: Option<Duration>,
    ) -> Result<Resp, CallError>
    where
        Req: Message,
        Resp: Message + Default,
    {
        let named = || (service.to_owned(), method.to_owned());
        let answer = self.exchange(service, method, request.encode_to_vec(), timeout);
        let response = match timeout {
            None => answer.await?,
            Some(timeout) => tokio::time::timeout(timeout, answer).await.map_err(|_| {
                let (service, method) = named();
                CallError::TimedOut { service, method, timeout }
            })??,
        };
        if let Some(status) = response.status.and_then(Status::from_wire) {
            let (service, method) = named();
            return Err(CallError::Status { service, method, status });
        }
        Resp::decode(response.payload.as_slice()).map_err(|source| {
            let (service, method) = named();
            CallError::Response { service, method, source }
        })
    }

    /// Sends one request and waits for its response.
    async fn exchange(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<wire::Response, CallError> {
        let named = || (service.to_owned(), method.to_owned());
        let closed = || {
            let (service, method) = named();
            CallError::Closed { service, method }
        };
        let timeout_nano =
            timeout.map_or(0, |timeout| i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX));
        let message = wire::Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano,
            metadata: self.headers.clone(),
        };
        // Odd ids are the client's; they wrap after two billion calls.
        let stream_id = self.shared.next_stream.fetch_add(2, Ordering::Relaxed) | 1;
        let frame = Frame {
            stream_id,
            kind: Kind::Request,
            flags: 0,
            message: message.encode_to_vec().into(),
        };
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).map_err(|source| {
            let (service, method) = named();
            CallError::Request { service, method, source }
        })?;

        let (sender, answer) = oneshot::channel();
        let registered = self.shared.waiting.with(|waiting| match waiting {
            Some(map) => map.insert(stream_id, sender).is_none(),
            None => false,
        });
        if !registered {
            return Err(closed());
        }
        let _registration = Registration { shared: &self.shared, stream_id };
        self.requests.send(bytes.freeze()).await.map_err(|_| closed())?;
        match answer.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => {
                let (service, method) = named();
                Err(CallError::Response { service, method, source })
            }
            Err(_) => Err(closed()),
        }
    }
}

/// Owns the socket until it closes or nobody can ask any more.
async fn run(stream: UnixStream, mut queue: mpsc::Receiver<Bytes>, shared: Arc<Shared>) {
    let (mut reader, mut writer) = stream.into_split();
    let mut decoder = Decoder::default();
    let mut unsent = Bytes::new();
    loop {
        tokio::select! {
            read = reader.read_buf(decoder.buffer()) => match read {
                Ok(0) | Err(_) => break,
                Ok(_) => deliver(&mut decoder, &shared),
            },
            request = queue.recv(), if unsent.is_empty() => match request {
                Some(request) => unsent = request,
                None => break,
            },
            written = writer.write(&unsent), if !unsent.is_empty() => match written {
                Ok(0) | Err(_) => break,
                Ok(written) => unsent.advance(written),
            },
        }
    }
    // Dropping the senders wakes the calls that wait.
    shared.waiting.with(Option::take);
}

/// Hands every whole response to the call that waits for it; others were given up.
fn deliver(decoder: &mut Decoder, shared: &Shared) {
    loop {
        match decoder.next() {
            Ok(None) => return,
            Ok(Some(Frame { stream_id, kind: Kind::Response, message, .. })) => {
                let sender = shared.waiting.with(|waiting| waiting.as_mut()?.remove(&stream_id));
                if let Some(sender) = sender {
                    // The receiver may be gone: then nobody wants the answer.
                    let _ = sender.send(wire::Response::decode(message));
                }
            }
            Ok(Some(_)) => {}
            // An oversized answer never comes: dropping its sender tells the call.
            Err(FrameError::TooLong { stream_id, .. }) => {
                shared.waiting.with(|waiting| waiting.as_mut()?.remove(&stream_id));
            }
        }
    }
}

#[cfg(test)]
mod tests;
