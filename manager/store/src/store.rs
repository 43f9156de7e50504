//! A root directory, opened: the database, the content and the place for snapshots.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::content::{ContentError, ContentStore};
use crate::explain::io_remedy;
use crate::lock::{LockError, RootLock};
use crate::metadata::{Database, Durability};
use crate::trash::Trash;
use crate::{Explain, MetadataError, ReadTx, Reason, WriteTx, io_reason};

/// Characters that overlayfs gives a meaning in its options.
const OVERLAY_SPECIAL: [char; 4] = [':', ',', '\\', '"'];

/// Why a root could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path cannot be given to overlayfs.
    #[error("root {root:?} has one of the characters : , \\ \" in its path, or is not UTF-8")]
    Path {
        /// The root.
        root: PathBuf,
    },
    /// A directory or file under the root could not be made.
    #[error("prepare {path:?}")]
    Prepare {
        /// What was to be made.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another daemon uses the root.
    #[error("root {root:?} is in use by {}", holder(*pid))]
    InUse {
        /// The root.
        root: PathBuf,
        /// Its process id, if it could be read.
        pid: Option<u32>,
    },
    /// The database could not be opened or brought up to date.
    #[error("open the database {path:?}")]
    Database {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: MetadataError,
    },
    /// The content directory could not be prepared.
    #[error("prepare the content below {root:?}")]
    Content {
        /// The root.
        root: PathBuf,
        /// Why.
        #[source]
        source: ContentError,
    },
}

