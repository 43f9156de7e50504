//! What is kept of a container between two commands: a directory below `--root`.
//!
//! ```text
//! ROOT/ID/state.json   what the other commands need; written anew, then renamed over the old one
//!         config.json  the specification as it was at create: later changes have no effect
//!         start.sock   init waits here; gone once `start` has been
//! ROOT/seccomp~cache/  compiled filters, of all containers
//! ```
//!
//! The directory itself is the lock (flock(2)): commands that change a container hold it, commands
//! that look do not, so that a hook may ask for the state of the container it runs for. A directory
//! without state.json is what a killed `create` leaves; only `delete --force` touches it.

mod oci;
mod process;

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use oci_spec::runtime::{Hooks, Spec};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

pub use self::oci::OciState;
pub use self::process::SavedProcess;

use crate::cgroup::{Cgroup, FreezerState, SavedCgroup};
use crate::intel_rdt::SavedRdt;
use crate::lifecycle::{Lifecycle, Observation};
use crate::namespaces::NamespaceKind;
use crate::plan::document;
use crate::stage::gate;

/// Version of the form of state.json.
const FORMAT: u32 = 1;

/// How long a command waits for another that holds the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// What becomes state.json.
const NEXT_STATE: &str = "state.json.new";

/// The largest config.json or state.json that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why a container's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id has characters that a directory's name should not have.
    #[error("invalid container id {id:?}: letters, digits and _ + - . are allowed, up to 255")]
    Id {
        /// The id.
        id: String,
    },
    /// There is one already.
    #[error("container with given ID already exists: {id:?}")]
    Exists {
        /// The id.
        id: String,
    },
    /// There is none.
    #[error("container {id:?} does not exist")]
    NotFound {
        /// The id.
        id: String,
    },
    /// Another command holds the lock.
    #[error("container {id:?} is busy: another command works on it")]
    Busy {
        /// The id.
        id: String,
    },
    /// The directory that `--root` names is missing.
    #[error("{path:?} (--root): no such file or directory")]
    NoRoot {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{action} {path:?}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// state.json is not what this version writes.
    #[error("{path:?} is damaged, or from another version; `delete --force` removes the container")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Returns whether there is no such container.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// A container's name, valid as the name of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks `id`.
    ///
    /// # Errors
    /// [`StoreError::Id`].
    pub fn new(id: impl Into<String>) -> Result<Self, StoreError> {
        let id = id.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        let valid =
            !id.is_empty() && id.len() <= 255 && id != "." && id != ".." && id.chars().all(allowed);
        if valid { Ok(Self(id)) } else { Err(StoreError::Id { id }) }
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ContainerId {
    type Error = StoreError;

    fn try_from(id: String) -> Result<Self, StoreError> {
        Self::new(id)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

/// state.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedState {
    format: u32,
    /// Version of the specification that the bundle was made for.
    pub oci_version: String,
    /// The container.
    pub id: ContainerId,
    /// Where its bundle is, canonical.
    pub bundle: PathBuf,
    /// Where its root filesystem is, canonical.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Annotations of the bundle.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// The first process, once it is ready.
    pub init: Option<SavedProcess>,
    /// Its cgroup.
    pub cgroup: Option<SavedCgroup>,
    /// Its share of cache and memory bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<SavedRdt>,
    /// The hooks that later commands run.
    pub hooks: Hooks,
    /// Whether a receiver holds the terminal of init.
    pub terminal: bool,
    /// Whether the PID namespace is not the container's own, so that its processes can outlive init.
    #[serde(default)]
    pub shares_pids: bool,
}

impl SavedState {
    /// Returns a state of a container that is being created.
    #[must_use]
    pub fn new(id: ContainerId, bundle: PathBuf, plan: &crate::plan::ContainerPlan) -> Self {
        let mut hooks = Hooks::default();
        hooks.set_poststart(plan.hooks.poststart().clone());
        hooks.set_poststop(plan.hooks.poststop().clone());
        Self {
            format: FORMAT,
            oci_version: plan.oci_version.clone(),
            id,
            bundle,
            rootfs: plan.rootfs.path.clone(),
            created: crate::log::rfc3339(std::time::SystemTime::now()),
            annotations: plan.annotations.clone(),
            init: None,
            cgroup: None,
            rdt: None,
            hooks,
            terminal: plan.process.terminal,
            shares_pids: !plan.namespaces.new.contains(NamespaceKind::Pid),
        }
    }

    /// Returns what hooks and the `state` command tell.
    #[must_use]
    pub fn oci(&self) -> OciState<'_> {
        OciState {
            oci_version: &self.oci_version,
            id: self.id.as_str(),
            bundle: &self.bundle,
            annotations: &self.annotations,
        }
    }

    /// Returns the container's cgroup.
    #[must_use]
    pub fn open_cgroup(&self) -> Option<Cgroup> {
        Cgroup::from_saved(self.cgroup.clone()?).ok()
    }
}

/// All containers below one `--root`.
#[derive(Debug, Clone)]
pub struct StateStore {
    root: PathBuf,
}

impl StateStore {
    /// Uses `root`, which is made when the first container is.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns whether the directory is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.root.is_dir()
    }

    /// Returns where compiled filters are kept. No id has this name.
    #[must_use]
    pub fn seccomp_cache(&self) -> PathBuf {
        self.root.join("seccomp~cache")
    }

    /// Makes and locks the directory of a new container.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if there is one.
    pub fn create(&self, id: &ContainerId) -> Result<ContainerDir, StoreError> {
        let path = self.root.join(id.as_str());
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        let made = match builder.create(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut above = std::fs::DirBuilder::new();
                above
                    .recursive(true)
                    .mode(0o711)
                    .create(&self.root)
                    .map_err(|source| io("create", &self.root, source))?;
                builder.create(&path)
            }
            result => result,
        };
        match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists { id: id.to_string() });
            }
            result => result.map_err(|source| io("create", &path, source))?,
        }
        let dir = self.open(id)?;
        dir.lock()?;
        Ok(dir)
    }

    /// Opens the directory of a container, without locking it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn open(&self, id: &ContainerId) -> Result<ContainerDir, StoreError> {
        let path = self.root.join(id.as_str());
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(&path);
        match opened {
            Ok(file) => Ok(ContainerDir { id: id.clone(), path, file }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(StoreError::NotFound { id: id.to_string() })
            }
            Err(source) => Err(io("open", &path, source)),
        }
    }

    /// Opens and locks the directory of a container.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Busy`] after ten seconds.
    pub fn open_locked(&self, id: &ContainerId) -> Result<ContainerDir, StoreError> {
        let dir = self.open(id)?;
        dir.lock()?;
        Ok(dir)
    }

    /// Returns the ids of all containers, sorted, each with the user that owns it.
    ///
    /// # Errors
    /// [`StoreError::Io`]; that there is no root is an empty list.
    pub fn list(&self) -> Result<Vec<(ContainerId, u32)>, StoreError> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(|source| io("read", &self.root, source))?,
        };
        let mut list = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| io("read", &self.root, source))?;
            let id = entry.file_name().to_str().and_then(|name| ContainerId::new(name).ok());
            let Some(id) = id else { continue };
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => list.push((id, metadata.uid())),
                // Not a container, or gone since.
                Ok(_) | Err(_) => {}
            }
        }
        list.sort();
        Ok(list)
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

