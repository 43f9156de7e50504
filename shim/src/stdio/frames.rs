//! Frames of the attach socket: `proto/keg/shim/v1/io.proto` defines them.

use bytes::{Buf, BytesMut};

/// Length of a frame's header: kind and length.
pub(super) const HEADER_BYTES: usize = 5;

/// Longest payload.
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// What a client sends.
pub(super) mod from_client {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const STDIN: u8 = 2;
    pub(crate) const STDIN_END: u8 = 3;
}

/// What the shim sends.
pub(super) mod to_client {
    pub(crate) const READY: u8 = 16;
    pub(crate) const STDOUT: u8 = 17;
    pub(crate) const STDERR: u8 = 18;
    pub(crate) const END: u8 = 19;
}

/// A frame's payload is too long.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("attach frame of {0} bytes: at most {MAX_PAYLOAD_BYTES} are allowed")]
pub(super) struct TooLong(usize);

/// Builds a frame. The payload must be within the limit.
pub(super) fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= MAX_PAYLOAD_BYTES, "callers cut their payloads");
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Takes the next whole frame out of `buffer`: kind and payload.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<(u8, BytesMut)>, TooLong> {
    let [kind, length @ ..] = match buffer.first_chunk::<HEADER_BYTES>() {
        Some(header) => *header,
        None => return Ok(None),
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_PAYLOAD_BYTES {
        return Err(TooLong(length));
    }
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    Ok(Some((kind, buffer.split_to(length))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 0..6), size in 1usize..20) {
            let wire: Vec<u8> = frames.iter().flat_map(|(kind, payload)| encode(*kind, payload)).collect();
            let mut buffer = BytesMut::new();
            let mut taken = Vec::new();

            for piece in wire.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some((kind, payload)) = take(&mut buffer).unwrap() {
                    taken.push((kind, payload.to_vec()));
                }
            }

            prop_assert_eq!(taken, frames);
        }

        #[test]
        fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&garbage[..]);
            while let Ok(Some(_)) = take(&mut buffer) {}
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut buffer = BytesMut::from(&[2, 0, 1, 0, 1][..]);

        assert_eq!(take(&mut buffer), Err(TooLong((64 << 10) + 1)));
    }
}
