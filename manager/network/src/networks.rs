//! What the engine calls: a handle to the one thread that owns all networks.
//!
//! ```text
//! engine's tasks ── Networks (clonable) ── commands ──▶ thread "keg-networks": Switchboard
//!                                                        │ sleeps on two descriptors:
//!                                                        ├─ a command has come
//!                                                        └─ somebody changed the firewall
//! ```
//!
//! A thread, and not a task, since it enters containers' network namespaces; and one, since the
//! kernel takes one lock for all of this anyway, and what one thread does in order needs no locks.
//! It works in the network namespace of the thread that called [`Networks::open`].

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::dns::NameService;
use crate::error::NetworkError;
use crate::model::{ConnectRequest, Endpoint, Network, NetworkRequest};
use crate::ports::PortRequest;
use crate::switchboard::{LiveContainer, Reconciled, Settings, Switchboard};

type Command = Box<dyn FnOnce(&mut Switchboard) + Send>;

/// All networks of an engine; a handle that can be cloned. The thread behind it ends with the last.
#[derive(Debug, Clone)]
pub struct Networks {
    link: Arc<Link>,
}

/// The way to the thread.
#[derive(Debug)]
struct Link {
    commands: Sender<Command>,
    bell: Arc<EventFd>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // A closed channel rings no bell; without this the thread would sleep on.
        let (nobody, _) = channel();
        self.commands = nobody;
        let _ = self.bell.write(1);
    }
}

