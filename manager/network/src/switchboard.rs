//! All networks of one engine: records, and what of them is in the kernel.
//!
//! One thread owns a [`Switchboard`] and does one thing at a time (see [`crate::networks`]), so
//! there are no locks, and every step can be read downward. For a container that is connected:
//!
//! ```text
//! check ─▶ give addresses ─▶ hold ports ─▶ record ─▶ interface ─▶ firewall's sets ─▶ name service
//!                                            │ from here on a daemon that dies
//!                                            └ finds the record, and undoes or completes it
//! ```
//!
//! Invariant: what is in the kernel is implied by records. An error on the way undoes all of it.

mod change;
mod options;
mod plan;
mod restore;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use self::options::Options;
use self::plan::random;
use crate::dns::NameService;
use crate::error::NetworkError;
use crate::instance::Names;
use crate::model::{
    ConnectRequest, DEFAULT_NETWORK, Driver, Endpoint, Network, NetworkId, NetworkRequest,
    SubnetRequest, check_network_name,
};
use crate::netns::Netns;
use crate::nft::ruleset::{Entry, network_entries, port_entries, published_entries};
use crate::plane::Plane;
use crate::ports::{ForwardMode, PublishMode, Transport};
use crate::records::Records;

/// How an engine's networks are set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory for what outlives a restart of the machine.
    pub root_dir: PathBuf,
    /// Directory for what does not.
    pub state_dir: PathBuf,
    /// Tells this engine's interfaces and tables from those of others on the machine: nothing,
    /// or four hexadecimal digits.
    pub tag: String,
    /// Whether the host's firewall judges what comes for published ports.
    pub publish: PublishMode,
    /// What becomes of containers' packets where the host's policy is to drop what is routed.
    pub forward: ForwardMode,
    /// Subnet of the default network; absent: one is chosen.
    pub default_subnet: Option<SubnetRequest>,
    /// Whether the default network has IPv6.
    pub default_ipv6: bool,
    /// The host's resolver configuration, for names that no network has.
    pub resolv_conf: PathBuf,
}

/// A container that runs, and where its network namespace is.
#[derive(Debug, Clone)]
pub struct LiveContainer {
    /// The container's id.
    pub id: String,
    /// As `/proc/PID/ns/net`.
    pub netns: PathBuf,
}

/// What a reconciliation found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Endpoints whose container runs, and that are connected.
    pub kept: usize,
    /// Endpoints whose container is gone, and that are given back.
    pub released: usize,
    /// What could not be restored, a sentence each.
    pub problems: Vec<String>,
}

type EndpointKey = (String, NetworkId);

/// What of an endpoint lives in this process alone.
#[derive(Debug, Default)]
struct Held {
    /// Keep other programs from the host's ports, by being open.
    ports: Vec<OwnedFd>,
    netns: Option<Netns>,
}

/// All networks of one engine.
#[derive(Debug)]
pub struct Switchboard {
    settings: Settings,
    plane: Plane,
    records: Records,
    networks: BTreeMap<NetworkId, Network>,
    endpoints: BTreeMap<EndpointKey, Endpoint>,
    held: BTreeMap<EndpointKey, Held>,
    raised: HashSet<NetworkId>,
    /// The address of each network and family that was given out last.
    last: BTreeMap<(NetworkId, bool), IpAddr>,
    names: NameService,
}

impl Switchboard {
    /// Reads the records, in the calling thread's network namespace, and changes nothing in the
    /// kernel. Call [`Self::reconcile`] next.
    ///
    /// # Errors
    /// [`NetworkError::Records`], [`NetworkError::Netlink`], [`NetworkError::Ipam`] if the default
    /// network is new and finds no subnet.
    pub fn open(settings: Settings, names: NameService) -> Result<Self, NetworkError> {
        let records = Records::open(&settings.root_dir, &settings.state_dir)?;
        let names_of_ours = Names::new(&settings.tag)?;
        let plane = Plane::open(names_of_ours, &settings)?;
        let networks: BTreeMap<_, _> =
            records.networks()?.into_iter().map(|network| (network.id.clone(), network)).collect();
        let endpoints = records.endpoints()?.into_iter();
        let endpoints = endpoints
            .map(|endpoint| ((endpoint.container.clone(), endpoint.network.clone()), endpoint))
            .collect();
        let mut board = Self {
            settings,
            plane,
            records,
            networks,
            endpoints,
            held: BTreeMap::new(),
            raised: HashSet::new(),
            last: BTreeMap::new(),
            names,
        };
        if !board.networks.values().any(Network::is_default) {
            board.create_default()?;
        }
        Ok(board)
    }

