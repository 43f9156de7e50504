//! What networks have to do with the life of a container.
//!
//! ```text
//!  create    settle_networks   names looked up, contradictions refused
//!  start     join_networks     after Task.Create, when the namespace is there, before Task.Start
//!  exit      leave_networks    before anybody is told of the exit, so that ports are free by then
//!  recovery  recover_networks  which containers run is known; before any is started or asked for
//! ```
//!
//! What a container is to be on its networks is in its record; what it is, in memory and in the
//! records of `keg_network`, which outlive the daemon.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use keg_network::model::check_host_name;
use keg_network::{
    CNI_PREFIX, Cni, ConnectRequest, DEFAULT_NETWORK, Endpoint, LiveContainer, Network,
    NetworkError, NetworkMode, Networks, PortRequest,
};
use keg_store::Explain;
use tokio::sync::watch;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::etc_files;
use crate::model::{Attachment, ContainerDir, CreateRequest, ExposedPort, Record, UsernsMode};
use crate::spec::NetworkOf;

/// First port that a process without rights may open, on a host that has no other.
const FIRST_UNPRIVILEGED_PORT: u32 = 1024;

/// An interface of a container that runs, and the name of the network that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEndpoint {
    /// Name of the network.
    pub network: String,
    /// The interface.
    pub endpoint: Endpoint,
}

/// The networks, or why there are none.
#[derive(Debug)]
pub(crate) struct Networking {
    networks: Result<Networks, Arc<NetworkError>>,
    cni: Cni,
    /// Whether kernel and records have been brought together since the daemon started.
    reconciled: watch::Sender<bool>,
}

impl Networking {
    /// Takes networks that were opened, or the reason why they were not.
    pub(crate) fn new(networks: Result<Networks, NetworkError>, cni: Cni) -> Self {
        let networks = networks.map_err(Arc::new);
        Self { networks, cni, reconciled: watch::Sender::new(false) }
    }

    /// What an operator should know.
    pub(crate) fn warning(&self) -> Option<String> {
        let error = self.networks.as_ref().err()?;
        Some(format!("networks cannot be used: {}", crate::start::chain(error.as_ref())))
    }

    /// The networks.
    ///
    /// # Errors
    /// [`EngineError::NoNetworks`].
    pub(crate) fn networks(&self) -> Result<&Networks, EngineError> {
        let missing =
            |error: &Arc<NetworkError>| EngineError::NoNetworks { source: Arc::clone(error) };
        self.networks.as_ref().map_err(missing)
    }

    /// The networks that CNI plugins make.
    pub(crate) fn cni(&self) -> &Cni {
        &self.cni
    }

    /// Waits until networks are as the records say.
    async fn ready(&self) {
        // An error would mean that the sender, which `self` has, is gone.
        let _ = self.reconciled.subscribe().wait_for(|reconciled| *reconciled).await;
    }
}

impl Engine {
    /// Decides which networks a new container is on, and refuses what contradicts itself. Returns
    /// what the caller should know.
    pub(crate) async fn settle_networks(
        &self,
        request: &mut CreateRequest,
    ) -> Result<Vec<String>, EngineError> {
        let default = self.shared.settings.default_network.clone();
        let mode = request.host.network_mode.take().unwrap_or(default);
        let mode = match mode {
            NetworkMode::Network(name) => {
                let mut attachments = std::mem::take(&mut request.host.networks);
                let is_first = |one: &Attachment| one.network == name;
                if !attachments.iter().any(is_first) {
                    attachments.insert(0, Attachment::to(&name));
                }
                // Whichever is first is the way out.
                attachments.sort_by_key(|one| !is_first(one));
                for attachment in &mut attachments {
                    if is_cni(&attachment.network) {
                        refuse_priority(attachment)?;
                        let found = self.shared.networking.cni.find(&attachment.network).await;
                        found.map_err(NetworkError::from)?;
                    } else {
                        self.settle_attachment(attachment).await?;
                    }
                }
                let names: BTreeSet<&str> =
                    attachments.iter().map(|one| one.network.as_str()).collect();
                if names.len() < attachments.len() {
                    return Err(invalid("a network is named twice".to_owned()));
                }
                let first = attachments.first().map(|one| one.network.clone()).unwrap_or_default();
                request.host.networks = attachments;
                NetworkMode::Network(first)
            }
            NetworkMode::Container(name) => {
                let other = self.find(&name)?;
                if !other.record().network_mode().has_own_namespace() {
                    return Err(invalid(format!(
                        "container {name} has no network of its own; give the network that it has"
                    )));
                }
                NetworkMode::Container(other.id().as_str().to_owned())
            }
            mode @ (NetworkMode::None | NetworkMode::Host) => mode,
        };
        let warnings = check(&mode, request)?;
        request.host.network_mode = Some(mode);
        Ok(warnings)
    }

