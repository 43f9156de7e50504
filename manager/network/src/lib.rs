//! Networks of containers: bridges, addresses, published ports, names, and the files in `/etc`
//! that go with them.
//!
//! | module | what |
//! | --- | --- |
//! | [`mode`] | where a container's network namespace comes from |
//! | [`files`] | `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` for a container |
//! | [`model`] | networks and endpoints, as asked for and as recorded |
//! | [`networks`] | what the engine calls |
//! | [`cni`] | networks that CNI plugins make |
//! | [`switchboard`] | records and kernel together, one step at a time |
//! | `plane` | bridges, interfaces, firewall: the kernel's side |
//! | `netlink`, `nft` | how the kernel is spoken to |
//! | [`ipam`], [`ports`], [`dns`] | addresses, published ports, names |
//!
//! The engine asks two things of a mode: whether the container has a network namespace of its own,
//! and which addresses its files name. For a network it connects the container once its namespace
//! is there and before its process starts, and disconnects it when it has ended.

pub mod address;
pub mod cni;
pub mod dns;
pub mod error;
pub mod files;
mod instance;
pub mod ipam;
pub mod mode;
pub mod model;
mod netlink;
mod netns;
pub mod networks;
mod nft;
mod plane;
pub mod ports;
mod records;
pub mod switchboard;

pub use address::{Cidr, MacAddr};
pub use cni::{CNI_PREFIX, Cni, CniError, CniSettings};
pub use error::NetworkError;
pub use files::EtcFiles;
pub use instance::TagError;
pub use mode::{NetworkMode, UnknownNetwork};
pub use model::{
    ConnectRequest, DEFAULT_NETWORK, Driver, Endpoint, EndpointAddress, Network, NetworkId,
    NetworkRequest, Subnet, SubnetRequest,
};
pub use netlink::NetlinkError;
pub use netns::NetnsError;
pub use networks::Networks;
pub use ports::{ForwardMode, PortRequest, PublishMode, PublishedPort, Transport};
pub use records::RecordsError;
pub use switchboard::{LiveContainer, Reconciled, Settings};
