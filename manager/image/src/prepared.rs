//! Snapshots that are being filled: kept by a lease, and removed unless they are committed.

use std::path::PathBuf;
use std::sync::Arc;

use keg_store::{Durability, PrepareOptions, Resource, SnapshotError, Usage};

use crate::extract::{Extracted, Whiteouts};
use crate::shared::{Shared, in_background};

/// A snapshot that is being filled. Removed when it is dropped before [`Prepared::committed`].
#[derive(Debug)]
pub(crate) struct Prepared {
    shared: Arc<Shared>,
    pub(crate) key: String,
    pub(crate) dir: PathBuf,
    pub(crate) usage: Usage,
    pub(crate) implicit_dirs: Vec<PathBuf>,
    is_committed: bool,
}

impl Prepared {
    /// Prepares a snapshot on top of `parent` that `lease` keeps.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        lease: &str,
        parent: Option<&str>,
    ) -> Result<Self, SnapshotError> {
        let key = shared.unique("extract");
        // Nothing stands for it yet that a power cut would leave.
        shared.store.transaction_outliving(Durability::Crash, |tx| {
            let options = PrepareOptions::default();
            shared.snapshotter.prepare_in(tx, &shared.ns, &key, parent, &options)?;
            let resource = Resource::Snapshot {
                snapshotter: shared.snapshotter.name().to_owned(),
                key: key.clone(),
            };
            Ok::<_, SnapshotError>(tx.add_to_lease(&shared.ns, lease, &resource)?)
        })?;
        let mut prepared = Self {
            shared: Arc::clone(shared),
            key,
            dir: PathBuf::new(),
            usage: Usage::default(),
            implicit_dirs: Vec::new(),
            is_committed: false,
        };
        prepared.dir = shared.snapshotter.directory(&shared.ns, &prepared.key)?;
        Ok(prepared)
    }

    /// Returns how deletions are carried out in it.
    pub(crate) fn whiteouts(&self) -> Whiteouts {
        self.shared.whiteouts()
    }

    /// Notes what was extracted into it.
    pub(crate) fn filled(&mut self, extracted: Extracted) {
        self.usage = extracted.usage;
        self.implicit_dirs = extracted.implicit_dirs;
    }

    /// It has another key now, and stays.
    pub(crate) fn committed(mut self) {
        self.is_committed = true;
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        let (shared, key) = (Arc::clone(&self.shared), std::mem::take(&mut self.key));
        in_background(move || {
            if let Err(error) = shared.snapshotter.remove(&shared.ns, &key) {
                tracing::warn!(%error, key, "half a layer is left to the collection");
            }
        });
    }
}
