//! What all snapshotters share: rows, numbers, and directories that come and go with them.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{CommitOptions, SnapshotError, SnapshotInfo, SnapshotKind, Usage, usage};
use crate::metadata::{NewSnapshot, SnapshotRow};
use crate::{Namespace, ReadTx, Store, WriteTx};

/// Prefix of a directory that is being made.
const NEW: &str = "new-";

/// The rows of one snapshotter, and the directories below `snapshots/`.
#[derive(Debug, Clone)]
pub(super) struct SnapshotDirs {
    pub(super) store: Store,
    pub(super) name: &'static str,
    root: PathBuf,
}

impl SnapshotDirs {
    pub(super) fn new(store: &Store, name: &'static str) -> Self {
        Self { store: store.clone(), name, root: store.root().join("snapshots") }
    }

    /// Returns where the files of snapshot `number` are.
    pub(super) fn files(&self, number: u64) -> PathBuf {
        self.root.join(number.to_string()).join("fs")
    }

    /// Returns overlayfs' work directory of snapshot `number`.
    pub(super) fn work(&self, number: u64) -> PathBuf {
        self.root.join(number.to_string()).join("work")
    }

    pub(super) fn find(
        &self,
        tx: &ReadTx<'_>,
        ns: &Namespace,
        key: &str,
    ) -> Result<SnapshotRow, SnapshotError> {
        tx.find_snapshot(ns, self.name, key)?
            .ok_or_else(|| SnapshotError::NotFound { key: key.to_owned() })
    }

    pub(super) fn committed(
        &self,
        tx: &ReadTx<'_>,
        ns: &Namespace,
        key: &str,
    ) -> Result<SnapshotRow, SnapshotError> {
        self.find_kind(tx, ns, key, SnapshotKind::Committed)
    }

    fn find_kind(
        &self,
        tx: &ReadTx<'_>,
        ns: &Namespace,
        key: &str,
        wanted: SnapshotKind,
    ) -> Result<SnapshotRow, SnapshotError> {
        let row = self.find(tx, ns, key)?;
        if row.info.kind == wanted {
            Ok(row)
        } else {
            Err(SnapshotError::Kind { key: key.to_owned(), found: row.info.kind, wanted })
        }
    }

    /// Enters a snapshot and makes its directory, which `fill` gets while it has a temporary name.
    pub(super) fn create(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        new: &NewSnapshot<'_>,
        fill: impl FnOnce(&Path) -> Result<(), SnapshotError>,
    ) -> Result<u64, SnapshotError> {
        let number = tx.insert_snapshot(ns, new)?;
        let temporary = self.root.join(format!("{NEW}{number}"));
        let path = self.root.join(number.to_string());
        // An earlier transaction may have got this number and been rolled back.
        for stale in [&temporary, &path] {
            self.remove_tree(stale)?;
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&temporary)
            .map_err(SnapshotError::io("make the directory", &temporary))?;
        let made = fill(&temporary).and_then(|()| {
            fs::rename(&temporary, &path)
                .map_err(SnapshotError::io("rename the directory to", &path))
        });
        if let Err(error) = made {
            self.remove_tree(&temporary)?;
            return Err(error);
        }
        Ok(number)
    }

    /// The database's part of a commit.
    pub(super) fn commit(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        name: &str,
        key: &str,
        options: &CommitOptions,
        can_rebase: bool,
    ) -> Result<(), SnapshotError> {
        let row = self.find_kind(tx, ns, key, SnapshotKind::Active)?;
        let parent = match (&row.info.parent, &options.parent) {
            (own, None) => own.clone(),
            (None, Some(wanted)) if can_rebase => {
                self.committed(tx, ns, wanted)?;
                Some(wanted.clone())
            }
            (own, Some(wanted)) if own.as_ref() == Some(wanted) => own.clone(),
            (_, Some(wanted)) => {
                return Err(SnapshotError::Rebase { key: key.to_owned(), parent: wanted.clone() });
            }
        };
        let usage = match options.usage {
            Some(usage) => usage,
            None => self.measure(row.number)?,
        };
        tx.commit_snapshot(ns, row.number, name, parent.as_deref(), &options.labels, usage)?;
        Ok(())
    }

    /// Writes everything of the file system to the disk: a commit's files among them.
    pub(super) fn sync(&self) -> Result<(), SnapshotError> {
        let root =
            File::open(&self.root).map_err(SnapshotError::io("open the directory", &self.root))?;
        rustix::fs::syncfs(&root).map_err(SnapshotError::io("sync the file system of", &self.root))
    }

    pub(super) fn remove(
        &self,
        tx: &WriteTx<'_>,
        ns: &Namespace,
        key: &str,
    ) -> Result<(), SnapshotError> {
        Ok(tx.delete_snapshot(ns, self.name, key)?)
    }

    pub(super) fn stat(&self, ns: &Namespace, key: &str) -> Result<SnapshotRow, SnapshotError> {
        self.store.read(|tx| self.find(tx, ns, key))
    }

    pub(super) fn usage(&self, ns: &Namespace, key: &str) -> Result<Usage, SnapshotError> {
        let row = self.stat(ns, key)?;
        match row.info.usage {
            Some(usage) => Ok(usage),
            None => self.measure(row.number),
        }
    }

    pub(super) fn walk(&self, ns: &Namespace) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let rows = self.store.read(|tx| tx.snapshots(ns, self.name))?;
        Ok(rows.into_iter().map(|row| row.info).collect())
    }

    /// Returns the numbers of a committed snapshot and of all below it, uppermost first.
    pub(super) fn chain(
        &self,
        tx: &ReadTx<'_>,
        ns: &Namespace,
        parent: Option<&str>,
    ) -> Result<Vec<u64>, SnapshotError> {
        match parent {
            Some(parent) => Ok(tx.snapshot_chain(ns, self.name, parent)?),
            None => Ok(Vec::new()),
        }
    }

    /// Throws away, under the write lock, every directory that no row names.
    pub(super) fn cleanup(&self) -> Result<u64, SnapshotError> {
        let removed = self.store.transaction(|tx| {
            let numbers: HashSet<u64> = tx.snapshot_numbers()?.into_iter().collect();
            let mut removed = 0;
            for name in self.names()? {
                let number = name.strip_prefix(NEW).unwrap_or(&name).parse::<u64>();
                let is_known = number.as_ref().is_ok_and(|number| numbers.contains(number));
                // What is not named like ours is not ours to remove; nobody else holds the lock,
                // so what has a temporary name is debris.
                if number.is_err() || (is_known && !name.starts_with(NEW)) {
                    continue;
                }
                let path = self.root.join(&name);
                let thrown = self.store.trash().throw(&path);
                thrown.map_err(SnapshotError::io("remove the directory", &path))?;
                removed += 1;
            }
            Ok::<_, SnapshotError>(removed)
        })?;
        self.store.trash().relieve();
        Ok(removed)
    }

    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        let fail = || SnapshotError::io("list the directory", &self.root);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }

    fn measure(&self, number: u64) -> Result<Usage, SnapshotError> {
        let files = self.files(number);
        usage::measure(&files).map_err(SnapshotError::io("measure the directory", &files))
    }

    /// Removes a tree that may not be there.
    fn remove_tree(&self, path: &Path) -> Result<(), SnapshotError> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SnapshotError::Io {
                operation: "remove the directory",
                path: path.to_owned(),
                source: error,
            }),
            _ => Ok(()),
        }
    }
}

/// Makes a directory with exactly this mode, whatever the umask.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    use std::os::unix::fs::PermissionsExt;

    DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(SnapshotError::io("make the directory", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(SnapshotError::io("set the mode of", path))
}
