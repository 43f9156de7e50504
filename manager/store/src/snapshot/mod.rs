//! Snapshots: the states of a file system, each a difference to its parent.
//!
//! The vocabulary is containerd's. A snapshot has a *key* and may have a *parent*, which is always
//! committed.
//!
//! ```text
//!              prepare(key, parent)              commit(name, key)
//!  (nothing) ────────────────────────▶ active ─────────────────────▶ committed ──▶ parent of others
//!      │                                 │                               │
//!      └── view(key, parent) ──▶ view    └──────── remove ◀──────────────┘ (while nothing is on top)
//! ```
//!
//! An *active* snapshot can be written to through its [`Mount`]s, a *view* only read. `commit` gives
//! the changes their final name. A key is a name in the database; the directory is `snapshots/N`, and
//! N is never used twice.
//!
//! Unpacking a layer needs no parent where [`Snapshotter::can_rebase`] holds: a snapshot is
//! prepared without one, filled, and put on top of its parent by [`CommitOptions::parent`].
//!
//! # Invariant
//! A directory is made before the row that names it is committed, and removed after the row is gone.

mod copy;
mod copy_tree;
mod dirs;
mod error;
mod layout;
mod overlay;
mod usage;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

pub use copy::CopySnapshotter;
pub use copy_tree::copy_directory;
pub use error::SnapshotError;
pub use overlay::OverlaySnapshotter;
pub use usage::{Usage, measure};

use crate::{IdRange, Labels, Namespace, ReadTx, Store, WriteTx};

/// What a snapshot is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnapshotKind {
    /// Can be written to.
    Active,
    /// Can be read only, and never committed.
    View,
    /// Does not change any more; can be a parent.
    Committed,
}

impl SnapshotKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
        }
    }

    pub(crate) fn from_str(text: &str) -> Option<Self> {
        [Self::Active, Self::View, Self::Committed].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its key.
    pub key: String,
    /// Key of the snapshot below it, if there is one.
    pub parent: Option<String>,
    /// What it is good for.
    pub kind: SnapshotKind,
    /// Labels.
    pub labels: Labels,
    /// When it was prepared.
    pub created_at: Timestamp,
    /// When it was committed, or else prepared.
    pub updated_at: Timestamp,
    /// Host ids that stand for the ids in an active snapshot or a view.
    pub id_range: Option<IdRange>,
    /// What it takes, without its parents; known once it is committed.
    pub usage: Option<Usage>,
}

/// How to prepare a snapshot or a view.
#[derive(Debug, Clone, Default)]
pub struct PrepareOptions {
    /// Labels.
    pub labels: Labels,
    /// Host ids that stand for the ids in it: the lower layers are to be shifted to them by
    /// idmapped mounts, and the writable part belongs to them.
    pub id_range: Option<IdRange>,
}

/// How to commit a snapshot.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Labels of the committed snapshot.
    pub labels: Labels,
    /// Parent for a snapshot that was prepared without one; needs
    /// [`Snapshotter::can_rebase`].
    pub parent: Option<String>,
    /// What it takes, if the caller knows; otherwise it is measured.
    pub usage: Option<Usage>,
}

/// A mount as containerd's Task API has it: what makes a snapshot visible somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `overlay` or `bind`.
    pub type_: String,
    /// What is mounted: a directory for `bind`, any word for `overlay`.
    pub source: PathBuf,
    /// Options as in fstab(5); also `uidmap=C:H:N` and `gidmap=C:H:N` for lower layers that are to
    /// be mounted with an id map.
    pub options: Vec<String>,
}

/// Keeps the file systems of images and containers. See the module's documentation for the words.
///
/// Methods that end in `_in` are part of the caller's transaction. Every method may block.
pub trait Snapshotter: fmt::Debug + Send + Sync {
    /// Returns the name by which containers and labels refer to it.
    fn name(&self) -> &'static str;

    /// Tells whether a snapshot can get its parent when it is committed.
    fn can_rebase(&self) -> bool;

    /// Tells whether the kernel keeps its marks in `user.overlay.` attributes here, since
    /// `trusted.` ones are for the initial user namespace's root only.
    fn uses_user_xattrs(&self) -> bool;

