//! The client's side of a build, as the builder sees it: whoever holds the files answers questions.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use keg_engine::model::TerminalSize;
use keg_engine::{StepInput, StepOutput};
use keg_image::Credentials;
use tokio::sync::{mpsc, oneshot};

/// Why the client could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It went away.
    #[error("the client that has the files went away")]
    Gone,
    /// It could not do what was asked.
    #[error("the client cannot {what}: {why}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What it says.
        why: String,
    },
    /// What it sends cannot be stored.
    #[error("{why}")]
    Unstored {
        /// What the kernel says.
        why: String,
        /// Whether there is no room for it.
        is_full: bool,
    },
}

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a FIFO: not sent.
    Other,
}

/// A name in a directory of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size_bytes: u64,
    /// When it was modified, nanoseconds since 1970.
    pub mtime_nsec: i64,
    /// When its inode changed, nanoseconds since 1970.
    pub ctime_nsec: i64,
    /// Inode.
    pub inode: u64,
    /// Where a link leads.
    pub link: String,
}

/// Takes pieces of files: the index of the path in the request, bytes, and whether it is the end.
pub type FileSink = Box<dyn FnMut(usize, Bytes, bool) -> std::io::Result<()> + Send>;

/// A connection to an SSH agent.
pub type Agent = Box<dyn AgentStream>;

/// Both directions of a stream.
pub trait AgentStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> AgentStream for T {}

/// What a client can be asked for. Every answer may be that it went away.
pub trait Session: Send + Sync + std::fmt::Debug {
    /// Lists directories of a context, each by its path from the context's root; no link is followed.
    /// A path that is no directory gets `None`.
    fn list(
        &self,
        context: &str,
        directories: Vec<String>,
    ) -> BoxFuture<'_, Result<Listing, SessionError>>;

    /// Sends regular files of a context.
    fn fetch(
        &self,
        context: &str,
        paths: Vec<String>,
        sink: FileSink,
    ) -> BoxFuture<'_, Result<(), SessionError>>;

    /// Returns a secret, if the client has one of that id.
    fn secret(&self, id: &str) -> BoxFuture<'_, Result<Option<Vec<u8>>, SessionError>>;

    /// Connects to an SSH agent, if the client offers one of that id.
    fn agent(&self, id: &str) -> BoxFuture<'_, Result<Option<Agent>, SessionError>>;

    /// Returns the credentials for a registry, if the client has any.
    fn credentials(
        &self,
        registry: &str,
    ) -> BoxFuture<'_, Result<Option<Credentials>, SessionError>>;

    /// Offers a shell at a place that is described for people; `None`: nobody wants it.
    fn shell(&self, place: &str) -> BoxFuture<'_, Result<Option<Shell>, SessionError>>;
}

/// The client's side of a shell.
#[derive(Debug)]
pub struct Shell {
    /// Size of the client's terminal.
    pub size: TerminalSize,
    /// What is typed.
    pub input: mpsc::Receiver<StepInput>,
    /// Takes what the shell writes.
    pub output: mpsc::Sender<StepOutput>,
    /// Takes how it ended: its exit code, or why it did not start.
    pub ended: oneshot::Sender<Result<u32, String>>,
}

/// Directories as they are.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// One for each that was asked for, in that order.
    pub directories: Vec<Option<Vec<Entry>>>,
    /// The client's clock when it began to look, nanoseconds since 1970.
    pub now_nsec: i64,
}
