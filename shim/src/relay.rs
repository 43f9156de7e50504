//! Holds the streams of a container whose shim is another's, so that clients, the log and the daemon's
//! restarts are served as by our own.
//!
//! ```text
//! kegd ── exec "containerd-shim-keg-v2 … relay" ──▶ mounts, FIFOs, socket ─ fork ─▶ relay
//!      ── exec ANOTHER'S start ─▶ another's shim ◀── Wait, CloseIO ──────────────────┘ ▲
//!      ── Task.Create (FIFOs) ──▶      │◀──────────── FIFOs ──────────────────────────┘
//! ```
//!
//! One relay per process, the container's first and each exec. It lives as long as that process, of
//! which it asks the other shim itself, so that it needs no daemon. What the other shim is asked,
//! where it serves and by which version of the Task API stands in the bundle's `bootstrap.json`, which
//! the daemon writes when that shim has started.

use std::fs;
use std::io;
use std::os::unix::net as std_net;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use keg_proto::containerd::task::v2 as api;
use keg_proto::keg::shim::v1::RelayRequest;
use keg_ttrpc::{CallError, Client};
use prost::Message;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::bootstrap::Flags;
use crate::rootfs::{RootfsError, mount_all};
use crate::self_log;
use crate::server::{self, ServerError};
use crate::stdio::{RelayEnds, RelayedStreams, StdioError};
use crate::sys;

/// The file in the bundle that says where the other shim is.
const BOOTSTRAP: &str = "bootstrap.json";

/// The header of ttrpc that names containerd's namespace.
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

/// How long the process may take to exist: longer than a daemon waits for `Create`.
const PROCESS_LIMIT: Duration = Duration::from_secs(180);

/// The first and the longest pause until the process is asked for again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How long the other shim may go on copying after the process has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How long clients may take to read the end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(10);

