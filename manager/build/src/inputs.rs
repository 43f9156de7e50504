//! What the builds of one request share, one for each platform: contexts, what was read of them, and
//! what was found out on the way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use keg_image::Credentials;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;

use crate::build::Build;
use crate::content::TemporaryDir;
use crate::context::ClientContext;
use crate::error::BuildError;
use crate::layers::StepResult;
use crate::sources::Files as SourceFiles;

/// A result that was made or found, for whoever builds elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Digest of what it was made of.
    pub(crate) key: String,
    pub(crate) result: StepResult,
    /// The step, for people.
    pub(crate) description: String,
}

/// What a build is made of besides the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Material {
    /// An image, by the name that was asked for; its platform as in `linux/amd64`.
    Image { name: String, platform: String, digest: String },
    /// A file or a repository, by its address.
    Address { url: String, digest: String },
}

/// What is shared.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// When the build began.
    pub(crate) started: Timestamp,
    pub(crate) contexts: AsyncMutex<HashMap<String, SourceFiles>>,
    pub(crate) clients: Mutex<Vec<Arc<ClientContext>>>,
    /// Directories that sources are in.
    pub(crate) kept: Mutex<Vec<TemporaryDir>>,
    /// One shell at a time.
    pub(crate) shell: AsyncMutex<()>,
    consumed: Mutex<BTreeSet<String>>,
    materials: Mutex<BTreeSet<Material>>,
    seen: Mutex<BTreeMap<String, Seen>>,
    /// When what is at an address was made, seconds since 1970.
    times: Mutex<HashMap<String, i64>>,
    /// Work that goes on beside the steps.
    working: Mutex<JoinSet<()>>,
    credentials: AsyncMutex<HashMap<String, Option<Credentials>>>,
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            started: Timestamp::now(),
            contexts: AsyncMutex::default(),
            clients: Mutex::default(),
            kept: Mutex::default(),
            shell: AsyncMutex::default(),
            consumed: Mutex::default(),
            materials: Mutex::default(),
            seen: Mutex::default(),
            times: Mutex::default(),
            working: Mutex::default(),
            credentials: AsyncMutex::default(),
        }
    }
}

/// A panic while one of them is held leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inputs {
    /// Notes that a build argument was of use.
    pub(crate) fn consume(&self, key: &str) {
        lock(&self.consumed).insert(key.to_owned());
    }

    /// Tells whether a build argument was of use.
    pub(crate) fn is_consumed(&self, key: &str) -> bool {
        lock(&self.consumed).contains(key)
    }

    /// Notes what the build is made of.
    pub(crate) fn note_material(&self, material: Material) {
        lock(&self.materials).insert(material);
    }

    /// Returns what the build was made of.
    pub(crate) fn materials(&self) -> Vec<Material> {
        lock(&self.materials).iter().cloned().collect()
    }

    /// Notes when what is at an address was made: a commit, or a file as its server says.
    pub(crate) fn note_time(&self, url: &str, time_secs: i64) {
        lock(&self.times).insert(url.to_owned(), time_secs);
    }

    /// Returns when what was fetched from an address was made, if that is known.
    pub(crate) fn time_of(&self, url: &str) -> Option<i64> {
        lock(&self.times).get(url).copied()
    }

    /// Begins work that blocks and goes on beside the steps. What has not begun when the build is given
    /// up never does.
    pub(crate) fn begin(&self, work: impl FnOnce() + Send + 'static) {
        lock(&self.working).spawn_blocking(work);
    }

    /// Waits for that work.
    pub(crate) async fn finish(&self) {
        let mut working = std::mem::take(&mut *lock(&self.working));
        while working.join_next().await.is_some() {}
    }

    /// Notes a result.
    pub(crate) fn see(&self, key: &str, result: &StepResult, description: &str) {
        let (key, description) = (key.to_owned(), description.to_owned());
        let seen = Seen { key: key.clone(), result: result.clone(), description };
        lock(&self.seen).insert(key, seen);
    }

    /// Returns all results, by their keys.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).values().cloned().collect()
    }
}

impl Build {
    /// Returns the client's credentials for a registry; it is asked once.
    pub(crate) async fn credentials(
        &self,
        registry: &str,
    ) -> Result<Option<Credentials>, BuildError> {
        let mut known = self.inputs.credentials.lock().await;
        if let Some(found) = known.get(registry) {
            return Ok(found.clone());
        }
        let found = self
            .session
            .credentials(registry)
            .await
            .map_err(|source| BuildError::Session { source })?;
        known.insert(registry.to_owned(), found.clone());
        Ok(found)
    }
}
