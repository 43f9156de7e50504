//! Networks that others make: CNI plugins (CNI specification 1.1), as Kubernetes has them.
//!
//! ```text
//! connect     ADD plugin 1 ─▶ ADD plugin 2 ─▶ …      each gets what the one before answered
//!                └─ a failure: DEL of all, in reverse
//! disconnect  DEL … ◀─ DEL plugin 2 ◀─ DEL plugin 1   each gets what ADD answered in the end
//! ```
//!
//! Configurations are read when they are needed, so that an administrator can change them; what a
//! container was connected by is recorded in `--state/cni/CONTAINER.NETWORK.json` before the first
//! plugin runs, so that it can be disconnected whatever became of configuration or daemon.
//!
//! Invariant: an attachment that is not on record has no resources, as far as its plugins keep to
//! the specification.

mod config;
mod plugin;
mod result;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::config::CniNetwork;
use self::result::CniResult;
use crate::address::MacAddr;
use crate::model::{ConnectRequest, Endpoint, NetworkId};
use crate::ports::PublishedPort;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What the name of a network begins with that CNI plugins make.
pub const CNI_PREFIX: &str = "cni:";
/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// First version of the specification with CHECK, and with GC and STATUS.
const WITH_CHECK: &str = "0.4.0";
const WITH_GC: &str = "1.1.0";