    /// Checks what a container is to be on a network, and puts the network's name in place of its
    /// id or the beginning of it.
    pub(crate) async fn settle_attachment(
        &self,
        attachment: &mut Attachment,
    ) -> Result<Network, EngineError> {
        for alias in &attachment.aliases {
            check_host_name(alias).map_err(NetworkError::from)?;
        }
        let network = self.shared.networking.networks()?.find(&attachment.network).await?;
        attachment.network.clone_from(&network.name);
        if !network.has_names() && !attachment.aliases.is_empty() {
            return Err(EngineError::InvalidField {
                field: "network_alias",
                problem: format!(
                    "the default network {DEFAULT_NETWORK} has no names: create a network with \
                     `keg network create`, and use that"
                ),
            });
        }
        Ok(network)
    }

    /// Connects a container, whose first process waits, to its networks.
    pub(crate) async fn join_networks(
        &self,
        container: &Container,
        record: &Record,
        pid: u32,
    ) -> Result<(), EngineError> {
        if record.host.networks.is_empty() {
            return Ok(());
        }
        let mut ports = ports_to_publish(record);
        let mut live = Vec::new();
        for attachment in &record.host.networks {
            let mut request = connect_request(record, attachment);
            if !ports.is_empty() && self.publishes(&record.host.networks, attachment).await? {
                request.ports = std::mem::take(&mut ports);
            }
            live.push(self.connect_endpoint(record, attachment, request, pid).await?);
        }
        if live.len() > 1 {
            live = self.as_they_are(record, live).await?;
        }
        container.set_endpoints(live.clone());
        let (dir, before) = (self.shared.dir(&record.id), record.clone());
        self.blocking("the files of /etc", move |_| {
            etc_files::refresh(&dir, (&before, &[]), (&before, &live))
        })
        .await
    }

    /// Whether a container's ports are published on this of its networks: the first that can.
    async fn publishes(
        &self,
        all: &[Attachment],
        attachment: &Attachment,
    ) -> Result<bool, EngineError> {
        let is_last = all.last() == Some(attachment);
        if is_last || is_cni(&attachment.network) {
            return Ok(true);
        }
        let network = self.shared.networking.networks()?.find(&attachment.network).await?;
        Ok(network.can_publish())
    }

    /// Connects a container to one network.
    pub(crate) async fn connect_endpoint(
        &self,
        record: &Record,
        attachment: &Attachment,
        request: ConnectRequest,
        pid: u32,
    ) -> Result<LiveEndpoint, EngineError> {
        let networking = &self.shared.networking;
        networking.ready().await;
        let network = attachment.network.clone();
        let netns = network_namespace(pid);
        let connected = if is_cni(&network) {
            let index = record.host.networks.iter().position(|one| one == attachment);
            let interface = match attachment.interface.as_str() {
                "" => format!("eth{}", index.unwrap_or_default()),
                name => name.to_owned(),
            };
            let connected = networking.cni.connect(&network, &request, &interface, &netns).await;
            connected.map_err(NetworkError::from)
        } else {
            networking.networks()?.connect(&network, request, netns).await
        };
        let endpoint = connected.map_err(|source| EngineError::Connect {
            container: record.name.as_str().to_owned(),
            network: network.clone(),
            source: Box::new(source),
        })?;
        Ok(LiveEndpoint { network, endpoint })
    }

