//! The long-lived process: sockets, signals, and its end.
//!
//! ```text
//! start   bind both sockets ─▶ fork ─▶ print the address ─▶ end
//! server                        └─▶ detach ─▶ serve … ─▶ Shutdown, or nobody needs it ─▶ flush events, remove
//! ```
//!
//! A socket that is bound takes connections, so `start` need not wait for the server: a daemon that is
//! quick waits in the socket's queue. The server is a copy of `start`, which has done nothing yet, and
//! not a program anew: that would be read, linked and set up a second time.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net as std_net;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use keg_ttrpc::serve;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::bootstrap::{Flags, attach_socket_path, remove_sockets};
use crate::bundle::{self, Bundle};
use crate::events::Publisher;
use crate::later::later;
use crate::reaper::Reaper;
use crate::self_log;
use crate::stdio::{Hub, serve_attach};
use crate::supervisor::Supervisor;
use crate::sys;
use crate::task_service::TaskService;

/// Most connections to the Task socket, and to the attach socket.
const MAX_CONNECTIONS: usize = 256;

/// How long a shim without container stays when nobody is connected: a daemon that died between
/// `start` and `Create`, or between `Delete` and `Shutdown`, must not leave it behind for ever.
const LONELY_LIMIT: Duration = Duration::from_secs(60);

/// The same after somebody was: a daemon that has gone, or has closed the connection over which it
/// would have asked for a container, comes back to clean up and not to go on.
const ABANDONED_LIMIT: Duration = Duration::from_secs(1);

/// How long the last events may take to be delivered.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// How long clients may take to read their last answers.
const FAREWELL_LIMIT: Duration = Duration::from_millis(300);

/// Epoll events that are taken at once; few happen.
const EVENTS_PER_TURN: usize = 16;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no process that could serve.
    #[error("make the process that serves")]
    Fork(#[source] io::Error),
    /// It would not leave its caller.
    #[error("detach the process that serves from its caller")]
    Detach(#[source] io::Error),
    /// The runtime could not be made.
    #[error("start the event loop")]
    Loop(#[source] io::Error),
    /// Orphans would not become ours.
    #[error("become the reaper of orphans")]
    Subreaper(#[source] io::Error),
    /// A socket's directory could not be made.
    #[error("make directory {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another shim serves the container.
    #[error("a shim already serves this container at {path:?}: delete that container first")]
    InUse {
        /// Its socket.
        path: PathBuf,
    },
    /// A socket could not be bound.
    #[error("listen on {path:?}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The sockets of a shim; they take connections.
#[derive(Debug)]
pub struct Sockets {
    path: PathBuf,
    task: std_net::UnixListener,
    attach: std_net::UnixListener,
}

impl Sockets {
    /// Binds the Task socket at `path`, and the one for clients that attach beside it.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let task = bind(path)?;
        let attach = bind(&attach_socket_path(path))?;
        Ok(Self { path: path.to_owned(), task, attach })
    }
}

/// Which of two processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that was called.
    Starter {
        /// The other one.
        server: u32,
    },
    /// The new one.
    Server,
}

/// Makes the process that is to serve.
///
/// # Errors
/// [`ServerError::Fork`].
pub fn fork() -> Result<Side, ServerError> {
    let server = sys::fork().map_err(ServerError::Fork)?;
    Ok(server.map_or(Side::Server, |server| Side::Starter { server }))
}

/// Lets go of what belongs to whoever called `start`: its streams first, whose end it waits for.
///
/// # Errors
/// [`ServerError::Detach`].
pub fn detach() -> Result<(), ServerError> {
    let failed = |source: io::Error| ServerError::Detach(source);
    let null = fs::File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let null = OwnedFd::from(null);
    for redirect in
        [rustix::stdio::dup2_stdout, rustix::stdio::dup2_stderr, rustix::stdio::dup2_stdin]
    {
        redirect(&null).map_err(|errno| failed(errno.into()))?;
    }
    rustix::process::setsid().map_err(|errno| failed(errno.into()))?;
    Ok(())
}

/// Serves until the container is gone and nobody needs the shim.
///
/// # Errors
/// [`ServerError`], always before the first connection is served.
pub fn run(
    flags: Flags,
    sockets: Sockets,
    events_socket: Option<PathBuf>,
) -> Result<(), ServerError> {
    let path = sockets.path.clone();
    let served = run_loop(flags, sockets, events_socket);
    if let Err(error) = &served {
        self_log::warn("the shim ends before it has served", error);
        remove_sockets(&path);
    }
    served
}

fn run_loop(
    flags: Flags,
    sockets: Sockets,
    events_socket: Option<PathBuf>,
) -> Result<(), ServerError> {
    sys::release_memory_eagerly();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| ServerError::Subreaper(errno.into()))?;
    let runtime = event_loop().map_err(ServerError::Loop)?;
    LocalSet::new().block_on(&runtime, serve_all(flags, sockets, events_socket))
}

/// Makes an event loop for one thread.
pub(crate) fn event_loop() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_io_events_per_tick(EVENTS_PER_TURN)
        .build()
}

