//! The socket on which a shim connects clients to a process's standard streams.
//!
//! The frames are described in `proto/keg/shim/v1/io.proto`. A connection is made and confirmed
//! before the process starts, so nothing of what it writes is missed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use keg_proto::keg::shim::v1::{AttachEnd, AttachHello, AttachReady, attach_end};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Largest payload of a frame.
const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Octets before the payload: kind and length.
const HEADER_BYTES: usize = 5;
/// How long a shim may take to confirm a connection.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const STDIN: u8 = 2;
    pub(super) const STDIN_END: u8 = 3;
    pub(super) const READY: u8 = 16;
    pub(super) const STDOUT: u8 = 17;
    pub(super) const STDERR: u8 = 18;
    pub(super) const END: u8 = 19;
}

/// Why a client could not be connected, or lost its connection.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// Nobody serves the socket.
    #[error("connect to the shim's stream socket {path:?}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the process's streams broke")]
    Broken(#[source] io::Error),
    /// No confirmation within ten seconds.
    #[error("the shim did not confirm the connection to the process's streams within 10 s")]
    NotReady,
    /// The shim said something else than the protocol allows.
    #[error("the shim broke the protocol of its stream socket: {what}")]
    Protocol {
        /// What it did.
        what: &'static str,
    },
    /// The shim does not know the process.
    #[error("the shim knows no such process")]
    NoSuchProcess,
}

/// What a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamsWanted {
    /// Exec process; empty: the container's first.
    pub exec_id: String,
    /// Sends standard input.
    pub stdin: bool,
    /// Wants standard output.
    pub stdout: bool,
    /// Wants standard error.
    pub stderr: bool,
    /// Closes the process's standard input when this client leaves.
    pub stdin_once: bool,
}

/// What comes from the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromProcess {
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// The process closed its output, or ended.
    End {
        /// Bytes that this client missed because it read too slowly.
        dropped_bytes: u64,
    },
}

/// A client's connection, in two halves.
#[derive(Debug)]
pub struct Streams {
    /// What comes from the process.
    pub output: StreamReader,
    /// What goes to the process.
    pub input: StreamWriter,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// Reads what a process writes.
#[derive(Debug)]
pub struct StreamReader {
    socket: BufReader<OwnedReadHalf>,
}

/// Writes what a process reads.
#[derive(Debug)]
pub struct StreamWriter {
    socket: OwnedWriteHalf,
}

/// Connects to the streams of a process and waits until nothing can be missed any more.
///
/// # Errors
/// [`IoError`]; [`IoError::Connect`] also where the shim has no such socket, as foreign ones.
pub async fn connect(path: &Path, wanted: &StreamsWanted) -> Result<Streams, IoError> {
    let socket = UnixStream::connect(path)
        .await
        .map_err(|source| IoError::Connect { path: path.to_owned(), source })?;
    let (read, write) = socket.into_split();
    let mut output = StreamReader { socket: BufReader::with_capacity(PAYLOAD_BYTES_MAX, read) };
    let mut input = StreamWriter { socket: write };
    let hello = AttachHello {
        exec_id: wanted.exec_id.clone(),
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        stdin_once: wanted.stdin_once,
        // Whoever attaches through the daemon sets the pace, as a pipe's reader does.
        lossless: true,
    };
    input.send(kind::HELLO, &hello.encode_to_vec()).await?;
    let ready = tokio::time::timeout(READY_TIMEOUT, output.ready())
        .await
        .map_err(|_| IoError::NotReady)??;
    Ok(Streams { output, input, terminal: ready.terminal })
}

impl StreamReader {
    async fn ready(&mut self) -> Result<AttachReady, IoError> {
        match self.frame().await? {
            Some((kind::READY, payload)) => AttachReady::decode(payload)
                .map_err(|_| IoError::Protocol { what: "its confirmation cannot be decoded" }),
            Some((kind::END, payload)) => Err(end_error(&payload)),
            Some(_) => Err(IoError::Protocol { what: "it sent data before its confirmation" }),
            None => Err(IoError::Broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Waits for what the process writes next. After [`FromProcess::End`] nothing comes.
    ///
    /// # Errors
    /// [`IoError::Broken`] if the connection ends without word, as when the shim dies.
    pub async fn next(&mut self) -> Result<FromProcess, IoError> {
        loop {
            let (kind, payload) =
                self.frame().await?.ok_or(IoError::Broken(io::ErrorKind::UnexpectedEof.into()))?;
            match kind {
                kind::STDOUT => return Ok(FromProcess::Stdout(payload)),
                kind::STDERR => return Ok(FromProcess::Stderr(payload)),
                kind::END => {
                    let end = AttachEnd::decode(payload.clone())
                        .map_err(|_| IoError::Protocol { what: "its end cannot be decoded" })?;
                    return match end.reason() {
                        attach_end::Reason::OutputEnded | attach_end::Reason::Unspecified => {
                            Ok(FromProcess::End { dropped_bytes: end.dropped_bytes })
                        }
                        _ => Err(end_error(&payload)),
                    };
                }
                // A kind that a newer shim has.
                _ => {}
            }
        }
    }

    /// As [`Self::next`], but takes a broken connection for the end: a shim that dies takes its
    /// processes with it, and how they ended is told elsewhere.
    ///
    /// # Errors
    /// [`IoError::Protocol`], [`IoError::NoSuchProcess`].
    pub async fn next_output(&mut self) -> Result<FromProcess, IoError> {
        match self.next().await {
            Err(IoError::Broken(_)) => Ok(FromProcess::End { dropped_bytes: 0 }),
            other => other,
        }
    }

    /// Reads one frame; `None` if the connection ended between two.
    async fn frame(&mut self) -> Result<Option<(u8, Bytes)>, IoError> {
        let mut header = [0_u8; HEADER_BYTES];
        match self.socket.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(IoError::Broken(error)),
        }
        let [kind, length @ ..] = header;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > PAYLOAD_BYTES_MAX {
            return Err(IoError::Protocol { what: "a frame is longer than 64 KiB" });
        }
        let mut payload = vec![0_u8; length];
        self.socket.read_exact(&mut payload).await.map_err(IoError::Broken)?;
        Ok(Some((kind, payload.into())))
    }
}

impl StreamWriter {
    /// Sends bytes for standard input.
    ///
    /// # Errors
    /// [`IoError::Broken`] if nobody takes them any more.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        for chunk in bytes.chunks(PAYLOAD_BYTES_MAX) {
            self.send(kind::STDIN, chunk).await?;
        }
        Ok(())
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// As [`Self::stdin`].
    pub async fn stdin_end(&mut self) -> Result<(), IoError> {
        self.send(kind::STDIN_END, &[]).await
    }

    async fn send(&mut self, kind: u8, payload: &[u8]) -> Result<(), IoError> {
        let length = u32::try_from(payload.len())
            .map_err(|_| IoError::Protocol { what: "a frame is longer than its length field" })?;
        let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
        frame.push(kind);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(payload);
        self.socket.write_all(&frame).await.map_err(IoError::Broken)
    }
}

fn end_error(payload: &Bytes) -> IoError {
    match AttachEnd::decode(payload.clone()).map(|end| end.reason()) {
        Ok(attach_end::Reason::NoSuchProcess) => IoError::NoSuchProcess,
        _ => IoError::Protocol { what: "it refused the connection" },
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A shim that reads one hello and answers with `frames`.
    async fn shim(frames: Vec<(u8, Vec<u8>)>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.io");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut header = [0_u8; HEADER_BYTES];
            socket.read_exact(&mut header).await.unwrap();
            let mut hello = vec![0_u8; usize::from(header[4])];
            socket.read_exact(&mut hello).await.unwrap();
            assert_eq!((header[0], AttachHello::decode(&hello[..]).unwrap().stdout), (1, true));
            for (kind, payload) in frames {
                socket.write_u8(kind).await.unwrap();
                socket.write_u32(u32::try_from(payload.len()).unwrap()).await.unwrap();
                socket.write_all(&payload).await.unwrap();
            }
        });
        (dir, path)
    }