    /// A container's endpoints after another network was taken or given: that may have changed
    /// which of them is its way out.
    pub(crate) async fn as_they_are(
        &self,
        record: &Record,
        mut live: Vec<LiveEndpoint>,
    ) -> Result<Vec<LiveEndpoint>, EngineError> {
        if live.iter().any(|live| !is_cni(&live.network)) {
            let networks = self.shared.networking.networks()?;
            let endpoints = networks.endpoints(record.id.as_str()).await?;
            for live in &mut live {
                let now = endpoints.iter().find(|now| now.network == live.endpoint.network);
                if let Some(now) = now {
                    live.endpoint = now.clone();
                }
            }
        }
        Ok(live)
    }

    /// Gives back what a container that has ended had on its networks; none is no error.
    pub(crate) async fn leave_networks(&self, record: &Record) {
        if record.host.networks.is_empty() {
            return;
        }
        if record.host.networks.iter().any(|attachment| is_cni(&attachment.network)) {
            self.shared.networking.cni.disconnect_all(record.id.as_str()).await;
        }
        let Ok(networks) = self.shared.networking.networks() else { return };
        if let Err(error) = networks.disconnect_all(record.id.as_str()).await {
            tracing::warn!(container = %record.id, error = %crate::start::chain(&error),
                "cannot give back what a container had on its networks");
        }
    }

    /// Lets others find a container by its new name.
    pub(crate) async fn rename_on_networks(&self, container: &Container) {
        let record = container.record();
        let Ok(networks) = self.shared.networking.networks() else { return };
        let name = record.name.as_str();
        if let Err(error) = networks.rename(record.id.as_str(), name).await {
            tracing::warn!(container = %record.id, error = %crate::start::chain(&error),
                "others find a container by its old name still");
            return;
        }
        let mut live = container.endpoints();
        for one in &mut live {
            name.clone_into(&mut one.endpoint.name);
        }
        container.set_endpoints(live);
    }

    /// Brings networks up to date after a start of the daemon; which containers run is known.
    pub(crate) async fn recover_networks(&self, containers: &[Arc<Container>]) {
        let live = containers.iter().filter_map(|container| {
            let record = container.record();
            let pid = record.lifecycle.pid().filter(|_| !record.host.networks.is_empty())?;
            let netns = network_namespace(pid);
            Some(LiveContainer { id: record.id.as_str().to_owned(), netns })
        });
        let live: Vec<LiveContainer> = live.collect();
        let ids: Vec<String> = live.iter().map(|one| one.id.clone()).collect();
        let cni = &self.shared.networking.cni;
        cni.reconcile(&ids).await;
        for id in &ids {
            if let Err(error) = cni.check(id).await {
                tracing::warn!(container = id, error = %crate::start::chain(&error),
                    "a container is not connected as its CNI plugins left it");
            }
        }
        if let Ok(networks) = self.shared.networking.networks() {
            match networks.reconcile(live).await {
                Ok(outcome) => {
                    for problem in &outcome.problems {
                        tracing::error!(problem, "a network is not whole");
                    }
                    tracing::info!(
                        kept = outcome.kept,
                        released = outcome.released,
                        "networks restored"
                    );
                }
                Err(error) => tracing::error!(error = %crate::start::chain(&error),
                    remedy = error.remedy().as_deref(), "networks cannot be restored"),
            }
        }
        for container in containers {
            if let Err(error) = self.recall_endpoints(container).await {
                tracing::error!(container = %container.id(), error = %error.chain(),
                    "a container's networks are not known");
            }
        }
        self.shared.networking.reconciled.send_replace(true);
    }

    /// Remembers the endpoints of a container that ran on while the daemon was away.
    async fn recall_endpoints(&self, container: &Container) -> Result<(), EngineError> {
        let record = container.record();
        if !record.lifecycle.is_alive() || record.host.networks.is_empty() {
            return Ok(());
        }
        let networking = &self.shared.networking;
        let mut live: Vec<LiveEndpoint> = networking
            .cni
            .endpoints(record.id.as_str())
            .into_iter()
            .map(|(network, endpoint)| LiveEndpoint { network, endpoint })
            .collect();
        if let Ok(networks) = networking.networks() {
            for endpoint in networks.endpoints(record.id.as_str()).await? {
                let network = networks.find(endpoint.network.as_str()).await?.name;
                live.push(LiveEndpoint { network, endpoint });
            }
        }
        live.sort_by_key(|live| {
            record.host.networks.iter().position(|attachment| attachment.network == live.network)
        });
        container.set_endpoints(live);
        Ok(())
    }

