//! What survives the daemon: one small JSON file per record.
//!
//! ```text
//! ROOT/networks/ID.json                 networks: synced, since they outlive a power failure
//! STATE/endpoints/CONTAINER.ID.json     endpoints: not synced, since a restart of the machine
//!                                       ends every container, and STATE is gone with it
//! ```
//!
//! A record appears and disappears whole: it is written under another name and renamed. The
//! addresses in endpoints' records are the only book of what is given out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{Endpoint, Network, NetworkId};

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The file system refused.
    #[error("{operation} {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A record is no record.
    #[error("{path:?} is no record of a network; move it away, and create the network again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The two directories.
#[derive(Debug)]
pub(crate) struct Records {
    networks: PathBuf,
    endpoints: PathBuf,
}

impl Records {
    /// Opens the directories, making them if need be.
    pub(crate) fn open(root: &Path, state: &Path) -> Result<Self, RecordsError> {
        let records = Self { networks: root.join("networks"), endpoints: state.join("endpoints") };
        for directory in [&records.networks, &records.endpoints] {
            fs::create_dir_all(directory)
                .map_err(|source| io_error("create", directory, source))?;
        }
        Ok(records)
    }

    /// Reads all networks.
    pub(crate) fn networks(&self) -> Result<Vec<Network>, RecordsError> {
        read_all(&self.networks)
    }

    /// Reads all endpoints.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, RecordsError> {
        read_all(&self.endpoints)
    }

    /// Records a network, durably.
    pub(crate) fn put_network(&self, network: &Network) -> Result<(), RecordsError> {
        write(&self.network_path(&network.id), network, true)
    }

    /// Forgets a network.
    pub(crate) fn remove_network(&self, id: &NetworkId) -> Result<(), RecordsError> {
        remove(&self.network_path(id))
    }

    /// Records an endpoint.
    pub(crate) fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), RecordsError> {
        write(&self.endpoint_path(&endpoint.container, &endpoint.network), endpoint, false)
    }

    /// Forgets an endpoint.
    pub(crate) fn remove_endpoint(
        &self,
        container: &str,
        network: &NetworkId,
    ) -> Result<(), RecordsError> {
        remove(&self.endpoint_path(container, network))
    }

    fn network_path(&self, id: &NetworkId) -> PathBuf {
        self.networks.join(format!("{id}.json"))
    }

    fn endpoint_path(&self, container: &str, network: &NetworkId) -> PathBuf {
        self.endpoints.join(format!("{container}.{network}.json"))
    }
}

fn read_all<T: DeserializeOwned>(directory: &Path) -> Result<Vec<T>, RecordsError> {
    let fail = |source| io_error("read", directory, source);
    let mut records = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            // Left by a daemon that died while it wrote; the record before it still stands.
            remove(&path)?;
            continue;
        }
        let bytes = fs::read(&path).map_err(|source| io_error("read", &path, source))?;
        let record = serde_json::from_slice(&bytes)
            .map_err(|source| RecordsError::Malformed { path, source })?;
        records.push(record);
    }
    Ok(records)
}

fn write<T: Serialize>(path: &Path, record: &T, durable: bool) -> Result<(), RecordsError> {
    let partial = path.with_extension("partial");
    let fail = |source| io_error("write", &partial, source);
    let bytes = serde_json::to_vec(record)
        .map_err(|source| RecordsError::Malformed { path: path.to_owned(), source })?;
    let mut file = File::create(&partial).map_err(fail)?;
    file.write_all(&bytes).map_err(fail)?;
    if durable {
        file.sync_all().map_err(fail)?;
    }
    fs::rename(&partial, path).map_err(fail)?;
    if durable {
        sync_directory(path)?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), RecordsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> Result<(), RecordsError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io_error("sync", directory, source))
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> RecordsError {
    RecordsError::Io { operation, path: path.to_owned(), source }
}