    /// Creates a network. Its bridge is made when the first container needs it.
    ///
    /// # Errors
    /// [`NetworkError::NameInUse`], [`NetworkError::Name`], [`NetworkError::Ipam`],
    /// [`NetworkError::Option`], [`NetworkError::NoParent`], [`NetworkError::InterfaceTaken`].
    pub fn create(&mut self, request: NetworkRequest) -> Result<Network, NetworkError> {
        check_network_name(&request.name)?;
        if self.networks.values().any(|network| network.name == request.name) {
            return Err(NetworkError::NameInUse { name: request.name });
        }
        if let Driver::Macvlan { parent } = &request.driver
            && !self.plane.has_interface(parent)?
        {
            return Err(NetworkError::NoParent { name: parent.clone() });
        }
        let options = Options::of(&request)?;
        if let Some(bridge) = &options.bridge
            && (self.networks.values().any(|network| network.bridge == *bridge)
                || self.plane.has_interface(bridge)?)
        {
            return Err(NetworkError::InterfaceTaken { name: bridge.clone() });
        }
        let subnets = self.settle_subnets(&request)?;
        let id = NetworkId::new(random()?);
        let is_default = request.name == DEFAULT_NETWORK;
        let bridge = match request.driver {
            Driver::Bridge => {
                options.bridge.unwrap_or_else(|| self.plane.names().bridge(is_default, &id))
            }
            Driver::Macvlan { .. } => String::new(),
        };
        let network = Network {
            id: id.clone(),
            name: request.name,
            driver: request.driver,
            bridge,
            subnets,
            reserved: request.reserved,
            internal: request.internal,
            mtu: options.mtu,
            masquerade: options.masquerade,
            isolated: options.isolated,
            publish_at: options.publish_at,
            interface_prefix: options.interface_prefix,
            labels: request.labels,
            options: request.options,
            created_at: jiff::Timestamp::now(),
        };
        self.records.put_network(&network)?;
        self.networks.insert(id, network.clone());
        Ok(network)
    }

