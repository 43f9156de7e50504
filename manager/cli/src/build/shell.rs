//! A shell that the daemon offers, on our terminal.

use std::io::Write as _;

use keg_proto::keg::v1::build_request::Part;
use keg_proto::keg::v1::{BuildRequest, ShellInput, ShellOutput, TerminalSize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::output::complain;
use crate::signals::Signals;
use crate::terminal::stdio::Stdio;
use crate::terminal::{self, RawMode};

/// Bytes read from standard input at once.
const INPUT_BYTES: usize = 4096;
/// Size of a terminal that does not know its own.
const USUAL_SIZE: TerminalSize = TerminalSize { width: 80, height: 24 };

/// Why a shell had to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShellError {
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
    /// We were asked to end.
    #[error("ended by {0}")]
    Interrupted(&'static str),
}

/// A shell that is open. Dropped, the terminal is as it was.
#[derive(Debug)]
pub(crate) struct Shell {
    number: u64,
    typing: JoinHandle<()>,
    signals: Signals,
    _raw: RawMode,
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.typing.abort();
    }
}

impl Shell {
    /// Accepts a shell: what is typed goes there from now on.
    ///
    /// # Errors
    /// If standard input is no terminal any more, or signals cannot be received.
    pub(crate) async fn accept(
        offer: &ShellOutput,
        answers: &mpsc::Sender<BuildRequest>,
    ) -> Result<Self, Failure> {
        let number = offer.shell;
        let failed = |error| Failure::client(ShellError::Signals(error));
        let signals = Signals::ending().map_err(failed)?;
        let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
        let raw = RawMode::enter().map_err(Failure::client)?;
        let size = || Some(terminal::size().unwrap_or(USUAL_SIZE));
        let first = ShellInput { shell: number, size: size(), ..ShellInput::default() };
        send(answers, first).await;
        let answers = answers.clone();
        let typing = tokio::spawn(async move {
            let stdin = Stdio::new(std::io::stdin());
            let mut buffer = vec![0; INPUT_BYTES];
            loop {
                let mut input = ShellInput { shell: number, ..ShellInput::default() };
                tokio::select! {
                    length = stdin.read(&mut buffer) => match length {
                        Ok(length @ 1..) => input.data = buffer[..length].to_vec(),
                        _ => input.end = true,
                    },
                    Some(()) = resized.recv() => input.size = size(),
                }
                let is_end = input.end;
                send(&answers, input).await;
                if is_end {
                    break;
                }
            }
        });
        Ok(Self { number, typing, signals, _raw: raw })
    }

    /// Shows what it writes; returns whether it goes on.
    pub(crate) fn show(&self, output: &ShellOutput) -> bool {
        if output.shell != self.number {
            return true;
        }
        let mut stdout = std::io::stdout();
        // A terminal that is gone ends the shell by its own way.
        let _ = stdout.write_all(&output.data).and_then(|()| stdout.flush());
        !output.end
    }

    /// Waits for a signal that is to end us.
    pub(crate) async fn interrupted(&mut self) -> ShellError {
        ShellError::Interrupted(self.signals.next().await.name)
    }
}

/// Says how a shell has ended.
pub(crate) fn farewell(output: &ShellOutput) {
    let text = match (output.problem.as_str(), output.code) {
        ("", 0) => "the shell has ended; what was changed in it is gone\n".to_owned(),
        ("", code) => format!("the shell has ended with {code}; what was changed in it is gone\n"),
        (problem, _) => format!("no shell: {problem}\n"),
    };
    complain(&text);
}

/// Says that nobody wants a shell.
pub(crate) async fn refuse(offer: &ShellOutput, answers: &mpsc::Sender<BuildRequest>) {
    let refusal = ShellInput { shell: offer.shell, end: true, ..ShellInput::default() };
    send(answers, refusal).await;
}

async fn send(answers: &mpsc::Sender<BuildRequest>, input: ShellInput) {
    // The daemon may have given the build up.
    let _ = answers.send(BuildRequest { part: Some(Part::Shell(input)) }).await;
}
