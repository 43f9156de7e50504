//! The builder: what all builds of a daemon share.
//!
//! ```text
//!  Builder ── Layers (snapshots, cache) · Content (files of contexts) · ranges · locks
//!     └── build(request, session, progress) ─▶ Build: stages in parallel ─▶ Built
//! ```
//!
//! Two builds that come to the same step meet at the lock of its key: one does it, the other finds
//! its result.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use keg_engine::Engine;
use keg_engine::model::IdRange;
use keg_image::Images;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::content::Content;
use crate::error::BuildError;
use crate::layers::Layers;

/// What a builder is told once.
#[derive(Debug, Clone)]
pub struct BuilderSettings {
    /// Persistent directory of the builder.
    pub root: PathBuf,
    /// Directory for secrets and sockets, empty after a restart of the machine.
    pub state: PathBuf,
    /// Host ids for steps, disjoint from those of containers; one range per step that runs.
    pub id_ranges: Vec<IdRange>,
    /// Steps that run at the same time, over all builds.
    pub parallel_steps: usize,
    /// Bytes that results of steps may take before the least used ones go; files of contexts and caches
    /// that steps mount may each take a quarter of that.
    pub cache_bytes: u64,
    /// Seconds after which a result goes that nothing has used; 0: never.
    pub cache_keep_secs: u64,
}

/// The builder. Clones share it.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: BuilderSettings,
    pub(crate) engine: Engine,
    pub(crate) images: Images,
    pub(crate) layers: Layers,
    pub(crate) content: Content,
    pub(crate) locks: Locks,
    /// Held for reading by each build.
    pub(crate) running: Arc<tokio::sync::RwLock<()>>,
    /// When the bounds of files were last looked at.
    pub(crate) looked: Mutex<Option<Instant>>,
    permits: Arc<Semaphore>,
    ranges: Mutex<Vec<IdRange>>,
}

/// The right to run a step, and the ids it runs with.
#[derive(Debug)]
pub(crate) struct Seat {
    shared: Arc<Shared>,
    pub(crate) range: IdRange,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.ranges.lock().unwrap_or_else(PoisonError::into_inner).push(self.range);
    }
}

impl Builder {
    /// Opens the builder, and takes away what an earlier daemon was in the middle of.
    ///
    /// # Errors
    /// If a directory cannot be made, or the store fails.
    pub fn open(
        settings: BuilderSettings,
        engine: Engine,
        images: Images,
    ) -> Result<Self, BuildError> {
        let namespace = engine.settings().namespace.clone();
        let snapshotter = Arc::clone(images.snapshotter());
        let (layers, has_leftovers) = Layers::open(images.store().clone(), snapshotter, namespace)?;
        if has_leftovers {
            images.collect().map_err(|source| BuildError::Image { source: Box::new(source) })?;
        }
        let content = Content::open(&settings.root)
            .map_err(BuildError::io("open the builder's directory"))?;
        match std::fs::remove_dir_all(&settings.state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(BuildError::io("empty the builder's state directory")(error));
            }
            _ => {}
        }
        let seats = settings.parallel_steps.min(settings.id_ranges.len());
        let shared = Shared {
            permits: Arc::new(Semaphore::new(seats)),
            ranges: Mutex::new(settings.id_ranges.clone()),
            settings,
            engine,
            images,
            layers,
            content,
            locks: Locks::default(),
            running: Arc::default(),
            looked: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    /// Waits until a step may run.
    pub(crate) async fn seat(self: &Arc<Self>) -> Result<Seat, BuildError> {
        if self.settings.id_ranges.is_empty() {
            return Err(BuildError::NoIdRange);
        }
        let permit =
            Arc::clone(&self.permits).acquire_owned().await.map_err(|_| BuildError::NoIdRange)?;
        let range = self
            .ranges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .ok_or(BuildError::NoIdRange)?;
        Ok(Seat { shared: Arc::clone(self), range, _permit: permit })
    }

    /// Removes what was given up, when there is time: nobody waits for it.
    pub(crate) fn tidy_up(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        // Outside of the daemon's tasks it is left to the next build.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || {
                if let Err(error) = shared.layers.commit(&[]) {
                    tracing::warn!(%error, "what a step has left is removed by the next build");
                }
            });
        }
    }

    /// Runs `work`, which waits for the disk, on a thread made for waiting.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|source| BuildError::Panicked { source })?
    }
}

/// One lock per name, as long as somebody holds it or waits for it.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for the lock of a name.
    pub(crate) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.get(name).lock_owned().await
    }

    /// Takes the lock of a name unless somebody has it.
    pub(crate) fn try_lock(&self, name: &str) -> Option<OwnedMutexGuard<()>> {
        self.get(name).try_lock_owned().ok()
    }

    fn get(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
