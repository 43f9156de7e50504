//! What people ask of containers without changing them: lists and details.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use keg_image::{ImageUser, NamedImage};
use keg_store::Mount;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::filters::Filter;
use crate::id::ContainerId;
use crate::lifecycle::Lifecycle;
use crate::model::{ContainerDir, Record};
use crate::networking::LiveEndpoint;
use crate::runtimes::Runtime;
use crate::start::runtime_of;

/// Which containers to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Those too that do not run.
    pub all: bool,
    /// At most so many, newest first, running or not.
    pub limit: Option<usize>,
    /// Keys, and for each the values of which one must match.
    pub filters: BTreeMap<String, Vec<String>>,
    /// Measures them, which reads all that they have written.
    pub sizes: bool,
}

/// What a container takes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of what it has written.
    pub written_bytes: u64,
    /// Bytes of that and of its image.
    pub total_bytes: u64,
}

/// One container in full.
#[derive(Debug, Clone)]
pub struct Details {
    /// Its record.
    pub record: Arc<Record>,
    /// Its log on the host.
    pub log_path: PathBuf,
    /// Its bundle, while it has a task.
    pub bundle: Option<PathBuf>,
    /// Name of its runtime.
    pub runtime: String,
    /// The directory of all volumes.
    pub volumes: PathBuf,
    /// Its interfaces on networks, while it runs.
    pub endpoints: Vec<LiveEndpoint>,
    /// Where its files of `/etc` are on the host.
    pub etc_dir: ContainerDir,
    /// Where its network namespace is, while it runs, if that is not the host's.
    pub network_namespace: Option<PathBuf>,
    /// What keeps its writable layer.
    pub snapshotter: &'static str,
}

/// Directories on the host that make a container's root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootDirectories {
    /// Those of the image, uppermost first.
    pub lower: Vec<String>,
    /// What the container has written.
    pub upper: String,
    /// The file system's own.
    pub work: String,
    /// Where it can be seen whole; empty when the container does not run.
    pub merged: PathBuf,
}

impl RootDirectories {
    /// Reads the options of an overlay's mount, which can be seen at `merged`; `None` for another.
    fn of(mount: &Mount, merged: PathBuf) -> Option<Self> {
        let option = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
        Some(Self {
            lower: option("lowerdir=")?.split(':').map(str::to_owned).collect(),
            upper: option("upperdir=")?.to_owned(),
            work: option("workdir=")?.to_owned(),
            merged,
        })
    }
}

/// Containers by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that run.
    pub running: u64,
    /// Those that are paused.
    pub paused: u64,
    /// All others.
    pub stopped: u64,
}

impl Engine {
    /// Lists containers, newest first.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if a filter has no such key or value.
    pub fn list(&self, query: &ListQuery) -> Result<Vec<Arc<Record>>, EngineError> {
        let filters: Vec<Filter> = query
            .filters
            .iter()
            .map(|(key, values)| self.filter(key, values))
            .collect::<Result<_, _>>()?;
        // Who asks for a state asks for it whether it runs or not.
        let by_state = filters.iter().any(Filter::is_of_state);
        let all = query.all || query.limit.is_some() || by_state;
        let mut found: Vec<Arc<Record>> = self
            .all()
            .iter()
            .map(|container| (container.view(), container))
            .filter(|(record, _)| all || record.lifecycle.is_alive() || record.is_restarting)
            .filter(|(record, container)| {
                let live = container.endpoints();
                filters.iter().all(|filter| filter.matches(record, &live))
            })
            .map(|(record, _)| record)
            .collect();
        found.truncate(query.limit.unwrap_or(usize::MAX));
        Ok(found)
    }

