//! Container Device Interface: vendors describe devices in JSON files, people name them by
//! `VENDOR/CLASS=NAME` (CDI specification 0.8).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Mount as SpecMount};
use serde::Deserialize;

use super::{DeviceEdits, add};

/// Where descriptions are; what comes later counts more.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Largest description that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a name leads to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// No description has it.
    #[error("no description in /etc/cdi or /var/run/cdi has it")]
    Unknown,
    /// A description cannot be read.
    #[error("{path:?} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A description is malformed.
    #[error("{path:?} is no CDI description")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A device that it names cannot be had.
    #[error("what it describes cannot be had")]
    Device(#[source] Box<super::DeviceError>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bound>,
    hooks: Vec<Run>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    #[serde(default)]
    host_path: Option<PathBuf>,
    #[serde(default)]
    permissions: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bound {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    hook_name: String,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    timeout: Option<i64>,
}

/// Adds what the description of a device says.
pub(super) fn apply(name: &str, edits: &mut DeviceEdits, bound: bool) -> Result<(), CdiError> {
    apply_from(&DIRECTORIES.map(Path::new), name, edits, bound)
}

fn apply_from(
    directories: &[&Path],
    name: &str,
    edits: &mut DeviceEdits,
    bound: bool,
) -> Result<(), CdiError> {
    let (kind, device) = name.split_once('=').ok_or(CdiError::Unknown)?;
    let mut found = None;
    for path in directories.iter().flat_map(|directory| descriptions(directory)) {
        let description = read(&path)?;
        if description.kind == kind && description.devices.iter().any(|one| one.name == device) {
            found = Some(description);
        }
    }
    let description = found.ok_or(CdiError::Unknown)?;
    add_edits(&description.container_edits, edits, bound)?;
    for named in description.devices.iter().filter(|one| one.name == device) {
        add_edits(&named.container_edits, edits, bound)?;
    }
    Ok(())
}

/// The descriptions in a directory, in order of their names.
fn descriptions(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort_unstable();
    paths
}

fn read(path: &Path) -> Result<Description, CdiError> {
    use std::io::Read as _;

    let read_error = |source| CdiError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(read_error)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(read_error)?;
    serde_json::from_slice(&text)
        .map_err(|source| CdiError::Malformed { path: path.to_owned(), source })
}

fn add_edits(from: &Edits, edits: &mut DeviceEdits, bound: bool) -> Result<(), CdiError> {
    edits.env.extend(from.env.iter().cloned());
    for node in &from.device_nodes {
        let outside = node.host_path.as_ref().unwrap_or(&node.path);
        let permissions = node.permissions.as_deref().unwrap_or("rw");
        add(edits, outside, &node.path, permissions, bound)
            .map_err(|error| CdiError::Device(Box::new(error)))?;
    }
    for mount in &from.mounts {
        let mut options = mount.options.clone();
        if !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.push("rbind".to_owned());
        }
        let mut made = SpecMount::default();
        made.set_destination(mount.container_path.clone())
            .set_typ(Some(mount.kind.clone().unwrap_or_else(|| "bind".to_owned())))
            .set_source(Some(mount.host_path.clone()))
            .set_options(Some(options));
        edits.mounts.push(made);
    }
    for run in &from.hooks {
        add_hook(run, edits);
    }
    Ok(())
}

/// Adds a hook; one with a name that the runtime specification does not have is passed over, as a
/// later version of CDI may have made it optional.
fn add_hook(run: &Run, edits: &mut DeviceEdits) {
    let mut hook = Hook::default();
    hook.set_path(run.path.clone());
    hook.set_args(Some(run.args.clone()).filter(|args| !args.is_empty()));
    hook.set_env(Some(run.env.clone()).filter(|env| !env.is_empty()));
    hook.set_timeout(run.timeout);
    let hooks = &mut edits.hooks;
    let with = |list: &Option<Vec<Hook>>| {
        let mut list = list.clone().unwrap_or_default();
        list.push(hook.clone());
        Some(list)
    };
    match run.hook_name.as_str() {
        "createRuntime" => {
            let list = with(hooks.create_runtime());
            hooks.set_create_runtime(list);
        }
        "createContainer" => {
            let list = with(hooks.create_container());
            hooks.set_create_container(list);
        }
        "startContainer" => {
            let list = with(hooks.start_container());
            hooks.set_start_container(list);
        }
        "poststart" => {
            let list = with(hooks.poststart());
            hooks.set_poststart(list);
        }
        "poststop" => {
            let list = with(hooks.poststop());
            hooks.set_poststop(list);
        }
        name => tracing::warn!(name, "a CDI description has a hook of an unknown name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_brings_what_its_description_says_and_an_unknown_one_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/net",
            "containerEdits": {"env": ["COMMON=1"]},
            "devices": [
              {"name": "one", "containerEdits": {
                "env": ["ONE=1"],
                "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null"}],
                "mounts": [{"hostPath": "/etc", "containerPath": "/mnt", "options": ["ro"]}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}},
              {"name": "two"}]}"#;
        fs::write(dir.path().join("vendor.json"), text).unwrap();
        let mut edits = DeviceEdits::default();
        let directories = [dir.path()];

        apply_from(&directories, "vendor.com/net=one", &mut edits, true).unwrap();
        let unknown = apply_from(&directories, "vendor.com/net=three", &mut edits, true);
        fs::write(dir.path().join("bad.json"), "{").unwrap();
        let bad = apply_from(&directories, "vendor.com/net=two", &mut edits, true);

        assert_eq!(edits.env, ["COMMON=1", "ONE=1"]);
        assert_eq!(edits.mounts.len(), 2);
        assert_eq!(edits.hooks.create_container().as_ref().map(Vec::len), Some(1));
        assert!(matches!(unknown, Err(CdiError::Unknown)));
        assert!(matches!(bad, Err(CdiError::Malformed { .. })));
    }
}