/// The directory of one container.
#[derive(Debug)]
pub struct ContainerDir {
    id: ContainerId,
    path: PathBuf,
    file: File,
}

impl AsFd for ContainerDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl ContainerDir {
    /// Returns the container's id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Returns where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the lock, which is held until this value is dropped.
    fn lock(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        let mut pause = Duration::from_micros(200);
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io("lock", &self.path, error.into())),
            }
            if Instant::now() > deadline {
                return Err(StoreError::Busy { id: self.id.to_string() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        // Whoever held it may have deleted the container.
        let links = self.file.metadata().map_err(|source| io("read", &self.path, source))?.nlink();
        if links == 0 { Err(StoreError::NotFound { id: self.id.to_string() }) } else { Ok(()) }
    }

    /// Keeps the specification for later commands.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn save_config(&self, config: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join("config.json");
        write_private(&path, config).map_err(|source| io("write", &path, source))
    }

    /// Returns the specification as it was at create.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn load_config(&self) -> Result<Spec, StoreError> {
        let path = self.path.join("config.json");
        let text = read_bounded(&path).map_err(|source| io("read", &path, source))?;
        document::read_spec(&text)
            .map(|document| document.content)
            .map_err(|source| StoreError::Damaged { path, source })
    }

    /// Writes state.json; it is never seen half-written.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn save(&self, state: &SavedState) -> Result<(), StoreError> {
        self.prepare(state)?;
        self.publish()
    }

    /// Writes the next state.json, which nobody sees before [`Self::publish`].
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn prepare(&self, state: &SavedState) -> Result<(), StoreError> {
        let path = self.path.join(NEXT_STATE);
        let text = serde_json::to_vec(state).unwrap_or_default();
        // There may be a leftover of a killed command.
        write_private(&path, &text).map_err(|source| io("write", &path, source))
    }

    /// Puts what [`Self::prepare`] wrote in the place of state.json.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish(&self) -> Result<(), StoreError> {
        let path = self.path.join("state.json");
        std::fs::rename(self.path.join(NEXT_STATE), &path)
            .map_err(|source| io("write", &path, source))
    }

    /// Reads state.json; `None` if `create` has not written it.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn load(&self) -> Result<Option<SavedState>, StoreError> {
        let path = self.path.join("state.json");
        match read_bounded(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io("read", &path, source)),
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| StoreError::Damaged { path, source }),
        }
    }

    /// Reads state.json, which must be there.
    ///
    /// # Errors
    /// As [`Self::load`], and [`StoreError::NotFound`].
    pub fn load_existing(&self) -> Result<SavedState, StoreError> {
        self.load()?.ok_or_else(|| StoreError::NotFound { id: self.id.to_string() })
    }

    /// Observes where the container is in its life.
    #[must_use]
    pub fn observe(&self, state: &SavedState) -> Lifecycle {
        match self.observe_for_start(state) {
            Lifecycle::Created { init } if !gate::is_waited_at(self) => Lifecycle::Running { init },
            observed => observed,
        }
    }

    /// The same for who will knock at the gate anyway: that somebody waits there is believed.
    #[must_use]
    pub fn observe_for_start(&self, state: &SavedState) -> Lifecycle {
        let alive = state.init.is_some_and(|init| init.is_alive());
        let frozen = alive
            && state
                .open_cgroup()
                .is_some_and(|cgroup| matches!(cgroup.freezer_state(), Ok(FreezerState::Frozen)));
        Lifecycle::observe(Observation {
            init: state.init.map(|init| Pid::from_raw(init.pid)),
            alive,
            waiting: alive && self.path.join(gate::NAME).exists(),
            frozen,
        })
    }

    /// Takes the mark away that the container waits for `start`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_gate(&self) -> Result<(), StoreError> {
        let path = self.path.join(gate::NAME);
        std::fs::remove_file(&path).map_err(|source| io("remove", &path, source))
    }

    /// Removes the directory and all that is in it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self) -> Result<(), StoreError> {
        for name in [gate::NAME, "config.json", "state.json"] {
            // What resists shows when the directory is removed.
            let _ = std::fs::remove_file(self.path.join(name));
        }
        match std::fs::remove_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                std::fs::remove_dir_all(&self.path)
            }
            result => result,
        }
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .map_err(|source| io("remove", &self.path, source))
    }
}