    /// Makes an active snapshot on top of `parent` and returns how to mount it.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`], [`SnapshotError::NotFound`] for the parent,
    /// [`SnapshotError::Kind`] if the parent is not committed.
    fn prepare_in(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        key: &str,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError>;

    /// Makes a view of `parent` and returns how to mount it, read-only.
    ///
    /// # Errors
    /// As [`Self::prepare_in`].
    fn view_in(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        key: &str,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError>;

    /// Makes the active snapshot `key` a committed one called `name`. Its files must be synced.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`] if `name` is taken, [`SnapshotError::Kind`] if `key` is not
    /// active.
    fn commit_in(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        name: &str,
        key: &str,
        options: &CommitOptions,
    ) -> Result<(), SnapshotError>;

    /// Gives the committed snapshot `from` the key `to`, for all who name it.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Exists`] if `to` is taken.
    fn rename_in(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        from: &str,
        to: &str,
    ) -> Result<(), SnapshotError>;

    /// Returns how to mount the active snapshot `key`, which has no parent, on top of directories,
    /// uppermost first; needs [`Self::can_rebase`]. The caller answers for their existence.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Rebase`] if it has a parent.
    fn mounts_over(
        &self,
        ns: &Namespace,
        key: &str,
        lower: &[PathBuf],
        id_range: Option<IdRange>,
    ) -> Result<Vec<Mount>, SnapshotError>;

    /// Takes a snapshot out of the database; [`Self::cleanup`] removes its files after the
    /// transaction.
    ///
    /// # Errors
    /// [`SnapshotError::HasChildren`] while another is on top of it.
    fn remove_in(&self, tx: &WriteTx<'_>, ns: &Namespace, key: &str) -> Result<(), SnapshotError>;

    /// Returns how to mount an active snapshot or a view.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Kind`] for a committed one.
    fn mounts(&self, ns: &Namespace, key: &str) -> Result<Vec<Mount>, SnapshotError>;

    /// Returns what is known of a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`].
    fn stat_in(
        &self,
        tx: &ReadTx<'_>,
        ns: &Namespace,
        key: &str,
    ) -> Result<SnapshotInfo, SnapshotError>;

    /// Does [`Self::stat_in`] in a transaction of its own.
    ///
    /// # Errors
    /// As there.
    fn stat(&self, ns: &Namespace, key: &str) -> Result<SnapshotInfo, SnapshotError> {
        self.store().read(|tx| self.stat_in(tx, ns, key))
    }

    /// Returns what a snapshot takes, without its parents; measured, unless it is committed.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`].
    fn usage(&self, ns: &Namespace, key: &str) -> Result<Usage, SnapshotError>;

    /// Returns all snapshots of the namespace, oldest first.
    ///
    /// # Errors
    /// Only if the database fails.
    fn walk(&self, ns: &Namespace) -> Result<Vec<SnapshotInfo>, SnapshotError>;

    /// Returns the directory that holds what was written into a snapshot: for an overlay the
    /// difference to its parents, for a copy everything.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`].
    fn directory(&self, ns: &Namespace, key: &str) -> Result<PathBuf, SnapshotError>;

    /// Returns the directories that together show a committed snapshot, uppermost first.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`].
    fn layers(&self, ns: &Namespace, key: &str) -> Result<Vec<PathBuf>, SnapshotError>;

    /// Removes the directories that no row names, those of a crash included; returns how many.
    ///
    /// # Errors
    /// If the disk or the database fails.
    fn cleanup(&self) -> Result<u64, SnapshotError>;

    /// Writes everything of the snapshots' file system to the disk.
    ///
    /// # Errors
    /// If the disk fails.
    fn sync(&self) -> Result<(), SnapshotError>;

    /// Returns the store that the rows are in.
    fn store(&self) -> &Store;

    /// Does [`Self::prepare_in`] in a transaction of its own.
    ///
    /// # Errors
    /// As there.
    fn prepare(
        &self,
        ns: &Namespace,
        key: &str,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.store().transaction(|tx| self.prepare_in(tx, ns, key, parent, options))
    }

    /// Does [`Self::view_in`] in a transaction of its own.
    ///
    /// # Errors
    /// As there.
    fn view(
        &self,
        ns: &Namespace,
        key: &str,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.store().transaction(|tx| self.view_in(tx, ns, key, parent, options))
    }

    /// Syncs the file system, and does [`Self::commit_in`] in a transaction of its own.
    ///
    /// # Errors
    /// As there.
    fn commit(
        &self,
        ns: &Namespace,
        name: &str,
        key: &str,
        options: &CommitOptions,
    ) -> Result<(), SnapshotError> {
        self.sync()?;
        self.store().transaction(|tx| self.commit_in(tx, ns, name, key, options))
    }

    /// Does [`Self::remove_in`] in a transaction of its own, and removes the files.
    ///
    /// # Errors
    /// As there.
    fn remove(&self, ns: &Namespace, key: &str) -> Result<(), SnapshotError> {
        self.store().transaction(|tx| self.remove_in(tx, ns, key))?;
        self.cleanup().map(drop)
    }
}

/// Returns the best snapshotter for a store: the overlay one, or, with the reason why that cannot
/// be, the copying one.
#[must_use]
pub fn detect_snapshotter(store: &Store) -> (Arc<dyn Snapshotter>, Option<SnapshotError>) {
    match OverlaySnapshotter::new(store) {
        Ok(overlay) => (Arc::new(overlay), None),
        Err(why) => (Arc::new(CopySnapshotter::new(store)), Some(why)),
    }
}

#[cfg(test)]
mod tests;
