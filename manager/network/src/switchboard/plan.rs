//! What a network or an endpoint will be: checked and settled before anything is done.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::Switchboard;
use super::options::is_interface_name;
use crate::address::{Cidr, MacAddr};
use crate::error::NetworkError;
use crate::ipam;
use crate::model::{
    ConnectRequest, Driver, Endpoint, EndpointAddress, Network, NetworkRequest, Subnet,
    SubnetRequest, check_host_name,
};
use crate::ports::{PortRequest, PublishedPort, hold};

impl Switchboard {
    /// Settles a new network's subnets, so that they clash with no other's and no route.
    pub(super) fn settle_subnets(
        &mut self,
        request: &NetworkRequest,
    ) -> Result<Vec<Subnet>, NetworkError> {
        let mut taken: Vec<(Cidr, String)> = Vec::new();
        let others = self.networks.values().filter(|network| network.name != request.name);
        for network in others {
            let holder = format!("network {}", network.name);
            taken.extend(network.subnets.iter().map(|subnet| (subnet.subnet, holder.clone())));
        }
        if request.driver == Driver::Bridge {
            let routed = self.plane.routed()?.into_iter();
            taken.extend(routed.map(|cidr| (cidr, "a route of the host".to_owned())));
        }
        if request.without_ipv4 && !request.ipv6 {
            return Err(ipam::IpamError::NoFamilyAtAll.into());
        }
        let mut subnets: Vec<Subnet> = Vec::new();
        for wanted in &request.subnets {
            let settled = ipam::settle_subnet(*wanted)?;
            let subnet = settled.subnet;
            if subnets.iter().any(|other| other.subnet.is_ipv6() == subnet.is_ipv6()) {
                return Err(ipam::IpamError::SecondOfFamily { subnet }.into());
            }
            if let Some((other, holder)) = taken.iter().find(|(other, _)| other.overlaps(subnet)) {
                let (other, holder) = (*other, holder.clone());
                return Err(ipam::IpamError::Overlap { subnet, other, holder }.into());
            }
            if request.without_ipv4 && !subnet.is_ipv6() {
                return Err(ipam::IpamError::UnwantedFamily { subnet }.into());
            }
            subnets.push(settled);
        }
        let taken: Vec<Cidr> = taken.into_iter().map(|(cidr, _)| cidr).collect();
        let mut choose = |chosen: Cidr| {
            let request = SubnetRequest { subnet: chosen, gateway: None, range: None };
            ipam::settle_subnet(request)
                .map(|subnet| subnets.push(Subnet { chosen: true, ..subnet }))
        };
        let has_ipv4 = request.subnets.iter().any(|subnet| !subnet.subnet.is_ipv6());
        if !has_ipv4 && !request.without_ipv4 {
            choose(ipam::choose_subnet_4(&taken)?)?;
        }
        if request.ipv6 && !request.subnets.iter().any(|subnet| subnet.subnet.is_ipv6()) {
            let [a, b, c, d, e, ..] = random()?;
            choose(ipam::choose_subnet_6([a, b, c, d, e], &taken)?)?;
        }
        subnets.sort_by_key(|subnet| subnet.subnet.is_ipv6());
        check_reserved(request, &subnets)?;
        Ok(subnets)
    }

    /// Moves a network whose bridge is not there yet out of the way of routes that the host has
    /// got since the network was created, and returns it as it is then.
    pub(super) fn make_way(&mut self, network: &Network) -> Result<Network, NetworkError> {
        let is_there = network.driver != Driver::Bridge
            || self.raised.contains(&network.id)
            || self.plane.has_interface(&network.bridge)?;
        if is_there {
            return Ok(network.clone());
        }
        let routed = self.plane.routed()?;
        let blocked = network
            .subnets
            .iter()
            .any(|subnet| routed.iter().any(|route| route.overlaps(subnet.subnet)));
        if !blocked {
            return Ok(network.clone());
        }
        let asked_for = network.subnets.iter().filter(|subnet| !subnet.chosen);
        let request = NetworkRequest {
            name: network.name.clone(),
            subnets: asked_for
                .map(|subnet| SubnetRequest {
                    subnet: subnet.subnet,
                    gateway: Some(subnet.gateway),
                    range: subnet.range,
                })
                .collect(),
            ipv6: network.subnets.iter().any(|subnet| subnet.subnet.is_ipv6()),
            without_ipv4: network.subnets.iter().all(|subnet| subnet.subnet.is_ipv6()),
            reserved: network.reserved.clone(),
            ..NetworkRequest::default()
        };
        let moved = Network { subnets: self.settle_subnets(&request)?, ..network.clone() };
        self.records.put_network(&moved)?;
        self.networks.insert(moved.id.clone(), moved.clone());
        Ok(moved)
    }