/// How often the other shim is told that the input has ended, if it does not know the process yet.
const CLOSE_ATTEMPTS: usize = 20;

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The request is none.
    #[error("read the relay's request")]
    Request(#[source] prost::DecodeError),
    /// No socket was named.
    #[error("relay wants -socket: where clients attach")]
    NoSocket,
    /// A stream could not be made.
    #[error("make the streams")]
    Stdio(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The root filesystem could not be mounted.
    #[error("mount the root filesystem")]
    Rootfs(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody could attach.
    #[error("serve clients")]
    Server(#[source] ServerError),
    /// The event loop could not be made, or a stream not be joined to it.
    #[error("start the event loop")]
    Loop(#[source] io::Error),
}

impl From<StdioError> for RelayError {
    fn from(error: StdioError) -> Self {
        Self::Stdio(Box::new(error))
    }
}

impl From<RootfsError> for RelayError {
    fn from(error: RootfsError) -> Self {
        Self::Rootfs(Box::new(error))
    }
}

/// A relay that can take connections, and whose FIFOs can be opened.
#[derive(Debug)]
pub struct Relay {
    namespace: String,
    id: String,
    bundle: PathBuf,
    socket: PathBuf,
    request: RelayRequest,
    ends: RelayEnds,
    listener: std_net::UnixListener,
}

/// Where a shim serves, as containerd writes it into the bundle.
#[derive(Debug, Deserialize)]
struct Bootstrap {
    version: u32,
    address: String,
}

/// What the other shim says of the process.
enum Answer {
    /// It has ended, or its shim has.
    Ended,
    /// There is no such process (yet).
    Unknown,
}

impl Relay {
    /// Makes all that the other shim wants to find, and mounts the root filesystem. When it fails,
    /// nothing is mounted.
    ///
    /// # Errors
    /// [`RelayError`].
    pub fn prepare(flags: &Flags, bundle: &Path, input: &[u8]) -> Result<Self, RelayError> {
        let request = RelayRequest::decode(input).map_err(RelayError::Request)?;
        let socket = flags.socket.clone().ok_or(RelayError::NoSocket)?;
        let ends = RelayEnds::open(&request)?;
        let listener = server::bind(&socket).map_err(RelayError::Server)?;
        if let Err(error) = mount_all(&request.rootfs, &bundle.join("rootfs")) {
            remove_socket(&socket);
            return Err(error.into());
        }
        Ok(Self {
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
            bundle: bundle.to_owned(),
            socket,
            request,
            ends,
            listener,
        })
    }

    /// Carries the streams until the process has ended and its clients have been told.
    ///
    /// # Errors
    /// [`RelayError`], always before anything was carried.
    pub fn run(self) -> Result<(), RelayError> {
        let socket = self.socket.clone();
        let carried = self.run_loop();
        if let Err(error) = &carried {
            self_log::warn("a relay ends before it has carried anything", error);
        }
        remove_socket(&socket);
        carried
    }

    fn run_loop(self) -> Result<(), RelayError> {
        sys::release_memory_eagerly();
        let runtime = server::event_loop().map_err(RelayError::Loop)?;
        LocalSet::new().block_on(&runtime, self.carry())
    }

    async fn carry(self) -> Result<(), RelayError> {
        let listener = UnixListener::from_std(self.listener).map_err(RelayError::Loop)?;
        let streams = Rc::new(self.ends.start().map_err(RelayError::Loop)?);
        let connections = Rc::new(server::Connections::default());
        let (exec_id, hub) = (self.request.exec_id.clone(), Rc::clone(streams.hub()));
        let find = move |wanted: &str| (wanted == exec_id).then(|| Rc::clone(&hub));
        tokio::task::spawn_local(server::accept_clients(listener, find, Rc::clone(&connections)));
        sys::trim_memory();

        let process = Process {
            bundle: self.bundle,
            namespace: self.namespace,
            id: self.id,
            exec_id: self.request.exec_id,
            fifo: self.request.stdout.into(),
        };
        if !self.request.stdin.is_empty() && !self.request.terminal {
            let (streams, process) = (Rc::clone(&streams), process.clone());
            tokio::task::spawn_local(async move {
                streams.input_ended().await;
                process.close_input().await;
            });
        }
        process.ended(&streams).await;
        streams.drain(DRAIN_LIMIT).await;
        // Whoever comes now finds nobody; whoever is here is told.
        remove_socket(&self.socket);
        let _ = tokio::time::timeout(FAREWELL_LIMIT, connections.none()).await;
        Ok(())
    }
}

fn remove_socket(socket: &Path) {
    // Whoever removed it before did what is wanted.
    let _ = fs::remove_file(socket);
}

/// A process of the other shim.
#[derive(Debug, Clone)]
struct Process {
    bundle: PathBuf,
    namespace: String,
    id: String,
    exec_id: String,
    /// What goes with the bundle, and so when nobody wants the process any more.
    fifo: PathBuf,
}

/// A connection to the other shim.
#[derive(Debug, Clone)]
struct Shim {
    client: Client,
    service: &'static str,
}

impl Process {
    /// Waits until the process has ended, or can never be.
    async fn ended(&self, streams: &RelayedStreams) {
        let begun = Instant::now();
        let (mut pause, longest) = PAUSES;
        let mut shim = None;
        loop {
            if matches!(self.ask(&mut shim).await, Answer::Ended) {
                return;
            }
            // Unknown: not yet, or no more.
            let over = streams.has_ended() || !self.fifo.exists();
            if over || begun.elapsed() > PROCESS_LIMIT {
                return;
            }
            // That its streams end is a reason to look again at once.
            let _ = tokio::time::timeout(pause, streams.ended()).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Asks the other shim for the end of the process; it answers when that has come.
    async fn ask(&self, shim: &mut Option<Shim>) -> Answer {
        if shim.is_none() {
            match self.connect().await {
                Ok(connected) => *shim = connected,
                // It has been there.
                Err(_) => return Answer::Ended,
            }
        }
        let Some(shim) = shim else { return Answer::Unknown };
        let request = api::WaitRequest { id: self.id.clone(), exec_id: self.exec_id.clone() };
        match shim.client.call::<_, api::WaitResponse>(shim.service, "Wait", &request, None).await {
            Err(CallError::Status { .. }) => Answer::Unknown,
            Ok(_) | Err(_) => Answer::Ended,
        }
    }

    /// Connects to the other shim; `None` while it has not started.
    async fn connect(&self) -> Result<Option<Shim>, keg_ttrpc::ConnectError> {
        let written = fs::read(self.bundle.join(BOOTSTRAP)).ok();
        let bootstrap = written.and_then(|json| serde_json::from_slice::<Bootstrap>(&json).ok());
        let Some(bootstrap) = bootstrap else { return Ok(None) };
        let address = bootstrap.address.strip_prefix("unix://").unwrap_or(&bootstrap.address);
        let client = Client::connect(address).await?;
        let client = client.with_header(NAMESPACE_HEADER, &self.namespace);
        let service = match bootstrap.version {
            3.. => "containerd.task.v3.Task",
            _ => "containerd.task.v2.Task",
        };
        Ok(Some(Shim { client, service }))
    }

    /// Lets the other shim close its own end of the input. It holds one so that a client may come
    /// and go.
    async fn close_input(&self) {
        let request =
            api::CloseIoRequest { id: self.id.clone(), exec_id: self.exec_id.clone(), stdin: true };
        let (mut pause, longest) = PAUSES;
        for _ in 0..CLOSE_ATTEMPTS {
            if let Ok(Some(shim)) = self.connect().await {
                match shim.client.call::<_, ()>(shim.service, "CloseIO", &request, None).await {
                    Ok(()) => return,
                    Err(CallError::Status { .. }) => {}
                    Err(_) => return,
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}
