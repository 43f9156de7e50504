//! Our streams joined to those of a process: a container's first, or one that `exec` runs in it.
//!
//! ```text
//!  stdin ── read ─▶ detach keys ─▶ ┐                         ┌─▶ stdout
//!  SIGWINCH ──────▶ terminal size ▶├── Attach ──▶ kegd ──▶ ──┤
//!                                  ┘  (stream)               ├─▶ stderr
//!  SIGTERM, … ───▶ Kill ──────────────────────▶ kegd         └─▶ exit status, last
//! ```
//!
//! Three futures of one task: input, output, signals. None waits for another, so that a program
//! that reads our output only after it has written all our input cannot lock itself up. The
//! session ends with the output; with the detach keys; or with a signal, when the terminal is raw.

mod messages;

use keg_proto::keg::v1::{
    AttachRequest, AttachStart, ExecRequest, ExecStart, ExitStatus, KillContainerRequest, Stream,
    TerminalSize, attach_request, exec_request,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{self as stream, StreamExt as _};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::session::messages::{Answers, FromProcess, ToProcess};
use crate::signals::{Arrived, Signals};
use crate::terminal::detach::{DetachKeys, Watch};
use crate::terminal::stdio::Stdio;
use crate::terminal::{self, RawMode};

/// Messages to the container that may wait; more make standard input wait.
const QUEUED_REQUESTS: usize = 8;

/// Bytes read from standard input at once.
const INPUT_BYTES: usize = 32 * 1024;

/// Interrupts that have no effect before we give up on the container.
const PATIENCE_INTERRUPTS: u32 = 3;

/// How a container is joined.
#[derive(Debug)]
pub(crate) struct SessionOptions {
    /// Id or name.
    pub(crate) container: String,
    /// Whether its process has a terminal.
    pub(crate) tty: bool,
    /// Sends standard input.
    pub(crate) stdin: bool,
    /// Shows standard output.
    pub(crate) stdout: bool,
    /// Shows standard error.
    pub(crate) stderr: bool,
    /// Keys that leave it.
    pub(crate) detach_keys: DetachKeys,
    /// Passes signals on.
    pub(crate) sig_proxy: bool,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The process ended.
    Exited(ExitStatus),
    /// The user left; the process goes on.
    Detached,
    /// A signal ended us; the process goes on.
    Interrupted(Arrived),
}

impl SessionEnd {
    /// Code with which our program ends.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Exited(status) => u8::try_from(status.code).unwrap_or(u8::MAX),
            Self::Detached => 0,
            Self::Interrupted(signal) => u8::try_from(128 + signal.number).unwrap_or(u8::MAX),
        }
    }
}

/// A container that is joined, and of whose output nothing is lost from now on.
#[derive(Debug)]
pub(crate) struct Session {
    daemon: Daemon,
    options: SessionOptions,
    requests: mpsc::Sender<ToProcess>,
    answers: Answers,
    signals: Signals,
}

/// What went wrong with our own streams.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the input device is not a terminal")]
    NoTerminal,
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
    #[error("kegd closed the connection before it told how the container ended")]
    Cut,
}

/// Checks that `-i -t` has a terminal to work on.
///
/// # Errors
/// A [`Failure`] if standard input is something else.
pub(crate) fn check_terminal(stdin: bool, tty: bool) -> Result<(), Failure> {
    if stdin && tty && !terminal::stdin_is_terminal() {
        let remedy = "leave out -t to send a file or a pipe";
        return Err(Failure::client(SessionError::NoTerminal).with_remedy(remedy));
    }
    Ok(())
}

impl Session {
    /// Joins a container, which need not be started yet.
    ///
    /// # Errors
    /// A [`Failure`] if the daemon refuses, or signals cannot be received.
    pub(crate) async fn open(daemon: &Daemon, options: SessionOptions) -> Result<Self, Failure> {
        let start = AttachStart {
            container: options.container.clone(),
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            logs: false,
        };
        let (requests, queue) = mpsc::channel(QUEUED_REQUESTS);
        let first = AttachRequest { message: Some(attach_request::Message::Start(start)) };
        let sent = stream::once(first).chain(ReceiverStream::new(queue).map(AttachRequest::from));
        let signals = signals_for(&options)?;
        let response = daemon.containers().attach(sent).await?;
        let answers = Answers::Attach(response.into_inner());
        Self { daemon: daemon.clone(), options, requests, answers, signals }.joined().await
    }

    /// Runs one more process in a container, and joins it, unless it is to run in the background.
    ///
    /// # Errors
    /// A [`Failure`] if the daemon refuses, or signals cannot be received.
    pub(crate) async fn exec(
        daemon: &Daemon,
        start: ExecStart,
        options: SessionOptions,
    ) -> Result<Self, Failure> {
        let (requests, queue) = mpsc::channel(QUEUED_REQUESTS);
        let first = ExecRequest { message: Some(exec_request::Message::Start(start)) };
        let sent = stream::once(first).chain(ReceiverStream::new(queue).map(ExecRequest::from));
        let signals = signals_for(&options)?;
        let response = daemon.containers().exec(sent).await?;
        let answers = Answers::Exec(response.into_inner());
        Self { daemon: daemon.clone(), options, requests, answers, signals }.joined().await
    }

    /// Waits for the first answer, which says that the connection stands.
    async fn joined(mut self) -> Result<Self, Failure> {
        match self.answers.next().await? {
            Some(FromProcess::Joined) => Ok(self),
            _ => Err(Failure::client(SessionError::Cut)),
        }
    }