    /// The container whose network namespace another is to have, if it is to have another's.
    ///
    /// # Errors
    /// [`EngineError::NetworkOwnerStopped`] if that does not run, [`EngineError::NoSuchContainer`].
    pub(crate) fn network_of(&self, record: &Record) -> Result<Option<NetworkOf>, EngineError> {
        let NetworkMode::Container(other) = record.network_mode() else { return Ok(None) };
        let other = self.find(&other)?.record();
        let Some(namespace) = self.network_namespace(&other) else {
            return Err(EngineError::NetworkOwnerStopped {
                container: record.name.as_str().to_owned(),
                other: other.name.as_str().to_owned(),
            });
        };
        let hostname = other.hostname().to_owned();
        Ok(Some(NetworkOf { namespace, dir: self.shared.dir(&other.id), hostname }))
    }

    /// Where a container's files of `/etc` are: with another's network, that one's.
    pub(crate) fn etc_dir(&self, record: &Record) -> ContainerDir {
        match self.network_of(record) {
            Ok(Some(other)) => other.dir,
            _ => self.shared.dir(&record.id),
        }
    }

    /// Where a container's network namespace is, while it runs, if that is not the host's.
    pub(crate) fn network_namespace(&self, record: &Record) -> Option<PathBuf> {
        let pid = record.lifecycle.pid()?;
        (record.network_mode() != NetworkMode::Host).then(|| network_namespace(pid))
    }
}

impl ExposedPort {
    /// Parses `PORT[/PROTOCOL]`, as images have it.
    pub fn parse(text: &str) -> Option<Self> {
        let (port, transport) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(Self { port, transport: transport.parse().ok()? })
    }
}

impl std::fmt::Display for ExposedPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.port, self.transport)
    }
}