    /// Returns everything known of one container.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`].
    pub fn inspect(&self, name: &str) -> Result<Details, EngineError> {
        let container = self.find(name)?;
        let record = container.view();
        let settings = &self.shared.settings;
        let runtime = match record.host.runtime.as_str() {
            "" => settings.default_runtime.clone(),
            asked => asked.to_owned(),
        };
        let bundle = self.shared.bundle(&record.id);
        Ok(Details {
            log_path: self.shared.dir(&record.id).log(),
            bundle: container.task().map(|_| bundle.path().to_owned()),
            runtime,
            volumes: settings.volumes(),
            endpoints: container.endpoints(),
            etc_dir: self.etc_dir(&record),
            network_namespace: self.network_namespace(&record),
            snapshotter: self.shared.snapshotter.name(),
            record,
        })
    }

    /// Tells which directories make a container's root file system; `None` if its snapshotter stacks none.
    ///
    /// # Errors
    /// If the database fails, or the daemon is ending.
    pub async fn root_directories(
        &self,
        record: Arc<Record>,
    ) -> Result<Option<RootDirectories>, EngineError> {
        self.blocking("a look at a root file system", move |shared| {
            let mounts =
                shared.snapshotter.mounts(&shared.settings.namespace, &record.snapshot_key)?;
            let merged = match (record.lifecycle.pid(), runtime_of(shared, &record)) {
                (None, _) => PathBuf::new(),
                // There may be no process of this machine.
                (_, Ok(Runtime::Shim(_))) => shared.bundle(&record.id).path().join("rootfs"),
                (Some(pid), _) => PathBuf::from(format!("/proc/{pid}/root")),
            };
            Ok(mounts.first().and_then(|mount| RootDirectories::of(mount, merged)))
        })
        .await
    }

    /// Lists a container's interfaces on networks; none if it does not run, or is not there.
    pub fn endpoints(&self, id: &ContainerId) -> Vec<LiveEndpoint> {
        self.find(id.as_str()).map(|container| container.endpoints()).unwrap_or_default()
    }

    /// Measures containers. One that cannot be measured, since it has just been removed, takes
    /// nothing.
    ///
    /// # Errors
    /// Only if the daemon is ending.
    pub async fn sizes(&self, records: Vec<Arc<Record>>) -> Result<Vec<Size>, EngineError> {
        self.blocking("sizes of containers", move |shared| {
            let ns = &shared.settings.namespace;
            let size = |record: &Arc<Record>| {
                let key = &record.snapshot_key;
                let written_bytes = shared.snapshotter.usage(ns, key).map_or(0, |u| u.size_bytes);
                let mut total_bytes = written_bytes;
                let parent = |key: &str| shared.snapshotter.stat(ns, key).ok()?.parent;
                let mut below = parent(key);
                while let Some(key) = below {
                    total_bytes += shared.snapshotter.usage(ns, &key).map_or(0, |u| u.size_bytes);
                    below = parent(&key);
                }
                Size { written_bytes, total_bytes }
            };
            Ok(records.iter().map(size).collect())
        })
        .await
    }

    /// Tells for each container whether what it was made from is still called what was asked for.
    ///
    /// # Errors
    /// If the database fails, or the daemon is ending.
    pub async fn images_still_named(
        &self,
        records: Vec<Arc<Record>>,
    ) -> Result<Vec<bool>, EngineError> {
        self.blocking("a look at names of images", move |shared| {
            let named = records.iter().map(|record| {
                let (text, id) = (record.image.reference.as_str(), record.image.id.as_str());
                NamedImage { text, id }
            });
            Ok(shared.images.still_stand(&named.collect::<Vec<_>>())?)
        })
        .await
    }

    /// Counts containers by state.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for container in self.all() {
            match container.record().lifecycle {
                Lifecycle::Running { .. } => counts.running += 1,
                Lifecycle::Paused { .. } => counts.paused += 1,
                _ => counts.stopped += 1,
            }
        }
        counts
    }

    /// Tells which containers use which images.
    pub fn image_users(&self) -> Vec<ImageUser> {
        self.all().iter().filter_map(|container| image_user(container)).collect()
    }
}

fn image_user(container: &Container) -> Option<ImageUser> {
    let record = container.record();
    Some(ImageUser {
        container: record.id.as_str().to_owned(),
        image_id: record.image.id.parse().ok()?,
        is_running: record.lifecycle.is_alive(),
    })
}
