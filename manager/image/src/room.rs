//! Room: the memory that images take on their way, over all transfers together.
//!
//! | share | bound |
//! | --- | --- |
//! | pieces between network, disk, decompression and extraction | the queues' lengths, for each layer that has a permit |
//! | ranges that are fetched ahead | [`RegistryOptions::ranges_ahead`](crate::RegistryOptions) |
//! | windows that zstd looks back into | [`WINDOWS_BYTES`] |
//!
//! Pieces have one size, are cut from one slab, and come back to it: what the network library hands out in slices
//! of buffers several times as large is copied, since a slice keeps all of its buffer. The slab goes back to the system when the
//! last piece does, so that an idle daemon has none.

use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};

/// Size of a piece. To hand one over costs a wake-up or two, which on small pieces took a fifth of a pull.
pub(crate) const PIECE_BYTES: usize = 512 * 1024;

/// Pieces of the slab. Of an allocation of more than 32 MiB the C library takes nothing for itself: untouched
/// pages cost nothing, and all are given back at once, whatever it has been taught by others.
const SLAB_PIECES: usize = (34 << 20) / PIECE_BYTES;

/// What all decompressions together may look back into. One that wants more waits until it is alone.
const WINDOWS_BYTES: u64 = 24 << 20;

/// The memory; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    slab: Mutex<Slab>,
    windows_bytes: Mutex<u64>,
    window_closed: Condvar,
}

#[derive(Debug, Default)]
struct Slab {
    /// The last to come back is the first to go out, so that few pages are touched.
    free: Vec<BytesMut>,
    taken: usize,
}

/// A place for bytes, which is filled and then passed on.
#[derive(Debug)]
pub(crate) struct Piece {
    buffer: BytesMut,
    length: usize,
    /// Where it comes from; nowhere if the slab was used up.
    room: Option<Room>,
}

/// The right to a decompression's window.
#[derive(Debug)]
pub(crate) struct Window {
    room: Room,
    bytes: u64,
}

impl Room {
    /// Returns an empty piece. Nobody waits for one: who is beyond the slab gets memory of his own.
    pub(crate) fn piece(&self) -> Piece {
        let mut slab = lock(&self.shared.slab);
        if slab.free.is_empty() && slab.taken == 0 {
            let mut all = BytesMut::zeroed(SLAB_PIECES * PIECE_BYTES);
            slab.free.extend((0..SLAB_PIECES).map(|_| all.split_to(PIECE_BYTES)));
            slab.free.reverse();
        }
        match slab.free.pop() {
            Some(buffer) => {
                slab.taken += 1;
                Piece { buffer, length: 0, room: Some(self.clone()) }
            }
            None => Piece { buffer: BytesMut::zeroed(PIECE_BYTES), length: 0, room: None },
        }
    }

    /// Waits for the room that a window takes.
    pub(crate) fn window(&self, bytes: u64) -> Window {
        let used = lock(&self.shared.windows_bytes);
        let is_full = |used: &mut u64| *used > 0 && *used + bytes > WINDOWS_BYTES;
        let waited = self.shared.window_closed.wait_while(used, is_full);
        *waited.unwrap_or_else(PoisonError::into_inner) += bytes;
        Window { room: self.clone(), bytes }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        *lock(&self.room.shared.windows_bytes) -= self.bytes;
        self.room.shared.window_closed.notify_all();
    }
}

impl Piece {
    /// Tells whether no more fits in.
    pub(crate) fn is_full(&self) -> bool {
        self.length == self.buffer.len()
    }

    /// Tells whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes as much of the beginning of `bytes` as fits.
    pub(crate) fn take_from(&mut self, bytes: &mut Bytes) {
        let count = bytes.len().min(self.buffer.len() - self.length);
        self.buffer[self.length..self.length + count].copy_from_slice(&bytes[..count]);
        bytes.advance(count);
        self.length += count;
    }

    /// Reads until it is full or `input` ends.
    pub(crate) fn fill(&mut self, input: &mut impl Read) -> io::Result<()> {
        while !self.is_full() {
            match input.read(&mut self.buffer[self.length..]) {
                Ok(0) => break,
                Ok(count) => self.length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Passes it on; what is nothing is told by being empty. It comes back when the last who has it drops it.
    pub(crate) fn freeze(self) -> Bytes {
        if self.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let Some(room) = self.room.take() else { return };
        let mut slab = lock(&room.shared.slab);
        slab.taken -= 1;
        slab.free.push(std::mem::take(&mut self.buffer));
        if slab.taken == 0 {
            slab.free = Vec::new();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_carry_what_was_put_in_and_come_back() {
        let room = Room::default();
        let content: Vec<u8> = (0..PIECE_BYTES + 10).map(|at| at.to_le_bytes()[0]).collect();
        let mut input = Bytes::from(content.clone());

        let mut first = room.piece();
        first.take_from(&mut input);
        assert!(first.is_full());
        let mut second = room.piece();
        second.fill(&mut &input[..]).unwrap();
        let (first, second) = (first.freeze(), second.freeze());

        assert_eq!([&first[..], &second[..]].concat(), content);
        assert_eq!(lock(&room.shared.slab).taken, 2);
        drop((first.slice(5..9), first));
        drop(second);
        let slab = lock(&room.shared.slab);
        assert_eq!((slab.taken, slab.free.capacity()), (0, 0));
    }

    #[test]
    fn a_piece_of_nothing_is_empty_and_taken_back_at_once() {
        let room = Room::default();

        let nothing = room.piece().freeze();

        assert!(nothing.is_empty());
        assert_eq!(lock(&room.shared.slab).taken, 0);
    }

    #[test]
    fn nobody_waits_for_a_piece() {
        let room = Room::default();

        let all: Vec<Piece> = (0..SLAB_PIECES + 3).map(|_| room.piece()).collect();

        assert_eq!(all.iter().filter(|piece| piece.room.is_none()).count(), 3);
        drop(all);
        assert_eq!(lock(&room.shared.slab).taken, 0);
    }

    #[test]
    fn windows_wait_for_each_other_and_a_huge_one_is_let_in_alone() {
        let room = Room::default();
        let first = room.window(WINDOWS_BYTES / 2);
        let second = room.window(WINDOWS_BYTES / 2);

        std::thread::scope(|scope| {
            let huge = scope.spawn(|| {
                let _window = room.window(5 * WINDOWS_BYTES);
                *lock(&room.shared.windows_bytes)
            });
            assert_eq!(*lock(&room.shared.windows_bytes), WINDOWS_BYTES);
            drop(first);
            drop(second);

            assert_eq!(huge.join().unwrap(), 5 * WINDOWS_BYTES);
        });
        assert_eq!(*lock(&room.shared.windows_bytes), 0);
    }
}
