//! Splits a stream into lines.

use super::MAX_LINE_BYTES;

/// Which standard stream something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Collects one stream's lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The start of a line whose end was not seen; shorter than the limit.
    held: Vec<u8>,
}

impl Lines {
    /// Hands each piece of `bytes` to `emit` that is a whole line (`true`; its `\n` is not part of
    /// it) or, cut off at the limit, a part of one (`false`).
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - self.held.len();
            let window = &bytes[..bytes.len().min(room)];
            let Some(end) = memchr::memchr(b'\n', window) else {
                if window.len() < room {
                    self.held.extend_from_slice(window);
                    return;
                }
                self.take(window, false, &mut emit);
                bytes = &bytes[room..];
                continue;
            };
            self.take(&window[..end], true, &mut emit);
            bytes = &bytes[end + 1..];
        }
    }

    /// Hands out what is held back: the stream has ended.
    pub(crate) fn finish(&mut self, mut emit: impl FnMut(&[u8], bool)) {
        if !self.held.is_empty() {
            self.take(b"", false, &mut emit);
        }
    }

    fn take(&mut self, piece: &[u8], complete: bool, emit: &mut impl FnMut(&[u8], bool)) {
        if self.held.is_empty() {
            emit(piece, complete);
        } else {
            self.held.extend_from_slice(piece);
            emit(&self.held, complete);
            // Half lines are rare: their memory is not kept.
            self.held = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(inputs: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::default();
        let mut pieces = Vec::new();
        for input in inputs {
            lines.push(input, |piece, complete| pieces.push((piece.to_vec(), complete)));
        }
        lines.finish(|piece, complete| pieces.push((piece.to_vec(), complete)));
        pieces
    }

    #[test]
    fn a_line_is_whole_however_it_arrives() {
        assert_eq!(
            pieces(&[b"on", b"e\n\ntw", b"o\nthree"]),
            [
                (b"one".to_vec(), true),
                (b"".to_vec(), true),
                (b"two".to_vec(), true),
                (b"three".to_vec(), false),
            ]
        );
    }

    #[test]
    fn a_line_over_the_limit_is_cut_and_one_at_the_limit_keeps_its_end() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        let exact = [&long[..MAX_LINE_BYTES - 1], b"\n"].concat();

        let cut = pieces(&[&long, b"\n"]);
        let lengths: Vec<_> = cut.iter().map(|(piece, whole)| (piece.len(), *whole)).collect();

        assert_eq!(lengths, [(MAX_LINE_BYTES, false), (1, true)]);
        assert_eq!(pieces(&[&exact]), [(vec![b'x'; MAX_LINE_BYTES - 1], true)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added(input in prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..200), cuts in prop::collection::vec(1usize..9, 1..5)) {
            let mut chunks = Vec::new();
            let (mut rest, mut cuts) = (&input[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                chunks.push(chunk);
                rest = after;
            }

            let mut joined = Vec::new();
            for (piece, complete) in pieces(&chunks) {
                joined.extend_from_slice(&piece);
                joined.extend(complete.then_some(b'\n'));
            }

            prop_assert_eq!(joined, input);
        }
    }
}
