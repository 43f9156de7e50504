//! Bytes between a client's call and a shim's socket: what `Attach` and `Exec` have in common.
//!
//! ```text
//!  requests ── stdin, stdin_end ──▶ StreamWriter ──▶ shim
//!           └─ resize ────────────▶ Terminal
//!  answers ◀── output ◀── StreamReader ◀── shim
//! ```
//!
//! Both directions wait for each other's reader, and keep nothing but one chunk.

use keg_engine::EngineError;
use keg_engine::model::TerminalSize;
use keg_engine::shim::io::{FromProcess, StreamReader, StreamWriter};
use keg_proto::keg::v1 as pb;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::convert;

/// Answers that may wait for a client.
pub(super) const QUEUE_LENGTH: usize = 16;

/// What a client sends while a process runs.
pub(super) enum Input {
    /// For standard input.
    Stdin(Vec<u8>),
    /// Standard input ends.
    StdinEnd,
    /// The client's terminal has another size.
    Resize(pb::TerminalSize),
    /// Nothing that has a meaning now.
    Nothing,
}

/// A message of a client's side of a call.
pub(super) trait ClientMessage {
    /// What it says.
    fn input(self) -> Input;
}

/// A message of the daemon's side of a call.
pub(super) trait DaemonMessage {
    /// Says what a process wrote.
    fn output(output: pb::Output) -> Self;
}

/// The terminal of a process.
pub(super) trait Terminal {
    /// Sets its size; that it cannot be set is no matter of the client's.
    fn resize(&self, size: TerminalSize) -> impl Future<Output = ()> + Send;
}

/// What becomes of the input side when a client has closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnClose {
    /// The client still listens: the end of its input is not the end of the call.
    Stay,
    /// The client leaves.
    Leave,
}

/// The answers of one call.
pub(super) struct Answers<T>(mpsc::Sender<Result<T, Status>>);

impl<T> Answers<T> {
    /// Sends answers to one client.
    pub(super) fn new(sender: mpsc::Sender<Result<T, Status>>) -> Self {
        Self(sender)
    }

    /// Sends one answer. Returns whether somebody takes it.
    pub(super) async fn tell(&self, answer: T) -> bool {
        self.0.send(Ok(answer)).await.is_ok()
    }

    /// Ends the call with an error. A client that is gone need not be told.
    pub(super) async fn fail(&self, status: Status) {
        let _ = self.0.send(Err(status)).await;
    }

    /// Waits until the client is gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Sends what the process writes until it ends. Returns whether the client is still there.
///
/// # Errors
/// [`EngineError::Streams`] if the shim breaks the connection.
pub(super) async fn pump_output<T: DaemonMessage>(
    container: &str,
    mut output: StreamReader,
    answers: &Answers<T>,
) -> Result<bool, EngineError> {
    loop {
        let next = output
            .next_output()
            .await
            .map_err(|source| EngineError::Streams { container: container.to_owned(), source })?;
        let (stream, data) = match next {
            FromProcess::Stdout(data) => (pb::Stream::Stdout, data),
            FromProcess::Stderr(data) => (pb::Stream::Stderr, data),
            FromProcess::End { .. } => return Ok(true),
        };
        let output = pb::Output { stream: stream.into(), data: data.to_vec() };
        if !answers.tell(T::output(output)).await {
            return Ok(false);
        }
    }
}

/// Passes on what the client sends. Returns when the client leaves by closing its side, which only
/// [`OnClose::Leave`] makes of it; else it goes on for ever.
pub(super) async fn pump_input<M: ClientMessage>(
    mut requests: Streaming<M>,
    mut input: StreamWriter,
    stdin: bool,
    on_close: OnClose,
    terminal: impl Terminal,
) {
    let mut open = stdin;
    while let Ok(Some(request)) = requests.message().await {
        match request.input() {
            Input::Stdin(bytes) if open => open = input.stdin(&bytes).await.is_ok(),
            Input::StdinEnd if open => {
                // Whoever cannot be told any more has ended its input as well.
                let _ = input.stdin_end().await;
                open = false;
            }
            Input::Resize(size) => {
                if let Ok(size) = convert::size_from_pb(size) {
                    terminal.resize(size).await;
                }
            }
            Input::Stdin(_) | Input::StdinEnd | Input::Nothing => {}
        }
    }
    if on_close == OnClose::Leave {
        return;
    }
    if open {
        let _ = input.stdin_end().await;
    }
    // Kept: letting go of it would tell the shim that the client left.
    std::future::pending::<()>().await;
}
