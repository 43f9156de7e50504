//! The whole root file system as an archive, and what of it the container changed.

use std::fs;
use std::path::{Path, PathBuf};

use keg_image::config_comment;
use keg_image::diff::{
    ChangeKind, DiffOptions, PathChange, archive_merged, changes_of_trees, changes_of_upper,
};
use serde_json::{Map, Value, json};

use super::stream::{ByteStream, outward};
use super::{FilesError, owners};
use crate::engine::{Engine, Shared};
use crate::error::EngineError;
use crate::model::{Entrypoint, Record};

/// Files that every container has of its own, mounted on empty ones if the image has none.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
/// Directories that every container has, likewise.
const DIRECTORIES: [&str; 3] = ["/dev", "/proc", "/sys"];

impl Engine {
    /// Archives a container's root file system, without what is mounted in it, and with what an
    /// import needs to run it again.
    ///
    /// # Errors
    /// [`EngineError::Snapshot`]; what fails later is in the stream.
    pub async fn export(&self, name: &str) -> Result<ByteStream, EngineError> {
        let container = self.find(name)?;
        let record = container.record();
        let (mut writer, stream) = outward();
        let engine = self.clone();
        let to_read = std::sync::Arc::clone(&record);
        let (layers, comment) = engine
            .blocking("an export", move |shared| {
                let (directory, lower) = directories(shared, &to_read)?;
                let layers = match shared.snapshotter.can_rebase() {
                    true => std::iter::once(directory).chain(lower).collect::<Vec<_>>(),
                    false => vec![directory],
                };
                Ok((layers, config_comment(&run_config(shared, &to_read))))
            })
            .await?;
        let options = DiffOptions { owners: owners(&record), ..DiffOptions::default() };
        let label = record.name.as_str().to_owned();
        tokio::task::spawn_blocking(move || {
            let outcome = archive_merged(&layers, Some(&comment), &options, &mut writer).map(drop);
            writer.end(outcome.map_err(|error| EngineError::Files {
                container: label,
                source: FilesError::Archive(error),
            }));
        });
        self.tell(&record, "export", &[]);
        Ok(stream)
    }

    /// Lists what a container changed of its image's files.
    ///
    /// # Errors
    /// [`EngineError::Files`], [`EngineError::Snapshot`].
    pub async fn changes(&self, name: &str) -> Result<Vec<PathChange>, EngineError> {
        let container = self.find(name)?;
        self.blocking("a list of changes", move |shared| {
            let record = container.record();
            let (directory, lower) = directories(shared, &record)?;
            let changes = match (shared.snapshotter.can_rebase(), lower.first()) {
                (false, Some(base)) => changes_of_trees(base, &directory, &owners(&record)),
                _ => changes_of_upper(&directory, &lower),
            };
            let changes = changes.map_err(|error| EngineError::Files {
                container: container.label(),
                source: FilesError::Archive(error),
            })?;
            Ok(without_places(changes, &directory))
        })
        .await
    }
}

/// Leaves out what was made only to mount our own files on, and a directory that nothing else
/// changed.
fn without_places(mut changes: Vec<PathChange>, directory: &Path) -> Vec<PathChange> {
    let is_one_of =
        |places: &[&str], path: &Path| places.iter().any(|place| path == Path::new(place));
    let is_place = |change: &PathChange| {
        let place = directory.join(change.path.strip_prefix("/").unwrap_or(&change.path));
        let is_empty = || match is_one_of(&DIRECTORIES, &change.path) {
            true => fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_none()),
            false => fs::symlink_metadata(&place).is_ok_and(|file| file.len() == 0),
        };
        change.kind == ChangeKind::Added
            && (is_one_of(&FILES, &change.path) || is_one_of(&DIRECTORIES, &change.path))
            && is_empty()
    };
    let before = changes.len();
    changes.retain(|change| !is_place(change));
    let others = changes.iter().filter(|change| change.path.starts_with("/etc")).count();
    if before != changes.len() && others == 1 {
        changes.retain(|change| change.path != Path::new("/etc"));
    }
    changes
}

/// The directory of a container's snapshot, and those below it, uppermost first.
fn directories(shared: &Shared, record: &Record) -> Result<(PathBuf, Vec<PathBuf>), EngineError> {
    let (ns, key) = (&shared.settings.namespace, &record.snapshot_key);
    let directory = shared.snapshotter.directory(ns, key)?;
    let lower = match shared.snapshotter.stat(ns, key)?.parent {
        Some(parent) => shared.snapshotter.layers(ns, &parent)?,
        None => Vec::new(),
    };
    Ok((directory, lower))
}

/// How the container is run, as an image's `config` object: its image's, if that is still here,
/// with what the container has in its place.
pub(super) fn run_config(shared: &Shared, record: &Record) -> Map<String, Value> {
    let mut config = shared
        .images
        .resolve(&record.image.id, None)
        .ok()
        .and_then(|image| serde_json::from_slice::<Value>(&image.config_json).ok())
        .and_then(|document| document.get("config").and_then(Value::as_object).cloned())
        .unwrap_or_default();
    config.remove("OnBuild");
    config.extend(own_config(record));
    config
}

/// What the container itself says of how it is run.
pub(super) fn own_config(record: &Record) -> Map<String, Value> {
    let asked = &record.config;
    let mut config = Map::new();
    // What is set for each container anew is none of an image's business.
    let own_name = format!("HOSTNAME={}", record.hostname());
    let is_own = |entry: &&String| **entry != own_name && entry.as_str() != "TERM=xterm";
    config
        .insert("Env".into(), json!(record.process.env.iter().filter(is_own).collect::<Vec<_>>()));
    match &asked.entrypoint {
        Entrypoint::FromImage => {}
        Entrypoint::Cleared => drop(config.insert("Entrypoint".into(), Value::Null)),
        Entrypoint::Own(entrypoint) => {
            config.insert("Entrypoint".into(), json!(entrypoint));
        }
    }
    // Default arguments belong to the entry point that they were written for.
    if !asked.command.is_empty() {
        config.insert("Cmd".into(), json!(asked.command));
    } else if asked.entrypoint != Entrypoint::FromImage {
        config.insert("Cmd".into(), Value::Null);
    }
    config.insert("WorkingDir".into(), json!(record.process.working_dir.to_string_lossy()));
    config.insert("User".into(), json!(record.process.user));
    if !asked.exposed_ports.is_empty() {
        let ports = asked.exposed_ports.iter().map(|port| (port.to_string(), json!({})));
        config.insert("ExposedPorts".into(), Value::Object(ports.collect()));
    }
    if let Some(signal) = asked.stop_signal {
        config.insert("StopSignal".into(), json!(signal.to_string()));
    }
    if !asked.labels.is_empty() {
        config.insert("Labels".into(), json!(asked.labels));
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::record;

    #[test]
    fn the_entry_point_takes_its_arguments_with_it() {
        let mut record = record();
        record.config.command.clear();
        record.config.entrypoint = Entrypoint::FromImage;
        assert_eq!(own_config(&record).get("Cmd"), None);
        assert_eq!(own_config(&record).get("Entrypoint"), None);

        record.config.entrypoint = Entrypoint::Own(vec!["mine".into()]);
        assert_eq!(own_config(&record)["Cmd"], Value::Null);
        assert_eq!(own_config(&record)["Entrypoint"], json!(["mine"]));

        record.config.command = vec!["-v".into()];
        assert_eq!(own_config(&record)["Cmd"], json!(["-v"]));
    }
}
