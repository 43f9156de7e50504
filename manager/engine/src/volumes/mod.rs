//! Volumes: directories that outlive containers.
//!
//! ```text
//!  create ─▶ plan: who gets what ─▶ make: directory, content ─▶ transaction: rows, users, container
//!  start  ─▶ hold: mount what a volume stands for ─▶ path for the runtime ─▶ release at the end
//!  remove ─▶ row, then directory (set aside first, so that it vanishes at once)
//! ```
//!
//! `volumes/NAME/_data` below `--root` is a volume's directory. A directory is made before its row
//! and goes after it. A crash between the two leaves a directory without a row: if it is empty, it
//! goes when the daemon starts; if not, it becomes a volume again, since nobody was told that it is
//! gone. A volume that a container uses, running or not, is not removed.

mod error;
mod fill;
mod holds;
mod mounting;
mod options;
mod plan;
mod recovery;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use keg_store::{MetadataError, Volume, measure};

use crate::engine::{Engine, Shared, file_error};
use crate::error::EngineError;
use crate::events::{EngineEvent, ObjectType};

pub use error::{FillError, VolumeError};
pub(crate) use holds::Holds;
pub(crate) use mounting::MountSources;

/// The only driver there is.
pub const DRIVER: &str = "local";
/// Longest name, as of files.
const NAME_BYTES_MAX: usize = 255;
/// Digits of the names that are made up.
const MADE_UP_DIGITS: usize = 64;
/// Beginning of the names of directories that are being removed.
const GONE: &str = ".gone-";

/// A volume to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Its name; empty: one is made up.
    pub name: String,
    /// Its driver; empty: [`DRIVER`].
    pub driver: String,
    /// `type`, `device` and `o`, as mount(8) has them; empty: a directory.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Which volumes to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeQuery {
    /// Keys, and for each the values of which one must match.
    pub filters: BTreeMap<String, Vec<String>>,
    /// Measures them, which reads all their directories.
    pub sizes: bool,
}

/// A volume in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDetails {
    /// Its row.
    pub volume: Volume,
    /// Its root on the host.
    pub mountpoint: PathBuf,
    /// Ids of the containers that use it.
    pub users: Vec<String>,
    /// Bytes of its files, if they were asked for.
    pub size_bytes: Option<u64>,
}

/// What a prune has removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    /// Names.
    pub names: Vec<String>,
    /// Bytes that are free again.
    pub reclaimed_bytes: u64,
}

impl Engine {
    /// Makes a volume, or returns the one that is there if it is as the request wants it.
    ///
    /// # Errors
    /// [`VolumeError`] if the request makes no sense, or another volume has the name.
    pub async fn create_volume(
        &self,
        request: VolumeRequest,
    ) -> Result<VolumeDetails, EngineError> {
        let engine = self.clone();
        Self::detached("a new volume", async move {
            engine.blocking("a new volume", move |shared| shared.create_volume(request)).await
        })
        .await
    }

    /// Lists volumes, in order of their names.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if a filter has no such key or value.
    pub async fn volumes(&self, query: VolumeQuery) -> Result<Vec<VolumeDetails>, EngineError> {
        let filters = query
            .filters
            .iter()
            .map(|(key, values)| Filter::parse(key, values))
            .collect::<Result<Vec<_>, _>>()?;
        self.blocking("volumes", move |shared| {
            let mut found = shared.all_volumes()?;
            found.retain(|details| filters.iter().all(|filter| filter.matches(details)));
            if query.sizes {
                for details in &mut found {
                    details.size_bytes = Some(shared.volume_bytes(&details.volume.name)?);
                }
            }
            Ok(found)
        })
        .await
    }

    /// Returns one volume.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`].
    pub async fn inspect_volume(
        &self,
        name: &str,
        size: bool,
    ) -> Result<VolumeDetails, EngineError> {
        let name = name.to_owned();
        self.blocking("a volume", move |shared| {
            let mut details = shared.volume(&name)?;
            if size {
                details.size_bytes = Some(shared.volume_bytes(&name)?);
            }
            Ok(details)
        })
        .await
    }

