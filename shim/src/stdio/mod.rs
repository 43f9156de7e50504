//! Standard streams of one process: where they come from and where they go.
//!
//! ```text
//!             ┌─ pipe ─ pump ─▶ FIFO │ file │ log and attached clients (hub)
//! process ◀──▶┤
//!             └─ terminal ─ pump ─▶ the same
//!               ◀── stdin ─── FIFO │ attached clients
//! ```
//!
//! A stream without a destination is `/dev/null`, and one that a `binary://` logger takes is a pipe
//! to that program: neither passes through the shim.

mod attach;
mod frames;
mod hub;
mod logger;
mod pump;
mod relay;
mod stdin;
mod terminal;
mod uri;

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use attach::serve as serve_attach;
pub(crate) use hub::Hub;
use logger::LoggerPipes;
use pump::{Pump, Sink, Source, When};
pub(crate) use relay::{RelayEnds, RelayedStreams};
use terminal::{Console, ConsoleSocket};
use uri::Target;
pub(crate) use uri::UriError;

use crate::exit_record::Place;
use crate::log::{LogError, LogWriter, Stream};
use crate::runtime_cli::ChildEnds;
use crate::sys;

/// What a request says about a process's streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// Whose streams they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) id: &'a str,
    /// Where short-lived sockets may be made.
    pub(crate) socket: &'a Path,
    pub(crate) owner: Owner,
}