/// Why plugins did not do what they were asked.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No such configuration.
    #[error("there is no CNI network {name:?}; there are: {known}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A configuration cannot be read.
    #[error("read the CNI configuration {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A configuration is none.
    #[error("{path:?} is no CNI configuration")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and how.
        #[source]
        source: serde_json::Error,
    },
    /// No plugin of the network can do what a container asks for.
    #[error("none of the plugins of the CNI network {name:?} has the capability {capability:?}")]
    Capability {
        /// The network.
        name: String,
        /// As the specification's conventions call it.
        capability: String,
    },
    /// A plugin is not installed.
    #[error("the CNI plugin {plugin:?} is in none of {directories}")]
    NoPlugin {
        /// Its name.
        plugin: String,
        /// Where it was looked for.
        directories: String,
    },
    /// A plugin cannot be run.
    #[error("run the CNI plugin {plugin:?}")]
    Run {
        /// Its name.
        plugin: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A plugin does not come to an end.
    #[error("the CNI plugin {plugin:?} did not answer within {} s", PATIENCE.as_secs())]
    Timeout {
        /// Its name.
        plugin: String,
    },
    /// A plugin says no.
    #[error("the CNI plugin {plugin:?} refused {command} (code {code}): {message}")]
    Refused {
        /// Its name.
        plugin: String,
        /// What it was asked.
        command: &'static str,
        /// The specification's number, or its own.
        code: u32,
        /// In its words.
        message: String,
    },
    /// A plugin's answer is none.
    #[error("the answer of the CNI plugin {plugin:?} is none")]
    Answer {
        /// Its name.
        plugin: String,
        /// Where and how.
        #[source]
        source: serde_json::Error,
    },
    /// A record of an attachment cannot be kept.
    #[error("{operation} the record of a CNI attachment, {path:?}")]
    Record {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where configurations, plugins and records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniSettings {
    /// Directories with configurations, the first first.
    pub config_dirs: Vec<PathBuf>,
    /// Directories with plugins, the first first.
    pub plugin_dirs: Vec<PathBuf>,
    /// Directory for records, gone with a restart of the machine.
    pub state_dir: PathBuf,
}

/// CNI's networks.
#[derive(Debug, Clone)]
pub struct Cni {
    settings: CniSettings,
}

/// What a container was connected by.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    container: String,
    name: String,
    interface: String,
    netns: PathBuf,
    version: String,
    plugins: Vec<Map<String, Value>>,
    runtime: Map<String, Value>,
    /// What the last plugin answered; absent until all have.
    result: Option<Value>,
    endpoint: Option<Endpoint>,
}

impl Cni {
    /// Takes directories; reads nothing yet.
    pub fn new(settings: CniSettings) -> Self {
        Self { settings }
    }

    /// Lists the networks that can be had.
    pub fn list(&self) -> Vec<CniNetwork> {
        config::list(&self.settings.config_dirs)
    }

    /// Finds a network by its name, with or without [`CNI_PREFIX`], and asks its plugins whether
    /// they are ready (STATUS) where they know that question.
    ///
    /// # Errors
    /// [`CniError::NotFound`], [`CniError::Refused`].
    pub async fn find(&self, name: &str) -> Result<CniNetwork, CniError> {
        let name = name.strip_prefix(CNI_PREFIX).unwrap_or(name);
        let network = config::find(&self.settings.config_dirs, name)?;
        if network.is_at_least(WITH_GC) {
            for plugin in &network.plugins {
                let config = complete(plugin, &network.name, &network.version, None, None);
                self.call(plugin, "STATUS", &[], &config).await?;
            }
        }
        Ok(network)
    }

    /// Connects a container, whose network namespace is at `netns`.
    ///
    /// # Errors
    /// Any of [`CniError`]; the plugins have been told to take everything back then.
    pub async fn connect(
        &self,
        name: &str,
        request: &ConnectRequest,
        interface: &str,
        netns: &Path,
    ) -> Result<Endpoint, CniError> {
        let name = name.strip_prefix(CNI_PREFIX).unwrap_or(name);
        let network = config::find(&self.settings.config_dirs, name)?;
        let mut record = Record {
            container: request.container.clone(),
            name: network.name.clone(),
            interface: interface.to_owned(),
            netns: netns.to_owned(),
            version: network.version.clone(),
            plugins: network.plugins.clone(),
            runtime: runtime_config(request),
            result: None,
            endpoint: None,
        };
        check_capabilities(&record)?;
        self.save(&record)?;
        let outcome = self.add(&record).await;
        let result = match outcome {
            Ok(result) => result,
            Err(error) => {
                self.take_back(&record).await;
                return Err(error);
            }
        };
        let endpoint = endpoint(request, &record, &result.1);
        record.result = Some(result.0);
        record.endpoint = Some(endpoint.clone());
        self.save(&record)?;
        Ok(endpoint)
    }

    /// Disconnects a container from all of CNI's networks that it is on; none is no error.
    pub async fn disconnect_all(&self, container: &str) {
        for record in self.records() {
            if record.container == container {
                self.take_back(&record).await;
            }
        }
    }

    /// Gives back what containers had that do not run any more, and tells plugins which attachments
    /// are left (GC), so that they find what they have lost.
    pub async fn reconcile(&self, live: &[String]) {
        for record in self.records() {
            if !live.contains(&record.container) || record.endpoint.is_none() {
                self.take_back(&record).await;
            }
        }
        let records = self.records();
        for network in self.list() {
            if !network.is_at_least(WITH_GC) || network.disable_gc {
                continue;
            }
            let valid: Vec<Value> = records
                .iter()
                .filter(|record| record.name == network.name)
                .map(|record| json!({"containerID": record.container, "ifname": record.interface}))
                .collect();
            for plugin in &network.plugins {
                let mut config = complete(plugin, &network.name, &network.version, None, None);
                config.insert("cni.dev/valid-attachments".to_owned(), Value::from(valid.clone()));
                if let Err(error) = self.call(plugin, "GC", &[], &config).await {
                    tracing::warn!(network = network.name, error = %told(&error),
                        "a CNI plugin does not collect what is left over");
                }
            }
        }
    }

    /// Lists a container's endpoints, each with the name of its network.
    pub fn endpoints(&self, container: &str) -> Vec<(String, Endpoint)> {
        let records = self.records().into_iter().filter(|record| record.container == container);
        records
            .filter_map(|record| Some((format!("{CNI_PREFIX}{}", record.name), record.endpoint?)))
            .collect()
    }

    /// Asks plugins whether a container is connected as they left it (CHECK).
    ///
    /// # Errors
    /// [`CniError::Refused`] in the words of the plugin that finds fault.
    pub async fn check(&self, container: &str) -> Result<(), CniError> {
        for record in self.records() {
            let network = config::find(&self.settings.config_dirs, &record.name);
            let asked = network
                .is_ok_and(|network| network.is_at_least(WITH_CHECK) && !network.disable_check);
            if record.container != container || !asked {
                continue;
            }
            for plugin in &record.plugins {
                let config = record.config(plugin, record.result.as_ref());
                self.call(plugin, "CHECK", &record.environment(), &config).await?;
            }
        }
        Ok(())
    }

    async fn add(&self, record: &Record) -> Result<(Value, CniResult), CniError> {
        let mut last: Option<Value> = None;
        for plugin in &record.plugins {
            let config = record.config(plugin, last.as_ref());
            last = Some(self.call(plugin, "ADD", &record.environment(), &config).await?);
        }
        let answer = last.unwrap_or_else(|| json!({}));
        let result = serde_json::from_value(answer.clone())
            .map_err(|source| CniError::Answer { plugin: record.name.clone(), source })?;
        Ok((answer, result))
    }

    /// Runs DEL of all plugins in reverse; one that fails does not keep the others from it.
    async fn take_back(&self, record: &Record) {
        for plugin in record.plugins.iter().rev() {
            let config = record.config(plugin, record.result.as_ref());
            if let Err(error) = self.call(plugin, "DEL", &record.environment(), &config).await {
                tracing::warn!(container = record.container, error = %told(&error),
                    "a CNI plugin does not take back what a container had");
            }
        }
        let path = self.path(record);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = ?path, %error, "cannot remove the record of a CNI attachment");
        }
    }

    fn directory(&self) -> PathBuf {
        self.settings.state_dir.join("cni")
    }

    fn path(&self, record: &Record) -> PathBuf {
        self.directory().join(format!("{}.{}.json", record.container, record.name))
    }

    fn save(&self, record: &Record) -> Result<(), CniError> {
        let (directory, path) = (self.directory(), self.path(record));
        let fail = |source| CniError::Record { operation: "write", path: path.clone(), source };
        fs::create_dir_all(&directory).map_err(fail)?;
        let partial = path.with_extension("partial");
        let bytes = serde_json::to_vec(record).map_err(io::Error::other).map_err(fail)?;
        fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &path)).map_err(fail)
    }

    /// Everything on record; what is no record is left out, since its plugins are not known.
    fn records(&self) -> Vec<Record> {
        let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let paths = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
        let bytes = paths.filter_map(|path| fs::read(path).ok());
        bytes.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).collect()
    }
}

