//! Standard streams that make nobody wait: what cannot be read or written at once is waited for
//! aside, while the rest of the program goes on.
//!
//! The descriptors stay blocking, since they are shared with whoever started us: O_NONBLOCK would
//! change them there too. So a read or a write follows only a poll(2) that says it is ready, and a
//! write is at most PIPE_BUF bytes long, which a pipe that is ready takes whole. A poll that has to
//! wait does so on a thread of its own; where data flows, that thread is never needed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Bytes that a pipe takes whole once it is ready (pipe(7), "PIPE_BUF").
const PIPE_BUF_BYTES: usize = 4096;

/// A poll that does not wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A stream that may make others wait.
#[derive(Debug)]
pub(crate) struct Stdio<T> {
    stream: Arc<T>,
}

impl<T: AsFd + Send + Sync + 'static> Stdio<T> {
    /// Takes a stream.
    pub(crate) fn new(stream: T) -> Self {
        Self { stream: Arc::new(stream) }
    }

    /// Reads what is there, after waiting for it; 0 is the end. A terminal that was hung up is at
    /// its end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN).await?;
        match rustix::io::read(self.stream.as_fd(), buffer) {
            Err(rustix::io::Errno::IO) => Ok(0),
            other => Ok(other?),
        }
    }

    /// Writes everything.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.wait(PollFlags::OUT).await?;
            let piece = &bytes[..bytes.len().min(PIPE_BUF_BYTES)];
            let written = rustix::io::write(self.stream.as_fd(), piece)?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Waits until the stream is ready, or broken.
    async fn wait(&self, flags: PollFlags) -> io::Result<()> {
        if poll(self.stream.as_fd(), flags, Some(&AT_ONCE))? {
            return Ok(());
        }
        let stream = Arc::clone(&self.stream);
        let waited = tokio::task::spawn_blocking(move || poll(stream.as_fd(), flags, None)).await;
        waited.map_err(io::Error::other)?.map(drop)
    }
}

/// Asks whether a descriptor is ready; without a limit, waits until it is.
fn poll(fd: BorrowedFd<'_>, flags: PollFlags, limit: Option<&Timespec>) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(fd, flags)];
    loop {
        match rustix::event::poll(&mut polled, limit) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    #[tokio::test]
    async fn a_pipe_is_read_as_it_fills_and_ends() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let stdin = Stdio::new(reader);
        let mut buffer = [0; 16];

        writer.write_all(b"one").expect("write");
        assert_eq!(stdin.read(&mut buffer).await.expect("read"), 3);
        writer.write_all(b"three").expect("write");
        assert_eq!(stdin.read(&mut buffer).await.expect("read"), 5);
        drop(writer);
        assert_eq!(stdin.read(&mut buffer).await.expect("read"), 0);
    }

    #[tokio::test]
    async fn an_empty_pipe_makes_nobody_else_wait() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let stdin = Stdio::new(reader);
        let mut buffer = [0; 16];

        // The second future can only run if the first does not hold the only thread.
        let (length, ()) = tokio::join!(stdin.read(&mut buffer), async {
            writer.write_all(b"x").expect("write");
        });

        assert_eq!(length.expect("read"), 1);
    }

    #[tokio::test]
    async fn a_full_pipe_is_waited_for_and_loses_nothing() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let stdout = Stdio::new(writer);
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        let expected = sent.clone();

        let writes = async move {
            stdout.write_all(&sent).await.expect("write");
        };
        let reads = tokio::task::spawn_blocking(move || {
            let mut received = Vec::new();
            reader.read_to_end(&mut received).expect("read");
            received
        });
        let ((), received) = tokio::join!(writes, reads);

        assert_eq!(received.expect("a reader"), expected);
    }

    #[tokio::test]
    async fn a_regular_file_is_always_ready() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, b"content").expect("file");
        let file = Stdio::new(File::open(&path).expect("open"));
        let mut buffer = [0; 16];

        assert_eq!(file.read(&mut buffer).await.expect("read"), 7);
        assert_eq!(file.read(&mut buffer).await.expect("read"), 0);
    }

    #[tokio::test]
    async fn a_reader_that_left_is_a_broken_pipe() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let stdout = Stdio::new(writer);

        let error = stdout.write_all(b"x").await.expect_err("nobody reads");

        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
