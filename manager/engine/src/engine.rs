//! The engine: every container, and the way to each of them.
//!
//! ```text
//!            find ──▶ Container ── turn ──▶ create, start, exit, remove      (one at a time)
//!  Engine ──┤                  └─────────▶ stop, kill, attach, logs, wait    (any time)
//!            store: the record of each, written before anybody is told
//! ```
//!
//! Invariants:
//! - What changes a container runs in a task of its own ([`Engine::detached`]): a client that goes
//!   away in the middle of a call stops waiting, and nothing else.
//! - Memory mirrors the database: a change is stored first, and seen second. Only this process
//!   writes the database, so nothing else needs to be watched.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use keg_image::Images;
use keg_network::{Cni, NetworkError, Networks};
use keg_store::{Snapshotter, Store};

use crate::container::{Container, Turn};
use crate::error::EngineError;
use crate::events::{EngineEvent, EventHub, ObjectType};
use crate::host::Host;
use crate::id::ContainerId;
use crate::labels::Modules;
use crate::lifecycle::Event;
use crate::model::{ContainerDir, Record};
use crate::networking::Networking;
use crate::selinux::Selinux;
use crate::settings::Settings;
use crate::shim::events::{self as shim_events, ListenError, ShimEvent};
use crate::shim::{Bundle, ShimProgram};
use crate::volumes::Holds;

/// Name of the extension of the store's container under which the engine keeps its record.
pub(crate) const EXTENSION: &str = "keg.record";

/// Events of shims that may wait for the engine.
const SHIM_EVENTS: usize = 256;