    fn wanted() -> StreamsWanted {
        StreamsWanted { stdout: true, ..StreamsWanted::default() }
    }

    fn end(reason: attach_end::Reason, dropped_bytes: u64) -> (u8, Vec<u8>) {
        (kind::END, AttachEnd { reason: reason.into(), dropped_bytes }.encode_to_vec())
    }

    #[tokio::test]
    async fn output_comes_in_order_and_ends_once() {
        let ready = AttachReady { terminal: true }.encode_to_vec();
        let frames = vec![
            (kind::READY, ready),
            (kind::STDOUT, b"out".to_vec()),
            (99, b"from the future".to_vec()),
            (kind::STDERR, b"err".to_vec()),
            end(attach_end::Reason::OutputEnded, 3),
        ];
        let (_dir, path) = shim(frames).await;

        let mut streams = connect(&path, &wanted()).await.unwrap();

        assert!(streams.terminal);
        let output = &mut streams.output;
        assert_eq!(output.next().await.unwrap(), FromProcess::Stdout("out".into()));
        assert_eq!(output.next().await.unwrap(), FromProcess::Stderr("err".into()));
        assert_eq!(output.next().await.unwrap(), FromProcess::End { dropped_bytes: 3 });
    }

    #[tokio::test]
    async fn a_shim_that_knows_no_such_process_or_dies_is_an_error() {
        let (_dir, path) = shim(vec![end(attach_end::Reason::NoSuchProcess, 0)]).await;
        assert!(matches!(connect(&path, &wanted()).await, Err(IoError::NoSuchProcess)));

        let (_dir, path) = shim(vec![(kind::READY, vec![])]).await;
        let mut streams = connect(&path, &wanted()).await.unwrap();
        assert!(matches!(streams.output.next().await, Err(IoError::Broken(_))));
    }

    #[tokio::test]
    async fn a_frame_beyond_the_limit_is_not_read_into_memory() {
        let (_dir, path) = shim(vec![(kind::READY, vec![]), (kind::STDOUT, vec![0; 65537])]).await;
        let mut streams = connect(&path, &wanted()).await.unwrap();

        assert!(matches!(streams.output.next().await, Err(IoError::Protocol { .. })));
    }
}
