//! Copies what a process writes to where it goes.
//!
//! ```text
//! wait until readable ─▶ read a block ─▶ write all of it ─▶ …      idle for a while: no block is held
//!                  ▲ "drain": read until empty, then answer
//! ```
//!
//! One task per stream. While its destination takes nothing, it reads nothing, so that the process
//! waits as it would with a pipe of its own. When the process has ended, its last output may still
//! be in the pipe; a drain request is answered when that has been passed on, even if descendants
//! hold the pipe open.
//!
//! A raw log of a stream that says much is moved from pipe to file within the kernel, unless a client
//! wants a copy. A FIFO is held open until a reader has taken all out of it: its content goes with
//! its last end, and a client may be slow to open its own.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_setpipe_size;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::hub::Hub;
use super::terminal::Console;
use super::writable;
use crate::log::{LogWriter, Outcome, Stream, compress_in_background};

/// Block for streams that say little.
const SMALL_BLOCK_BYTES: usize = 4 << 10;

/// Block for streams that say much, and what their pipe is made to hold: so that neither side
/// waits for the other more often than it must.
const LARGE_BLOCK_BYTES: usize = 256 << 10;

/// How long a stream must be silent before its block is given back.
const SILENCE: Duration = Duration::from_millis(250);

/// Most bytes that a drain passes on: what a pipe can hold by default, and more.
const MAX_DRAIN_BYTES: usize = 1 << 20;

/// How long a terminal may be silent before a drain takes it for empty. The kernel passes a
/// terminal's output on in the background, so that the last of it may come after the exit.
const TERMINAL_SILENCE: Duration = Duration::from_millis(100);

/// How long to wait before a full disk is tried again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(500);

/// How long the first and the last pause is between two looks at a FIFO that nobody empties.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// Where output comes from.
#[derive(Debug)]
pub(super) enum Source {
    Pipe(AsyncFd<OwnedFd>),
    Console(Rc<Console>),
}

impl Source {
    fn fd(&self) -> &AsyncFd<OwnedFd> {
        match self {
            Self::Pipe(fd) => fd,
            Self::Console(console) => console.fd(),
        }
    }

    /// Waits until there may be something to read; `false` if there never will.
    async fn readable(&self) -> bool {
        match self.fd().readable().await {
            Ok(mut ready) => {
                ready.retain_ready();
                true
            }
            Err(_) => false,
        }
    }

    /// Lets a pipe hold a large block.
    fn widen(&self) {
        if let Self::Pipe(pipe) = self {
            // Where the kernel's limit for the user is reached, it stays as it is.
            let _ = fcntl_setpipe_size(pipe.get_ref(), LARGE_BLOCK_BYTES);
        }
    }
}

/// Where output goes.
#[derive(Debug)]
pub(super) enum Sink {
    Discard,
    /// A FIFO or pipe, whose reader sets the pace.
    Fd(AsyncFd<OwnedFd>),
    File(File),
    Keg {
        log: Option<Rc<RefCell<LogWriter>>>,
        hub: Rc<Hub>,
        stream: Stream,
    },
}

impl Sink {
    pub(super) fn fd(fd: OwnedFd) -> io::Result<Self> {
        writable(fd).map(Self::Fd)
    }