    /// Plans an endpoint: names, interface and addresses; nothing is done yet.
    pub(super) fn plan(
        &self,
        network: &Network,
        request: &ConnectRequest,
    ) -> Result<Endpoint, NetworkError> {
        for alias in &request.aliases {
            check_host_name(alias)?;
        }
        let mut addresses = Vec::new();
        for wanted in &request.addresses {
            if !network.subnets.iter().any(|s| s.subnet.is_ipv6() == wanted.is_ipv6()) {
                return Err(ipam::IpamError::NoFamily { address: *wanted }.into());
            }
        }
        let taken: HashSet<IpAddr> = self
            .endpoints_on(&network.id)
            .flat_map(Endpoint::ips)
            .chain(network.reserved.values().copied())
            .collect();
        for subnet in &network.subnets {
            let is_ipv6 = subnet.subnet.is_ipv6();
            let wanted = request.addresses.iter().find(|ip| ip.is_ipv6() == is_ipv6).copied();
            let last = self.last_given(network, is_ipv6);
            let address = ipam::give_address(&network.name, subnet, wanted, last, &taken)?;
            let prefix = subnet.subnet.prefix_len();
            let address = Cidr::new(address, prefix).map_err(ipam::IpamError::Malformed)?;
            let gateway = (!network.internal).then_some(subnet.gateway);
            addresses.push(EndpointAddress { address, gateway });
        }
        let [a, b, c, d, e, f, rest @ ..] = random()?;
        let digits: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        let port = match network.driver {
            Driver::Bridge => self.plane.names().port(&digits),
            Driver::Macvlan { .. } => String::new(),
        };
        Ok(Endpoint {
            network: network.id.clone(),
            container: request.container.clone(),
            name: request.name.clone(),
            aliases: request.aliases.clone(),
            interface: self.interface_name(network, request)?,
            port,
            mac: request.mac.unwrap_or_else(|| MacAddr::local([a, b, c, d, e, f])),
            addresses,
            ports: Vec::new(),
            dns: request.dns.clone(),
            default_route: request.default_route
                && !network.internal
                && !self.endpoints(&request.container).iter().any(|other| other.default_route),
            gateway_priority: request.gateway_priority,
        })
    }

    /// The address after which the next is looked for: after a restart of the daemon, the highest
    /// in use.
    fn last_given(&self, network: &Network, is_ipv6: bool) -> Option<IpAddr> {
        let known = self.last.get(&(network.id.clone(), is_ipv6)).copied();
        let highest = || {
            let ips = self.endpoints_on(&network.id).flat_map(Endpoint::ips);
            ips.filter(|ip| ip.is_ipv6() == is_ipv6).max()
        };
        known.or_else(highest)
    }

    fn interface_name(
        &self,
        network: &Network,
        request: &ConnectRequest,
    ) -> Result<String, NetworkError> {
        let name = &request.interface;
        if name.is_empty() {
            let taken: HashSet<String> =
                self.endpoints(&request.container).into_iter().map(|e| e.interface).collect();
            let prefix = match network.interface_prefix.as_str() {
                "" => "eth",
                prefix => prefix,
            };
            let mut names = (0..).map(|index| format!("{prefix}{index}"));
            return Ok(names.find(|name| !taken.contains(name)).unwrap_or_default());
        }
        if !is_interface_name(name) {
            return Err(NetworkError::InterfaceName { name: name.clone() });
        }
        Ok(name.clone())
    }

    /// Holds the host's ports, and fills in which they are.
    pub(super) fn hold_ports(
        &self,
        network: &Network,
        endpoint: &mut Endpoint,
        requests: &[PortRequest],
    ) -> Result<Vec<OwnedFd>, NetworkError> {
        if !requests.is_empty() && (network.internal || network.driver != Driver::Bridge) {
            let why = if network.internal { "internal" } else { "not a bridge" };
            return Err(NetworkError::CannotPublish { network: network.name.clone(), why });
        }
        let mut held = Vec::new();
        for request in requests {
            let mut host_port = request.host_port.unwrap_or(0);
            let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
            let wanted = request.host_ip.or(network.publish_at);
            let hosts = match &wanted {
                Some(host_ip) => std::slice::from_ref(host_ip),
                None => &everywhere[..],
            };
            for host_ip in hosts.iter().copied() {
                let container_ip = endpoint.ips().find(|ip| ip.is_ipv6() == host_ip.is_ipv6());
                let Some(container_ip) = container_ip else {
                    if wanted.is_some() {
                        let port = host_port;
                        return Err(NetworkError::NoAddressToPublish { port, host_ip });
                    }
                    continue;
                };
                let (fd, port) = self.hold_port(host_ip, host_port, request)?;
                host_port = port;
                held.push(fd);
                endpoint.ports.push(PublishedPort {
                    host_ip,
                    host_port,
                    container_ip,
                    container_port: request.container_port,
                    transport: request.transport,
                });
            }
        }
        Ok(held)
    }

    fn hold_port(
        &self,
        host_ip: IpAddr,
        host_port: u16,
        request: &PortRequest,
    ) -> Result<(OwnedFd, u16), NetworkError> {
        let known = |address: SocketAddr, transport| {
            let holder = self.endpoints.values().find(|endpoint| {
                endpoint
                    .ports
                    .iter()
                    .any(|port| port.host_port == address.port() && port.transport == transport)
            })?;
            Some(format!("container {}", holder.name))
        };
        Ok(hold(SocketAddr::new(host_ip, host_port), request.transport, known)?)
    }
}

/// Checks addresses that no container is to get: a container could have each of them otherwise.
fn check_reserved(request: &NetworkRequest, subnets: &[Subnet]) -> Result<(), ipam::IpamError> {
    let mut taken = HashSet::new();
    for address in request.reserved.values() {
        let Some(subnet) = subnets.iter().find(|subnet| subnet.subnet.contains(*address)) else {
            return Err(ipam::IpamError::NoFamily { address: *address });
        };
        ipam::give_address(&request.name, subnet, Some(*address), None, &taken)?;
        taken.insert(*address);
    }
    Ok(())
}

/// Random bytes of the kernel's.
pub(super) fn random() -> Result<[u8; 32], NetworkError> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
        |errno| NetworkError::System {
            operation: "get random bytes of the kernel",
            errno: nix::errno::Errno::from_raw(errno.raw_os_error()),
        },
    )?;
    Ok(bytes)
}
