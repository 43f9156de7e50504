//! What can go wrong with networks, told to programs and to people.

use std::borrow::Cow;
use std::net::IpAddr;

use keg_store::{ErrorClass, Explain, Reason, io_reason};
use nix::errno::Errno;

use crate::address::Cidr;
use crate::cni::CniError;
use crate::instance::TagError;
use crate::ipam::IpamError;
use crate::model::NameError;
use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use crate::ports::PortError;
use crate::records::RecordsError;

/// Why an operation on networks failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Nobody answers to that.
    #[error("network {name:?} does not exist")]
    NotFound {
        /// Name or beginning of an id.
        name: String,
    },
    /// Several answer to that.
    #[error("{prefix:?} is the beginning of {count} networks' ids")]
    Ambiguous {
        /// Beginning of an id.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// The name is another's.
    #[error("a network named {name:?} exists")]
    NameInUse {
        /// The name.
        name: String,
    },
    /// A name that cannot be one.
    #[error(transparent)]
    Name(NameError),
    /// Containers are on it.
    #[error("network {network} is in use by {containers}")]
    InUse {
        /// Its name.
        network: String,
        /// Their names.
        containers: String,
    },
    /// It is always there.
    #[error("network {network} is the default network, which cannot be removed")]
    Permanent {
        /// Its name.
        network: String,
    },
    /// Connected already.
    #[error("container {container} is on network {network} already")]
    AlreadyConnected {
        /// The container's name.
        container: String,
        /// The network's.
        network: String,
    },
    /// Not connected.
    #[error("container {container} is not on network {network}")]
    NotConnected {
        /// The container.
        container: String,
        /// The network's name.
        network: String,
    },
    /// The network's kind cannot do that.
    #[error("network {network} cannot publish ports: it is {why}")]
    CannotPublish {
        /// Its name.
        network: String,
        /// What is in the way.
        why: &'static str,
    },
    /// An option of the driver that is none, or has a value that is none.
    #[error("option {key}={value} of network {network} is not understood")]
    Option {
        /// The network's name.
        network: String,
        /// The option.
        key: String,
        /// Its value.
        value: String,
    },
    /// No such interface of the host.
    #[error("{name:?} is not an interface of this machine")]
    NoParent {
        /// Its name.
        name: String,
    },
    /// A name that a container is to have inside is no name of an interface.
    #[error("{name:?} is not a name for an interface")]
    InterfaceName {
        /// What was given.
        name: String,
    },
    /// An interface of somebody else has the name that ours needs.
    #[error("the interface {name} exists and is not ours")]
    InterfaceTaken {
        /// Its name.
        name: String,
    },
    /// A port of the host is published for a family that the container has no address of.
    #[error(
        "port {port} cannot be published on {host_ip}: the container has no address of its family"
    )]
    NoAddressToPublish {
        /// Port of the host.
        port: u16,
        /// Address of the host.
        host_ip: IpAddr,
    },
    /// A subnet or an address cannot be had.
    #[error(transparent)]
    Ipam(IpamError),
    /// A port cannot be had.
    #[error(transparent)]
    Port(PortError),
    /// The kernel refused something about interfaces or the firewall.
    #[error(transparent)]
    Netlink(NetlinkError),
    /// The kernel refused something about namespaces or settings.
    #[error(transparent)]
    Netns(NetnsError),
    /// A record cannot be read or written.
    #[error(transparent)]
    Records(RecordsError),
    /// CNI plugins did not do what they were asked.
    #[error(transparent)]
    Cni(CniError),
    /// The engine's tag.
    #[error(transparent)]
    Tag(TagError),
    /// Name service for a container could not be set up.
    #[error("set up name service for container {container}")]
    NameService {
        /// The container's name.
        container: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The kernel has no random bytes, or another simple call failed.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The thread that owns all networks is gone.
    #[error("the networks are shut down")]
    ShutDown,
}

