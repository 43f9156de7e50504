//! Published ports: how people write them, and how the host's are kept for a container.
//!
//! A published port is held by a socket that is bound and never listens: it keeps other programs
//! from taking the port, and gives the error that people expect if one already has. No process
//! listens for it; the firewall's map does the work.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname,
    setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};

/// Most ports that one publication may name.
const MOST_PORTS: u32 = 4096;

/// Whether the host's firewall judges what comes for published ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// The host's input rules decide, by the host's port: what they drop stays dropped.
    #[default]
    Firewall,
    /// Published ports are open to everyone, whatever the host's rules say, as with Docker.
    Bypass,
}

/// What becomes of containers' packets where the host's policy is to drop what is routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardMode {
    /// They pass, unless a rule of the host's says otherwise: two rules are appended to the
    /// chain, in place of its policy.
    #[default]
    Open,
    /// They are dropped, and the administrator has to allow them.
    Respect,
}

/// Transport protocols that ports can be published of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One port to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortRequest {
    /// Address of the host; absent: all of them.
    pub host_ip: Option<IpAddr>,
    /// Port of the host; absent: any that is free.
    pub host_port: Option<u16>,
    /// Port in the container.
    pub container_port: u16,
    /// Of both.
    pub transport: Transport,
}

/// One port that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Address of the host; unspecified: all of the family.
    pub host_ip: IpAddr,
    /// Port of the host.
    pub host_port: u16,
    /// Address of the container.
    pub container_ip: IpAddr,
    /// Port in the container.
    pub container_port: u16,
    /// Of both.
    pub transport: Transport,
}

/// Why text names no ports to publish, or a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Not as `-p` wants it.
    #[error(
        "{text:?} is not a port to publish: write [IP:][HOST_PORT:]CONTAINER_PORT[/tcp|udp], \
         ports being numbers from 1 to 65535 or ranges of them"
    )]
    Malformed {
        /// What was given.
        text: String,
    },
    /// Ranges that do not pair up.
    #[error(
        "{text:?}: the two ranges have {host} and {container} ports; give them the same length, \
         or only one port for the container"
    )]
    UnequalRanges {
        /// What was given.
        text: String,
        /// Ports of the host.
        host: u32,
        /// Ports of the container.
        container: u32,
    },
    /// Too many at once.
    #[error("{text:?} names more than {MOST_PORTS} ports")]
    TooMany {
        /// What was given.
        text: String,
    },
    /// A program has it.
    #[error("{transport} port {address} is in use by {holder}: stop it, or publish another port")]
    InUse {
        /// Where.
        address: SocketAddr,
        /// Of what.
        transport: Transport,
        /// Who has it, as far as that can be known.
        holder: String,
    },
    /// Not an address of this machine.
    #[error("{address} is not an address of this machine")]
    NotHere {
        /// What was given.
        address: IpAddr,
    },
    /// No socket to hold it with.
    #[error("hold {transport} port {address}")]
    Hold {
        /// Where.
        address: SocketAddr,
        /// Of what.
        transport: Transport,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
}

/// Reads what `-p` was given: `[IP:][HOST_PORT:]CONTAINER_PORT[/PROTOCOL]`, with ranges.
///
/// # Errors
/// [`PortError::Malformed`], [`PortError::UnequalRanges`], [`PortError::TooMany`].
pub fn parse_publish(text: &str) -> Result<Vec<PortRequest>, PortError> {
    let malformed = || PortError::Malformed { text: text.to_owned() };
    let (address, transport) = match text.rsplit_once('/') {
        Some((address, name)) => (address, name.parse().map_err(|()| malformed())?),
        None => (text, Transport::Tcp),
    };
    let (rest, container) = match address.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, address),
    };
    let (host_ip, host) = match rest {
        None => (None, ""),
        Some(rest) => match rest.rsplit_once(':') {
            // An IPv6 address in brackets with no port after it: `[::1]::80` has an empty one.
            Some((ip, port)) => (Some(host_address(ip).ok_or_else(malformed)?), port),
            None => (None, rest),
        },
    };
    let container = range(container).ok_or_else(malformed)?;
    let host = if host.is_empty() { None } else { Some(range(host).ok_or_else(malformed)?) };
    pair(text, host_ip, host, container, transport)
}

impl FromStr for Transport {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(()),
        }
    }
}

fn pair(
    text: &str,
    host_ip: Option<IpAddr>,
    host: Option<(u16, u16)>,
    container: (u16, u16),
    transport: Transport,
) -> Result<Vec<PortRequest>, PortError> {
    let length = |(first, last): (u16, u16)| u32::from(last - first) + 1;
    let wanted = length(container);
    if wanted.max(host.map_or(0, length)) > MOST_PORTS {
        return Err(PortError::TooMany { text: text.to_owned() });
    }
    if let Some(host) = host.filter(|host| length(*host) != wanted) {
        let (host, container) = (length(host), wanted);
        return Err(PortError::UnequalRanges { text: text.to_owned(), host, container });
    }
    let requests = (container.0..=container.1).enumerate().map(|(index, container_port)| {
        let host_port = host
            .and_then(|(first, _)| u16::try_from(index).ok().and_then(|i| first.checked_add(i)));
        PortRequest { host_ip, host_port, container_port, transport }
    });
    Ok(requests.collect())
}

