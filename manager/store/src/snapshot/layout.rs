//! The one implementation of [`Snapshotter`] over directories; what differs is a [`Layout`].

use std::fmt;
use std::path::{Path, PathBuf};

use super::dirs::SnapshotDirs;
use super::{
    CommitOptions, Mount, PrepareOptions, SnapshotError, SnapshotInfo, SnapshotKind, Snapshotter,
    Usage,
};
use crate::metadata::{NewSnapshot, SnapshotRow};
use crate::{IdRange, Namespace, ReadTx, Store, WriteTx};

/// What tells one way of keeping snapshots in directories from another.
pub trait Layout: fmt::Debug + Send + Sync {
    /// Name of the snapshotter.
    const NAME: &'static str;

    /// Whether a directory holds only the difference to the parent, and not everything.
    const IS_DIFFERENCE: bool;

    /// Fills the new directory of a snapshot on top of `parent`'s files.
    ///
    /// # Errors
    /// If the disk fails.
    fn fill(
        &self,
        dir: &Path,
        parent: Option<&Path>,
        id_range: Option<IdRange>,
    ) -> Result<(), SnapshotError>;

    /// Returns how to mount what is there.
    fn mount(&self, parts: Parts) -> Mount;

    /// Tells whether marks are kept in `user.` attributes.
    fn uses_user_xattrs(&self) -> bool {
        false
    }
}

/// What a mount of a snapshot is made from.
#[derive(Debug)]
pub struct Parts {
    /// The snapshot's own files.
    pub files: PathBuf,
    /// The directory beside them that overlayfs works in.
    pub work: PathBuf,
    /// The files of the snapshots below, uppermost first.
    pub lower: Vec<PathBuf>,
    /// Whether it may only be read.
    pub is_view: bool,
    /// Host ids that stand for the ids in it.
    pub id_range: Option<IdRange>,
}

/// Keeps snapshots in directories below the store's root, laid out as `L` says.
#[derive(Debug, Clone)]
pub struct DirectorySnapshotter<L> {
    dirs: SnapshotDirs,
    layout: L,
}

impl<L: Layout> DirectorySnapshotter<L> {
    pub(super) fn with_layout(store: &Store, layout: L) -> Self {
        Self { dirs: SnapshotDirs::new(store, L::NAME), layout }
    }

    fn create(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        new: &NewSnapshot<'_>,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let parent = new
            .parent
            .map(|parent| self.dirs.committed(tx, ns, parent))
            .transpose()?
            .map(|row| self.dirs.files(row.number));
        self.dirs
            .create(tx, ns, new, |dir| self.layout.fill(dir, parent.as_deref(), new.id_range))?;
        self.mounts_of(tx, ns, &self.dirs.find(tx, ns, new.key)?)
    }

    fn mounts_of(
        &self,
        tx: &ReadTx<'_>,
        ns: &Namespace,
        row: &SnapshotRow,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let is_view = match row.info.kind {
            SnapshotKind::Active => false,
            SnapshotKind::View => true,
            found @ SnapshotKind::Committed => {
                let key = row.info.key.clone();
                return Err(SnapshotError::Kind { key, found, wanted: SnapshotKind::Active });
            }
        };
        let lower = self.dirs.chain(tx, ns, row.info.parent.as_deref())?;
        Ok(vec![self.layout.mount(Parts {
            files: self.dirs.files(row.number),
            work: self.dirs.work(row.number),
            lower: lower.into_iter().map(|number| self.dirs.files(number)).collect(),
            is_view,
            id_range: row.info.id_range,
        })])
    }
}

impl<L: Layout> Snapshotter for DirectorySnapshotter<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn can_rebase(&self) -> bool {
        L::IS_DIFFERENCE
    }

    fn uses_user_xattrs(&self) -> bool {
        self.layout.uses_user_xattrs()
    }

    fn prepare_in(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        key: &str,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let new = NewSnapshot {
            snapshotter: L::NAME,
            key,
            parent,
            kind: SnapshotKind::Active,
            labels: &options.labels,
            id_range: options.id_range,
        };
        self.create(tx, ns, &new)
    }

    fn view_in(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        key: &str,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let new = NewSnapshot {
            snapshotter: L::NAME,
            key,
            parent,
            kind: SnapshotKind::View,
            labels: &options.labels,
            id_range: options.id_range,
        };
        self.create(tx, ns, &new)
    }

    fn commit_in(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        name: &str,
        key: &str,
        options: &CommitOptions,
    ) -> Result<(), SnapshotError> {
        self.dirs.commit(tx, ns, name, key, options, L::IS_DIFFERENCE)
    }

    fn rename_in(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        from: &str,
        to: &str,
    ) -> Result<(), SnapshotError> {
        self.dirs.committed(tx, ns, from)?;
        if tx.find_snapshot(ns, L::NAME, to)?.is_some() {
            return Err(SnapshotError::Exists { key: to.to_owned() });
        }
        Ok(tx.rename_snapshot(ns, L::NAME, from, to)?)
    }

    fn mounts_over(
        &self,
        ns: &Namespace,
        key: &str,
        lower: &[PathBuf],
        id_range: Option<IdRange>,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let row = self.dirs.stat(ns, key)?;
        if let Some(parent) = row.info.parent {
            return Err(SnapshotError::Rebase { key: key.to_owned(), parent });
        }
        Ok(vec![self.layout.mount(Parts {
            files: self.dirs.files(row.number),
            work: self.dirs.work(row.number),
            lower: lower.to_vec(),
            is_view: false,
            id_range,
        })])
    }

    fn remove_in(&self, tx: &WriteTx<'_>, ns: &Namespace, key: &str) -> Result<(), SnapshotError> {
        self.dirs.remove(tx, ns, key)
    }

    fn mounts(&self, ns: &Namespace, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        self.dirs.store.read(|tx| self.mounts_of(tx, ns, &self.dirs.find(tx, ns, key)?))
    }

    fn stat_in(
        &self,
        tx: &ReadTx<'_>,
        ns: &Namespace,
        key: &str,
    ) -> Result<SnapshotInfo, SnapshotError> {
        self.dirs.find(tx, ns, key).map(|row| row.info)
    }

    fn usage(&self, ns: &Namespace, key: &str) -> Result<Usage, SnapshotError> {
        self.dirs.usage(ns, key)
    }

    fn walk(&self, ns: &Namespace) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        self.dirs.walk(ns)
    }

    fn directory(&self, ns: &Namespace, key: &str) -> Result<PathBuf, SnapshotError> {
        self.dirs.stat(ns, key).map(|row| self.dirs.files(row.number))
    }

    fn layers(&self, ns: &Namespace, key: &str) -> Result<Vec<PathBuf>, SnapshotError> {
        self.dirs.store.read(|tx| {
            let top = self.dirs.committed(tx, ns, key)?;
            let numbers = if L::IS_DIFFERENCE {
                self.dirs.chain(tx, ns, Some(key))?
            } else {
                vec![top.number]
            };
            Ok(numbers.into_iter().map(|number| self.dirs.files(number)).collect())
        })
    }

    fn cleanup(&self) -> Result<u64, SnapshotError> {
        self.dirs.cleanup()
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        self.dirs.sync()
    }

    fn store(&self) -> &Store {
        &self.dirs.store
    }
}