/// What a container asks of a network that it is to be on.
pub(crate) fn connect_request(record: &Record, attachment: &Attachment) -> ConnectRequest {
    let mut aliases = attachment.aliases.clone();
    // Who was given a host name answers to it; the made-up one is the beginning of the id.
    let hostname = &record.config.hostname;
    if !hostname.is_empty() && check_host_name(hostname).is_ok() && !aliases.contains(hostname) {
        aliases.push(hostname.clone());
    }
    ConnectRequest {
        container: record.id.as_str().to_owned(),
        name: record.name.as_str().to_owned(),
        aliases,
        interface: attachment.interface.clone(),
        addresses: [attachment.ipv4.map(IpAddr::V4), attachment.ipv6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
            .collect(),
        mac: attachment.mac,
        ports: Vec::new(),
        dns: record.host.dns.clone(),
        default_route: true,
        gateway_priority: attachment.gateway_priority,
    }
}

/// What was asked to be published, and every exposed port if that was asked.
pub(crate) fn ports_to_publish(record: &Record) -> Vec<PortRequest> {
    let mut ports = record.host.ports.clone();
    if record.host.publish_all {
        let published = |exposed: &ExposedPort| {
            record.host.ports.iter().any(|port| {
                (port.container_port, port.transport) == (exposed.port, exposed.transport)
            })
        };
        let exposed = record.config.exposed_ports.iter().filter(|exposed| !published(exposed));
        ports.extend(exposed.map(|exposed| PortRequest {
            host_ip: None,
            host_port: None,
            container_port: exposed.port,
            transport: exposed.transport,
        }));
    }
    ports
}

/// Whether CNI plugins make a network, by its name.
pub(crate) fn is_cni(network: &str) -> bool {
    network.starts_with(CNI_PREFIX)
}

/// Plugins decide by themselves which way out they make.
fn refuse_priority(attachment: &Attachment) -> Result<(), EngineError> {
    if attachment.gateway_priority == 0 {
        return Ok(());
    }
    let network = &attachment.network;
    Err(invalid(format!("{network} is made by CNI plugins, which know no priority of gateways")))
}

fn network_namespace(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

fn invalid(problem: String) -> EngineError {
    EngineError::InvalidField { field: "network", problem }
}

/// Refuses what a mode cannot have, and says what it does without.
fn check(mode: &NetworkMode, request: &CreateRequest) -> Result<Vec<String>, EngineError> {
    let host = &request.host;
    let mut warnings = Vec::new();
    match mode {
        NetworkMode::Network(_) => {}
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_)
            if !host.networks.is_empty() =>
        {
            return Err(invalid(format!(
                "with \"{mode}\" there can be no further network, and no address or alias on it"
            )));
        }
        NetworkMode::None => {}
        NetworkMode::Host if host.userns == UsernsMode::Auto => {
            let first = first_unprivileged_port();
            if first > 0 {
                warnings.push(format!(
                    "on the host's network, a container with a user namespace of its own cannot \
                     open ports below {first} or change interfaces; --userns host lets it"
                ));
            }
        }
        NetworkMode::Host => {}
        NetworkMode::Container(_) => check_shared(request)?,
    }
    let has_no_ports = !matches!(mode, NetworkMode::Network(_));
    if has_no_ports && (host.publish_all || !host.ports.is_empty()) {
        warnings.push(format!("ports are not published: the container's network is {mode}"));
    }
    Ok(warnings)
}

/// A container in another's network has that one's names, resolvers and ports.
fn check_shared(request: &CreateRequest) -> Result<(), EngineError> {
    let host = &request.host;
    let conflicts = [
        ("--hostname", !request.config.hostname.is_empty()),
        (
            "--dns",
            !(host.dns.is_empty() && host.dns_search.is_empty() && host.dns_options.is_empty()),
        ),
        ("--add-host", !host.extra_hosts.is_empty()),
        ("--publish", !host.ports.is_empty() || host.publish_all),
    ];
    match conflicts.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(invalid(format!(
            "{option} contradicts the network of another container: give it to that container"
        ))),
        None => Ok(()),
    }
}

fn first_unprivileged_port() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(FIRST_UNPRIVILEGED_PORT)
}

#[cfg(test)]
mod tests {
    use keg_network::Transport;

    use super::*;
    use crate::spec::tests::record;

    #[test]
    fn exposed_ports_are_published_once() {
        let mut record = record();
        record.config.exposed_ports =
            ["80", "53/udp", "443/tcp"].map(|text| ExposedPort::parse(text).unwrap()).into();
        record.host.ports = keg_network::ports::parse_publish("8080:80").unwrap();
        record.host.publish_all = true;

        let ports = ports_to_publish(&record);

        let told: Vec<_> = ports
            .iter()
            .map(|port| (port.container_port, port.host_port, port.transport))
            .collect();
        assert_eq!(
            told,
            [
                (80, Some(8080), Transport::Tcp),
                (53, None, Transport::Udp),
                (443, None, Transport::Tcp)
            ]
        );
        assert_eq!(ExposedPort::parse("80/sctp"), None);
        assert_eq!(ExposedPort::parse("0"), None);
    }

    #[test]
    fn what_contradicts_another_containers_network_is_named() {
        let mut request = CreateRequest::default();
        let mode = NetworkMode::Container("a".into());
        assert_eq!(check(&mode, &request).unwrap(), Vec::<String>::new());

        request.host.publish_all = true;

        assert!(check(&mode, &request).unwrap_err().to_string().contains("--publish"));
        assert_eq!(check(&NetworkMode::None, &request).unwrap().len(), 1);
    }

    #[test]
    fn a_container_answers_to_the_host_name_that_it_was_given() {
        let mut record = record();
        assert!(connect_request(&record, &Attachment::to("front")).aliases.is_empty());

        record.config.hostname = "db1".into();

        assert_eq!(connect_request(&record, &Attachment::to("front")).aliases, ["db1"]);
    }
}
