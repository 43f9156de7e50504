//! The client's side of a build over the stream: questions go out with a number, answers come back
//! with it.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use keg_build::session::{
    Agent, Entry, FileSink, Kind, Listing, Session, SessionError, Shell as ClientShell,
};
use keg_image::Credentials;
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::build_request::Part;
use keg_proto::keg::v1::build_response::Event as Answer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use super::Sink;
use super::shell::{Shell, offer};
use crate::convert;

/// Bytes of an agent's connection that wait, and that go into one message.
const AGENT_BYTES: usize = 16 * 1024;

type Reply<T> = oneshot::Sender<Result<T, SessionError>>;

/// What an answer goes to.
enum Pending {
    Listing { reply: Reply<Listing> },
    Files { sink: FileSink, left: usize, reply: Reply<()> },
    Secret { reply: Reply<Option<Vec<u8>>> },
    Credentials { reply: Reply<Option<Credentials>> },
}

/// An agent's connection: not answered yet, or open.
enum Connection {
    Opening(Reply<bool>),
    Open(mpsc::Sender<Bytes>),
}

/// The client at the other end of the stream.
pub(super) struct Remote {
    sink: Sink,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_gone: bool,
    next: u64,
    pending: HashMap<u64, Pending>,
    connections: HashMap<u64, Connection>,
    shells: HashMap<u64, Shell>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn new(sink: Sink) -> Self {
        Self { sink, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks; the answer comes by what `make` returns.
    async fn ask<T>(
        &self,
        pending: impl FnOnce(Reply<T>) -> Pending,
        question: impl FnOnce(u64) -> Answer,
    ) -> Result<T, SessionError> {
        let (reply, answer) = oneshot::channel();
        let number = {
            let mut state = self.state();
            if state.is_gone {
                return Err(SessionError::Gone);
            }
            state.next += 1;
            let number = state.next;
            state.pending.insert(number, pending(reply));
            number
        };
        self.send(question(number)).await?;
        answer.await.map_err(|_| SessionError::Gone)?
    }

    async fn send(&self, event: Answer) -> Result<(), SessionError> {
        let message = Ok(pb::BuildResponse { event: Some(event) });
        self.sink.send(message).await.map_err(|_| SessionError::Gone)
    }

    /// Takes an answer.
    fn answered(&self, part: Part) {
        let mut state = self.state();
        match part {
            Part::Listing(listing) => {
                if let Some(Pending::Listing { reply }) = state.pending.remove(&listing.question) {
                    let _ = reply.send(Ok(listing_from_pb(listing)));
                }
            }
            Part::Secret(secret) => {
                if let Some(Pending::Secret { reply }) = state.pending.remove(&secret.question) {
                    let _ = reply.send(Ok(secret.found.then_some(secret.value)));
                }
            }
            Part::Credentials(answer) => {
                if let Some(Pending::Credentials { reply }) = state.pending.remove(&answer.question)
                {
                    let found = answer.auth.and_then(convert::credentials_from_pb);
                    let _ = reply.send(Ok(found));
                }
            }
            Part::Piece(piece) => {
                let question = piece.question;
                if let Some(pending) = state.pending.remove(&question) {
                    drop(state);
                    if let Some(pending) = take_piece(pending, piece) {
                        self.state().pending.insert(question, pending);
                    }
                }
            }
            Part::Refusal(refusal) => {
                let error = |what: &str| SessionError::Refused {
                    what: what.to_owned(),
                    why: refusal.why.clone(),
                };
                match state.pending.remove(&refusal.question) {
                    Some(Pending::Listing { reply }) => {
                        let _ = reply.send(Err(error("list a directory of the context")));
                    }
                    Some(Pending::Files { reply, .. }) => {
                        let _ = reply.send(Err(error("send a file of the context")));
                    }
                    Some(Pending::Secret { reply }) => {
                        let _ = reply.send(Err(error("read a secret")));
                    }
                    Some(Pending::Credentials { reply }) => {
                        let _ = reply.send(Err(error("read credentials")));
                    }
                    None => {}
                }
            }
            Part::Start(_) | Part::Agent(_) | Part::Shell(_) => {}
        }
    }

    /// Takes what is typed into a shell.
    async fn typed(&self, input: pb::ShellInput) {
        let number = input.shell;
        let Some(shell) = self.state().shells.remove(&number) else { return };
        if let Some(shell) = shell.take(input).await {
            self.state().shells.insert(number, shell);
        }
    }

    /// Takes a frame of an agent's connection.
    async fn frame(&self, frame: pb::AgentFrame) {
        let number = frame.connection;
        let open = {
            let mut state = self.state();
            match state.connections.remove(&number) {
                Some(Connection::Opening(reply)) => {
                    let _ = reply.send(Ok(!frame.end));
                    return;
                }
                Some(Connection::Open(sender)) => {
                    if !frame.end {
                        state.connections.insert(number, Connection::Open(sender.clone()));
                    }
                    sender
                }
                None => return,
            }
        };
        if !frame.data.is_empty() {
            let _ = open.send(frame.data.into()).await;
        }
    }
}

/// Passes a piece of a file on; returns what still waits.
fn take_piece(pending: Pending, piece: pb::FilePiece) -> Option<Pending> {
    let Pending::Files { mut sink, left, reply } = pending else { return Some(pending) };
    let index = usize::try_from(piece.index).unwrap_or(usize::MAX);
    if let Err(error) = sink(index, piece.data.into(), piece.end) {
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
        let is_full = full.contains(&error.kind());
        let _ = reply.send(Err(SessionError::Unstored { why: error.to_string(), is_full }));
        return None;
    }
    match (left, piece.end) {
        (1, true) => {
            let _ = reply.send(Ok(()));
            None
        }
        (left, true) => Some(Pending::Files { sink, left: left - 1, reply }),
        (left, false) => Some(Pending::Files { sink, left, reply }),
    }
}

/// Hands answers on until the client ends the stream.
pub(super) async fn listen(remote: Arc<Remote>, mut requests: Streaming<pb::BuildRequest>) {
    while let Ok(Some(request)) = requests.message().await {
        match request.part {
            Some(Part::Agent(frame)) => remote.frame(frame).await,
            Some(Part::Shell(input)) => remote.typed(input).await,
            // Pieces are written to the disk.
            Some(part @ Part::Piece(_)) => {
                let remote = Arc::clone(&remote);
                if tokio::task::spawn_blocking(move || remote.answered(part)).await.is_err() {
                    break;
                }
            }
            Some(part) => remote.answered(part),
            None => {}
        }
    }
    let mut state = remote.state();
    state.is_gone = true;
    // Those who wait are told by that.
    state.pending.clear();
    state.connections.clear();
    state.shells.clear();
}

fn listing_from_pb(listing: pb::ContextListing) -> Listing {
    let directories = listing.directories.into_iter().map(|directory| {
        directory.exists.then(|| directory.entries.into_iter().map(entry_from_pb).collect())
    });
    Listing { directories: directories.collect(), now_nsec: listing.now_nsec }
}

fn entry_from_pb(entry: pb::ContextEntry) -> Entry {
    Entry {
        name: entry.name,
        kind: match entry.mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Link,
            _ => Kind::Other,
        },
        mode: entry.mode & 0o7777,
        size_bytes: u64::try_from(entry.size_bytes).unwrap_or_default(),
        mtime_nsec: entry.mtime_nsec,
        ctime_nsec: entry.ctime_nsec,
        inode: entry.inode,
        link: entry.link,
    }
}

/// A session over a stream, shared with the task that listens.
impl Session for Remote {
    fn list(
        &self,
        context: &str,
        directories: Vec<String>,
    ) -> BoxFuture<'_, Result<Listing, SessionError>> {
        let context = context.to_owned();
        Box::pin(self.ask(
            |reply| Pending::Listing { reply },
            |question| Answer::List(pb::ListContext { question, context, directories }),
        ))
    }