    /// Lists the networks, by name.
    pub fn list(&self) -> Vec<Network> {
        let mut networks: Vec<Network> = self.networks.values().cloned().collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// Finds a network by its name, its id or an unambiguous beginning of its id, with the
    /// endpoints on it.
    ///
    /// # Errors
    /// [`NetworkError::NotFound`], [`NetworkError::Ambiguous`].
    pub fn inspect(&self, name: &str) -> Result<(Network, Vec<Endpoint>), NetworkError> {
        let network = self.find(name)?.clone();
        let endpoints = self.endpoints_on(&network.id).cloned().collect();
        Ok((network, endpoints))
    }

    /// Removes a network that no container is on.
    ///
    /// # Errors
    /// [`NetworkError::NotFound`], [`NetworkError::InUse`], [`NetworkError::Permanent`].
    pub fn remove(&mut self, name: &str) -> Result<(), NetworkError> {
        let network = self.find(name)?.clone();
        if network.is_default() {
            return Err(NetworkError::Permanent { network: network.name });
        }
        let users: Vec<&str> =
            self.endpoints_on(&network.id).map(|endpoint| endpoint.name.as_str()).collect();
        if !users.is_empty() {
            let containers = users.join(", ");
            return Err(NetworkError::InUse { network: network.name, containers });
        }
        self.lower(&network)?;
        self.records.remove_network(&network.id)?;
        self.networks.remove(&network.id);
        Ok(())
    }

    /// Removes the networks that no container is on and that `keep` does not want, and returns
    /// their names; takes down the default network's bridge too, if nobody is on it.
    ///
    /// # Errors
    /// [`NetworkError::Records`], [`NetworkError::Netlink`].
    pub fn prune(&mut self, keep: impl Fn(&Network) -> bool) -> Result<Vec<String>, NetworkError> {
        let mut removed = Vec::new();
        self.remove_strays()?;
        for network in self.list() {
            if self.endpoints_on(&network.id).next().is_some() {
                continue;
            }
            if network.is_default() {
                self.lower(&network)?;
            } else if !keep(&network) {
                self.remove(network.id.as_str())?;
                removed.push(network.name);
            }
        }
        Ok(removed)
    }

    /// Connects a container, whose network namespace is at `netns`, to a network.
    ///
    /// # Errors
    /// Any of [`NetworkError`]; nothing of the endpoint is left then.
    pub fn connect(
        &mut self,
        name: &str,
        request: &ConnectRequest,
        netns: &Path,
    ) -> Result<Endpoint, NetworkError> {
        let network = self.find(name)?.clone();
        let key = (request.container.clone(), network.id.clone());
        if self.endpoints.contains_key(&key) {
            let (container, network) = (request.name.clone(), network.name);
            return Err(NetworkError::AlreadyConnected { container, network });
        }
        let netns = Netns::open(netns)?;
        let network = self.make_way(&network)?;
        let mut endpoint = self.plan(&network, request)?;
        let held = self.hold_ports(&network, &mut endpoint, &request.ports)?;
        self.raise(&network)?;

        self.records.put_endpoint(&endpoint)?;
        self.endpoints.insert(key.clone(), endpoint.clone());
        self.held.insert(key.clone(), Held { ports: held, netns: None });
        let mut outcome = self.realize(&network, &endpoint, netns);
        if outcome.is_ok() && request.default_route {
            outcome = self.settle_way_out(&request.container);
        }
        if let Err(error) = outcome {
            self.release(&key)?;
            return Err(error);
        }
        for address in endpoint.ips() {
            self.last.insert((network.id.clone(), address.is_ipv6()), address);
        }
        Ok(self.endpoints.get(&key).cloned().unwrap_or(endpoint))
    }

    /// Gives back what a container that has ended had on all of its networks; none is no error.
    ///
    /// Its interfaces are left to the kernel, which removes them with the container's namespace
    /// and takes its time; nobody has to wait for that. Should something hold the namespace, they
    /// are without rights meanwhile, and [`Self::prune`] and [`Self::reconcile`] remove them.
    ///
    /// # Errors
    /// [`NetworkError::Records`], [`NetworkError::Netlink`].
    pub fn disconnect_all(&mut self, container: &str) -> Result<(), NetworkError> {
        for key in self.keys_of(container) {
            self.give_back(&key)?;
        }
        Ok(())
    }

    /// Lists a container's endpoints.
    pub fn endpoints(&self, container: &str) -> Vec<Endpoint> {
        self.keys_of(container).iter().filter_map(|key| self.endpoints.get(key).cloned()).collect()
    }

    /// Becomes readable when [`Self::heal`] has something to look at.
    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        self.plane.watched()
    }

    fn create_default(&mut self) -> Result<(), NetworkError> {
        let request = NetworkRequest {
            name: DEFAULT_NETWORK.to_owned(),
            subnets: self.settings.default_subnet.into_iter().collect(),
            ipv6: self.settings.default_ipv6,
            ..NetworkRequest::default()
        };
        self.create(request).map(drop)
    }

    pub(crate) fn find(&self, name: &str) -> Result<&Network, NetworkError> {
        if let Some(network) = self.networks.values().find(|network| network.name == name) {
            return Ok(network);
        }
        let mut matches = self.networks.values().filter(|n| n.id.as_str().starts_with(name));
        match (matches.next(), matches.count()) {
            (Some(network), 0) if !name.is_empty() => Ok(network),
            (Some(_), more) if !name.is_empty() => {
                Err(NetworkError::Ambiguous { prefix: name.to_owned(), count: more + 1 })
            }
            _ => Err(NetworkError::NotFound { name: name.to_owned() }),
        }
    }

