//! Networks and endpoints: what callers ask for, and what is recorded.
//!
//! A *network* is a record; its bridge exists as long as the record does. An *endpoint* is one
//! container's interface on one network; it exists while the container runs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::{Cidr, MacAddr};
use crate::ports::{PortRequest, PublishedPort};

/// Name of the network that containers are on unless they ask for another.
pub const DEFAULT_NETWORK: &str = "bridge";
/// Names that mean a mode and can be no network's.
const RESERVED_NAMES: [&str; 4] = ["none", "host", "default", "container"];
/// Longest name of a network.
const NAME_BYTES: usize = 128;
/// Longest label of a name that is looked up (RFC 1035, section 2.3.4).
const LABEL_BYTES: usize = 63;
/// Longest name that is looked up, as text.
const HOST_NAME_BYTES: usize = 253;

/// A network's id: 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkId(String);

impl NetworkId {
    /// Makes an id of 32 random bytes.
    pub(crate) fn new(random: [u8; 32]) -> Self {
        Self(random.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Makes an id of a name that somebody else has given: that name, in hexadecimal digits.
    pub fn of_name(name: &str) -> Self {
        let digits: String = name.bytes().take(32).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{digits:0<64}"))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its first twelve digits, as lists print them.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a network's containers are connected.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "driver")]
pub enum Driver {
    /// By a bridge of the host's, which routes and translates for them.
    #[default]
    Bridge,
    /// Straight onto the network of one of the host's interfaces, each with its own hardware
    /// address. The host itself cannot reach them, and nothing is published or filtered.
    Macvlan {
        /// The host's interface.
        parent: String,
    },
}

impl Driver {
    /// Its name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan { .. } => "macvlan",
        }
    }
}

/// A subnet that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRequest {
    /// The subnet.
    pub subnet: Cidr,
    /// The gateway's address in it; absent: the first.
    pub gateway: Option<IpAddr>,
    /// Where in it addresses are given out; absent: everywhere.
    pub range: Option<Cidr>,
}

/// A network to be created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// How its containers are connected.
    pub driver: Driver,
    /// Its subnets, at most one of each family; none of IPv4: one is chosen.
    pub subnets: Vec<SubnetRequest>,
    /// Gives it IPv6 as well; without a subnet for it, one is chosen.
    pub ipv6: bool,
    /// Does without IPv4; it has IPv6 then.
    pub without_ipv4: bool,
    /// Addresses in its subnets that no container gets, by names that people have for them.
    pub reserved: BTreeMap<String, IpAddr>,
    /// No way out of it, and none in.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver: `mtu`, `masquerade`, and Docker's by their long names.
    pub options: BTreeMap<String, String>,
}

/// A subnet of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The subnet.
    pub subnet: Cidr,
    /// The bridge's address in it.
    pub gateway: IpAddr,
    /// Where in it addresses are given out.
    pub range: Option<Cidr>,
    /// Nobody asked for this one: another may take its place as long as no container is on it.
    #[serde(default)]
    pub chosen: bool,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// How its containers are connected.
    #[serde(flatten)]
    pub driver: Driver,
    /// Name of its bridge; empty for a driver that has none.
    pub bridge: String,
    /// Its subnets, IPv4's first.
    pub subnets: Vec<Subnet>,
    /// Addresses in them that no container gets, by names that people have for them.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// No way out of it, and none in.
    pub internal: bool,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Whether containers appear outside with the host's address.
    pub masquerade: bool,
    /// Whether its containers are kept from each other, published ports aside.
    #[serde(default)]
    pub isolated: bool,
    /// Address of the host on which ports are published that name none; absent: all.
    #[serde(default)]
    pub publish_at: Option<IpAddr>,
    /// What names of interfaces inside begin with; empty: `eth`.
    #[serde(default)]
    pub interface_prefix: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options as they were given.
    pub options: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: jiff::Timestamp,
}

impl Network {
    /// Whether it is the default network, which is always there and has no names.
    pub fn is_default(&self) -> bool {
        self.name == DEFAULT_NETWORK
    }

    /// Whether its containers find each other by name.
    pub fn has_names(&self) -> bool {
        !self.is_default()
    }

    /// Whether ports of its containers can be published.
    pub fn can_publish(&self) -> bool {
        !self.internal && self.driver == Driver::Bridge
    }
}

