//! What all operations of one [`Images`](crate::Images) share.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use keg_store::{Durability, Lease, MetadataError, Namespace, Snapshotter, Store, WriteTx};
use tokio::sync::Semaphore;

use crate::extract::{ExtractLimits, Whiteouts};
use crate::locks::NameLocks;
use crate::registry::{RegistryClient, RegistryOptions};
use crate::room::Room;
use crate::short_names::ShortNames;

/// How long a lease lives that its operation could not end: the daemon was killed.
const LEASE_SECS: i64 = 24 * 60 * 60;

/// How long the parts of a failed operation are kept for another attempt.
const FAILED_LEASE_SECS: i64 = 60 * 60;

/// Settings of everything that is done with images.
#[derive(Debug, Clone)]
pub struct ImagesOptions {
    /// How registries are talked to.
    pub registry: RegistryOptions,
    /// What names without a registry mean.
    pub short_names: ShortNames,
    /// How much an archive may hold.
    pub limits: ExtractLimits,
    /// Layers that are received or unpacked at the same time, over all pulls.
    pub parallel_layers: NonZeroUsize,
}

impl Default for ImagesOptions {
    fn default() -> Self {
        Self {
            registry: RegistryOptions::default(),
            short_names: ShortNames::default(),
            limits: ExtractLimits::default(),
            parallel_layers: NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// The parts behind the handle.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) ns: Namespace,
    pub(crate) registry: RegistryClient,
    /// Memory for what is on its way, the registry client's included.
    pub(crate) room: Room,
    pub(crate) short_names: ShortNames,
    pub(crate) limits: ExtractLimits,
    /// One permit for each layer that may be worked on.
    pub(crate) permits: Arc<Semaphore>,
    /// Held per blob while it is received, and per chain id while a snapshot is made.
    pub(crate) locks: NameLocks,
    counter: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        store: Store,
        snapshotter: Arc<dyn Snapshotter>,
        ns: Namespace,
        options: crate::ImagesOptions,
    ) -> Self {
        let registry = RegistryClient::new(options.registry);
        Self {
            store,
            snapshotter,
            ns,
            room: registry.room().clone(),
            registry,
            short_names: options.short_names,
            limits: options.limits,
            permits: Arc::new(Semaphore::new(options.parallel_layers.get())),
            locks: NameLocks::default(),
            counter: AtomicU64::new(0),
        }
    }

    /// Returns how deletions are carried out in directories of the snapshotter.
    pub(crate) fn whiteouts(&self) -> Whiteouts {
        if self.snapshotter.can_rebase() {
            Whiteouts::Overlay { user_xattrs: self.snapshotter.uses_user_xattrs() }
        } else {
            Whiteouts::Delete
        }
    }

    /// Returns a name that nothing else has, also after a restart.
    pub(crate) fn unique(&self, prefix: &str) -> String {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{}-{count}", Timestamp::now().as_nanosecond())
    }
}

/// A lease that lasts as long as an operation, or a while longer if that fails.
#[derive(Debug)]
pub(crate) struct OperationLease {
    shared: Arc<Shared>,
    id: String,
    is_done: bool,
}

impl OperationLease {
    pub(crate) fn new(shared: &Arc<Shared>, operation: &str) -> Result<Self, MetadataError> {
        let id = shared.unique(operation);
        let lease = Lease::new(id.as_str(), Some(after(LEASE_SECS)));
        let create = |tx: &WriteTx<'_>| tx.create_lease(&shared.ns, &lease);
        shared.store.transaction_outliving(Durability::Crash, create)?;
        Ok(Self { shared: Arc::clone(shared), id, is_done: false })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The operation has ended the lease itself, with its last transaction.
    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

/// Names of the operations that take leases.
const OPERATIONS: [&str; 4] = ["import", "load", "pull", "unpack"];

impl crate::Images {
    /// Ends the leases of operations that a killed daemon left behind. To be called once, before the
    /// first operation: what they had received stays until the next collection.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn forget_interrupted(&self) -> Result<(), MetadataError> {
        let shared = &self.shared;
        shared.store.transaction(|tx| {
            for lease in tx.leases(&shared.ns)? {
                let operation = lease.id.split('-').next().unwrap_or_default();
                if lease.expires_at.is_some() && OPERATIONS.contains(&operation) {
                    tx.delete_lease(&shared.ns, &lease.id)?;
                }
            }
            Ok(())
        })
    }
}

impl Drop for OperationLease {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let (shared, id) = (Arc::clone(&self.shared), std::mem::take(&mut self.id));
        in_background(move || {
            let end = Some(after(FAILED_LEASE_SECS));
            let outcome: Result<(), MetadataError> =
                shared.store.transaction(|tx| tx.set_lease_end(&shared.ns, &id, end));
            if let Err(error) = outcome {
                tracing::warn!(%error, lease = id, "a lease lives longer than it should");
            }
        });
    }
}

/// Runs what blocks and what nobody waits for: beside the runtime's tasks if there is one.
pub(crate) fn in_background(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

fn after(secs: i64) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(secs)).unwrap_or(Timestamp::MAX)
}