/// The engine. Clones share it.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// What all clones share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) images: Images,
    pub(crate) events: Arc<EventHub>,
    pub(crate) host: Host,
    pub(crate) shim: ShimProgram,
    pub(crate) holds: Holds,
    pub(crate) networking: Networking,
    pub(crate) selinux: Selinux,
    /// Why containers have no label by default, where they should have one.
    label_warning: Option<String>,
    containers: RwLock<HashMap<ContainerId, Arc<Container>>>,
    /// Held for reading while what a container left is taken away.
    pub(crate) clearing: tokio::sync::RwLock<()>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Engine {
    /// Makes an engine over a store; [`Engine::recover`] brings it up to date.
    pub fn new(
        mut settings: Settings,
        store: Store,
        snapshotter: Arc<dyn Snapshotter>,
        images: Images,
        events: Arc<EventHub>,
        networks: Result<Networks, NetworkError>,
        cni: Cni,
    ) -> Self {
        let selinux = Selinux::ask(settings.selinux);
        settings.init = settings.init.map(|program| selinux.own_init(program, &settings.state));
        let shim = ShimProgram {
            program: settings.shim.clone(),
            namespace: settings.namespace.as_str().to_owned(),
            daemon_socket: settings.daemon_socket(),
            events_socket: settings.events_socket(),
            debug: settings.shim_debug,
        };
        let shared = Shared {
            settings,
            store,
            snapshotter,
            images,
            events,
            host: Host::ask(),
            shim,
            holds: Holds::default(),
            networking: Networking::new(networks, cni),
            selinux,
            label_warning: Modules::ask().load_default(),
            containers: RwLock::default(),
            clearing: tokio::sync::RwLock::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits until what ended containers left is taken away: who is told of an end, or that a container is
    /// gone, is told before that.
    pub async fn cleared(&self) {
        drop(self.shared.clearing.write().await);
    }

    /// Where events go.
    pub fn events(&self) -> &Arc<EventHub> {
        &self.shared.events
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// What the host offers.
    pub fn host(&self) -> &Host {
        &self.shared.host
    }

    /// What an operator should know of this host, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.shared.snapshotter.name() != "overlayfs" {
            warnings.push(
                "overlayfs cannot be used on the file system of --root; every container copies \
                 its image"
                    .to_owned(),
            );
        }
        if !self.shared.shim.program.is_absolute() {
            warnings.push("no shim was found; no container can start".to_owned());
        }
        warnings.extend(self.shared.networking.warning());
        warnings.extend(self.shared.label_warning.clone());
        warnings.extend(self.shared.selinux.warning());
        warnings
    }

    /// Listens for what shims tell, until the task is aborted.
    ///
    /// # Errors
    /// [`ListenError`] if the socket cannot be made.
    pub fn serve_shim_events(&self) -> Result<tokio::task::JoinHandle<()>, ListenError> {
        let listener = shim_events::listen(&self.shared.settings.events_socket())?;
        let (sink, mut events) = tokio::sync::mpsc::channel(SHIM_EVENTS);
        let engine = self.clone();
        Ok(tokio::spawn(async move {
            let heard = async {
                while let Some(ShimEvent::OutOfMemory { container }) = events.recv().await {
                    if let Ok(container) = engine.find(&container) {
                        container.note_oom();
                        engine.tell(&container.record(), "oom", &[]);
                    }
                }
            };
            tokio::join!(shim_events::serve(listener, sink), heard);
        }))
    }

    /// Finds a container by its id, its name, or an unambiguous beginning of its id.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::AmbiguousId`].
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        let containers = self.shared.containers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(container) =
            ContainerId::parse(name).ok().and_then(|id| containers.get(&id).cloned())
        {
            return Ok(container);
        }
        let wanted = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) =
            containers.values().find(|container| container.record().name.as_str() == wanted)
        {
            return Ok(Arc::clone(container));
        }
        let mut found = containers
            .values()
            .filter(|container| !name.is_empty() && container.id().as_str().starts_with(name));
        match (found.next(), found.next()) {
            (Some(container), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(EngineError::AmbiguousId { prefix: name.to_owned() }),
            (None, _) => Err(EngineError::NoSuchContainer { name: name.to_owned() }),
        }
    }

    /// Every container, newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        let containers = self.shared.containers.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = containers.values().cloned().collect();
        drop(containers);
        all.sort_by_cached_key(|container| {
            (std::cmp::Reverse(container.record().created_at), container.id().clone())
        });
        all
    }

    /// Makes a container known.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        self.shared.selinux.adopt(&container.record());
        let mut containers = self.shared.containers.write().unwrap_or_else(PoisonError::into_inner);
        containers.insert(container.id().clone(), container);
    }

    /// Forgets a container.
    pub(crate) fn forget(&self, id: &ContainerId) {
        let mut containers = self.shared.containers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(container) = containers.remove(id) {
            self.shared.selinux.release(&container.record());
        }
    }

    /// Runs `work` to its end, whatever becomes of the caller.
    ///
    /// # Errors
    /// What `work` returns, and [`EngineError::Panicked`] if it panicked.
    pub(crate) async fn detached<T: Send + 'static>(
        what: &'static str,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        tokio::spawn(work).await.map_err(|source| EngineError::Panicked { what, source })?
    }

    /// Runs `work`, which waits for the disk, on a thread made for waiting.
    ///
    /// # Errors
    /// What `work` returns, and [`EngineError::Panicked`] if it panicked.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Shared) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|source| EngineError::Panicked { what, source })?
    }

    /// Stores what `event` makes of a container, and then lets it be seen.
    ///
    /// # Errors
    /// [`EngineError::Metadata`] if it cannot be stored; it is then not seen either.
    pub(crate) async fn apply(&self, turn: &Turn<'_>, event: Event) -> Result<(), EngineError> {
        let record = match turn.after(event) {
            Ok(record) => record,
            Err(refused) => {
                // Callers look before they apply, while they hold the turn.
                tracing::error!(error = %refused, "a lifecycle event came at the wrong time");
                return Ok(());
            }
        };
        let stored = record.clone();
        self.blocking("a container's record", move |shared| shared.save(&stored)).await?;
        turn.commit(record);
        Ok(())
    }

    /// Tells what happened to a container, with what people filter by.
    pub(crate) fn tell(&self, record: &Record, action: &'static str, more: &[(&str, String)]) {
        let mut attributes: std::collections::BTreeMap<String, String> =
            record.config.labels.clone();
        attributes.insert("name".to_owned(), record.name.as_str().to_owned());
        attributes.insert("image".to_owned(), record.image.reference.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.shared.events.publish(EngineEvent {
            time: Timestamp::now(),
            object: ObjectType::Container,
            action,
            id: record.id.as_str().to_owned(),
            attributes,
        });
    }
}

impl Shared {
    /// The files of a container that live as long as it.
    pub(crate) fn dir(&self, id: &ContainerId) -> ContainerDir {
        ContainerDir::new(&self.settings.containers(), id)
    }

    /// The bundle of a container.
    pub(crate) fn bundle(&self, id: &ContainerId) -> Bundle {
        Bundle::new(&self.settings.tasks(), id.as_str())
    }

    /// Stores a record that exists.
    ///
    /// # Errors
    /// [`EngineError::Metadata`].
    pub(crate) fn save(&self, record: &Record) -> Result<(), EngineError> {
        let json = encode(record)?;
        let (ns, id) = (&self.settings.namespace, record.id.as_str());
        self.store.transaction_outliving(record.durability(), |tx| {
            tx.set_container_extension(ns, id, EXTENSION, &json)
        })?;
        Ok(())
    }
}

/// A record as it is stored.
///
/// # Errors
/// [`EngineError::DamagedRecord`] if it cannot be written as JSON.
pub(crate) fn encode(record: &Record) -> Result<Vec<u8>, EngineError> {
    serde_json::to_vec(record).map_err(|source| EngineError::DamagedRecord {
        container: record.id.as_str().to_owned(),
        source,
    })
}

/// Wraps an error of one of the daemon's own files.
pub(crate) fn file_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::File { action, path, source }
}
