//! Gives a copy of a process's output to every attached client, and their input to the process.
//!
//! ```text
//! pump ─▶ send() ─┬─▶ queue of client 1 ─▶ its task writes
//!   ▲             ├─▶ queue of client 2 ─▶ its task writes (slow: its queue is full, it loses)
//!   └── room() ◀──┴─▶ queue of client 3 ─▶ its task writes (lossless: the pump reads no more)
//! ```
//!
//! Sending never waits: what does not fit into a client's queue is counted and lost to that client
//! alone. For a client that asked to lose nothing, the pump waits before it reads on, so that the
//! process waits as with a pipe. Output of before a client came is not kept: it is in the log.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

use super::frames::{self, MAX_PAYLOAD_BYTES, to_client};
use super::stdin::Stdin;
use crate::log::Stream;

/// Most bytes that wait for one client.
const MAX_QUEUE_BYTES: usize = 1 << 20;

/// So much in the queue of a lossless client makes the pump wait. The rest of the queue is for what
/// a process that has ended left in its pipes, which waits for nobody.
const FULL_BYTES: usize = MAX_QUEUE_BYTES / 2;

/// What each queued frame counts beside its payload.
const FRAME_COST_BYTES: usize = 64;

/// Most clients of one process.
pub(super) const MAX_CLIENTS: usize = 64;

/// The meeting point of one process's output and its clients.
#[derive(Debug)]
pub(crate) struct Hub {
    clients: RefCell<Vec<Rc<Client>>>,
    terminal: bool,
    ended: Cell<bool>,
    stdin: Stdin,
}

/// One client's share.
#[derive(Debug)]
pub(super) struct Client {
    wanted: Wanted,
    queue: RefCell<Queue>,
    /// Told when the queue has something new.
    filled: Notify,
    /// Told when the queue of a lossless client is no longer full.
    emptied: Notify,
}

/// What a client wants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    /// Nothing may be lost: the process waits instead.
    pub(super) lossless: bool,
}

impl Wanted {
    fn has(self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Rc<[u8]>>,
    bytes: usize,
    dropped_bytes: u64,
    ended: bool,
}

/// What a client's task does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Writes this frame.
    Frame(Rc<[u8]>),
    /// Says goodbye: all output was sent, and so much of it lost.
    End { dropped_bytes: u64 },
}

impl Hub {
    pub(crate) fn new(terminal: bool, has_stdin: bool) -> Self {
        Self {
            clients: RefCell::default(),
            terminal,
            ended: Cell::new(false),
            stdin: Stdin::new(has_stdin),
        }
    }

    pub(super) fn terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn stdin(&self) -> &Stdin {
        &self.stdin
    }

    /// Ends the input of a pipe, for a client. A terminal has no end: its process reads it until it
    /// exits, and a client that comes later types on.
    pub(super) fn end_stdin(&self) {
        if !self.terminal() {
            self.stdin.close();
        }
    }

    /// Adds a client, which misses nothing from now on; `None` if there are too many.
    pub(super) fn attach(&self, wanted: Wanted) -> Option<Rc<Client>> {
        let mut clients = self.clients.borrow_mut();
        if clients.len() >= MAX_CLIENTS {
            return None;
        }
        let queue = Queue { ended: self.ended.get(), ..Queue::default() };
        let client = Rc::new(Client {
            wanted,
            queue: RefCell::new(queue),
            filled: Notify::new(),
            emptied: Notify::new(),
        });
        clients.push(Rc::clone(&client));
        Some(client)
    }

    /// Forgets a client.
    pub(super) fn detach(&self, client: &Rc<Client>) {
        let mut clients = self.clients.borrow_mut();
        clients.retain(|other| !Rc::ptr_eq(other, client));
        clients.shrink_to_fit();
        client.end();
    }

    /// Waits until every lossless client can take more.
    pub(super) async fn room(&self) {
        loop {
            let full = self.clients.borrow().iter().find(|client| client.is_full()).cloned();
            let Some(client) = full else { return };
            client.emptied.notified().await;
        }
    }

    /// Whether a client wants a copy of a stream.
    pub(super) fn is_wanted(&self, stream: Stream) -> bool {
        self.clients.borrow().iter().any(|client| client.wanted.has(stream))
    }

    /// Queues a copy for every client that wants it.
    pub(super) fn send(&self, stream: Stream, bytes: &[u8]) {
        if !self.is_wanted(stream) {
            return;
        }
        let clients = self.clients.borrow();
        let kind = match stream {
            Stream::Stdout => to_client::STDOUT,
            Stream::Stderr => to_client::STDERR,
        };
        for piece in bytes.chunks(MAX_PAYLOAD_BYTES) {
            let frame: Rc<[u8]> = frames::encode(kind, piece).into();
            for client in clients.iter().filter(|client| client.wanted.has(stream)) {
                client.push(&frame, piece.len());
            }
        }
    }

    /// Tells all clients, also those to come, that no output follows.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        for client in self.clients.borrow().iter() {
            client.end();
        }
    }
}