    fn endpoints_on<'a>(&'a self, id: &'a NetworkId) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.values().filter(move |endpoint| endpoint.network == *id)
    }

    fn keys_of(&self, container: &str) -> Vec<EndpointKey> {
        let first = (container.to_owned(), NetworkId::of_name(""));
        let from = self.endpoints.range(first..).map(|(key, _)| key);
        from.take_while(|(id, _)| id == container).cloned().collect()
    }

    /// Makes what a recorded endpoint needs in the kernel.
    fn realize(
        &mut self,
        network: &Network,
        endpoint: &Endpoint,
        netns: Netns,
    ) -> Result<(), NetworkError> {
        self.plane.plug(network, endpoint, &netns)?;
        if network.driver == Driver::Bridge {
            self.plane.add(&endpoint_entries(endpoint))?;
        }
        self.serve_names(network, endpoint, &netns)?;
        let key = (endpoint.container.clone(), endpoint.network.clone());
        self.held.entry(key).or_default().netns = Some(netns);
        Ok(())
    }

    fn serve_names(
        &mut self,
        network: &Network,
        endpoint: &Endpoint,
        netns: &Netns,
    ) -> Result<(), NetworkError> {
        if !network.has_names() {
            return Ok(());
        }
        self.names.attach(network, endpoint, netns, self.plane.home()).map_err(|source| {
            NetworkError::NameService { container: endpoint.name.clone(), source }
        })
    }

    /// Undoes an endpoint, as much of it as there is, its interface too.
    fn release(&mut self, key: &EndpointKey) -> Result<(), NetworkError> {
        let Some((endpoint, netns)) = self.give_back(key)? else { return Ok(()) };
        self.plane.unplug(&endpoint, netns.as_ref())
    }

    /// Gives back what an endpoint had, but for its interface: names, ports, addresses, record.
    fn give_back(
        &mut self,
        key: &EndpointKey,
    ) -> Result<Option<(Endpoint, Option<Netns>)>, NetworkError> {
        let Some(endpoint) = self.endpoints.remove(key) else { return Ok(None) };
        self.names.detach(&endpoint);
        let held = self.held.remove(key).unwrap_or_default();
        if self.plane.is_standing() && !endpoint.port.is_empty() {
            let entries = endpoint_entries(&endpoint);
            // Elements that were never added, or that somebody took away, cannot be taken; then
            // all are made anew of the records that remain.
            if self.plane.take(&entries).is_err() {
                self.restore()?;
            }
        }
        let datagrams = endpoint.ports.iter().filter(|port| port.transport == Transport::Udp);
        let answering: HashSet<IpAddr> = datagrams.map(|port| port.container_ip).collect();
        for address in answering {
            self.plane.forget_connections(address)?;
        }
        self.records.remove_endpoint(&endpoint.container, &endpoint.network)?;
        Ok(Some((endpoint, held.netns)))
    }

    /// Removes ports that no endpoint has: of containers that ended while something held their
    /// namespace.
    fn remove_strays(&mut self) -> Result<(), NetworkError> {
        let known: HashSet<&str> = self.endpoints.values().map(|e| e.port.as_str()).collect();
        self.plane.remove_ports(|port| !known.contains(port))
    }

    /// Raises a network's bridge, and with the first of all the tables.
    fn raise(&mut self, network: &Network) -> Result<(), NetworkError> {
        if network.driver != Driver::Bridge || self.raised.contains(&network.id) {
            return Ok(());
        }
        let has_ipv6 = network.subnets.iter().any(|subnet| subnet.subnet.is_ipv6());
        self.raised.insert(network.id.clone());
        let outcome = if self.plane.is_standing() && !has_ipv6 {
            self.plane.raise_bridge(network).and_then(|()| self.plane.add(&bridge_entries(network)))
        } else {
            self.restore()
        };
        outcome.inspect_err(|_| {
            self.raised.remove(&network.id);
        })
    }

    fn lower(&mut self, network: &Network) -> Result<(), NetworkError> {
        if !self.raised.remove(&network.id) {
            return Ok(());
        }
        if self.plane.take(&bridge_entries(network)).is_err() {
            self.restore()?;
        }
        self.plane.lower_bridge(network)?;
        if self.raised.is_empty() { self.plane.lower() } else { Ok(()) }
    }
}

/// What a network has in the firewall's sets.
fn bridge_entries(network: &Network) -> Vec<Entry> {
    network_entries(network)
}

/// What an endpoint has in the firewall's sets.
fn endpoint_entries(endpoint: &Endpoint) -> Vec<Entry> {
    if endpoint.port.is_empty() {
        return Vec::new();
    }
    let addresses: Vec<IpAddr> = endpoint.ips().collect();
    let mut entries = port_entries(&endpoint.port, endpoint.mac, &addresses);
    for port in &endpoint.ports {
        entries.extend(published_entries(
            port.host_ip,
            port.host_port,
            port.transport,
            port.container_ip,
            port.container_port,
        ));
    }
    entries
}