async fn serve_all(
    flags: Flags,
    sockets: Sockets,
    events_socket: Option<PathBuf>,
) -> Result<(), ServerError> {
    let socket = sockets.path.as_path();
    let listener = UnixListener::from_std(sockets.task).map_err(ServerError::Loop)?;
    let attach_listener = UnixListener::from_std(sockets.attach).map_err(ServerError::Loop)?;

    let reaper = Rc::new(Reaper::default());
    let events = Rc::new(Publisher::new(&flags.namespace, events_socket));
    let supervisor =
        Rc::new(Supervisor::new(flags, socket.to_owned(), Rc::clone(&reaper), Rc::clone(&events)));
    let reaping = tokio::task::spawn_local(reaper.run());
    let publishing = Rc::clone(&events);
    tokio::task::spawn_local(async move { publishing.run().await });
    let connections = Rc::new(Connections::default());
    tokio::task::spawn_local(accept_tasks(
        listener,
        TaskService::new(Rc::clone(&supervisor)),
        Rc::clone(&events),
        Rc::clone(&connections),
    ));
    let processes = Rc::clone(&supervisor);
    tokio::task::spawn_local(accept_clients(
        attach_listener,
        move |exec_id: &str| processes.hub(exec_id),
        Rc::default(),
    ));
    later(sys::trim_memory);

    tokio::select! {
        // The sockets are gone by now, and another shim's may be in their place.
        () = supervisor.shutdown_wanted() => {}
        () = lonely(&supervisor, &connections, socket) => {
            self_log::info("nobody needs this shim: it ends");
            remove_sockets(socket);
        }
        stopped = reaping => {
            if let Ok(Err(error)) = stopped {
                self_log::warn("exits cannot be noticed: the shim ends", &error);
            }
            remove_sockets(socket);
        }
    }
    // A daemon that does not listen must not keep the shim.
    let _ = tokio::time::timeout(FLUSH_LIMIT, events.flushed()).await;
    let _ = tokio::time::timeout(FAREWELL_LIMIT, connections.none()).await;
    Ok(())
}

/// Binds a socket, in the place of one that nobody serves any more.
pub(crate) fn bind(path: &Path) -> Result<std_net::UnixListener, ServerError> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)
            .map_err(|source| ServerError::Directory { path: dir.to_owned(), source })?;
    }
    let failed = |source| ServerError::Bind { path: path.to_owned(), source };
    let listener = match std_net::UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if std_net::UnixStream::connect(path).is_ok() {
                return Err(ServerError::InUse { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(failed)?;
            std_net::UnixListener::bind(path)
        }
        other => other,
    };
    let listener = listener.map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Counts connections to a socket.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    count: Cell<usize>,
    /// Whether there ever was one.
    any: Cell<bool>,
    changed: Notify,
}

/// One connection, while it lives.
struct Connected(Rc<Connections>);

impl Connections {
    fn add(self: &Rc<Self>) -> Connected {
        self.count.set(self.count.get() + 1);
        self.any.set(true);
        self.changed.notify_waiters();
        Connected(Rc::clone(self))
    }

    /// Waits until there is none.
    pub(crate) async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count.get() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.changed.notify_waiters();
    }
}

/// Waits until nobody will ever need this shim: for [`LONELY_LIMIT`] there was no connection, and
/// either no container ([`ABANDONED_LIMIT`] if there was a connection before), or one that has ended
/// and whose socket `delete` took away.
async fn lonely(supervisor: &Supervisor, connections: &Connections, socket: &Path) {
    let needless = || supervisor.is_idle() || (supervisor.has_ended() && !socket.exists());
    loop {
        connections.none().await;
        let changed = connections.changed.notified();
        let ended = supervisor.ended();
        if supervisor.is_idle() || supervisor.has_ended() {
            let abandoned = supervisor.is_idle() && connections.any.get();
            let limit = if abandoned { ABANDONED_LIMIT } else { LONELY_LIMIT };
            if tokio::time::timeout(limit, changed).await.is_ok() {
                continue;
            }
            if needless() {
                return;
            }
            // The daemon is away, and will want to know how the container ended.
            connections.changed.notified().await;
        } else {
            tokio::select! {
                () = changed => {}
                () = ended => {}
            }
        }
    }
}

async fn accept_tasks(
    listener: UnixListener,
    service: TaskService,
    events: Rc<Publisher>,
    connections: Rc<Connections>,
) {
    loop {
        let connection = accept(&listener).await;
        if connections.count.get() >= MAX_CONNECTIONS {
            continue;
        }
        events.hurry();
        let connected = connections.add();
        let service = service.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = serve(connection, &service).await {
                self_log::warn("a connection failed", &error);
            }
            drop(connected);
            sys::trim_memory();
        });
    }
}

/// Serves clients that attach; `find` knows the hub of a process.
pub(crate) async fn accept_clients(
    listener: UnixListener,
    find: impl Fn(&str) -> Option<Rc<Hub>> + 'static,
    connections: Rc<Connections>,
) {
    let find = Rc::new(find);
    loop {
        let connection = accept(&listener).await;
        if connections.count.get() >= MAX_CONNECTIONS {
            continue;
        }
        let connected = connections.add();
        let find = Rc::clone(&find);
        tokio::task::spawn_local(async move {
            serve_attach(connection, |exec_id| find(exec_id)).await;
            drop(connected);
        });
    }
}

/// Accepts the next connection, however often the kernel has no descriptor left.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => return connection,
            Err(error) => {
                self_log::warn("accept a connection", &error);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Writes what the daemon reads in the bundle: where the shim serves, and its process.
///
/// # Errors
/// When the bundle cannot be written.
pub fn write_address(bundle: &Path, address: &str, pid: u32) -> io::Result<()> {
    let bundle = Bundle::new(bundle);
    for (path, text) in
        [(bundle.address_file(), address.to_owned()), (bundle.shim_pid_file(), pid.to_string())]
    {
        bundle::write(path, text.as_bytes()).map_err(io::Error::other)?;
    }
    Ok(())
}
