//! What people ask of containers without changing them: lists and details.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use keg_image::{ImageError, ImageUser};
use keg_store::Digest;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::Lifecycle;
use crate::model::{ContainerDir, Record};
use crate::networking::LiveEndpoint;

/// Which containers to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Those too that do not run.
    pub all: bool,
    /// At most so many, newest first, running or not.
    pub limit: Option<usize>,
    /// Keys, and for each the values of which one must match.
    pub filters: BTreeMap<String, Vec<String>>,
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

/// A filter, checked.
#[derive(Debug)]
enum Filter {
    Id(Vec<String>),
    Name(Vec<String>),
    Status(Vec<String>),
    Label(Vec<(String, Option<String>)>),
    Ancestor { texts: Vec<String>, ids: Vec<Digest> },
    Exited(Vec<u32>),
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
        let by_state =
            filters.iter().any(|filter| matches!(filter, Filter::Status(_) | Filter::Exited(_)));
        let all = query.all || query.limit.is_some() || by_state;
        let mut found: Vec<Arc<Record>> = self
            .all()
            .iter()
            .map(|container| container.view())
            .filter(|record| all || record.lifecycle.is_alive() || record.is_restarting)
            .filter(|record| filters.iter().all(|filter| filter.matches(record)))
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
            record,
        })
    }

    /// Lists a container's interfaces on networks; none if it does not run, or is not there.
    pub fn endpoints(&self, id: &ContainerId) -> Vec<LiveEndpoint> {
        self.find(id.as_str()).map(|container| container.endpoints()).unwrap_or_default()
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

    fn filter(&self, key: &str, values: &[String]) -> Result<Filter, EngineError> {
        let invalid = |problem: String| EngineError::InvalidField { field: "filter", problem };
        let owned = || values.to_vec();
        match key {
            "id" => Ok(Filter::Id(owned())),
            "name" => Ok(Filter::Name(owned())),
            "label" => Ok(Filter::Label(
                values
                    .iter()
                    .map(|value| match value.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (value.clone(), None),
                    })
                    .collect(),
            )),
            "status" => {
                let known =
                    ["created", "running", "restarting", "paused", "exited", "removing", "dead"];
                match values.iter().find(|value| !known.contains(&value.as_str())) {
                    Some(value) => Err(invalid(format!("{value:?} is no state of a container"))),
                    None => Ok(Filter::Status(owned())),
                }
            }
            "exited" => values
                .iter()
                .map(|value| {
                    value.parse().map_err(|_| invalid(format!("{value:?} is no exit code")))
                })
                .collect::<Result<_, _>>()
                .map(Filter::Exited),
            "ancestor" => Ok(Filter::Ancestor { texts: owned(), ids: self.image_ids(values)? }),
            _ => Err(invalid(format!("there is no filter {key:?}"))),
        }
    }

    /// The ids of the images that are here under these names.
    fn image_ids(&self, names: &[String]) -> Result<Vec<Digest>, EngineError> {
        let mut ids = Vec::new();
        for name in names {
            match self.shared.images.resolve(name, None) {
                Ok(image) => ids.push(image.id),
                Err(ImageError::NotFound { .. } | ImageError::Reference { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ids)
    }
}

impl Filter {
    fn matches(&self, record: &Record) -> bool {
        match self {
            Self::Id(prefixes) => {
                prefixes.iter().any(|prefix| record.id.as_str().starts_with(prefix))
            }
            Self::Name(parts) => parts
                .iter()
                .any(|part| record.name.as_str().contains(part.trim_matches(['^', '$', '/']))),
            Self::Status(states) => states.iter().any(|state| state == record.state_name()),
            // All of several labels must be there, as in Docker.
            Self::Label(labels) => labels.iter().all(|(key, value)| {
                record
                    .config
                    .labels
                    .get(key)
                    .is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }),
            Self::Ancestor { texts, ids } => {
                texts.contains(&record.image.reference)
                    || ids.iter().any(|id| id.as_str() == record.image.id)
            }
            Self::Exited(codes) => match &record.lifecycle {
                Lifecycle::Exited { exit, .. } => codes.contains(&exit.code),
                _ => false,
            },
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::record;

    #[test]
    fn filters_match_as_dockers_do() {
        let mut record = record();
        record.config.labels.insert("tier".into(), "db".into());
        record.image.reference = "redis:7".into();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let label = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));

        let matching = [
            Filter::Id(words(&["1f1f"])),
            Filter::Name(words(&["none", "we"])),
            Filter::Name(words(&["^/web$"])),
            Filter::Status(words(&["running", "created"])),
            Filter::Label(vec![label("tier", None), label("tier", Some("db"))]),
            Filter::Ancestor { texts: words(&["redis:7"]), ids: vec![] },
        ];
        for filter in matching {
            assert!(filter.matches(&record), "{filter:?}");
        }
        let others = [
            Filter::Id(words(&["2f"])),
            Filter::Status(words(&["exited"])),
            Filter::Label(vec![label("tier", Some("web"))]),
            Filter::Label(vec![label("tier", None), label("owner", None)]),
            Filter::Exited(vec![0]),
        ];
        for filter in others {
            assert!(!filter.matches(&record), "{filter:?}");
        }
    }
}
