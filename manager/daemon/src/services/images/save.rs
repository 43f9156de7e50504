//! `Images.Save`: images become an archive, sent as it is written.

use std::io::{self, Write};

use keg_image::{Images, SaveRequest};
use keg_proto::keg::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::super::Answers;
use crate::convert;
use crate::status::{invalid, to_status};

/// Pieces that may wait for a client.
const QUEUE_LENGTH: usize = 4;

/// Size of a piece.
const PIECE_BYTES: usize = 256 * 1024;

/// Serves one call. Writing ends when the client goes away.
pub(super) fn save(
    images: &Images,
    request: pb::SaveImagesRequest,
) -> Result<Response<Answers<pb::SaveImagesResponse>>, Status> {
    if request.images.is_empty() {
        return Err(invalid("images", "no image is named"));
    }
    let request = SaveRequest {
        platform: request.platform.as_ref().map(convert::platform_from_pb),
        referrers: request.referrers,
        images: request.images,
    };
    let images = images.clone();
    let (pieces, receiver) = mpsc::channel(QUEUE_LENGTH);
    tokio::task::spawn_blocking(move || {
        let output = Pieces { pieces: pieces.clone(), piece: Vec::with_capacity(PIECE_BYTES) };
        if let Err(error) = images.save(&request, output) {
            // A client that is gone need not be told.
            let _ = pieces.blocking_send(Err(to_status(&error)));
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

/// Sends what is written, in pieces of one size.
struct Pieces {
    pieces: mpsc::Sender<Result<pb::SaveImagesResponse, Status>>,
    piece: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let data = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let piece = pb::SaveImagesResponse { data };
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}
