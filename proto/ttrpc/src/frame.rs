//! Frames: a header of ten bytes, then the message.
//!
//! ```text
//! 0        4           8      9       10
//! ├────────┼───────────┼──────┼───────┼──────────── … ┤
//! │ length │ stream id │ type │ flags │ message       │   big endian
//! ```
//!
//! [`Decoder`] is the parser and has no I/O: bytes in, frames out. It takes what it is given, in
//! whatever pieces; a message over the limit is skipped as it passes, and reported once, so that
//! the stream stays in step.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length of the header.
pub const HEADER_BYTES: usize = 10;

/// Longest message that either side may send: 4 MiB.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Capacity above which an empty buffer gives its memory back.
const KEEP_BYTES: usize = 8 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Opens a stream, with the call.
    Request,
    /// Ends a stream, with the outcome.
    Response,
    /// A message within a stream.
    Data,
    /// Something newer than this program.
    Unknown(u8),
}

impl Kind {
    fn from_wire(number: u8) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Data,
            other => Self::Unknown(other),
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
            Self::Unknown(other) => other,
        }
    }
}

/// A frame of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) stream_id: u32,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) message: Bytes,
}

/// Why a frame cannot be sent or was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message is over the limit.
    #[error(
        "message of {message_bytes} bytes on stream {stream_id}: at most {MAX_MESSAGE_BYTES} are allowed"
    )]
    TooLong {
        /// Stream of the message.
        stream_id: u32,
        /// Its length.
        message_bytes: usize,
    },
}

impl Frame {
    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLong`]; then nothing is appended.
    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        let message_bytes = self.message.len();
        let too_long = FrameError::TooLong { stream_id: self.stream_id, message_bytes };
        let length = match u32::try_from(message_bytes) {
            Ok(length) if message_bytes <= MAX_MESSAGE_BYTES => length,
            _ => return Err(too_long),
        };
        out.reserve(HEADER_BYTES + message_bytes);
        out.put_u32(length);
        out.put_u32(self.stream_id);
        out.put_u8(self.kind.to_wire());
        out.put_u8(self.flags);
        out.put_slice(&self.message);
        Ok(())
    }
}

/// Parses a stream of bytes into frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    /// Bytes of an oversized message that have yet to pass.
    skip: usize,
}

impl Decoder {
    /// Returns the buffer that the next bytes are to be read into.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(512);
        &mut self.buffer
    }

    /// Takes the next whole frame; `None` until more bytes are there.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], once per such message; the decoder goes on behind it.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let skipped = self.skip.min(self.buffer.len());
        self.buffer.advance(skipped);
        self.skip -= skipped;
        if self.skip > 0 || self.buffer.len() < HEADER_BYTES {
            self.release();
            return Ok(None);
        }
        let mut header = &self.buffer[..HEADER_BYTES];
        let length = header.get_u32() as usize;
        let stream_id = header.get_u32();
        let kind = Kind::from_wire(header.get_u8());
        let flags = header.get_u8();
        if length > MAX_MESSAGE_BYTES {
            self.buffer.advance(HEADER_BYTES);
            self.skip = length;
            return Err(FrameError::TooLong { stream_id, message_bytes: length });
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let message = Bytes::copy_from_slice(&self.buffer[..length]);
        self.buffer.advance(length);
        Ok(Some(Frame { stream_id, kind, flags, message }))
    }

    /// Gives memory back that one long message made the buffer grow to.
    fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        } else if self.buffer.len() < HEADER_BYTES && self.buffer.capacity() > KEEP_BYTES {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let one =
            (any::<u32>(), any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300));
        let one = one.prop_map(|(stream_id, kind, flags, message)| Frame {
            stream_id,
            kind: Kind::from_wire(kind),
            flags,
            message: message.into(),
        });
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(sent in frames(), sizes in prop::collection::vec(1usize..40, 1..8)) {
            let mut wire = BytesMut::new();
            for frame in &sent {
                frame.encode(&mut wire).unwrap();
            }
            let mut decoder = Decoder::default();
            let mut received = Vec::new();
            let mut sizes = sizes.iter().cycle();
            let mut rest = &wire[..];

            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                decoder.buffer().put_slice(piece);
                rest = after;
                while let Some(frame) = decoder.next().unwrap() {
                    received.push(frame);
                }
            }

            prop_assert_eq!(received, sent);
        }

        #[test]
        fn garbage_never_panics_and_never_grows_the_buffer(garbage in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.buffer().put_slice(&garbage);
            for _ in 0..garbage.len() {
                let _ = decoder.next();
            }
            prop_assert!(decoder.buffer.len() <= garbage.len());
        }
    }

    #[test]
    fn an_oversized_message_is_skipped_and_the_next_frame_is_read() {
        let mut decoder = Decoder::default();
        let mut header = BytesMut::new();
        header.put_u32(u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap());
        header.put_u32(7);
        header.put_slice(&[1, 0]);
        decoder.buffer().put_slice(&header);

        let refused = decoder.next();

        let message_bytes = MAX_MESSAGE_BYTES + 1;
        assert_eq!(refused, Err(FrameError::TooLong { stream_id: 7, message_bytes }));
        for _ in 0..=MAX_MESSAGE_BYTES >> 16 {
            let left = decoder.skip.min(1 << 16);
            decoder.buffer().put_bytes(0, left);
            assert_eq!(decoder.next(), Ok(None));
        }
        let small =
            Frame { stream_id: 9, kind: Kind::Request, flags: 0, message: Bytes::from("x") };
        small.encode(decoder.buffer()).unwrap();
        assert_eq!(decoder.next(), Ok(Some(small)));
    }

    #[test]
    fn sending_an_oversized_message_is_refused() {
        let message = Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]);
        let frame = Frame { stream_id: 1, kind: Kind::Response, flags: 0, message };
        let mut out = BytesMut::new();

        assert!(frame.encode(&mut out).is_err());
        assert!(out.is_empty());
    }
}