impl Client {
    fn is_full(&self) -> bool {
        let queue = self.queue.borrow();
        self.wanted.lossless && !queue.ended && queue.bytes > FULL_BYTES
    }

    fn end(&self) {
        self.queue.borrow_mut().ended = true;
        self.filled.notify_one();
        self.emptied.notify_waiters();
    }

    fn push(&self, frame: &Rc<[u8]>, payload_bytes: usize) {
        let mut queue = self.queue.borrow_mut();
        let cost = frame.len() + FRAME_COST_BYTES;
        if queue.ended || queue.bytes + cost > MAX_QUEUE_BYTES {
            queue.dropped_bytes += u64::try_from(payload_bytes).unwrap_or(0);
            return;
        }
        queue.bytes += cost;
        queue.frames.push_back(Rc::clone(frame));
        self.filled.notify_one();
    }

    /// Waits for something to do.
    pub(super) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.poll_next() {
                return next;
            }
            self.filled.notified().await;
        }
    }

    fn poll_next(&self) -> Option<Next> {
        let mut queue = self.queue.borrow_mut();
        if let Some(frame) = queue.frames.pop_front() {
            queue.bytes -= frame.len() + FRAME_COST_BYTES;
            if queue.bytes <= FULL_BYTES {
                self.emptied.notify_waiters();
            }
            return Some(Next::Frame(frame));
        }
        queue.frames = VecDeque::new();
        queue.ended.then_some(Next::End { dropped_bytes: queue.dropped_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Wanted = Wanted { stdout: true, stderr: true, lossless: false };
    const OUTPUT: Wanted = Wanted { stdout: true, stderr: false, lossless: false };
    const ERRORS: Wanted = Wanted { stdout: false, stderr: true, lossless: false };

    fn drained(client: &Client) -> (Vec<u8>, Option<u64>) {
        let mut bytes = Vec::new();
        loop {
            match client.poll_next() {
                Some(Next::Frame(frame)) => bytes.extend_from_slice(&frame[frames::HEADER_BYTES..]),
                Some(Next::End { dropped_bytes }) => return (bytes, Some(dropped_bytes)),
                None => return (bytes, None),
            }
        }
    }

    #[test]
    fn each_client_gets_what_it_wants_from_when_it_came() {
        let hub = Hub::new(false, false);
        hub.send(Stream::Stdout, b"before ");
        let both = hub.attach(BOTH).unwrap();
        hub.send(Stream::Stdout, b"out ");
        let errors = hub.attach(ERRORS).unwrap();
        hub.send(Stream::Stderr, b"err ");
        hub.send(Stream::Stdout, b"out2");

        assert_eq!(drained(&both), (b"out err out2".to_vec(), None));
        assert_eq!(drained(&errors), (b"err ".to_vec(), None));
    }

    #[test]
    fn a_client_that_does_not_read_loses_and_is_told_how_much() {
        let hub = Hub::new(false, false);
        let slow = hub.attach(OUTPUT).unwrap();
        let block = vec![b'x'; MAX_PAYLOAD_BYTES];

        for _ in 0..40 {
            hub.send(Stream::Stdout, &block);
        }
        hub.end();

        let (got, dropped) = drained(&slow);
        let dropped = usize::try_from(dropped.unwrap()).unwrap();
        assert!(got.len() <= MAX_QUEUE_BYTES && dropped > 0);
        assert_eq!(got.len() + dropped, 40 * MAX_PAYLOAD_BYTES);
    }

    #[tokio::test]
    async fn a_lossless_client_holds_up_until_it_has_read_or_left() {
        let hub = Hub::new(false, false);
        let slow = hub.attach(Wanted { lossless: true, ..OUTPUT }).unwrap();
        let block = vec![b'x'; MAX_PAYLOAD_BYTES];
        hub.send(Stream::Stdout, &block);
        hub.room().await;
        while slow.queue.borrow().bytes <= FULL_BYTES {
            hub.send(Stream::Stdout, &block);
        }

        let mut room = Box::pin(hub.room());
        assert!(poll_once(room.as_mut()).is_none());
        slow.poll_next();

        room.await;
        hub.send(Stream::Stdout, &block);
        let mut room = Box::pin(hub.room());
        assert!(poll_once(room.as_mut()).is_none());
        hub.detach(&slow);
        room.await;
        assert_eq!(drained(&slow).1, Some(0));
    }

    /// Polls once; `None` if the future waits.
    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn who_comes_after_the_end_is_told_so_at_once() {
        let hub = Hub::new(false, false);
        hub.end();

        let late = hub.attach(BOTH).unwrap();

        assert_eq!(late.poll_next(), Some(Next::End { dropped_bytes: 0 }));
    }

    #[test]
    fn clients_are_limited_and_leave_room_when_they_go() {
        let hub = Hub::new(false, false);
        let clients: Vec<_> = (0..MAX_CLIENTS).map(|_| hub.attach(BOTH).unwrap()).collect();

        assert!(hub.attach(BOTH).is_none());
        hub.detach(&clients[3]);

        assert!(hub.attach(BOTH).is_some());
    }
}
