//! The server's end: one future per connection, any number of calls in it.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use keg_proto::ttrpc as wire;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::frame::{Decoder, Frame, FrameError, Kind};
use crate::status::{Code, Status, decode};

/// Most calls that one connection has under way; further ones wait in the socket.
pub const MAX_CALLS: usize = 1024;

/// Bytes of unsent answers above which no further call is read.
const MAX_UNSENT_BYTES: usize = 1 << 20;

/// A call to answer.
#[derive(Debug)]
pub struct Request {
    /// Full name of the service, such as `containerd.task.v2.Task`.
    pub service: String,
    /// Name of the method, such as `Create`.
    pub method: String,
    /// The method's encoded input.
    pub payload: Bytes,
    /// Headers, in the order in which they came.
    pub metadata: Vec<(String, String)>,
    /// How long the caller waits; the server itself enforces it.
    pub timeout: Option<Duration>,
}

impl Request {
    /// Decodes the input as `M`.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] if it is not an `M`.
    pub fn decode<M: Message + Default>(&self) -> Result<M, Status> {
        decode(&self.payload)
    }

    /// Makes the answer to a method or service that is not there.
    #[must_use]
    pub fn unimplemented(&self) -> Status {
        unimplemented(&format!("/{}/{}", self.service, self.method))
    }
}

/// Something that answers calls.
///
/// A handler's future is dropped when its caller goes away or its time is over: what must not stop
/// half-way is to be spawned by the handler.
pub trait Service {
    /// Answers one call with the method's encoded output.
    ///
    /// # Errors
    /// The status to send.
    fn call(&self, request: Request) -> impl Future<Output = Result<Vec<u8>, Status>>;
}

/// Why a connection ended other than by the peer's closing it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Reading failed.
    #[error("read from the ttrpc connection")]
    Read(#[source] io::Error),
    /// Writing failed.
    #[error("write to the ttrpc connection")]
    Write(#[source] io::Error),
}

/// Serves one connection until the peer closes it. Handlers that still run are then dropped.
///
/// # Errors
/// When the socket fails; there is nothing to do but to log it.
pub async fn serve<C, S>(connection: C, service: &S) -> Result<(), ServeError>
where
    C: AsyncRead + AsyncWrite,
    S: Service,
{
    let (mut reader, mut writer) = tokio::io::split(connection);
    let mut decoder = Decoder::default();
    let mut unsent = BytesMut::new();
    let mut calls = FuturesUnordered::new();
    loop {
        let wants_more = calls.len() < MAX_CALLS && unsent.len() < MAX_UNSENT_BYTES;
        tokio::select! {
            read = reader.read_buf(decoder.buffer()), if wants_more => {
                if read.map_err(ServeError::Read)? == 0 {
                    return Ok(());
                }
                accept(&mut decoder, &mut unsent, |id, frame| calls.push(answer(id, frame, service)));
            }
            Some((stream_id, outcome)) = calls.next(), if !calls.is_empty() => {
                push_response(&mut unsent, stream_id, outcome);
            }
            written = writer.write(&unsent), if !unsent.is_empty() => {
                unsent.advance(written.map_err(ServeError::Write)?);
                if unsent.is_empty() {
                    unsent = BytesMut::new();
                }
            }
        }
    }
}

/// Hands every whole unary request in `decoder` to `start`, and answers the rest with an error.
fn accept(decoder: &mut Decoder, unsent: &mut BytesMut, mut start: impl FnMut(u32, Bytes)) {
    loop {
        match decoder.next() {
            Ok(None) => return,
            Ok(Some(Frame { stream_id, kind: Kind::Request, flags, message })) => {
                if stream_id % 2 == 0 {
                    let text = format!("stream id {stream_id}: a client's ids are odd");
                    push_response(unsent, stream_id, Err(Status::new(Code::InvalidArgument, text)));
                } else if flags != 0 {
                    push_response(unsent, stream_id, Err(unimplemented("streaming call")));
                } else {
                    start(stream_id, message);
                }
            }
            // Data belongs to streams, all of which were refused; responses are not for servers.
            Ok(Some(_)) => {}
            Err(error @ FrameError::TooLong { stream_id, .. }) => {
                let status = Status::new(Code::ResourceExhausted, error.to_string());
                push_response(unsent, stream_id, Err(status));
            }
        }
    }
}

/// Runs one call to its end or to its deadline.
async fn answer<S: Service>(
    stream_id: u32,
    message: Bytes,
    service: &S,
) -> (u32, Result<Vec<u8>, Status>) {
    let request = match wire::Request::decode(message) {
        Ok(request) => request,
        Err(error) => {
            let text = format!("not a valid ttrpc request: {error}");
            return (stream_id, Err(Status::new(Code::InvalidArgument, text)));
        }
    };
    let timeout = u64::try_from(request.timeout_nano).ok().filter(|nanos| *nanos > 0);
    let timeout = timeout.map(Duration::from_nanos);
    let metadata = request.metadata.into_iter().map(|pair| (pair.key, pair.value)).collect();
    let request = Request {
        service: request.service,
        method: request.method,
        payload: request.payload.into(),
        metadata,
        timeout,
    };
    let outcome = match timeout {
        None => service.call(request).await,
        Some(timeout) => {
            let late = format!("{} did not end within {timeout:?}", request.method);
            tokio::time::timeout(timeout, service.call(request))
                .await
                .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, late)))
        }
    };
    (stream_id, outcome)
}

/// Appends a response to what is to be sent; an answer over the limit becomes an error.
fn push_response(unsent: &mut BytesMut, stream_id: u32, outcome: Result<Vec<u8>, Status>) {
    let mut outcome = outcome;
    loop {
        let response = match outcome {
            Ok(payload) => wire::Response { status: None, payload },
            Err(status) => wire::Response { status: Some(status.into_wire()), payload: Vec::new() },
        };
        let message = Bytes::from(response.encode_to_vec());
        let frame = Frame { stream_id, kind: Kind::Response, flags: 0, message };
        match frame.encode(unsent) {
            Ok(()) => return,
            Err(error) => {
                outcome = Err(Status::new(Code::ResourceExhausted, error.to_string()));
            }
        }
    }
}

fn unimplemented(what: &str) -> Status {
    Status::new(Code::Unimplemented, format!("{what} is not implemented"))
}