    /// Opens a FIFO or another existing file.
    ///
    /// A FIFO is opened for reading too: so opening waits for no reader, and a reader may leave
    /// and another one come without the process noticing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if std::fs::metadata(path)?.file_type().is_fifo() {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
            return Self::fd(options.open(path)?.into());
        }
        OpenOptions::new().append(true).open(path).map(Self::File)
    }

    /// Opens a file for appending, and makes it and its directory if need be.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        OpenOptions::new().append(true).create(true).mode(0o644).open(path).map(Self::File)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Discard => Ok(()),
            Self::Fd(fd) => write_all(fd, bytes).await,
            Self::File(file) => file.write_all(bytes),
            Self::Keg { log, hub, stream } => {
                hub.send(*stream, bytes);
                if let Some(log) = log {
                    append(log, |log| log.append(*stream, bytes)).await;
                    compress_in_background(log);
                }
                Ok(())
            }
        }
    }

    /// Moves what a pipe holds to where it goes; `None` if it has to be read and written.
    fn move_from(&self, pipe: &OwnedFd) -> Option<io::Result<usize>> {
        let Self::Keg { log: Some(log), hub, stream } = self else { return None };
        if hub.is_wanted(*stream) {
            return None;
        }
        log.borrow_mut().move_from(pipe.as_fd(), LARGE_BLOCK_BYTES)
    }

    /// Waits until a reader has taken all that lies in a FIFO. The kernel does not tell of that, so it
    /// is asked, less and less often.
    async fn taken(&self) {
        let Self::Fd(fd) = self else { return };
        let (mut pause, longest) = LOOKS;
        while ioctl_fionread(fd.get_ref()).is_ok_and(|bytes| bytes > 0) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Waits until clients that must lose nothing can take more.
    async fn room(&self) {
        if let Self::Keg { hub, .. } = self {
            hub.room().await;
        }
    }

    /// The stream has ended.
    async fn finish(&mut self) {
        if let Self::Keg { log: Some(log), stream, .. } = self {
            append(log, |log| log.finish(*stream)).await;
        }
    }

    fn relax(&mut self) {
        if let Self::Keg { log: Some(log), .. } = self {
            log.borrow_mut().relax();
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count =
            fd.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?)).await?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Appends once earlier output, also the other stream's, is on the disk, and waits until this is.
async fn append(log: &RefCell<LogWriter>, add: impl FnOnce(&mut LogWriter) -> Outcome) {
    while log.borrow_mut().retry() == Outcome::Blocked {
        tokio::time::sleep(FULL_DISK_PAUSE).await;
    }
    let mut outcome = add(&mut log.borrow_mut());
    while outcome == Outcome::Blocked {
        tokio::time::sleep(FULL_DISK_PAUSE).await;
        outcome = log.borrow_mut().retry();
    }
}

/// A running copy. Dropping it stops the copy.
#[derive(Debug)]
pub(super) struct Pump {
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
}

/// What is to be told to whom.
#[derive(Debug)]
struct Request {
    when: When,
    reply: oneshot::Sender<()>,
}

/// When a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// All that was written until now was passed on.
    PassedOn,
    /// And readers of a FIFO have taken it.
    Taken,
}

impl Pump {
    pub(super) fn start(source: Source, sink: Sink) -> Self {
        let (sender, requests) = mpsc::channel(1);
        let copy = Copy { source, sink, block: Vec::new(), block_bytes: SMALL_BLOCK_BYTES };
        Self { requests: sender, task: tokio::task::spawn_local(copy.run(requests)) }
    }

    /// Whether the source has come to its end, and all of it was passed on.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for that.
    pub(super) async fn ended(&self) {
        self.requests.closed().await;
    }

    /// Asks to be told; the answer may also be that the channel closes.
    pub(super) fn ask(&self, when: When) -> oneshot::Receiver<()> {
        let (reply, receiver) = oneshot::channel();
        // A full queue means that the same was asked a moment ago, a closed one that it has ended.
        let _ = self.requests.try_send(Request { when, reply });
        receiver
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Copy {
    source: Source,
    sink: Sink,
    block: Vec<u8>,
    block_bytes: usize,
}

/// What one read brought.
enum Read {
    Some(usize),
    Nothing,
    End,
}

impl Copy {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            tokio::select! {
                open = self.ready() => {
                    if !open || !self.copy_block().await {
                        break;
                    }
                }
                request = requests.recv() => {
                    let Some(request) = request else { break };
                    if !self.answer(request).await {
                        break;
                    }
                }
            }
        }
        self.sink.finish().await;
        self.block = Vec::new();
        let mut waiting = Vec::new();
        tokio::select! {
            () = self.sink.taken() => {}
            () = answer_after_the_end(&mut requests, &mut waiting) => {}
        }
    }

    /// Does what is asked for, and tells; `false` at the end of the source.
    async fn answer(&mut self, mut request: Request) -> bool {
        let open = self.drain().await;
        if request.when == When::Taken {
            tokio::select! {
                () = self.sink.taken() => {}
                () = request.reply.closed() => {}
            }
        }
        // Whoever asked may have lost patience.
        let _ = request.reply.send(());
        open
    }

    /// Waits until there may be something to copy, and room for it; `false` if there never will.
    async fn ready(&mut self) -> bool {
        self.sink.room().await;
        if !self.block.is_empty() || self.block_bytes > SMALL_BLOCK_BYTES {
            let soon = tokio::time::timeout(SILENCE, self.source.readable()).await;
            match soon {
                Ok(open) => return open,
                Err(_) => self.rest(),
            }
        }
        self.source.readable().await
    }