/// A container to be connected to a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectRequest {
    /// The container's id.
    pub container: String,
    /// The container's name: others on the network find it by this.
    pub name: String,
    /// Further names, which only this network knows.
    pub aliases: Vec<String>,
    /// Name of the interface inside; empty: the first of `eth0`, `eth1`, … that is free.
    pub interface: String,
    /// Addresses that it is to have; one of each family at most.
    pub addresses: Vec<IpAddr>,
    /// Hardware address that it is to have.
    pub mac: Option<MacAddr>,
    /// Ports to publish.
    pub ports: Vec<PortRequest>,
    /// Resolvers for what the networks do not know, in place of the host's.
    pub dns: Vec<IpAddr>,
    /// Makes this network's gateway the container's way out, unless the network is internal or
    /// the container has one by a network of at least this priority.
    pub default_route: bool,
    /// See `default_route`.
    pub gateway_priority: i32,
}

/// An address of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAddress {
    /// The address, with the subnet's prefix length.
    pub address: Cidr,
    /// The network's gateway; absent on an internal network.
    pub gateway: Option<IpAddr>,
}

/// A container's interface on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network.
    pub network: NetworkId,
    /// The container's id.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// Further names on this network.
    pub aliases: Vec<String>,
    /// Name of the interface inside.
    pub interface: String,
    /// Name of our end, on the bridge; empty where there is none.
    pub port: String,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Its addresses, IPv4's first.
    pub addresses: Vec<EndpointAddress>,
    /// Its published ports.
    pub ports: Vec<PublishedPort>,
    /// Resolvers for what the networks do not know, in place of the host's.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Whether the container's way out is through this network.
    pub default_route: bool,
    /// It is through the network where this is highest.
    #[serde(default)]
    pub gateway_priority: i32,
}

impl Endpoint {
    /// Its bare addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|address| address.address.address())
    }
}

/// Text that cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not made of what names of networks are made of.
    #[error(
        "{name:?} cannot be the name of a network: use letters, digits, \"_\", \".\" and \"-\", \
         beginning with a letter or a digit, {NAME_BYTES} at most"
    )]
    NotANetworkName {
        /// What was given.
        name: String,
    },
    /// Means something else.
    #[error("{name:?} cannot be the name of a network: it is the name of a mode")]
    Reserved {
        /// What was given.
        name: String,
    },
    /// Could not be looked up.
    #[error(
        "{name:?} cannot be a name on a network: use letters, digits, \"_\" and \"-\", in parts \
         of {LABEL_BYTES} at most with dots between"
    )]
    NotAHostName {
        /// What was given.
        name: String,
    },
}

/// Checks a name for a network.
///
/// # Errors
/// [`NameError::NotANetworkName`], [`NameError::Reserved`].
pub fn check_network_name(name: &str) -> Result<(), NameError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !starts_well || name.len() > NAME_BYTES || !name.bytes().all(fits) {
        return Err(NameError::NotANetworkName { name: name.to_owned() });
    }
    if RESERVED_NAMES.contains(&name) {
        return Err(NameError::Reserved { name: name.to_owned() });
    }
    Ok(())
}

/// Checks a name that containers are looked up by. Underscores are let pass, since containers'
/// names have them.
///
/// # Errors
/// [`NameError::NotAHostName`].
pub fn check_host_name(name: &str) -> Result<(), NameError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES
            && label.bytes().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > HOST_NAME_BYTES || !name.split('.').all(is_label) {
        return Err(NameError::NotAHostName { name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_networks_are_checked() {
        for name in ["a", "web_front.1-b", "9lives"] {
            assert_eq!(check_network_name(name), Ok(()), "{name:?}");
        }
        for name in ["", "-a", ".a", "a/b", "a b", "ä", "a\n", "host", "none", &"a".repeat(129)] {
            assert!(check_network_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_that_are_not_names_are_refused() {
        for name in ["db", "db_1", "a.b.c", "DB"] {
            assert_eq!(check_host_name(name), Ok(()), "{name:?}");
        }
        let long_label = "a".repeat(64);
        let long_name = vec!["abcdefgh"; 30].join(".");
        for name in ["", ".", "a..b", "-a", "a-", "a b", "a\0b", "*", &long_label, &long_name] {
            assert!(check_host_name(name).is_err(), "{name:?}");
        }
    }
}
