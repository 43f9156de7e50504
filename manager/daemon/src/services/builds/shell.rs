//! A shell over the stream of a build.
//!
//! ```text
//! daemon                               client
//!   │── ShellOutput { place } ──────────▶│   asks its user
//!   │◀─ ShellInput { size } ─────────────│   or { end }: nobody wants it
//!   │── { data } … ─────────────────────▶│
//!   │◀─ { data }, { size } … ────────────│
//!   │── { end, code or problem } ───────▶│
//! ```

use keg_build::session::Shell as ClientShell;
use keg_engine::model::TerminalSize;
use keg_engine::{StepInput, StepOutput};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::build_response::Event as Answer;
use tokio::sync::{mpsc, oneshot};

use super::Sink;

/// Messages that wait in each direction.
const QUEUED: usize = 32;

/// What the client has answered: the size of its terminal and what is typed, or that it wants none.
type Accepted = Option<(TerminalSize, mpsc::Receiver<StepInput>)>;

/// The input of a shell: not accepted yet, or open.
#[derive(Debug)]
pub(super) enum Shell {
    Opening(oneshot::Sender<Accepted>),
    Open(mpsc::Sender<StepInput>),
}

impl Shell {
    /// A shell that waits for its client.
    pub(super) fn opening() -> (Self, oneshot::Receiver<Accepted>) {
        let (sender, answer) = oneshot::channel();
        (Self::Opening(sender), answer)
    }

    /// Takes what the client sends; returns what takes the next message.
    pub(super) async fn take(self, input: pb::ShellInput) -> Option<Self> {
        let size = input.size.map(size_from_pb);
        match self {
            Self::Opening(answer) => match size.filter(|_| !input.end) {
                Some(size) => {
                    let (sender, receiver) = mpsc::channel(QUEUED);
                    answer.send(Some((size, receiver))).ok()?;
                    Some(Self::Open(sender))
                }
                None => {
                    let _ = answer.send(None);
                    None
                }
            },
            Self::Open(sender) => {
                if let Some(size) = size {
                    sender.send(StepInput::Resize(size)).await.ok()?;
                }
                if !input.data.is_empty() {
                    sender.send(StepInput::Stdin(input.data.into())).await.ok()?;
                }
                (!input.end).then_some(Self::Open(sender))
            }
        }
    }
}

/// Joins a shell to the stream.
pub(super) fn offer(
    sink: Sink,
    shell: u64,
    size: TerminalSize,
    input: mpsc::Receiver<StepInput>,
) -> ClientShell {
    let (output, mut written) = mpsc::channel(QUEUED);
    let (ended, end) = oneshot::channel::<Result<u32, String>>();
    tokio::spawn(async move {
        let message = |output| Ok(pb::BuildResponse { event: Some(Answer::Shell(output)) });
        while let Some(piece) = written.recv().await {
            let (StepOutput::Stdout(bytes) | StepOutput::Stderr(bytes)) = piece;
            let data = pb::ShellOutput { shell, data: bytes.into(), ..Default::default() };
            if sink.send(message(data)).await.is_err() {
                return;
            }
        }
        let (code, problem) = match end.await {
            Ok(Ok(code)) => (code, String::new()),
            Ok(Err(problem)) => (0, problem),
            Err(_) => (0, "the build was given up".to_owned()),
        };
        let last = pb::ShellOutput { shell, end: true, code, problem, ..Default::default() };
        // A client that is gone does not want to know.
        let _ = sink.send(message(last)).await;
    });
    ClientShell { size, input, output, ended }
}

fn size_from_pb(size: pb::TerminalSize) -> TerminalSize {
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    TerminalSize { width: cells(size.width), height: cells(size.height) }
}