macro_rules! wrap {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for NetworkError {
            fn from(error: $from) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

// Each of these errors is the error of one module and names its own operands; there is nothing
// for the caller to add.
wrap! {
    NameError => Name,
    IpamError => Ipam,
    PortError => Port,
    NetlinkError => Netlink,
    NetnsError => Netns,
    RecordsError => Records,
    TagError => Tag,
    CniError => Cni,
}

impl Explain for NetworkError {
    fn reason(&self) -> Reason {
        match self {
            Self::Name(_)
            | Self::Option { .. }
            | Self::InterfaceName { .. }
            | Self::NoParent { .. }
            | Self::NotConnected { .. }
            | Self::CannotPublish { .. }
            | Self::NoAddressToPublish { .. }
            | Self::Permanent { .. }
            | Self::Tag(_) => Reason::InvalidArgument,
            Self::NotFound { .. } | Self::Cni(CniError::NotFound { .. }) => Reason::NetworkNotFound,
            Self::Cni(CniError::Record { source, .. }) => io_reason(source),
            Self::Cni(_) => Reason::UnsupportedByHost,
            Self::InUse { .. } => Reason::NetworkInUse,
            Self::Ambiguous { .. } => Reason::AmbiguousId,
            Self::NameInUse { .. } | Self::AlreadyConnected { .. } => Reason::NameInUse,
            Self::Ipam(IpamError::NoSubnet { .. } | IpamError::Exhausted { .. }) => {
                Reason::OutOfSpace
            }
            Self::Ipam(IpamError::Taken { .. } | IpamError::Overlap { .. }) => Reason::AddressInUse,
            Self::Ipam(_) => Reason::InvalidArgument,
            Self::Port(PortError::InUse { .. }) => Reason::PortInUse,
            Self::Port(PortError::Hold { .. }) => Reason::UnsupportedByHost,
            Self::Port(_) => Reason::InvalidArgument,
            Self::Netlink(_) | Self::Netns(_) | Self::InterfaceTaken { .. } => {
                Reason::UnsupportedByHost
            }
            Self::Records(RecordsError::Io { source, .. }) => io_reason(source),
            Self::Records(RecordsError::Malformed { .. }) => Reason::StoreFailed,
            Self::NameService { .. } | Self::System { .. } => Reason::Internal,
            Self::ShutDown => Reason::ShuttingDown,
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotConnected { .. } => ErrorClass::NotFound,
            Self::Permanent { .. }
            | Self::CannotPublish { .. }
            | Self::NoAddressToPublish { .. } => ErrorClass::FailedPrecondition,
            _ => self.reason().class(),
        }
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        let remedy = match self {
            Self::NotFound { .. } => "list the networks with `keg network ls`",
            Self::Cni(CniError::NoPlugin { .. }) => {
                "install it (Debian: containernetworking-plugins), or set network.cni_plugin_dirs"
            }
            Self::Cni(CniError::NotFound { .. }) => {
                "put its configuration into /etc/cni/net.d, or set network.cni_config_dirs"
            }
            Self::Ambiguous { .. } => "give more of the id, or the name",
            Self::NameInUse { .. } => "choose another name, or remove that network",
            Self::InUse { .. } => "stop or disconnect its containers first",
            Self::CannotPublish { .. } => "connect the container to an ordinary network as well",
            Self::NoAddressToPublish { .. } => "create the network with --ipv6",
            Self::Option { .. } => {
                "mtu takes 68 to 65535, masquerade and enable_icc true or false, host_binding_ipv4 an \
                 IPv4 address, container_iface_prefix and the bridge's name what interfaces may be \
                 called (12 and 15 letters at most; a bridge's not beginning with keg); only bridges \
                 have com.docker.network.bridge.*"
            }
            Self::NoParent { .. } => "list the interfaces with `ip link`",
            Self::InterfaceTaken { .. } => {
                "rename or remove that interface, or choose another name"
            }
            Self::Netlink(error) if error.errno() == Errno::EPERM => {
                "run the daemon as root, or give it CAP_NET_ADMIN"
            }
            Self::Netlink(_) => {
                "check that the kernel has bridge, veth and nf_tables (with nat, fib and dup)"
            }
            _ => return None,
        };
        Some(remedy.into())
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::NotFound { name } | Self::NameInUse { name } => {
                vec![("network", name.clone())]
            }
            Self::InUse { network, .. }
            | Self::Permanent { network }
            | Self::CannotPublish { network, .. } => vec![("network", network.clone())],
            Self::Ipam(IpamError::Overlap { subnet, .. } | IpamError::TooSmall { subnet }) => {
                vec![("subnet", Cidr::to_string(subnet))]
            }
            Self::Port(PortError::InUse { address, .. }) => vec![("port", address.to_string())],
            _ => Vec::new(),
        }
    }
}