    fn fetch(
        &self,
        context: &str,
        paths: Vec<String>,
        sink: FileSink,
    ) -> BoxFuture<'_, Result<(), SessionError>> {
        let context = context.to_owned();
        let left = paths.len();
        Box::pin(self.ask(
            move |reply| Pending::Files { sink, left, reply },
            |question| Answer::Fetch(pb::FetchFiles { question, context, paths }),
        ))
    }

    fn secret(&self, id: &str) -> BoxFuture<'_, Result<Option<Vec<u8>>, SessionError>> {
        let id = id.to_owned();
        Box::pin(self.ask(
            |reply| Pending::Secret { reply },
            |question| Answer::Secret(pb::SecretQuestion { question, id }),
        ))
    }

    fn credentials(
        &self,
        registry: &str,
    ) -> BoxFuture<'_, Result<Option<Credentials>, SessionError>> {
        let registry = registry.to_owned();
        Box::pin(self.ask(
            |reply| Pending::Credentials { reply },
            |question| Answer::Credentials(pb::CredentialsQuestion { question, registry }),
        ))
    }

    fn shell(&self, place: &str) -> BoxFuture<'_, Result<Option<ClientShell>, SessionError>> {
        let place = place.to_owned();
        Box::pin(async move {
            let (waiting, answer) = Shell::opening();
            let shell = {
                let mut state = self.state();
                if state.is_gone {
                    return Err(SessionError::Gone);
                }
                state.next += 1;
                let shell = state.next;
                state.shells.insert(shell, waiting);
                shell
            };
            let opening = pb::ShellOutput { shell, place, ..pb::ShellOutput::default() };
            self.send(Answer::Shell(opening)).await?;
            let Some((size, input)) = answer.await.map_err(|_| SessionError::Gone)? else {
                return Ok(None);
            };
            Ok(Some(offer(self.sink.clone(), shell, size, input)))
        })
    }

    fn agent(&self, id: &str) -> BoxFuture<'_, Result<Option<Agent>, SessionError>> {
        let id = id.to_owned();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let connection = {
                let mut state = self.state();
                if state.is_gone {
                    return Err(SessionError::Gone);
                }
                state.next += 1;
                let connection = state.next;
                state.connections.insert(connection, Connection::Opening(reply));
                connection
            };
            let opening = pb::AgentFrame { connection, id, ..pb::AgentFrame::default() };
            self.send(Answer::Agent(opening)).await?;
            if !answer.await.map_err(|_| SessionError::Gone)?? {
                return Ok(None);
            }
            let (sender, incoming) = mpsc::channel(8);
            self.state().connections.insert(connection, Connection::Open(sender));
            Ok(Some(carry(self.sink.clone(), connection, incoming)))
        })
    }
}

/// Makes a stream of the frames of a connection.
fn carry(sink: Sink, connection: u64, mut incoming: mpsc::Receiver<Bytes>) -> Agent {
    let (near, far) = tokio::io::duplex(AGENT_BYTES);
    let (mut from_step, mut to_step) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(bytes) = incoming.recv().await {
            if to_step.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to_step.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; AGENT_BYTES];
        loop {
            let length = from_step.read(&mut buffer).await.unwrap_or(0);
            let frame = pb::AgentFrame {
                connection,
                data: buffer[..length].to_vec(),
                end: length == 0,
                ..pb::AgentFrame::default()
            };
            let message = Ok(pb::BuildResponse { event: Some(Answer::Agent(frame)) });
            if sink.send(message).await.is_err() || length == 0 {
                break;
            }
        }
    });
    Box::new(near)
}