fn host_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some((first, last))
}

/// Holds a port of the host, in the calling thread's network namespace, and returns which: port 0
/// asks for any that is free. Who has a port that is in use is asked of `known` first.
///
/// # Errors
/// [`PortError::InUse`], [`PortError::NotHere`], [`PortError::Hold`].
pub(crate) fn hold(
    address: SocketAddr,
    transport: Transport,
    known: impl FnOnce(SocketAddr, Transport) -> Option<String>,
) -> Result<(OwnedFd, u16), PortError> {
    let fail = |errno| PortError::Hold { address, transport, errno };
    let (kind, protocol) = match transport {
        Transport::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Transport::Udp => (SockType::Datagram, SockProtocol::Udp),
    };
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).map_err(fail)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true).map_err(fail)?;
    }
    match bind(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => {}
        Err(Errno::EADDRNOTAVAIL) => return Err(PortError::NotHere { address: address.ip() }),
        Err(Errno::EADDRINUSE) => {
            let holder = known(address, transport)
                .or_else(|| program_with(address.port(), transport))
                .unwrap_or_else(|| "another program".to_owned());
            return Err(PortError::InUse { address, transport, holder });
        }
        Err(errno) => return Err(fail(errno)),
    }
    if address.port() != 0 {
        return Ok((fd, address.port()));
    }
    let bound: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(fail)?;
    let v4 = bound.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    let v6 = bound.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port);
    Ok((fd, v4.or(v6).unwrap_or(address.port())))
}

/// Finds the program that has a port open, by the kernel's socket tables; best effort.
fn program_with(port: u16, transport: Transport) -> Option<String> {
    let inodes = sockets_on(port, transport);
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry.file_name().to_string_lossy().parse::<u32>().ok();
        let Some(pid) = pid else { continue };
        let Ok(fds) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let has_it =
            fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|link| {
                let link = link.to_string_lossy().into_owned();
                let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
                inode.is_some_and(|inode| inodes.contains_key(inode))
            });
        if has_it {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", name.trim()));
        }
    }
    None
}

/// Inodes of sockets that are bound to a port and have no peer.
fn sockets_on(port: u16, transport: Transport) -> BTreeMap<String, ()> {
    let suffix = format!(":{port:04X}");
    let mut inodes = BTreeMap::new();
    for version in ["", "6"] {
        let table = format!("/proc/thread-self/net/{transport}{version}");
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let mut columns = line.split_whitespace().skip(1);
            let (local, remote) = (columns.next(), columns.next());
            let bound = local.is_some_and(|local| local.ends_with(&suffix));
            if bound && remote.is_some_and(|remote| remote.ends_with(":0000")) {
                inodes.extend(columns.nth(6).map(|inode| (inode.to_owned(), ())));
            }
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(
        ip: Option<&str>,
        host_port: Option<u16>,
        container_port: u16,
        transport: Transport,
    ) -> PortRequest {
        let host_ip = ip.map(|ip| ip.parse().expect("an address"));
        PortRequest { host_ip, host_port, container_port, transport }
    }

    #[test]
    fn every_way_to_write_a_port_is_understood() {
        use Transport::{Tcp, Udp};
        for (text, expected) in [
            ("80", port(None, None, 80, Tcp)),
            ("8080:80", port(None, Some(8080), 80, Tcp)),
            ("8080:80/udp", port(None, Some(8080), 80, Udp)),
            ("127.0.0.1:8080:80", port(Some("127.0.0.1"), Some(8080), 80, Tcp)),
            ("127.0.0.1::80", port(Some("127.0.0.1"), None, 80, Tcp)),
            ("[::1]:8080:80/TCP", port(Some("::1"), Some(8080), 80, Tcp)),
        ] {
            assert_eq!(parse_publish(text).expect(text), [expected], "{text}");
        }
    }

    #[test]
    fn ranges_pair_up() {
        let ports = parse_publish("8000-8002:80-82").expect("ranges");

        let pairs: Vec<_> = ports.iter().map(|p| (p.host_port, p.container_port)).collect();
        assert_eq!(pairs, [(Some(8000), 80), (Some(8001), 81), (Some(8002), 82)]);
    }

    #[test]
    fn what_names_no_port_is_refused() {
        for text in [
            "",
            ":",
            "0",
            "65536",
            "80/icmp",
            "x:80",
            "1.2.3:80:80",
            "::1:80:80",
            "90-80:80",
            "8080:",
            "-1",
            "8000-8001:80-82",
            "1-65535",
        ] {
            assert!(parse_publish(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_port_in_use_names_the_program_that_has_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");

        let refusal = hold(address, Transport::Tcp, |_, _| None).expect_err("in use");

        let own = format!("process {}", std::process::id());
        assert!(refusal.to_string().contains(&own), "{refusal}");
    }

    #[test]
    fn a_held_port_is_free_again_once_it_is_let_go() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let (held, port) = hold(any, Transport::Tcp, |_, _| None).expect("a free port");
        let address = SocketAddr::new(any.ip(), port);
        assert!(std::net::TcpListener::bind(address).is_err(), "held");

        drop(held);

        assert!(std::net::TcpListener::bind(address).is_ok(), "free");
    }
}
