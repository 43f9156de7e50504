//! The streams of a process that another's shim supervises, by way of FIFOs.
//!
//! ```text
//! process ◀─ pipe or terminal ─▶ another's shim ─ FIFO ─▶ pump ─▶ log, attached clients (hub)
//!                                               ◀─ FIFO ─────────── attached clients
//! ```
//!
//! The FIFOs are opened before that shim is told of them, so that its opens find a reader. A FIFO
//! without a writer yet is silent and not at its end: only one whose writers have all gone is.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use keg_proto::keg::shim::v1::RelayRequest;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use super::hub::Hub;
use super::pump::{Pump, Sink, Source, When};
use super::uri::Target;
use super::{StdioError, nonblocking, writable};
use crate::log::{Format, LogSettings, LogWriter, Stream, WhenFull};

/// Most bytes of another shim's own messages that are kept.
const SHIM_LOG_BYTES: u64 = 1 << 20;

/// The first and the longest pause between two looks at what an ended process has left.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Our ends of the FIFOs, and the logs.
#[derive(Debug)]
pub(crate) struct RelayEnds {
    terminal: bool,
    stdin: Option<File>,
    outputs: Vec<(Stream, File)>,
    log: Option<LogWriter>,
    shim_log: Option<(File, LogWriter)>,
}

/// The streams, while they are carried.
#[derive(Debug)]
pub(crate) struct RelayedStreams {
    hub: Rc<Hub>,
    pumps: Vec<Pump>,
    log: Option<Rc<RefCell<LogWriter>>>,
    /// What the other shim says of itself, which ends with this process.
    _shim_log: Option<Pump>,
}

impl RelayEnds {
    /// Makes the FIFOs that a request names, if they are not there, opens them, and opens the logs.
    pub(crate) fn open(request: &RelayRequest) -> Result<Self, StdioError> {
        let target = Target::parse(&request.log).map_err(|source| StdioError::Uri {
            which: "log",
            text: request.log.clone(),
            source,
        })?;
        let log = target.log_settings().map(LogWriter::open).transpose();
        let outputs = [(Stream::Stdout, &request.stdout), (Stream::Stderr, &request.stderr)];
        let outputs = outputs.into_iter().filter(|(_, path)| !path.is_empty());
        let stdin = Some(&request.stdin).filter(|path| !path.is_empty());
        let shim_log = Some(&request.shim_log_fifo).filter(|path| !path.is_empty());
        Ok(Self {
            terminal: request.terminal,
            stdin: stdin.map(|path| open_fifo("stdin", path, true)).transpose()?,
            outputs: outputs
                .map(|(stream, path)| Ok((stream, open_fifo(stream.name(), path, false)?)))
                .collect::<Result<_, StdioError>>()?,
            log: log.map_err(StdioError::Log)?,
            shim_log: match shim_log {
                Some(path) => {
                    // For writing too: it goes on when a shim's server has gone and `delete` comes.
                    let fifo = open_fifo("log", path, true)?;
                    Some((fifo, open_shim_log(&request.shim_log_file)?))
                }
                None => None,
            },
        })
    }

    /// Begins to carry, within an event loop.
    pub(crate) fn start(self) -> io::Result<RelayedStreams> {
        let hub = Rc::new(Hub::new(self.terminal, self.stdin.is_some()));
        let log = self.log.map(|log| Rc::new(RefCell::new(log)));
        let carry = |file: File, sink| {
            let source = nonblocking(OwnedFd::from(file))?;
            io::Result::Ok(Pump::start(Source::Pipe(source), sink))
        };
        let mut pumps = Vec::new();
        for (stream, file) in self.outputs {
            let sink = Sink::Keg { log: log.clone(), hub: Rc::clone(&hub), stream };
            pumps.push(carry(file, sink)?);
        }
        let shim_log = match self.shim_log {
            Some((fifo, writer)) => {
                let (log, hub) =
                    (Some(Rc::new(RefCell::new(writer))), Rc::new(Hub::new(false, false)));
                Some(carry(fifo, Sink::Keg { log, hub, stream: Stream::Stderr })?)
            }
            None => None,
        };
        if let Some(stdin) = self.stdin {
            hub.stdin().open_pipe(writable(OwnedFd::from(stdin))?);
        }
        Ok(RelayedStreams { hub, pumps, log, _shim_log: shim_log })
    }
}