impl Record {
    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_CONTAINERID", self.container.clone()),
            ("CNI_NETNS", self.netns.display().to_string()),
            ("CNI_IFNAME", self.interface.clone()),
        ]
    }

    fn config(&self, plugin: &Map<String, Value>, previous: Option<&Value>) -> Map<String, Value> {
        complete(plugin, &self.name, &self.version, previous, Some(&self.runtime))
    }
}

/// Refuses what no plugin would do: it would be left out without a word.
fn check_capabilities(record: &Record) -> Result<(), CniError> {
    let has = |key: &str| {
        let mut capabilities = record.plugins.iter().filter_map(|one| one.get("capabilities"));
        capabilities.any(|one| one.get(key).and_then(Value::as_bool) == Some(true))
    };
    match record.runtime.keys().find(|key| *key != "aliases" && !has(key)) {
        Some(key) => {
            Err(CniError::Capability { name: record.name.clone(), capability: key.clone() })
        }
        None => Ok(()),
    }
}

/// A plugin's configuration with what the runtime adds (section 3, "Deriving execution configuration").
fn complete(
    plugin: &Map<String, Value>,
    name: &str,
    version: &str,
    previous: Option<&Value>,
    runtime: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    let mut config = plugin.clone();
    let capabilities = config.remove("capabilities");
    config.insert("name".to_owned(), name.into());
    config.insert("cniVersion".to_owned(), version.into());
    if let Some(previous) = previous {
        config.insert("prevResult".to_owned(), previous.clone());
    }
    let wants = |key: &str| {
        let capability = capabilities.as_ref().and_then(|capabilities| capabilities.get(key));
        capability.and_then(Value::as_bool) == Some(true)
    };
    let given: Map<String, Value> = runtime
        .into_iter()
        .flatten()
        .filter(|(key, _)| wants(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !given.is_empty() {
        config.insert("runtimeConfig".to_owned(), Value::Object(given));
    }
    config
}

/// What a container asks for, by the capabilities that plugins may have.
fn runtime_config(request: &ConnectRequest) -> Map<String, Value> {
    let mut config = Map::new();
    let mut add = |key: &str, value: Value| config.insert(key.to_owned(), value);
    if !request.ports.is_empty() {
        let ports = request.ports.iter().map(|port| {
            json!({
                "hostPort": port.host_port.unwrap_or(port.container_port),
                "containerPort": port.container_port,
                "protocol": port.transport.as_str(),
                "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            })
        });
        add("portMappings", ports.collect());
    }
    if !request.addresses.is_empty() {
        add("ips", request.addresses.iter().map(ToString::to_string).collect());
    }
    if let Some(mac) = request.mac {
        add("mac", mac.to_string().into());
    }
    if !request.aliases.is_empty() {
        add("aliases", json!({ "names": request.aliases }));
    }
    config
}

/// What plugins have made of a container's interface.
fn endpoint(request: &ConnectRequest, record: &Record, result: &CniResult) -> Endpoint {
    let addresses = result.addresses();
    let ip_of = |v6: bool| {
        let mut ips = addresses.iter().map(|address| address.address.address());
        ips.find(|ip| ip.is_ipv6() == v6)
    };
    let ports = request.ports.iter().filter_map(|port| {
        let v6 = port.host_ip.is_some_and(|ip| ip.is_ipv6());
        Some(PublishedPort {
            host_ip: port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            host_port: port.host_port.unwrap_or(port.container_port),
            container_ip: ip_of(v6)?,
            container_port: port.container_port,
            transport: port.transport,
        })
    });
    Endpoint {
        network: NetworkId::of_name(&record.name),
        container: request.container.clone(),
        name: request.name.clone(),
        aliases: request.aliases.clone(),
        interface: record.interface.clone(),
        port: String::new(),
        mac: result.mac(&record.interface).unwrap_or_else(|| MacAddr::local([0; 6])),
        ports: ports.collect(),
        dns: result.dns.nameservers.iter().filter_map(|text| text.parse().ok()).collect(),
        gateway_priority: 0,
        default_route: addresses.iter().any(|address| address.gateway.is_some()),
        addresses,
    }
}

/// An error with its causes.
fn told(error: &CniError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::parse_publish;

    #[test]
    fn a_plugin_gets_of_what_is_asked_what_it_is_capable_of() {
        let plugin: Map<String, Value> = serde_json::from_value(json!({
            "type": "portmap", "capabilities": {"portMappings": true, "mac": false}, "snat": true,
        }))
        .unwrap();
        let request = ConnectRequest {
            ports: parse_publish("8080:80").unwrap(),
            mac: Some(MacAddr::local([1; 6])),
            ..ConnectRequest::default()
        };

        let config = complete(
            &plugin,
            "n",
            "1.0.0",
            Some(&json!({"ips": []})),
            Some(&runtime_config(&request)),
        );

        assert_eq!(
            Value::Object(config),
            json!({
                "type": "portmap", "snat": true, "name": "n", "cniVersion": "1.0.0",
                "prevResult": {"ips": []},
                "runtimeConfig": {"portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}
                ]},
            })
        );
    }

    #[tokio::test]
    async fn a_plugin_that_is_not_there_is_named() {
        let settings = CniSettings {
            config_dirs: vec![],
            plugin_dirs: vec!["/nonexistent".into()],
            state_dir: "/nonexistent".into(),
        };
        let cni = Cni::new(settings);

        for name in ["bridge", "../bridge", ""] {
            let error = cni.program(name).unwrap_err().to_string();
            assert!(error.contains("/nonexistent") && error.contains(name), "{error}");
        }
        assert!(cni.find("cni:x").await.is_err());
        assert!(cni.endpoints("x").is_empty());
    }
}