    /// Removes a volume and all that is in it.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`]; [`VolumeError::InUse`] with the names of the containers.
    pub async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let (engine, name) = (self.clone(), name.to_owned());
        Self::detached("a volume's removal", async move {
            let work = move |shared: &Shared| shared.remove_volume(&name);
            engine.blocking("a volume's removal", work).await.map_err(|error| engine.named(error))
        })
        .await
    }

    /// Removes the volumes that no container uses; those that somebody named only with `all`.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if a filter has no such key or value.
    pub async fn prune_volumes(
        &self,
        all: bool,
        filters: BTreeMap<String, Vec<String>>,
    ) -> Result<PrunedVolumes, EngineError> {
        let filters = filters
            .iter()
            .map(|(key, values)| Filter::parse_for_prune(key, values))
            .collect::<Result<Vec<_>, _>>()?;
        let engine = self.clone();
        Self::detached("unused volumes", async move {
            let work = move |shared: &Shared| shared.prune_volumes(all, &filters);
            engine.blocking("unused volumes", work).await
        })
        .await
    }

    /// Puts the containers' names in place of their ids.
    fn named(&self, error: EngineError) -> EngineError {
        match error {
            EngineError::Volume(error) => match *error {
                VolumeError::InUse { name, users } => {
                    let name_of = |id: String| match self.find(&id) {
                        Ok(container) => container.label(),
                        Err(_) => id,
                    };
                    let users = users.into_iter().map(name_of).collect();
                    VolumeError::InUse { name, users }.into()
                }
                other => other.into(),
            },
            other => other,
        }
    }
}

impl Shared {
    /// The directory that holds a volume's root.
    fn volume_dir(&self, name: &str) -> PathBuf {
        self.settings.volumes().join(name)
    }

    /// A volume's root.
    pub(crate) fn volume_data(&self, name: &str) -> PathBuf {
        self.volume_dir(name).join("_data")
    }

    /// Where layers are brought together for a moment.
    fn scratch(&self) -> PathBuf {
        self.settings.state.join("layers")
    }

    fn create_volume(&self, request: VolumeRequest) -> Result<VolumeDetails, EngineError> {
        let anonymous = request.name.is_empty();
        let name = if anonymous { made_up_name()? } else { request.name };
        check_name(&name)?;
        check_driver(&request.driver)?;
        let _changing = self.holds.changing();
        if let Some(there) = self.find_volume(&name)? {
            for (what, wanted, found) in [
                ("options", &request.options, &there.options),
                ("labels", &request.labels, &there.labels),
            ] {
                if !wanted.is_empty() && wanted != found {
                    return Err(VolumeError::Differs { name, what }.into());
                }
            }
            return self.volume(&name);
        }
        options::check(&request.options)?;
        let volume = Volume {
            name,
            labels: request.labels,
            options: request.options,
            anonymous,
            created_at: Timestamp::now(),
        };
        self.make_new_volume_dir(&volume.name)?;
        let ns = &self.settings.namespace;
        self.store.transaction(|tx| tx.create_volume(ns, &volume))?;
        self.tell_volume(&volume.name, "create", &[]);
        self.volume(&volume.name)
    }

    fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let gone = {
            let _changing = self.holds.changing();
            let details = self.volume(name)?;
            if !details.users.is_empty() {
                let (name, users) = (name.to_owned(), details.users);
                return Err(VolumeError::InUse { name, users }.into());
            }
            self.take_volume_away(&details.volume)?
        };
        self.throw_volume(&gone);
        Ok(())
    }

    /// Takes a volume that nobody uses out of the database and sets its directory aside, which is
    /// returned. To be called while volumes do not change.
    fn take_volume_away(&self, volume: &Volume) -> Result<PathBuf, EngineError> {
        let (ns, name) = (&self.settings.namespace, &volume.name);
        let data = self.volume_data(name);
        if !volume.options.is_empty() {
            // What is mounted there is not ours to remove.
            options::unmount(&data).map_err(file_error("unmount", &data))?;
        }
        self.store.transaction(|tx| tx.delete_volume(ns, name))?;
        self.tell_volume(name, "destroy", &[]);
        self.set_volume_aside(name)
    }

    /// Removes a directory that was set aside. What cannot be is found when the daemon starts next.
    fn throw_volume(&self, gone: &Path) {
        if let Err(error) = self.store.trash().throw(gone) {
            tracing::warn!(path = ?gone, %error, "cannot remove the files of a removed volume");
        }
    }

    /// Renames a volume's directory, so that a volume of that name can be made at once.
    fn set_volume_aside(&self, name: &str) -> Result<PathBuf, EngineError> {
        let dir = self.volume_dir(name);
        let gone = self.settings.volumes().join(format!("{GONE}{}", made_up_name()?));
        match fs::rename(&dir, &gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file_error("rename", &dir)(error))
            }
            _ => Ok(gone),
        }
    }

    fn prune_volumes(&self, all: bool, filters: &[Filter]) -> Result<PrunedVolumes, EngineError> {
        let mut pruned = PrunedVolumes::default();
        for details in self.all_volumes()? {
            let volume = &details.volume;
            if !details.users.is_empty()
                || !(all || volume.anonymous)
                || !filters.iter().all(|filter| filter.matches(&details))
            {
                continue;
            }
            let bytes = self.volume_bytes(&volume.name)?;
            match self.remove_volume(&volume.name) {
                Ok(()) => {
                    pruned.names.push(volume.name.clone());
                    pruned.reclaimed_bytes += bytes;
                }
                // Somebody began to use it, or removed it, meanwhile.
                Err(EngineError::Volume(error))
                    if matches!(
                        *error,
                        VolumeError::InUse { .. } | VolumeError::NotFound { .. }
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        // Whoever prunes wants the room.
        self.store.trash().wait_until_empty();
        let reclaimed = pruned.reclaimed_bytes.to_string();
        self.tell_volume("", "prune", &[("reclaimed", reclaimed)]);
        Ok(pruned)
    }

    fn find_volume(&self, name: &str) -> Result<Option<Volume>, EngineError> {
        let ns = &self.settings.namespace;
        Ok(self.store.read(|tx| tx.find_volume(ns, name))?)
    }

    fn volume(&self, name: &str) -> Result<VolumeDetails, EngineError> {
        let ns = &self.settings.namespace;
        let found = self.store.read(|tx| {
            let volume = tx.find_volume(ns, name)?;
            Ok::<_, MetadataError>((volume, tx.volume_users(ns, name)?))
        })?;
        match found {
            (Some(volume), users) => Ok(self.details(volume, users)),
            (None, _) => Err(VolumeError::NotFound { name: name.to_owned() }.into()),
        }
    }

    fn all_volumes(&self) -> Result<Vec<VolumeDetails>, EngineError> {
        let ns = &self.settings.namespace;
        self.store.read(|tx| {
            tx.volumes(ns)?
                .into_iter()
                .map(|volume| {
                    let users = tx.volume_users(ns, &volume.name)?;
                    Ok(self.details(volume, users))
                })
                .collect()
        })
    }

    fn details(&self, volume: Volume, users: Vec<String>) -> VolumeDetails {
        let mountpoint = self.volume_data(&volume.name);
        VolumeDetails { volume, mountpoint, users, size_bytes: None }
    }

    fn volume_bytes(&self, name: &str) -> Result<u64, EngineError> {
        let data = self.volume_data(name);
        match measure(&data) {
            Ok(usage) => Ok(usage.size_bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(file_error("measure", &data)(error)),
        }
    }

    fn make_volume_dir(&self, name: &str) -> Result<(), EngineError> {
        use std::os::unix::fs::DirBuilderExt;

        // Root's alone above, as open as any directory below.
        for (path, mode) in [(self.volume_dir(name), 0o711), (self.volume_data(name), 0o755)] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path)
                .map_err(file_error("make", &path))?;
        }
        Ok(())
    }

    /// Makes the directories of a new volume, so that all containers may use what will be in it.
    fn make_new_volume_dir(&self, name: &str) -> Result<(), EngineError> {
        self.make_volume_dir(name)?;
        self.selinux.label_new_volume(&self.volume_data(name))
    }

    /// Tells what happened to a volume.
    fn tell_volume(&self, name: &str, action: &'static str, more: &[(&str, String)]) {
        let mut attributes = BTreeMap::new();
        if !name.is_empty() {
            attributes.insert("driver".to_owned(), DRIVER.to_owned());
        }
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.events.publish(EngineEvent {
            time: Timestamp::now(),
            object: ObjectType::Volume,
            action,
            id: name.to_owned(),
            attributes,
        });
    }
}

/// A filter, checked.
#[derive(Debug)]
enum Filter {
    Name(Vec<String>),
    Driver(Vec<String>),
    Label(Vec<(String, Option<String>)>),
    NotLabel(Vec<(String, Option<String>)>),
    Dangling(bool),
    Anonymous(bool),
}

impl Filter {
    fn parse(key: &str, values: &[String]) -> Result<Self, EngineError> {
        let flag = || match values.last().map(String::as_str) {
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            _ => Err(EngineError::InvalidField {
                field: "filter",
                problem: format!("{key} is \"true\" or \"false\""),
            }),
        };
        match key {
            "name" => Ok(Self::Name(values.to_vec())),
            "driver" => Ok(Self::Driver(values.to_vec())),
            "label" => Ok(Self::Label(labels(values))),
            "label!" => Ok(Self::NotLabel(labels(values))),
            "dangling" => flag().map(Self::Dangling),
            "anonymous" => flag().map(Self::Anonymous),
            _ => Err(EngineError::InvalidField {
                field: "filter",
                problem: format!("there is no filter {key:?} for volumes"),
            }),
        }
    }

    fn parse_for_prune(key: &str, values: &[String]) -> Result<Self, EngineError> {
        if !["label", "label!"].contains(&key) {
            return Err(EngineError::InvalidField {
                field: "filter",
                problem: format!("there is no filter {key:?} here; there are label and label!"),
            });
        }
        Self::parse(key, values)
    }

    fn matches(&self, details: &VolumeDetails) -> bool {
        let volume = &details.volume;
        let has = |(key, value): &(String, Option<String>)| {
            volume
                .labels
                .get(key)
                .is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        match self {
            Self::Name(parts) => {
                parts.iter().any(|part| volume.name.contains(part.trim_matches(['^', '$'])))
            }
            Self::Driver(drivers) => drivers.iter().any(|driver| driver == DRIVER),
            // All of several labels must be there, as in Docker.
            Self::Label(labels) => labels.iter().all(has),
            Self::NotLabel(labels) => !labels.iter().any(has),
            Self::Dangling(wanted) => details.users.is_empty() == *wanted,
            Self::Anonymous(wanted) => volume.anonymous == *wanted,
        }
    }
}

fn labels(values: &[String]) -> Vec<(String, Option<String>)> {
    let label = |value: &String| match value.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (value.clone(), None),
    };
    values.iter().map(label).collect()
}

/// Makes a name up that nobody has.
fn made_up_name() -> Result<String, EngineError> {
    let octets: [u8; MADE_UP_DIGITS / 2] = crate::create::random()?;
    Ok(octets.iter().map(|octet| format!("{octet:02x}")).collect())
}

fn check_name(name: &str) -> Result<(), VolumeError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && (2..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(valid) {
        return Ok(());
    }
    Err(VolumeError::InvalidName { name: name.to_owned() })
}

fn check_driver(driver: &str) -> Result<(), VolumeError> {
    match driver {
        "" | DRIVER => Ok(()),
        other => Err(VolumeError::UnknownDriver { driver: other.to_owned() }),
    }
}

/// Removes what nothing names any more. What cannot be is found when the daemon starts next.
fn remove_tree(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(?path, %error, "cannot remove the files of a removed volume");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_names_of_files() {
        for name in ["db", "a.b-c_9", &"x".repeat(255)] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        for name in ["", "a", ".db", "-db", "a/b", "..", "a b", "é", "a\0", &"x".repeat(256)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name(&made_up_name().unwrap()).is_ok());
    }

    #[test]
    fn filters_match_as_dockers_do() {
        let volume = Volume {
            name: "web-data".into(),
            labels: [("tier".to_owned(), "db".to_owned())].into(),
            options: BTreeMap::new(),
            anonymous: false,
            created_at: Timestamp::UNIX_EPOCH,
        };
        let details = VolumeDetails {
            volume,
            mountpoint: "/v".into(),
            users: vec!["c".into()],
            size_bytes: None,
        };
        let table = [
            ("name", "data", true),
            ("name", "^web", true),
            ("name", "x", false),
            ("driver", "local", true),
            ("driver", "nfs", false),
            ("label", "tier", true),
            ("label", "tier=db", true),
            ("label", "tier=web", false),
            ("label!", "tier=web", true),
            ("label!", "tier", false),
            ("dangling", "true", false),
            ("dangling", "0", true),
            ("anonymous", "false", true),
        ];
        for (key, value, expected) in table {
            let filter = Filter::parse(key, &[value.to_owned()]).unwrap();
            assert_eq!(filter.matches(&details), expected, "{key}={value}");
        }
        assert!(Filter::parse("colour", &[]).is_err());
        assert!(Filter::parse("dangling", &["maybe".into()]).is_err());
        assert!(Filter::parse_for_prune("dangling", &["true".into()]).is_err());
    }
}
