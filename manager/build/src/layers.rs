//! Layers: what each step changed, from the moment it ran until it is a part of images.
//!
//! ```text
//!  spare ──take──▶ being filled ──▶ fresh ──commit──▶ committed, named by a cache record
//!    ▲                  │             │                   │
//!    └── several in     └─ discarded  └──── exported ─────┴──▶ blob, diff id, chain id
//!        one transaction
//! ```
//!
//! A step's files are usable by the next step at once. They become durable with those of all other
//! steps of the build, after one `syncfs` and in one transaction, when the build has ended, well or
//! not. What a crash takes is work that the next build does again.
//!
//! Where the file system has no overlays, a layer's directory holds everything, and not the changes
//! only: it begins as a copy of the one below, and what changed is found by comparing the two.
//!
//! # Invariants
//! - A cache record names a committed snapshot, and a committed snapshot's files are on the disk.
//! - What is not committed is kept by the builder's lease, which ends when the next daemon begins.

mod blobs;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak};

use jiff::Timestamp;
use keg_image::diff::{Owners, changes_of_trees};
use keg_store::{
    BuildResult, CommitOptions, Descriptor, Digest, IdRange, Lease, Namespace, PrepareOptions,
    Resource, SnapshotError, Snapshotter, Store, Usage, copy_directory,
};

pub(crate) use blobs::Exported;

use crate::error::BuildError;

/// The lease of what is under construction.
pub(crate) const LEASE: &str = "keg-builder";
/// How old the last noted use of a result is before another is noted.
const NOTED_EVERY_SECS: i64 = 60;
/// Layers of steps of the same words that are looked at.
const ALIKE_MAX: usize = 8;
/// Snapshots that are made in one transaction.
const SPARES: usize = 6;

/// What one step changed.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Directory with the changes.
    pub(crate) dir: PathBuf,
    /// What it lies on.
    pub(crate) below: Option<Arc<Layer>>,
    /// When the step ran.
    pub(crate) created: Timestamp,
    /// Whether the directory holds what is below too.
    is_whole: bool,
    state: Mutex<State>,
    exporting: Mutex<()>,
}

#[derive(Debug, Clone)]
struct State {
    /// Key of its snapshot.
    key: String,
    is_committed: bool,
    exported: Option<Exported>,
    /// What it takes, once that was measured.
    usage: Option<Usage>,
}

impl State {
    fn committed(key: String, exported: Option<Exported>) -> Self {
        Self { key, is_committed: true, exported, usage: None }
    }

    fn fresh(key: String, exported: Option<Exported>) -> Self {
        Self { key, is_committed: false, exported, usage: None }
    }
}

impl Layer {
    /// A layer of an image that is here.
    pub(crate) fn of_image(
        dir: PathBuf,
        below: Option<Arc<Self>>,
        chain_id: &Digest,
        diff_id: &Digest,
        blob: &Descriptor,
        is_whole: bool,
    ) -> Arc<Self> {
        let exported = Exported::stored(blob, diff_id);
        let state = State::committed(chain_id.to_string(), Some(exported));
        Self::new(dir, below, Timestamp::UNIX_EPOCH, is_whole, state)
    }

