//! Archives that come in pieces.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tonic::Streaming;

/// The bytes of an archive, as they come.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Makes a stream of bytes of what follows a call's first message; `data` takes them out of it.
pub(super) fn pieces<M: Send + 'static>(
    requests: Streaming<M>,
    data: impl Fn(M) -> Option<Bytes> + Copy + Send + 'static,
) -> Pieces {
    Box::pin(stream::try_unfold(requests, move |mut requests| async move {
        match requests.message().await {
            Ok(None) => Ok(None),
            Ok(Some(request)) => match data(request) {
                Some(piece) => Ok(Some((piece, requests))),
                None => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a message after the first is no piece of the archive",
                )),
            },
            Err(status) => Err(io::Error::other(status)),
        }
    }))
}
