//! Names on networks: a small DNS server for each container, in the container's own namespace.
//!
//! ```text
//! container: 127.0.0.11:53 ──(its own nf_tables, DNAT)──▶ 127.0.0.11:PORT ═ sockets held by us
//!                                                            │
//!                             names on its networks ◀─ zone ─┤
//!                             everything else ──────────────▶ the host's resolvers
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | `zone` | who is called what, on which network; pure |
//! | `answer` | a query's bytes → what to say, or to forward; pure |
//! | `server` | sockets, limits |
//! | `forward` | the host's resolvers |
//!
//! In the container's namespace and not on the bridge, so that the host's input rules and the
//! host's own name servers are not in the way; and on a port of its own, so that a container that
//! is a name server itself can have port 53.
//!
//! A container's server answers for the networks that this container is on. What it asks cannot
//! change what others are told: names come from records only.

mod answer;
mod forward;
mod server;
mod zone;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use self::forward::Upstreams;
use self::zone::Zones;
use crate::model::{Endpoint, Network};
use crate::netlink::NetlinkError;
use crate::netlink::socket::{Family, Netlink};
use crate::netns::Netns;
use crate::nft::batch::{Batch, Element, Hook, SetShape, Table, TableFamily, join};
use crate::nft::expression::{Field, Rule};

/// Where a container on a network with names finds its server; for `/etc/resolv.conf`.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const DNS_PORT: u16 = 53;

/// What servers share.
#[derive(Debug)]
struct Shared {
    zones: RwLock<Zones>,
    upstreams: Upstreams,
}

/// The servers of all containers.
#[derive(Debug)]
pub struct NameService {
    shared: Arc<Shared>,
    runtime: Handle,
    servers: BTreeMap<String, Vec<AbortHandle>>,
}

impl NameService {
    /// Prepares to serve on a runtime; `resolv_conf` is the host's, for what no network knows.
    pub fn new(runtime: Handle, resolv_conf: PathBuf) -> Self {
        let shared =
            Shared { zones: RwLock::new(Zones::default()), upstreams: Upstreams::new(resolv_conf) };
        Self { shared: Arc::new(shared), runtime, servers: BTreeMap::new() }
    }

    /// Enters an endpoint's names, and starts the container's server if it has none yet.
    pub(crate) fn attach(
        &mut self,
        network: &Network,
        endpoint: &Endpoint,
        netns: &Netns,
        home: &Netns,
    ) -> io::Result<()> {
        self.shared.zones.write().unwrap_or_else(PoisonError::into_inner).add(network, endpoint);
        if self.servers.contains_key(&endpoint.container) {
            return Ok(());
        }
        let (udp, tcp) =
            netns.with(home, open_sockets).map_err(io::Error::other)?.inspect_err(|_| {
                self.forget(endpoint);
            })?;
        let container = endpoint.container.clone();
        let upstream = endpoint.dns.clone();
        let tasks = server::start(&self.runtime, &self.shared, container, upstream, udp, tcp);
        self.servers.insert(endpoint.container.clone(), tasks);
        Ok(())
    }

    /// Enters an endpoint's names in place of those that it had.
    pub(crate) fn rename(&self, network: &Network, endpoint: &Endpoint) {
        self.shared.zones.write().unwrap_or_else(PoisonError::into_inner).add(network, endpoint);
    }

    /// Takes an endpoint's names out, and with the container's last its server.
    pub(crate) fn detach(&mut self, endpoint: &Endpoint) {
        if self.forget(endpoint) {
            return;
        }
        for task in self.servers.remove(&endpoint.container).into_iter().flatten() {
            task.abort();
        }
    }

    /// Returns whether the container has names on other networks still.
    fn forget(&self, endpoint: &Endpoint) -> bool {
        let mut zones = self.shared.zones.write().unwrap_or_else(PoisonError::into_inner);
        zones.remove(endpoint)
    }
}

impl Drop for NameService {
    fn drop(&mut self) {
        self.servers.values().flatten().for_each(AbortHandle::abort);
    }
}

/// Opens a server's sockets in the calling thread's namespace, and leads port 53 to them.
fn open_sockets() -> io::Result<(UdpSocket, TcpListener)> {
    let any = SocketAddr::new(IpAddr::V4(RESOLVER), 0);
    let udp = UdpSocket::bind(any)?;
    let tcp = TcpListener::bind(any)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    lead_here(udp.local_addr()?.port(), tcp.local_addr()?.port()).map_err(io::Error::other)?;
    Ok((udp, tcp))
}

/// Translates what the container sends to the server's well-known port.
fn lead_here(udp_port: u16, tcp_port: u16) -> Result<(), NetlinkError> {
    const OUTPUT: u32 = 3;
    const IPV4: [u8; 1] = [2];
    const TABLE: Table<'_> = Table { family: TableFamily::Inet, name: "keg-names" };
    const BY_PROTOCOL: &[Field] = &[Field::TransportProtocol];
    const SERVERS: SetShape = SetShape {
        name: "servers",
        key: BY_PROTOCOL,
        value: &[Field::Ip4Destination, Field::DestinationPort],
    };
    let mut socket = Netlink::open(Family::Netfilter)?;
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    batch.delete_table(TABLE);
    batch.add_table(TABLE);
    batch.add_set(TABLE, SERVERS);
    let hook = Hook { kind: "nat", number: OUTPUT, priority: -100 };
    batch.add_chain(TABLE, "ask", Some(hook));
    let rule = Rule::new()
        .when(Field::NetworkProtocol, IPV4)
        .when(Field::Ip4Destination, RESOLVER.octets())
        .when(Field::DestinationPort, DNS_PORT.to_be_bytes())
        .translate(BY_PROTOCOL, SERVERS.name, false);
    batch.add_rule(TABLE, "ask", &rule);
    let element = |protocol: u8, port: u16| Element {
        key: vec![protocol],
        value: join(&[&RESOLVER.octets(), &port.to_be_bytes()]),
    };
    batch.add_elements(TABLE, SERVERS.name, &[element(17, udp_port), element(6, tcp_port)]);
    batch.commit(&mut socket)
}