impl Explain for OpenError {
    fn reason(&self) -> Reason {
        match self {
            Self::Path { .. } => Reason::HostPath,
            Self::Prepare { source, .. } => io_reason(source),
            Self::InUse { .. } => Reason::StoreFailed,
            Self::Database { source, .. } => source.reason(),
            Self::Content { source, .. } => source.reason(),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Path { .. } => Some("choose another --root".into()),
            Self::Prepare { source, .. } => Some(io_remedy(source)),
            Self::InUse { .. } => {
                Some("stop the other daemon, or give this one a --root of its own".into())
            }
            Self::Database { source, .. } => source.remedy(),
            Self::Content { source, .. } => source.remedy(),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        let path = match self {
            Self::Path { root } | Self::InUse { root, .. } | Self::Content { root, .. } => root,
            Self::Prepare { path, .. } | Self::Database { path, .. } => path,
        };
        vec![("path", path.display().to_string())]
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Everything under one root directory. Clones share it; it may be used from any thread, and every
/// call may block on the disk.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    database: Database,
    content: ContentStore,
    trash: Trash,
    _lock: RootLock,
}

impl Store {
    /// Opens the store in `root`, made if missing, and brings its database up to
    /// this version's schema. What it makes below is closed to other users: layers hold setuid programs.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another process has it open.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, OpenError> {
        let root = make_root(root.as_ref())?;
        let lock = RootLock::take(&root.join("lock")).map_err(|error| match error {
            LockError::Held { pid } => OpenError::InUse { root: root.clone(), pid },
            LockError::Io(source) => OpenError::Prepare { path: root.join("lock"), source },
        })?;
        for name in ["content", "snapshots"] {
            make_dir(&root.join(name), 0o700)?;
        }
        give_id(&root).map_err(|source| OpenError::Prepare { path: root.join("id"), source })?;
        let path = root.join("keg.db");
        let database = Database::open(&path)
            .map_err(|source| OpenError::Database { path: path.clone(), source })?;
        let trash = Trash::open(&root.join("trash"))
            .map_err(|source| OpenError::Prepare { path: root.join("trash"), source })?;
        let content = ContentStore::open(&root.join("content"), database.clone(), trash.clone())
            .map_err(|source| OpenError::Content { root: root.clone(), source })?;
        sync_dir(&root).map_err(|source| OpenError::Prepare { path: root.clone(), source })?;
        Ok(Self { shared: Arc::new(Shared { root, database, content, trash, _lock: lock }) })
    }

    /// Returns the root directory, absolute and without symbolic links.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Returns the blobs.
    #[must_use]
    pub fn content(&self) -> &ContentStore {
        &self.shared.content
    }

    /// Returns where to put what nothing names any more.
    #[must_use]
    pub fn trash(&self) -> &Trash {
        &self.shared.trash
    }

    /// Runs `body` in one write transaction: all of it is durable when this returns `Ok`, and none
    /// of it happened when `body` or the commit fails. Transactions run one at a time.
    ///
    /// # Errors
    /// What `body` returns, and [`MetadataError`] if the database refuses.
    pub fn transaction<T, E: From<MetadataError>>(
        &self,
        body: impl FnOnce(&WriteTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction_outliving(Durability::PowerCut, body)
    }

    /// As [`Store::transaction`], for a change that need not outlive a power cut: without waiting for
    /// the disk.
    ///
    /// # Errors
    /// As for [`Store::transaction`].
    pub fn transaction_outliving<T, E: From<MetadataError>>(
        &self,
        durability: Durability,
        body: impl FnOnce(&WriteTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.shared.database.transaction(durability, body)
    }

    /// Runs `body` on one consistent state of the database; writers go on meanwhile.
    ///
    /// # Errors
    /// What `body` returns, and [`MetadataError`] if the database refuses.
    pub fn read<T, E: From<MetadataError>>(
        &self,
        body: impl FnOnce(&ReadTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.shared.database.read(body)
    }
}

/// Syncs a directory, so that the names in it survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn make_root(root: &Path) -> Result<PathBuf, OpenError> {
    let fail = |source| OpenError::Prepare { path: root.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o711).create(root).map_err(fail)?;
    let root = root.canonicalize().map_err(fail)?;
    match root.to_str() {
        Some(text) if !text.contains(OVERLAY_SPECIAL) => Ok(root),
        _ => Err(OpenError::Path { root }),
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), OpenError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|source| OpenError::Prepare { path: path.to_owned(), source }),
    }
}

/// Gives the installation an id, unless it has one: a UUID and a line feed, in the file `id`.
fn give_id(root: &Path) -> io::Result<()> {
    let path = root.join("id");
    if path.try_exists()? {
        return Ok(());
    }
    let unfinished = root.join("id.new");
    let mut file = File::create(&unfinished)?;
    file.write_all(&fs::read("/proc/sys/kernel/random/uuid")?)?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_keeps_its_id_and_differs_from_others() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = |root: &Path| {
            drop(Store::open(root).unwrap());
            fs::read_to_string(root.join("id")).unwrap()
        };

        let first = id(one.path());

        assert_eq!(id(one.path()), first);
        assert_eq!(first.trim_end().len(), 36);
        assert_ne!(id(other.path()), first);
    }

    #[test]
    fn a_second_store_on_one_root_is_refused_and_told_who_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let first = Store::open(root.path()).unwrap();

        let refused = Store::open(root.path()).unwrap_err();

        let me = std::process::id();
        assert!(matches!(refused, OpenError::InUse { pid: Some(pid), .. } if pid == me));
        assert!(refused.to_string().contains(&format!("process {me}")));
        drop(first);
        Store::open(root.path()).unwrap();
    }

    #[test]
    fn a_root_that_overlayfs_would_misread_is_refused() {
        let parent = tempfile::tempdir().unwrap();

        let refused = Store::open(parent.path().join("a:b")).unwrap_err();

        assert!(matches!(refused, OpenError::Path { .. }));
    }

    #[test]
    fn a_failed_transaction_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let ns = crate::Namespace::default();

        let outcome: Result<(), MetadataError> = store.transaction(|tx| {
            tx.create_lease(&ns, &crate::Lease::new("a", None))?;
            tx.create_lease(&ns, &crate::Lease::new("a", None))
        });

        assert!(outcome.is_err());
        let leases = store.read(|tx| tx.leases(&ns)).unwrap();
        assert_eq!(leases, []);
    }
}