/// Owner of the pipes, so that the process may open them again by name.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Owner {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// Why the streams could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    #[error("stdio {which} {text:?}")]
    Uri {
        which: &'static str,
        text: String,
        #[source]
        source: UriError,
    },
    #[error("open the container's log")]
    Log(#[source] LogError),
    #[error("make a pipe for {which}")]
    Pipe {
        which: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("open {which} {path:?}")]
    Open {
        which: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start logging program {path:?}")]
    Logger {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("logging program {path:?} ended or hung before it was ready")]
    LoggerNotReady { path: PathBuf },
    #[error("make console socket {path:?}")]
    ConsoleSocket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the runtime did not send a terminal")]
    NoTerminal(#[source] io::Error),
    #[error("set the size of the terminal")]
    Resize(#[source] io::Error),
}

/// The streams of one process, for its whole life.
#[derive(Debug)]
pub(crate) struct Streams {
    request: Request,
    stdout: Target,
    stderr: Target,
    hub: Rc<Hub>,
    log: Option<Rc<RefCell<LogWriter>>>,
    console: RefCell<Option<Rc<Console>>>,
    pumps: RefCell<Vec<Pump>>,
    /// Holds a stdin FIFO open, so that its reader sees no end before `CloseIO`.
    stdin_keeper: RefCell<Option<File>>,
    stdin_reader: RefCell<Option<tokio::task::JoinHandle<()>>>,
    /// `CloseIO` was called.
    stdin_closed: Cell<bool>,
}

/// The shim's ends, between the runtime's call and its success.
#[derive(Debug, Default)]
pub(crate) struct OurEnds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    console: Option<ConsoleSocket>,
    logger: Option<LoggerPipes>,
}

impl Streams {
    /// Reads a request, and opens the log if it has one: what is wrong with them shows here.
    pub(crate) fn new(request: Request) -> Result<Self, StdioError> {
        let parse = |which, text: &str| {
            Target::parse(text).map_err(|source| StdioError::Uri {
                which,
                text: text.to_owned(),
                source,
            })
        };
        let stdout = parse("stdout", &request.stdout)?;
        let stderr = match request.terminal {
            true => Target::Null,
            false => parse("stderr", &request.stderr)?,
        };
        let settings = [&stdout, &stderr].into_iter().find_map(Target::log_settings);
        let log = match settings {
            Some(settings) => {
                Some(Rc::new(RefCell::new(LogWriter::open(settings).map_err(StdioError::Log)?)))
            }
            None => None,
        };
        let hub = Rc::new(Hub::new(request.terminal, !request.stdin.is_empty()));
        Ok(Self {
            request,
            stdout,
            stderr,
            hub,
            log,
            console: RefCell::default(),
            pumps: RefCell::default(),
            stdin_keeper: RefCell::default(),
            stdin_reader: RefCell::default(),
            stdin_closed: Cell::new(false),
        })
    }

    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    pub(crate) fn hub(&self) -> &Rc<Hub> {
        &self.hub
    }

    /// Where the exit is to be recorded, if the request says so.
    pub(crate) fn exit_record(&self) -> Option<&Place> {
        [&self.stdout, &self.stderr].into_iter().find_map(Target::exit_record)
    }

    /// Makes both ends of everything that the process needs.
    pub(crate) async fn prepare(
        &self,
        context: Context<'_>,
    ) -> Result<(ChildEnds, OurEnds), StdioError> {
        let mut ours = OurEnds::default();
        if let Some(logger) = self.stdout.logger() {
            ours.logger = Some(logger::start(logger, context).await?);
        }
        if self.request.terminal {
            let socket = ConsoleSocket::bind(context.socket)?;
            let console_socket = Some(socket.path().to_owned());
            let ends = ChildEnds { console_socket, ..ChildEnds::default() };
            ours.console = Some(socket);
            return Ok((ends, ours));
        }
        let mut ends = ChildEnds::default();
        if !self.request.stdin.is_empty() {
            let (reader, writer) = pipe("stdin", context.owner)?;
            ends.stdin = Some(reader);
            ours.stdin = Some(writer);
        }
        if let Some(logger) = &mut ours.logger {
            (ends.stdout, ends.stderr) = logger.take_child_ends();
            return Ok((ends, ours));
        }
        for (which, target, end, our_end) in [
            ("stdout", &self.stdout, &mut ends.stdout, &mut ours.stdout),
            ("stderr", &self.stderr, &mut ends.stderr, &mut ours.stderr),
        ] {
            if !matches!(target, Target::Null) {
                let (reader, writer) = pipe(which, context.owner)?;
                *end = Some(writer);
                *our_end = Some(reader);
            }
        }
        Ok((ends, ours))
    }

    /// Connects the shim's ends: the runtime made the process.
    pub(crate) async fn start(&self, mut ours: OurEnds) -> Result<(), StdioError> {
        if let Some(socket) = ours.console.take() {
            let console = Rc::new(socket.receive().await?);
            *self.console.borrow_mut() = Some(Rc::clone(&console));
            let sink = match ours.logger.as_mut().and_then(LoggerPipes::take_stdout) {
                Some(pipe) => Sink::fd(pipe).map_err(|source| open_error("stdout", source))?,
                None => self.sink(&self.stdout, Stream::Stdout)?,
            };
            self.pumps.borrow_mut().push(Pump::start(Source::Console(Rc::clone(&console)), sink));
            if !self.request.stdin.is_empty() {
                self.hub.stdin().open_console(console);
            }
        }
        for (target, stream, end) in [
            (&self.stdout, Stream::Stdout, ours.stdout),
            (&self.stderr, Stream::Stderr, ours.stderr),
        ] {
            if let Some(end) = end {
                let source = nonblocking(end)
                    .map_err(|source| StdioError::Pipe { which: stream.name(), source })?;
                let pump = Pump::start(Source::Pipe(source), self.sink(target, stream)?);
                self.pumps.borrow_mut().push(pump);
            }
        }
        if let Some(end) = ours.stdin {
            let end =
                writable(end).map_err(|source| StdioError::Pipe { which: "stdin", source })?;
            self.hub.stdin().open_pipe(end);
        }
        Ok(())
    }

    /// Starts to copy a stdin FIFO, if the request names one: when the program is about to run.
    ///
    /// Not sooner: the client's end of the FIFO opens with it, and some clients know what to do at
    /// the end of their input only after `Create` was answered.
    pub(crate) fn open_stdin(&self) -> Result<(), StdioError> {
        let path = Path::new(&self.request.stdin);
        if self.request.stdin.is_empty() || uri::is_keg(&self.request.stdin) {
            return Ok(());
        }
        let failed = |source| StdioError::Open { which: "stdin", path: path.to_owned(), source };
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(failed)?;
        if reader.metadata().map_err(failed)?.file_type().is_fifo() {
            let keeper = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)
                .map_err(failed)?;
            if !self.stdin_closed.get() {
                *self.stdin_keeper.borrow_mut() = Some(keeper);
            }
            let reader = nonblocking(reader.into()).map_err(failed)?;
            let copy = stdin::copy_fifo(reader, Rc::clone(&self.hub));
            *self.stdin_reader.borrow_mut() = Some(tokio::task::spawn_local(copy));
        } else {
            let copy = stdin::copy_file(reader, Rc::clone(&self.hub));
            *self.stdin_reader.borrow_mut() = Some(tokio::task::spawn_local(copy));
        }
        Ok(())
    }

    fn sink(&self, target: &Target, stream: Stream) -> Result<Sink, StdioError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StdioError::Open { which: stream.name(), path, source }
        };
        match target {
            Target::Null | Target::Logger(_) => Ok(Sink::Discard),
            Target::Path(path) => Sink::open(path).map_err(failed(path)),
            Target::File(path) => Sink::create(path).map_err(failed(path)),
            Target::Keg(_) => {
                Ok(Sink::Keg { log: self.log.clone(), hub: Rc::clone(&self.hub), stream })
            }
        }
    }

    /// Sets the size of the terminal; without one nothing happens.
    pub(crate) fn resize(&self, columns: u32, rows: u32) -> Result<(), StdioError> {
        match &*self.console.borrow() {
            Some(console) => console.resize(columns, rows).map_err(StdioError::Resize),
            None => Ok(()),
        }
    }

    /// Lets the process see the end of its standard input, once all clients closed theirs.
    pub(crate) fn close_stdin(&self) {
        self.stdin_closed.set(true);
        self.stdin_keeper.borrow_mut().take();
        if uri::is_keg(&self.request.stdin) {
            self.hub.end_stdin();
        }
    }

    /// Waits until all that the ended process wrote was passed on, at most `limit`.
    pub(crate) async fn drain(&self, limit: Duration) {
        // What blocks it is a destination that takes nothing; the exit is not held up by that.
        self.ask_pumps(When::PassedOn, limit).await;
        if let Some(log) = &self.log {
            for stream in [Stream::Stdout, Stream::Stderr] {
                // A full disk is the pump's to wait for.
                let _ = log.borrow_mut().finish(stream);
            }
        }
        self.hub.end();
    }

    /// Waits until the readers of FIFOs have taken what lies in them, at most `limit`.
    pub(crate) async fn taken(&self, limit: Duration) {
        self.ask_pumps(When::Taken, limit).await;
    }

    async fn ask_pumps(&self, when: When, limit: Duration) {
        let replies: Vec<_> = self.pumps.borrow().iter().map(|pump| pump.ask(when)).collect();
        let all = async {
            for reply in replies {
                // An error means that the pump has ended, with everything passed on and taken.
                let _ = reply.await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
    }

    /// Lets go of everything.
    pub(crate) fn close(&self) {
        self.hub.end();
        self.hub.stdin().close();
        self.pumps.borrow_mut().clear();
        self.console.borrow_mut().take();
        self.stdin_keeper.borrow_mut().take();
        if let Some(reader) = self.stdin_reader.borrow_mut().take() {
            reader.abort();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.close();
    }
}

fn open_error(which: &'static str, source: io::Error) -> StdioError {
    StdioError::Pipe { which, source }
}

/// Makes a pipe that belongs to `owner`; its reading end first.
fn pipe(which: &'static str, owner: Owner) -> Result<(OwnedFd, OwnedFd), StdioError> {
    let failed = |source| StdioError::Pipe { which, source };
    let (reader, writer) = io::pipe().map_err(failed)?;
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    if owner.user != 0 || owner.group != 0 {
        for end in [&reader, &writer] {
            std::os::unix::fs::fchown(end, Some(owner.user), Some(owner.group)).map_err(failed)?;
        }
    }
    Ok((reader, writer))
}

/// Makes a descriptor readable without blocking. Only for descriptions that are the shim's alone.
pub(crate) fn nonblocking(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    set_nonblocking(&fd)?;
    sys::watch_descriptor(fd, Interest::READABLE)
}

/// The same for writing.
pub(crate) fn writable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    set_nonblocking(&fd)?;
    sys::watch_descriptor(fd, Interest::WRITABLE)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd)?;
    Ok(fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}