    /// Puts our terminal into raw mode, if the container has one too and gets our keys.
    ///
    /// # Errors
    /// A [`Failure`] if the terminal refuses.
    pub(crate) fn take_terminal(&self) -> Result<Option<RawMode>, Failure> {
        if self.options.tty && self.options.stdin && terminal::stdin_is_terminal() {
            return RawMode::enter().map(Some).map_err(Failure::client);
        }
        Ok(None)
    }

    /// Makes a program that fills the screen draw it anew: programs do so when the size changes,
    /// so it is changed, and then put right.
    pub(crate) async fn redraw(&self) {
        if let (true, Some(size)) = (self.options.tty, terminal::size()) {
            let other = TerminalSize { height: size.height + 1, ..size };
            send(&self.requests, ToProcess::Resize(other)).await;
        }
    }

    /// Streams until the process ends, the user leaves, or a signal ends us.
    ///
    /// # Errors
    /// A [`Failure`] if the connection breaks, or our own streams fail.
    pub(crate) async fn run(self) -> Result<SessionEnd, Failure> {
        let Self { daemon, options, requests, answers, mut signals } = self;
        tokio::select! {
            biased;
            end = show_output(answers) => end,
            end = send_input(&options, &requests) => end,
            end = pass_signals(&daemon, &options, &mut signals) => end,
            never = follow_size(&options, &requests) => never,
        }
    }
}

/// Queues a message. A queue that is closed belongs to a stream that has ended, and whoever reads
/// that stream finds out why.
async fn send(requests: &mpsc::Sender<ToProcess>, message: ToProcess) {
    let _ = requests.send(message).await;
}

/// Receives the signals that concern a session.
fn signals_for(options: &SessionOptions) -> Result<Signals, Failure> {
    let signals = match (options.tty, options.sig_proxy) {
        (true, _) => Signals::ending(),
        (false, true) => Signals::forwarded(),
        (false, false) => Ok(Signals::none()),
    };
    signals.map_err(|error| Failure::client(SessionError::Signals(error)))
}

/// Writes what the process writes, until it has ended.
async fn show_output(mut answers: Answers) -> Result<SessionEnd, Failure> {
    let to_stdout = |error| Failure::stream(&error, "write to standard output");
    let to_stderr = |error| Failure::stream(&error, "write to standard error");
    let stdout = Stdio::new(std::io::stdout());
    let stderr = Stdio::new(std::io::stderr());
    while let Some(answer) = answers.next().await? {
        match answer {
            FromProcess::Output(output) if output.stream() == Stream::Stderr => {
                stderr.write_all(&output.data).await.map_err(to_stderr)?;
            }
            FromProcess::Output(output) => {
                stdout.write_all(&output.data).await.map_err(to_stdout)?;
            }
            FromProcess::Exited(status) => return Ok(SessionEnd::Exited(status)),
            FromProcess::Joined => {}
        }
    }
    Err(Failure::client(SessionError::Cut).with_remedy(
        "see by `keg ps -a` whether the container goes on, and join it again by `keg attach`",
    ))
}

/// Sends standard input until it ends, then waits for ever; returns only if the user leaves.
async fn send_input(
    options: &SessionOptions,
    requests: &mpsc::Sender<ToProcess>,
) -> Result<SessionEnd, Failure> {
    if !options.stdin {
        return std::future::pending().await;
    }
    let failed = |error| Failure::stream(&error, "read standard input");
    let stdin = Stdio::new(std::io::stdin());
    let mut watch = options.tty.then(|| Watch::new(options.detach_keys.clone()));
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let length = stdin.read(&mut buffer).await.map_err(failed)?;
        if length == 0 {
            send(requests, ToProcess::StdinEnd).await;
            return std::future::pending().await;
        }
        let typed = &buffer[..length];
        let (bytes, leaves) = match &mut watch {
            Some(watch) => {
                let watched = watch.look(typed);
                (watched.pass_on, watched.detach)
            }
            None => (typed.to_vec(), false),
        };
        if !bytes.is_empty() {
            send(requests, ToProcess::Stdin(bytes)).await;
        }
        if leaves {
            return Ok(SessionEnd::Detached);
        }
    }
}

/// Passes signals on to the process, or ends us if the terminal is in use: its keys reach the
/// process as bytes, so that a signal is meant for us.
async fn pass_signals(
    daemon: &Daemon,
    options: &SessionOptions,
    signals: &mut Signals,
) -> Result<SessionEnd, Failure> {
    let mut interrupts = 0;
    loop {
        let arrived = signals.next().await;
        if options.tty {
            return Ok(SessionEnd::Interrupted(arrived));
        }
        let request = KillContainerRequest {
            container: options.container.clone(),
            signal: arrived.name.to_owned(),
        };
        // A process that has just ended cannot be sent a signal, and the output tells of its end.
        let _ = daemon.containers().kill(request).await;
        if matches!(arrived.name, "SIGINT" | "SIGTERM") {
            interrupts += 1;
        }
        if interrupts >= PATIENCE_INTERRUPTS {
            let text = "keg: the container takes no notice of interrupts; it goes on without us\n";
            crate::output::complain(text);
            return Ok(SessionEnd::Interrupted(arrived));
        }
    }
}

/// Tells the container the size of our terminal, now and whenever it changes.
async fn follow_size(
    options: &SessionOptions,
    requests: &mpsc::Sender<ToProcess>,
) -> Result<SessionEnd, Failure> {
    if !options.tty {
        return std::future::pending().await;
    }
    let mut changes = signal(SignalKind::window_change())
        .map_err(|error| Failure::client(SessionError::Signals(error)))?;
    loop {
        if let Some(size) = terminal::size() {
            send(requests, ToProcess::Resize(size)).await;
        }
        if changes.recv().await.is_none() {
            return std::future::pending().await;
        }
    }
}
