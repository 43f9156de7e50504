//! The bundle: what the shim reads of it, and what it leaves there for `delete`.
//!
//! ```text
//! BUNDLE/  config.json  rootfs/         the daemon's
//!          address shim.pid             read by the daemon
//!          shim.json init.pid           read by `delete` after the server was killed
//!          log                          the shim's messages (self_log)
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A bundle's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle(PathBuf);

/// What `delete` must know of the task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    /// The OCI runtime.
    pub(crate) runtime: PathBuf,
    /// Root of its state directories.
    pub(crate) runtime_root: PathBuf,
    /// Whether systemd made the cgroup.
    pub(crate) systemd_cgroup: bool,
    /// Where the exit of the first process is recorded.
    pub(crate) exit_record: Option<PathBuf>,
}

/// Why a file of the bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} is not valid")]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path:?} holds no process id")]
    Pid { path: PathBuf },
}

/// The little of config.json that concerns a shim.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    r#type: String,
    #[serde(default)]
    path: String,
}

impl Bundle {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    pub(crate) fn init_pid_file(&self) -> PathBuf {
        self.0.join("init.pid")
    }

    pub(crate) fn address_file(&self) -> PathBuf {
        self.0.join("address")
    }

    pub(crate) fn shim_pid_file(&self) -> PathBuf {
        self.0.join("shim.pid")
    }

    /// Whether the kernel ends all processes of the container with its first one: it has a PID
    /// namespace of its own.
    pub(crate) fn has_own_pid_namespace(&self) -> Result<bool, BundleError> {
        let config: Config = self.read_json("config.json")?;
        let mut namespaces = config.linux.namespaces.iter();
        Ok(namespaces.any(|namespace| namespace.r#type == "pid" && namespace.path.is_empty()))
    }

    pub(crate) fn write_task_record(&self, record: &TaskRecord) -> Result<(), BundleError> {
        let path = self.0.join("shim.json");
        let text = serde_json::to_vec(record)
            .map_err(|source| BundleError::Json { path: path.clone(), source })?;
        write(path, &text)
    }

    /// Reads what `write_task_record` wrote; `None` if the server never got so far.
    pub(crate) fn task_record(&self) -> Result<Option<TaskRecord>, BundleError> {
        match self.read_json("shim.json") {
            Ok(record) => Ok(Some(record)),
            Err(BundleError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn read_json<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<T, BundleError> {
        let path = self.0.join(name);
        let text =
            fs::read(&path).map_err(|source| BundleError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| BundleError::Json { path, source })
    }
}

/// Writes a small file that another program reads: whole or not at all, whenever the writer is killed.
pub(crate) fn write(path: PathBuf, text: &[u8]) -> Result<(), BundleError> {
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(".new");
    fs::write(&unfinished, text)
        .and_then(|()| fs::rename(&unfinished, &path))
        .map_err(|source| BundleError::Write { path, source })
}

/// Reads a process id that an OCI runtime wrote.
pub(crate) fn read_pid(path: &Path) -> Result<i32, BundleError> {
    let text = fs::read_to_string(path)
        .map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    match text.trim().parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(BundleError::Pid { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &str) -> (tempfile::TempDir, Bundle) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config).unwrap();
        let bundle = Bundle::new(dir.path());
        (dir, bundle)
    }

    #[test]
    fn only_a_new_pid_namespace_is_the_containers_own() {
        for (config, own) in [
            (r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}"#, true),
            (r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#, false),
            (r#"{"ociVersion":"1.0.2"}"#, false),
        ] {
            let (_dir, bundle) = bundle(config);

            assert_eq!(bundle.has_own_pid_namespace().unwrap(), own, "{config}");
        }
        let (_dir, broken) = bundle("{");
        assert!(broken.has_own_pid_namespace().is_err());
    }

    #[test]
    fn the_task_record_is_read_back_and_may_be_absent() {
        let (_dir, bundle) = bundle("{}");
        assert_eq!(bundle.task_record().unwrap(), None);
        let record = TaskRecord { runtime: "/bin/runc".into(), ..TaskRecord::default() };

        bundle.write_task_record(&record).unwrap();

        assert_eq!(bundle.task_record().unwrap(), Some(record));
    }
}