impl Networks {
    /// Reads the records and starts the thread, in the calling thread's network namespace. Nothing
    /// changes in the kernel before [`Self::reconcile`], which has to be called next.
    ///
    /// # Errors
    /// As [`Switchboard::open`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, on which names are served.
    pub fn open(settings: Settings) -> Result<Self, NetworkError> {
        let names = NameService::new(Handle::current(), settings.resolv_conf.clone());
        let board = Switchboard::open(settings, names)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| NetworkError::System { operation: "make an event counter", errno })?;
        let bell = Arc::new(bell);
        let (commands, inbox) = channel();
        let thread_bell = Arc::clone(&bell);
        std::thread::Builder::new()
            .name("keg-networks".to_owned())
            .spawn(move || run(board, &inbox, &thread_bell))
            .map_err(|error| NetworkError::System {
                operation: "start the thread of the networks",
                errno: errno_of(&error),
            })?;
        Ok(Self { link: Arc::new(Link { commands, bell }) })
    }

    /// Brings kernel and records together after a start, given the containers that run; see
    /// [`Switchboard::reconcile`].
    ///
    /// # Errors
    /// As there.
    pub async fn reconcile(&self, live: Vec<LiveContainer>) -> Result<Reconciled, NetworkError> {
        self.call(move |board| board.reconcile(&live)).await?
    }

    /// Creates a network; see [`Switchboard::create`].
    ///
    /// # Errors
    /// As there.
    pub async fn create(&self, request: NetworkRequest) -> Result<Network, NetworkError> {
        self.call(move |board| board.create(request)).await?
    }

    /// Lists the networks, by name.
    ///
    /// # Errors
    /// [`NetworkError::ShutDown`].
    pub async fn list(&self) -> Result<Vec<Network>, NetworkError> {
        self.call(|board| board.list()).await
    }

    /// Finds a network; see [`Switchboard::inspect`].
    ///
    /// # Errors
    /// As there.
    pub async fn find(&self, name: &str) -> Result<Network, NetworkError> {
        let name = name.to_owned();
        self.call(move |board| board.find(&name).cloned()).await?
    }

    /// Finds a network and the endpoints on it; see [`Switchboard::inspect`].
    ///
    /// # Errors
    /// As there.
    pub async fn inspect(&self, name: &str) -> Result<(Network, Vec<Endpoint>), NetworkError> {
        let name = name.to_owned();
        self.call(move |board| board.inspect(&name)).await?
    }

    /// Removes a network that no container is on; see [`Switchboard::remove`].
    ///
    /// # Errors
    /// As there.
    pub async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let name = name.to_owned();
        self.call(move |board| board.remove(&name)).await?
    }

    /// Removes the networks that no container is on and that `keep` does not want; see
    /// [`Switchboard::prune`].
    ///
    /// # Errors
    /// As there.
    pub async fn prune(
        &self,
        keep: impl Fn(&Network) -> bool + Send + 'static,
    ) -> Result<Vec<String>, NetworkError> {
        self.call(move |board| board.prune(keep)).await?
    }

    /// Connects a container, whose network namespace is at `netns`, to a network; see
    /// [`Switchboard::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(
        &self,
        network: &str,
        request: ConnectRequest,
        netns: PathBuf,
    ) -> Result<Endpoint, NetworkError> {
        let network = network.to_owned();
        self.call(move |board| board.connect(&network, &request, &netns)).await?
    }

    /// Disconnects a container from a network; see [`Switchboard::disconnect`].
    ///
    /// # Errors
    /// As there.
    pub async fn disconnect(&self, network: &str, container: &str) -> Result<(), NetworkError> {
        let (network, container) = (network.to_owned(), container.to_owned());
        self.call(move |board| board.disconnect(&network, &container)).await?
    }

    /// Publishes ports of a container that is connected; see [`Switchboard::publish`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish(
        &self,
        network: &str,
        container: &str,
        ports: Vec<PortRequest>,
    ) -> Result<Endpoint, NetworkError> {
        let (network, container) = (network.to_owned(), container.to_owned());
        self.call(move |board| board.publish(&network, &container, &ports)).await?
    }

    /// Lets others find a container by another name from now on; see [`Switchboard::rename`].
    ///
    /// # Errors
    /// As there.
    pub async fn rename(&self, container: &str, name: &str) -> Result<(), NetworkError> {
        let (container, name) = (container.to_owned(), name.to_owned());
        self.call(move |board| board.rename(&container, &name)).await?
    }

    /// Disconnects a container from all of its networks, when it has ended; none is no error.
    ///
    /// # Errors
    /// As [`Switchboard::disconnect_all`].
    pub async fn disconnect_all(&self, container: &str) -> Result<(), NetworkError> {
        let container = container.to_owned();
        self.call(move |board| board.disconnect_all(&container)).await?
    }

    /// Lists a container's endpoints.
    ///
    /// # Errors
    /// [`NetworkError::ShutDown`].
    pub async fn endpoints(&self, container: &str) -> Result<Vec<Endpoint>, NetworkError> {
        let container = container.to_owned();
        self.call(move |board| board.endpoints(&container)).await
    }

    async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Switchboard) -> T + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (answer, answered) = oneshot::channel();
        let command: Command = Box::new(move |board| {
            // Whoever asked may be gone; the work is done all the same.
            let _ = answer.send(act(board));
        });
        self.link.commands.send(command).map_err(|_| NetworkError::ShutDown)?;
        self.link.bell.write(1).map_err(|errno| NetworkError::System {
            operation: "wake the thread of the networks",
            errno,
        })?;
        answered.await.map_err(|_| NetworkError::ShutDown)
    }
}

/// The thread: commands, and repairs of the firewall, until the last handle is gone.
fn run(mut board: Switchboard, inbox: &Receiver<Command>, bell: &EventFd) {
    use std::sync::mpsc::TryRecvError;
    loop {
        loop {
            match inbox.try_recv() {
                Ok(command) => command(&mut board),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        match board.heal() {
            Ok(false) => {}
            Ok(true) => tracing::info!("the firewall was changed under us; our tables are back"),
            Err(error) => tracing::error!(%error, "our tables of the firewall are not whole"),
        }
        let mut fds = [
            PollFd::new(bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(board.watched(), PollFlags::POLLIN),
        ];
        // Interrupted or not, what has come is looked at next.
        let _ = poll(&mut fds, PollTimeout::NONE);
        let _ = bell.read();
    }
}

fn errno_of(error: &io::Error) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