    fn new(
        dir: PathBuf,
        below: Option<Arc<Self>>,
        created: Timestamp,
        is_whole: bool,
        state: State,
    ) -> Arc<Self> {
        let state = Mutex::new(state);
        Arc::new(Self { dir, below, created, is_whole, state, exporting: Mutex::new(()) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what it takes. Measures it the first time, which blocks.
    fn usage(&self) -> Result<Usage, SnapshotError> {
        if let Some(usage) = self.state().usage {
            return Ok(usage);
        }
        let failed =
            |source| SnapshotError::Io { operation: "measure", path: self.dir.clone(), source };
        let usage = keg_store::measure(&self.dir).map_err(failed)?;
        self.state().usage = Some(usage);
        Ok(usage)
    }

    /// Returns its blob, if it has become one.
    pub(crate) fn exported(&self) -> Option<Exported> {
        self.state().exported.clone()
    }
}

/// A file system: layers, and the digest of what made them.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// Stands for all files.
    pub(crate) id: String,
    /// The uppermost layer; none for an empty file system.
    pub(crate) top: Option<Arc<Layer>>,
}

impl Files {
    pub(crate) fn empty() -> Self {
        Self { id: "scratch".to_owned(), top: None }
    }

    /// Returns the layers, uppermost first.
    pub(crate) fn layers(&self) -> Vec<Arc<Layer>> {
        let mut layers = Vec::new();
        let mut at = self.top.clone();
        while let Some(layer) = at {
            at = layer.below.clone();
            layers.push(layer);
        }
        layers
    }

    /// Returns the directories that together show the files, uppermost first.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs = Vec::new();
        let mut at = self.top.as_ref();
        while let Some(layer) = at {
            dirs.push(layer.dir.clone());
            at = layer.below.as_ref().filter(|_| !layer.is_whole);
        }
        dirs
    }
}

/// What a step's result is under its key.
#[derive(Debug, Clone)]
pub(crate) struct StepResult {
    pub(crate) files: Files,
    /// Whether the step made a layer.
    pub(crate) has_layer: bool,
    /// When it ran.
    pub(crate) created: Timestamp,
}

/// A snapshot to be filled. One that is dropped before it is a layer is given up.
#[derive(Debug)]
pub(crate) struct Upper {
    pub(crate) key: String,
    pub(crate) dir: PathBuf,
    /// Who is told if it is given up.
    owner: Weak<Shared>,
}

impl Drop for Upper {
    fn drop(&mut self) {
        if let Some(shared) = self.owner.upgrade() {
            lock(&shared.discarded).push((self.key.clone(), self.dir.clone()));
        }
    }
}

impl Upper {
    /// Returns its key and its directory, which are somebody else's from now on.
    fn used(mut self) -> (String, PathBuf) {
        self.owner = Weak::new();
        (std::mem::take(&mut self.key), std::mem::take(&mut self.dir))
    }
}

/// A result that is not in the database yet.
#[derive(Debug, Clone)]
struct Fresh {
    result: StepResult,
    description: String,
}

impl Fresh {
    /// Returns the layer that the step made.
    fn layer(&self) -> Option<&Arc<Layer>> {
        self.result.files.top.as_ref().filter(|_| self.result.has_layer)
    }
}

/// All layers that builds have made and still use.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    snapshotter: Arc<dyn Snapshotter>,
    ns: Namespace,
    spares: Mutex<Vec<Upper>>,
    /// Snapshots that nobody will use, and their directories.
    discarded: Mutex<Vec<(String, PathBuf)>>,
    fresh: Mutex<HashMap<String, Fresh>>,
    used: Mutex<Vec<String>>,
    committing: Mutex<()>,
    /// Layers that builds use, and some that none uses any more.
    alive: Mutex<Vec<Weak<Layer>>>,
    /// Held for writing while results are removed, so that none is found meanwhile.
    finding: RwLock<()>,
}

/// As long as it lives, no result is found and none is committed.
pub(crate) struct Still<'a> {
    _committing: MutexGuard<'a, ()>,
    _finding: RwLockWriteGuard<'a, ()>,
}

impl Layers {
    /// Ends what an earlier daemon left, and begins. Also tells whether something was left, which
    /// the next collection removes.
    pub(crate) fn open(
        store: Store,
        snapshotter: Arc<dyn Snapshotter>,
        ns: Namespace,
    ) -> Result<(Self, bool), BuildError> {
        let has_leftovers = store.transaction(|tx| {
            let left = tx.lease_resources(&ns, LEASE)?;
            tx.delete_lease(&ns, LEASE)?;
            tx.create_lease(&ns, &Lease::new(LEASE, None))?;
            Ok::<_, keg_store::MetadataError>(!left.is_empty())
        })?;
        let shared = Shared {
            store,
            snapshotter,
            ns,
            spares: Mutex::default(),
            discarded: Mutex::default(),
            fresh: Mutex::default(),
            used: Mutex::default(),
            committing: Mutex::default(),
            alive: Mutex::default(),
            finding: RwLock::default(),
        };
        Ok((Self { shared: Arc::new(shared) }, has_leftovers))
    }