impl RelayedStreams {
    pub(crate) fn hub(&self) -> &Rc<Hub> {
        &self.hub
    }

    /// Waits until the clients have ended the input of the process.
    pub(crate) async fn input_ended(&self) {
        self.hub.stdin().closed().await;
    }

    /// Whether every output has come to its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.pumps.iter().all(Pump::has_ended)
    }

    /// Waits until every output has come to its end.
    pub(crate) async fn ended(&self) {
        for pump in &self.pumps {
            pump.ended().await;
        }
    }

    /// Waits until all that the ended process wrote was passed on, at most `limit`, and tells the
    /// clients. The other shim still copies when it tells that the process has ended, so an empty
    /// FIFO is no end: that its writers have gone is.
    pub(crate) async fn drain(&self, limit: Duration) {
        let whole = async {
            let (mut pause, longest) = LOOKS;
            while !self.has_ended() {
                for pump in &self.pumps {
                    // An error means that it has ended.
                    let _ = pump.ask(When::PassedOn).await;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        };
        let _ = tokio::time::timeout(limit, whole).await;
        if let Some(log) = &self.log {
            for stream in [Stream::Stdout, Stream::Stderr] {
                // A full disk is the pump's to wait for.
                let _ = log.borrow_mut().finish(stream);
            }
        }
        self.hub.end();
        self.hub.stdin().close();
    }
}

/// Makes a FIFO and opens our end of it; with `write` for both directions, so that nobody's coming
/// and going is its end.
fn open_fifo(which: &'static str, path: &str, write: bool) -> Result<File, StdioError> {
    let path = Path::new(path);
    let failed = |source| StdioError::Open { which, path: path.to_owned(), source };
    match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno.into())),
    }
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)
}

fn open_shim_log(path: &str) -> Result<LogWriter, StdioError> {
    let settings = LogSettings {
        path: PathBuf::from(path),
        format: Format::Raw,
        max_size_bytes: std::num::NonZeroU64::new(SHIM_LOG_BYTES),
        max_files: std::num::NonZeroU32::MIN,
        when_full: WhenFull::Drop,
        compress: false,
        max_bytes_per_sec: None,
    };
    LogWriter::open(settings).map_err(StdioError::Log)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::task::LocalSet;

    use super::*;

    fn request(dir: &Path) -> RelayRequest {
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        RelayRequest {
            stdin: path("in"),
            stdout: path("out"),
            stderr: path("err"),
            log: format!("keg://{}?format=json-file", path("c.log")),
            ..RelayRequest::default()
        }
    }

    fn writer(path: &str) -> File {
        OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
    }

    #[test]
    fn what_was_written_until_the_last_writer_left_is_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let request = request(dir.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

        LocalSet::new().block_on(&runtime, async {
            let streams = RelayEnds::open(&request).unwrap().start().unwrap();
            tokio::task::yield_now().await;
            assert!(!streams.has_ended(), "a FIFO without a writer yet is not at its end");
            let (mut out, mut err) = (writer(&request.stdout), writer(&request.stderr));
            out.write_all(b"one\ntwo").unwrap();
            err.write_all(b"three\n").unwrap();
            drop((out, err));
            streams.drain(Duration::from_secs(20)).await;
            assert!(streams.has_ended());
        });

        let log = std::fs::read_to_string(dir.path().join("c.log")).unwrap();
        for entry in [r#""log":"one\n""#, r#""log":"two""#, r#""log":"three\n""#] {
            assert!(log.contains(entry), "{log}");
        }
    }

    #[test]
    fn a_relay_that_comes_back_reads_what_waits_in_the_fifo() {
        let dir = tempfile::tempdir().unwrap();
        let request = request(dir.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = RelayEnds::open(&request).unwrap();
        let mut out = writer(&request.stdout);
        // Another's shim holds both ends, so that a reader may come and go.
        let _held = File::open(&request.stdout).unwrap();
        drop(first);
        out.write_all(b"kept\n").unwrap();

        LocalSet::new().block_on(&runtime, async {
            let streams = RelayEnds::open(&request).unwrap().start().unwrap();
            streams.drain(Duration::from_millis(200)).await;
        });

        let log = std::fs::read_to_string(dir.path().join("c.log")).unwrap();
        assert!(log.contains(r#""log":"kept\n""#), "{log}");
    }
}