    /// Copies one block of a source that is ready; `false` at its end.
    async fn copy_block(&mut self) -> bool {
        if self.block_bytes > SMALL_BLOCK_BYTES
            && let Some(moved) = self.move_block()
        {
            self.block = Vec::new();
            return !matches!(self.judge(moved), Read::End);
        }
        match self.read() {
            Read::Some(count) => self.pass_on(count).await,
            Read::Nothing => true,
            Read::End => false,
        }
    }

    /// Passes on what is there; `false` at the end of the source.
    ///
    /// Asks the kernel itself and not the reactor: of a source that was registered a moment ago, as
    /// that of a process that ended at once, the reactor knows nothing yet.
    async fn drain(&mut self) -> bool {
        let mut left = MAX_DRAIN_BYTES;
        while left > 0 {
            match self.read_now() {
                Read::Some(count) => {
                    left = left.saturating_sub(count);
                    if !self.pass_on(count).await {
                        return false;
                    }
                }
                Read::Nothing => match &self.source {
                    Source::Pipe(_) => break,
                    Source::Console(console) => {
                        let more = console.fd().readable();
                        match tokio::time::timeout(TERMINAL_SILENCE, more).await {
                            Ok(Ok(mut ready)) => ready.retain_ready(),
                            _ => break,
                        }
                    }
                },
                Read::End => return false,
            }
        }
        self.rest();
        true
    }

    /// Moves a block past this process, and notes an empty source; `None` if it has to be read.
    fn move_block(&mut self) -> Option<io::Result<usize>> {
        let Source::Pipe(pipe) = &self.source else { return None };
        let sink = &self.sink;
        pipe.try_io(Interest::READABLE, |fd| sink.move_from(fd).transpose()).transpose()
    }

    /// Reads a block, and notes an empty source, so that waiting for it makes sense.
    fn read(&mut self) -> Read {
        self.block.resize(self.block_bytes, 0);
        let block = &mut self.block;
        let fills_blocks = matches!(self.source, Source::Pipe(_));
        let mut last = None;
        let read = self.source.fd().try_io(Interest::READABLE, |fd| {
            let count = nix::unistd::read(fd, &mut *block)?;
            if fills_blocks && count > 0 && count < block.len() {
                // A pipe gives less only when it has no more: the reactor learns it from this
                // answer, and no second read is needed to find out.
                last = Some(count);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        self.judge(last.map_or(read, Ok))
    }

    /// Reads a block, whether or not the source is known to be ready.
    fn read_now(&mut self) -> Read {
        self.block.resize(self.block_bytes, 0);
        match nix::unistd::read(self.source.fd().get_ref(), &mut self.block) {
            // Again by way of the reactor, which notes that the source is empty.
            Err(nix::errno::Errno::EAGAIN) => self.read(),
            read => self.judge(read.map_err(io::Error::from)),
        }
    }

    fn judge(&mut self, read: io::Result<usize>) -> Read {
        match read {
            Ok(0) => Read::End,
            Ok(count) => {
                if count == self.block_bytes && count < LARGE_BLOCK_BYTES {
                    self.block_bytes = LARGE_BLOCK_BYTES;
                    self.source.widen();
                }
                Read::Some(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Read::Some(0),
            // A terminal whose last user closed it answers EIO.
            Err(_) => Read::End,
        }
    }

    /// Passes a block on; `false` if nobody will ever take it.
    async fn pass_on(&mut self, count: usize) -> bool {
        let passed = self.sink.write(&self.block[..count]).await;
        if passed.is_err() {
            // The process must not die of it: its output goes nowhere from now on.
            self.sink = Sink::Discard;
        }
        true
    }

    /// Gives memory back while there is nothing to copy.
    fn rest(&mut self) {
        if self.block_bytes > SMALL_BLOCK_BYTES {
            self.block_bytes = SMALL_BLOCK_BYTES;
            self.sink.relax();
        }
        self.block = Vec::new();
    }
}

/// What is asked after the end of the source: everything was passed on, and `waiting` is told with
/// its drop that readers have taken it.
async fn answer_after_the_end(
    requests: &mut mpsc::Receiver<Request>,
    waiting: &mut Vec<oneshot::Sender<()>>,
) {
    while let Some(Request { when, reply }) = requests.recv().await {
        match when {
            // Whoever asked may have lost patience.
            When::PassedOn => drop(reply.send(())),
            When::Taken => waiting.push(reply),
        }
    }
}