    pub(crate) fn snapshotter(&self) -> &Arc<dyn Snapshotter> {
        &self.shared.snapshotter
    }

    pub(crate) fn ns(&self) -> &Namespace {
        &self.shared.ns
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Tells whether a layer's directory holds what is below too.
    pub(crate) fn are_whole(&self) -> bool {
        !self.shared.snapshotter.can_rebase()
    }

    /// Returns a snapshot to be filled, for changes of `below`; owners of what is there already are
    /// shifted into `range`. Blocks.
    pub(crate) fn take(&self, below: &Files, range: Option<IdRange>) -> Result<Upper, BuildError> {
        let upper = self.take_empty()?;
        if self.are_whole()
            && let Some(dir) = below.dirs().first()
        {
            let source = std::fs::File::open(dir).map_err(BuildError::io("open a layer"))?;
            copy_directory(&source.into(), &upper.dir, range)
                .inspect_err(|_| self.discard(&upper))?;
        }
        Ok(upper)
    }

    fn take_empty(&self) -> Result<Upper, BuildError> {
        let shared = &self.shared;
        let mut spares = lock(&shared.spares);
        if let Some(spare) = spares.pop() {
            return Ok(spare);
        }
        let keys = shared.store.transaction(|tx| {
            let keys: Vec<String> = (0..SPARES)
                .map(|count| format!("build-{}-{count}", tx.now().as_nanosecond()))
                .collect();
            for key in &keys {
                shared.snapshotter.prepare_in(
                    tx,
                    &shared.ns,
                    key,
                    None,
                    &PrepareOptions::default(),
                )?;
                let snapshotter = shared.snapshotter.name().to_owned();
                let resource = Resource::Snapshot { snapshotter, key: key.clone() };
                tx.add_to_lease(&shared.ns, LEASE, &resource)?;
            }
            Ok::<_, SnapshotError>(keys)
        })?;
        for key in keys {
            let dir = shared.snapshotter.directory(&shared.ns, &key)?;
            spares.push(Upper { key, dir, owner: Arc::downgrade(shared) });
        }
        spares.pop().ok_or(BuildError::NoSnapshot)
    }

    /// Gives a snapshot up; it is removed with the next commit.
    pub(crate) fn discard(&self, upper: &Upper) {
        lock(&self.shared.discarded).push((upper.key.clone(), upper.dir.clone()));
    }

    /// Makes a filled snapshot a layer on top of others.
    pub(crate) fn filled(&self, upper: Upper, below: Option<Arc<Layer>>) -> Arc<Layer> {
        let (key, dir) = upper.used();
        let state = State::fresh(key, None);
        self.noted(Layer::new(dir, below, Timestamp::now(), self.are_whole(), state))
    }

    /// Notes that a layer is in use, as long as it lives.
    fn noted(&self, layer: Arc<Layer>) -> Arc<Layer> {
        let mut alive = lock(&self.shared.alive);
        alive.retain(|layer| layer.strong_count() > 0);
        alive.push(Arc::downgrade(&layer));
        layer
    }

    /// Keeps results from being found and committed: who removes some asks [`Self::in_use`] then.
    pub(crate) fn still(&self) -> Still<'_> {
        let finding = &self.shared.finding;
        Still {
            _committing: lock(&self.shared.committing),
            _finding: finding.write().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Returns the keys of the snapshots that builds use.
    pub(crate) fn in_use(&self) -> BTreeSet<String> {
        let alive = lock(&self.shared.alive);
        alive.iter().filter_map(Weak::upgrade).map(|layer| layer.state().key.clone()).collect()
    }

    /// Makes a snapshot a layer that was filled from its blob, which is here.
    fn filled_from(
        &self,
        upper: Upper,
        below: Option<Arc<Layer>>,
        created: Timestamp,
        exported: Exported,
    ) -> Arc<Layer> {
        let (key, dir) = upper.used();
        let state = State::fresh(key, Some(exported));
        self.noted(Layer::new(dir, below, created, self.are_whole(), state))
    }

    /// Tells whether a step has changed nothing of `below`. Blocks.
    pub(crate) fn is_unchanged(&self, upper: &Upper, below: &Files) -> Result<bool, BuildError> {
        match below.dirs().first() {
            Some(base) if self.are_whole() => {
                let changes = changes_of_trees(base, &upper.dir, &Owners::default())
                    .map_err(|source| BuildError::Diff { source })?;
                Ok(changes.is_empty())
            }
            _ => {
                let mut names = std::fs::read_dir(&upper.dir)
                    .map_err(BuildError::io("look at what a step changed"))?;
                Ok(names.next().is_none())
            }
        }
    }

    /// Finds a result, and the step for people. `below` is what the step was done on. Blocks.
    pub(crate) fn find(
        &self,
        key: &str,
        below: &Files,
    ) -> Result<Option<(StepResult, String)>, BuildError> {
        if let Some(fresh) = lock(&self.shared.fresh).get(key) {
            return Ok(Some((fresh.result.clone(), fresh.description.clone())));
        }
        let shared = &self.shared;
        let _finding = shared.finding.read().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = shared.store.read(|tx| tx.find_build_result(&shared.ns, key))? else {
            return Ok(None);
        };
        let top = match &found.snapshot {
            None => below.top.clone(),
            Some(snapshot) => {
                let dir = match shared.snapshotter.directory(&shared.ns, snapshot) {
                    Ok(dir) if dir.exists() => dir,
                    Ok(_) | Err(SnapshotError::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(error.into()),
                };
                let exported = serde_json::from_str(&found.details).ok();
                let state = State::committed(snapshot.clone(), exported);
                let below = below.top.clone();
                let layer = Layer::new(dir, below, found.created_at, self.are_whole(), state);
                Some(self.noted(layer))
            }
        };
        // Noting each use would make every build write to the disk.
        let age_secs = Timestamp::now().duration_since(found.used_at).as_secs();
        if age_secs > NOTED_EVERY_SECS {
            lock(&shared.used).push(key.to_owned());
        }
        let result = StepResult {
            has_layer: found.snapshot.is_some(),
            files: Files { id: found.result, top },
            created: found.created_at,
        };
        Ok(Some((result, found.description)))
    }

    /// Finds committed layers that steps of these words have made, the last used first, whatever they were
    /// done on. They are in use as long as they are held. Blocks.
    pub(crate) fn alike(&self, description: &str) -> Result<Vec<Arc<Layer>>, BuildError> {
        let shared = &self.shared;
        let _finding = shared.finding.read().unwrap_or_else(PoisonError::into_inner);
        let results = shared.store.read(|tx| tx.build_results(&shared.ns))?;
        let mut found: Vec<Arc<Layer>> = Vec::new();
        let alike = results.into_iter().rev().filter(|result| result.description == description);
        for key in alike.filter_map(|result| result.snapshot) {
            if found.len() == ALIKE_MAX {
                break;
            }
            if found.iter().any(|layer| layer.state().key == key) {
                continue;
            }
            let Ok(dir) = shared.snapshotter.directory(&shared.ns, &key) else { continue };
            let state = State::committed(key, None);
            let created = Timestamp::UNIX_EPOCH;
            found.push(self.noted(Layer::new(dir, None, created, self.are_whole(), state)));
        }
        Ok(found)
    }

    /// Makes a result known, so that others find it.
    pub(crate) fn put(&self, key: &str, result: StepResult, description: &str) {
        let fresh = Fresh { result, description: description.to_owned() };
        lock(&self.shared.fresh).insert(key.to_owned(), fresh);
    }

    /// Makes everything durable that is not yet: the layers of all results, and those results.
    /// With `chain`, layers of an image lowest first and the chain ids that they are to be found
    /// under. Returns whether that brought all that was written until then to the disk. Blocks.
    pub(crate) fn commit(&self, chain: &[(Arc<Layer>, Digest)]) -> Result<bool, BuildError> {
        let shared = &self.shared;
        let _one_at_a_time = lock(&shared.committing);
        let fresh: Vec<(String, Fresh)> =
            lock(&shared.fresh).iter().map(|(key, fresh)| (key.clone(), fresh.clone())).collect();
        let discarded = std::mem::take(&mut *lock(&shared.discarded));
        let used = std::mem::take(&mut *lock(&shared.used));
        let is_named = chain.iter().all(|(layer, id)| layer.state().key == id.as_str());
        if fresh.is_empty() && discarded.is_empty() && used.is_empty() && is_named {
            return Ok(false);
        }
        // First, since on a full disk the database can note nothing before there is room.
        for (_, dir) in &discarded {
            empty(dir);
        }
        if !fresh.is_empty() {
            shared.snapshotter.sync()?;
        }
        // Before the transaction, for which others wait; what fails here fails there.
        let layers = fresh.iter().filter_map(|(_, fresh)| fresh.layer());
        layers.for_each(|layer| drop(layer.usage()));
        let mut renamed: Vec<(Arc<Layer>, String)> = Vec::new();
        let committed = shared.store.transaction(|tx| {
            for (key, fresh) in &fresh {
                let top = fresh.layer();
                if let Some(layer) = top {
                    self.commit_layer(tx, layer, &mut renamed)?;
                }
                tx.put_build_result(&shared.ns, &record(shared, key, fresh, top, tx.now()))?;
            }
            self.name_chain(tx, chain, &mut renamed)?;
            for (key, _) in &discarded {
                // One may have been given up twice.
                let found = shared.snapshotter.stat_in(tx, &shared.ns, key);
                if !matches!(found, Err(SnapshotError::NotFound { .. })) {
                    shared.snapshotter.remove_in(tx, &shared.ns, key)?;
                }
            }
            for key in &used {
                tx.touch_build_result(&shared.ns, key)?;
            }
            Ok::<_, SnapshotError>(())
        });
        if let Err(error) = committed {
            // The next commit tries again.
            lock(&shared.discarded).extend(discarded);
            lock(&shared.used).extend(used);
            return Err(error.into());
        }
        for (layer, key) in renamed {
            let mut state = layer.state();
            state.key = key;
            state.is_committed = true;
        }
        let mut known = lock(&shared.fresh);
        for (key, _) in &fresh {
            known.remove(key);
        }
        drop(known);
        if !discarded.is_empty() {
            shared.snapshotter.cleanup()?;
        }
        Ok(!fresh.is_empty())
    }

    /// Commits a layer and those below it that are not.
    fn commit_layer(
        &self,
        tx: &keg_store::WriteTx<'_>,
        layer: &Arc<Layer>,
        renamed: &mut Vec<(Arc<Layer>, String)>,
    ) -> Result<(), SnapshotError> {
        let mut pending = Vec::new();
        let mut at = Some(Arc::clone(layer));
        while let Some(layer) = at {
            if layer.state().is_committed || is_in(renamed, &layer) {
                break;
            }
            at = layer.below.clone();
            pending.push(layer);
        }
        while let Some(layer) = pending.pop() {
            let key = layer.state().key.clone();
            // What is whole needs nothing below it.
            let below = layer.below.as_ref().filter(|_| !layer.is_whole);
            let parent = below.map(|below| current_key(renamed, below));
            let name = format!("{key}-done");
            let usage = Some(layer.usage()?);
            let options = CommitOptions { parent, usage, ..CommitOptions::default() };
            self.shared.snapshotter.commit_in(tx, &self.shared.ns, &name, &key, &options)?;
            renamed.push((layer, name));
        }
        Ok(())
    }

    /// Gives the layers of an image the names that images look for.
    fn name_chain(
        &self,
        tx: &keg_store::WriteTx<'_>,
        chain: &[(Arc<Layer>, Digest)],
        renamed: &mut Vec<(Arc<Layer>, String)>,
    ) -> Result<(), SnapshotError> {
        let shared = &self.shared;
        for (layer, chain_id) in chain {
            let key = current_key(renamed, layer);
            if key == chain_id.as_str() {
                continue;
            }
            match shared.snapshotter.stat_in(tx, &shared.ns, chain_id.as_str()) {
                // An image that was pulled has the same layer.
                Ok(_) => {}
                Err(SnapshotError::NotFound { .. }) => {
                    shared.snapshotter.rename_in(tx, &shared.ns, &key, chain_id.as_str())?;
                    renamed.retain(|(other, _)| !Arc::ptr_eq(other, layer));
                    renamed.push((Arc::clone(layer), chain_id.to_string()));
                }
                Err(error) => return Err(error),
            }
            if let Some(exported) = layer.exported()
                && let Some(blob) = exported.descriptor()
            {
                let details = serde_json::to_string(&exported).unwrap_or_default();
                let key = current_key(renamed, layer);
                tx.set_build_blob(&shared.ns, &key, &blob.digest, &details)?;
            }
        }
        Ok(())
    }

    /// Returns the directories of an image's layers, given by their chain ids, lowest first.
    pub(crate) fn image_dirs(&self, chain_ids: &[Digest]) -> Result<Vec<PathBuf>, SnapshotError> {
        let (snapshotter, ns) = (&self.shared.snapshotter, &self.shared.ns);
        if self.are_whole() {
            return chain_ids.iter().map(|id| snapshotter.directory(ns, id.as_str())).collect();
        }
        let Some(top) = chain_ids.last() else { return Ok(Vec::new()) };
        let mut dirs = snapshotter.layers(ns, top.as_str())?;
        dirs.reverse();
        Ok(dirs)
    }
}

fn record(
    shared: &Shared,
    key: &str,
    fresh: &Fresh,
    layer: Option<&Arc<Layer>>,
    now: Timestamp,
) -> BuildResult {
    let exported = layer.and_then(|layer| layer.exported());
    // What is gone from the disk takes nothing there.
    let usage = layer.and_then(|layer| layer.usage().ok());
    BuildResult {
        key: key.to_owned(),
        result: fresh.result.files.id.clone(),
        snapshotter: shared.snapshotter.name().to_owned(),
        snapshot: layer.map(|layer| {
            let state = layer.state();
            if state.is_committed { state.key.clone() } else { format!("{}-done", state.key) }
        }),
        blob: exported.as_ref().and_then(Exported::descriptor).map(|blob| blob.digest),
        details: exported
            .and_then(|exported| serde_json::to_string(&exported).ok())
            .unwrap_or_else(|| "null".to_owned()),
        description: fresh.description.clone(),
        size_bytes: usage.map_or(0, |usage| usage.size_bytes),
        created_at: fresh.result.created,
        used_at: now,
        uses: 1,
    }
}

/// Takes away what is in the directory of a snapshot that nobody uses; what cannot be removed is left
/// to the snapshotter.
fn empty(dir: &Path) {
    let Ok(names) = std::fs::read_dir(dir) else { return };
    for entry in names.flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed =
            if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        drop(removed);
    }
}

fn is_in(renamed: &[(Arc<Layer>, String)], layer: &Arc<Layer>) -> bool {
    renamed.iter().any(|(other, _)| Arc::ptr_eq(other, layer))
}

/// The key that a layer has, or will have after the transaction.
fn current_key(renamed: &[(Arc<Layer>, String)], layer: &Arc<Layer>) -> String {
    renamed
        .iter()
        .find(|(other, _)| Arc::ptr_eq(other, layer))
        .map_or_else(|| layer.state().key.clone(), |(_, key)| key.clone())
}

/// A panic while one of them is held leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