/// The directory is closed to others, so what is there already is the user's own.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)?.write_all(content)
}

/// Reads a file of a size that such a file can have.
///
/// # Errors
/// The kernel's; `FileTooLarge` beyond 16 MiB.
pub fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut content = Vec::with_capacity(16 << 10);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ContainerId {
        ContainerId::new(text).unwrap()
    }

    #[test]
    fn ids_are_names_of_directories_and_nothing_else() {
        for good in ["a", "A-b_c+d.e", "0", &"x".repeat(255)] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", "a\0", "~", &"x".repeat(256)] {
            assert!(ContainerId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_can_be_taken_once() {
        let root = tempfile::tempdir().unwrap();
        let store = StateStore::new(root.path().join("deep/root"));

        let first = store.create(&id("c")).unwrap();
        let second = store.create(&id("c"));

        assert!(matches!(second, Err(StoreError::Exists { .. })));
        assert_eq!(store.list().unwrap().len(), 1);
        first.remove().unwrap();
        first.remove().unwrap();
        assert!(store.open(&id("c")).unwrap_err().is_not_found());
    }

    #[test]
    fn who_waits_for_a_container_that_is_deleted_finds_none() {
        let root = tempfile::tempdir().unwrap();
        let store = StateStore::new(root.path().to_owned());
        let held = store.create(&id("c")).unwrap();
        let waiting = store.open(&id("c")).unwrap();
        held.remove().unwrap();
        drop(held);

        assert!(waiting.lock().unwrap_err().is_not_found());
    }

    #[test]
    fn a_state_that_was_cut_short_is_told_and_never_taken_for_whole() {
        let root = tempfile::tempdir().unwrap();
        let store = StateStore::new(root.path().to_owned());
        let dir = store.create(&id("c")).unwrap();
        let bundle = tempfile::tempdir().unwrap();
        std::fs::create_dir(bundle.path().join("rootfs")).unwrap();
        let spec = serde_json::from_str(include_str!("../commands/spec.json")).unwrap();
        let plan = crate::plan::ContainerPlan::from_spec(spec, bundle.path()).unwrap();
        dir.save(&SavedState::new(id("c"), bundle.path().to_owned(), &plan)).unwrap();
        let path = root.path().join("c/state.json");
        let whole = std::fs::read(&path).unwrap();

        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let loaded = dir.load();
            assert!(matches!(loaded, Err(StoreError::Damaged { .. })), "cut to {length} bytes");
        }

        std::fs::write(&path, &whole).unwrap();
        assert_eq!(dir.load().unwrap().unwrap().id, id("c"));
    }
}
