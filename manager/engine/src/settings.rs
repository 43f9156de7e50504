//! What the engine is told once, when it starts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use keg_network::NetworkMode;
use keg_store::{IdRangePool, Namespace};

use crate::log::LogLimits;
use crate::runtimes::{Runtime, RuntimeError, ShimConfig, resolve};

/// Settings of the engine; they do not change while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Persistent directory.
    pub root: PathBuf,
    /// Runtime directory; empty after a reboot.
    pub state: PathBuf,
    /// Namespace of all that this engine keeps.
    pub namespace: Namespace,
    /// Shim program.
    pub shim: PathBuf,
    /// Program for containers that ask for an init, if it is installed.
    pub init: Option<PathBuf>,
    /// Shims write more into their logs.
    pub shim_debug: bool,
    /// Runtimes by name, with their programs.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// Other shims than ours, by name.
    pub shims: BTreeMap<String, ShimConfig>,
    /// Name of the runtime for containers that ask for none; it need not be among `runtimes`, and
    /// the shim then chooses.
    pub default_runtime: String,
    /// Network of containers that ask for none.
    pub default_network: NetworkMode,
    /// Where user namespaces get their ids.
    pub id_pool: IdRangePool,
    /// Seconds between the stop signal and SIGKILL, unless a container says otherwise.
    pub stop_timeout_secs: u32,
    /// How much of a log is kept, unless a container says otherwise.
    pub log: LogLimits,
    /// Whether containers get labels of SELinux; `None`: where the host can.
    pub selinux: Option<bool>,
}

impl Settings {
    /// Directories with what lives as long as a container.
    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Directory of all volumes.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Bundles of running containers.
    pub(crate) fn tasks(&self) -> PathBuf {
        self.state.join("tasks").join(self.namespace.as_str())
    }

    /// The socket that shims publish events to.
    pub(crate) fn events_socket(&self) -> PathBuf {
        self.state.join("events.sock")
    }

    /// The socket that shims keep theirs beside.
    pub(crate) fn daemon_socket(&self) -> PathBuf {
        self.state.join("kegd.sock")
    }

    /// What runs a container that asks for `asked`.
    ///
    /// # Errors
    /// [`RuntimeError`] if there is no such runtime.
    pub(crate) fn runtime(&self, asked: &str) -> Result<Runtime, RuntimeError> {
        resolve((&self.runtimes, &self.shims), &self.default_runtime, asked)
    }

    /// The OCI runtime that our own shim is to execute, whatever containers get by default. Empty if
    /// the shim is to choose.
    pub(crate) fn own_runtime(&self) -> PathBuf {
        match self.runtime("") {
            Ok(Runtime::Program(program)) => program,
            Ok(Runtime::Shim(_)) | Err(_) => PathBuf::new(),
        }
    }
}
