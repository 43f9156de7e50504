//! Networks, addresses and ports.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::str::FromStr;

use keg_engine::model::{Attachment, ExposedPort, ExtraHost, Record};
use keg_engine::{LiveEndpoint, NetworkView};
use keg_network::ports::parse_publish;
use keg_network::{
    Cidr, Driver, Endpoint, EndpointAddress, NetworkError, NetworkRequest, PortRequest, Subnet,
    SubnetRequest,
};
use keg_proto::keg::v1 as pb;
use tonic::Status;

use super::timestamp_to_pb;
use crate::status::{invalid, to_status};

/// What in `/etc/hosts` stands for the host.
const HOST_GATEWAY: &str = "host-gateway";
/// Option that names the interface of the host that a macvlan network is on.
const PARENT: &str = "parent";
/// Digits of an id that are a name.
const SHORT_ID_DIGITS: usize = 12;

/// Parses text that may be empty.
fn optional<T: FromStr<Err: std::fmt::Display>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: T::Err| invalid(field, format!("{text:?}: {error}")))
}

/// Converts filters.
pub(crate) fn filters_from_pb(
    filters: HashMap<String, pb::NetworkFilterValues>,
) -> BTreeMap<String, Vec<String>> {
    filters.into_iter().map(|(key, values)| (key, values.values)).collect()
}

/// Converts a request for a network.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field that makes no sense.
pub(crate) fn request_from_pb(request: pb::CreateNetworkRequest) -> Result<NetworkRequest, Status> {
    let mut options: BTreeMap<String, String> = request.options.into_iter().collect();
    let driver = match request.driver.as_str() {
        "" | "bridge" => Driver::Bridge,
        "macvlan" => Driver::Macvlan {
            parent: options.remove(PARENT).ok_or_else(|| {
                invalid("options", "a macvlan network needs the option parent: -o parent=eth0")
            })?,
        },
        other => {
            let problem = format!("there is no driver {other:?}: give \"bridge\" or \"macvlan\"");
            return Err(invalid("driver", problem));
        }
    };
    Ok(NetworkRequest {
        name: request.name,
        driver,
        subnets: subnets_from_pb(&request.subnets, &request.gateways, &request.ip_ranges)?,
        ipv6: request.enable_ipv6,
        without_ipv4: request.disable_ipv4,
        reserved: reserved_from_pb(request.aux_addresses)?,
        internal: request.internal,
        labels: request.labels.into_iter().collect(),
        options,
    })
}

fn reserved_from_pb(texts: HashMap<String, String>) -> Result<BTreeMap<String, IpAddr>, Status> {
    let reserved = texts.into_iter().map(|(name, text)| {
        let address = optional("aux_addresses", &text)?;
        address.map(|address| (name, address)).ok_or_else(|| {
            invalid("aux_addresses", "an address to keep free is given as NAME=ADDRESS")
        })
    });
    reserved.collect()
}

/// Brings each gateway and each range together with the subnet that it is in.
fn subnets_from_pb(
    subnets: &[String],
    gateways: &[String],
    ranges: &[String],
) -> Result<Vec<SubnetRequest>, Status> {
    let mut requests = Vec::new();
    for text in subnets {
        if let Some(subnet) = optional::<Cidr>("subnet", text)? {
            requests.push(SubnetRequest { subnet, gateway: None, range: None });
        }
    }
    for text in gateways {
        let Some(gateway) = optional("gateway", text)? else { continue };
        subnet_of(&mut requests, gateway, "gateway", text)?.gateway = Some(gateway);
    }
    for text in ranges {
        let Some(range) = optional::<Cidr>("ip_range", text)? else { continue };
        subnet_of(&mut requests, range.address(), "ip_range", text)?.range = Some(range);
    }
    Ok(requests)
}

fn subnet_of<'a>(
    requests: &'a mut [SubnetRequest],
    address: IpAddr,
    field: &'static str,
    text: &str,
) -> Result<&'a mut SubnetRequest, Status> {
    let found = requests.iter_mut().find(|request| request.subnet.contains(address));
    found.ok_or_else(|| invalid(field, format!("{text} is in none of the subnets; give --subnet")))
}

/// Converts a network.
pub(crate) fn network_to_pb(view: &NetworkView) -> pb::Network {
    match view {
        NetworkView::Mode { name, driver } => pb::Network {
            id: view.id(),
            name: (*name).to_owned(),
            driver: (*driver).to_owned(),
            ..pb::Network::default()
        },
        NetworkView::Cni { name } => pb::Network {
            id: view.id(),
            name: name.clone(),
            driver: "cni".to_owned(),
            ..pb::Network::default()
        },
        NetworkView::Network(network) => {
            let mut options: HashMap<String, String> =
                network.options.clone().into_iter().collect();
            if let Driver::Macvlan { parent } = &network.driver {
                options.insert(PARENT.to_owned(), parent.clone());
            }
            pb::Network {
                id: view.id(),
                name: network.name.clone(),
                driver: network.driver.as_str().to_owned(),
                subnets: network.subnets.iter().map(subnet_to_pb).collect(),
                enable_ipv6: network.subnets.iter().any(|subnet| subnet.subnet.is_ipv6()),
                internal: network.internal,
                labels: network.labels.clone().into_iter().collect(),
                options,
                created_at: Some(timestamp_to_pb(network.created_at)),
                bridge: network.bridge.clone(),
                is_default: network.is_default(),
                enable_ipv4: network.subnets.iter().any(|subnet| !subnet.subnet.is_ipv6()),
                aux_addresses: network
                    .reserved
                    .iter()
                    .map(|(name, address)| (name.clone(), address.to_string()))
                    .collect(),
            }
        }
    }
}

fn subnet_to_pb(subnet: &Subnet) -> pb::Subnet {
    pb::Subnet {
        subnet: subnet.subnet.to_string(),
        gateway: subnet.gateway.to_string(),
        ip_range: subnet.range.map(|range| range.to_string()).unwrap_or_default(),
    }
}

/// Converts a container that runs on a network.
pub(crate) fn member_to_pb(endpoint: &Endpoint) -> pb::NetworkMember {
    let address = |ipv6| {
        let found = address_of(endpoint, ipv6);
        found.map(|address| address.address.to_string()).unwrap_or_default()
    };
    pb::NetworkMember {
        container_id: endpoint.container.clone(),
        name: endpoint.name.clone(),
        mac_address: endpoint.mac.to_string(),
        ipv4_address: address(false),
        ipv6_address: address(true),
        interface: endpoint.interface.clone(),
    }
}

fn address_of(endpoint: &Endpoint, ipv6: bool) -> Option<&EndpointAddress> {
    endpoint.addresses.iter().find(|address| address.address.is_ipv6() == ipv6)
}

/// Converts what a container is to be on networks.
///
/// # Errors
/// `INVALID_ARGUMENT` for an address that is none.
pub(crate) fn attachments_from_pb(
    attachments: Vec<pb::NetworkAttachment>,
) -> Result<Vec<Attachment>, Status> {
    attachments.into_iter().map(attachment_from_pb).collect()
}

/// Converts what a container is to be on a network.
///
/// # Errors
/// `INVALID_ARGUMENT` for an address that is none.
pub(crate) fn attachment_from_pb(attachment: pb::NetworkAttachment) -> Result<Attachment, Status> {
    if attachment.network.is_empty() {
        return Err(invalid("network", "no network is named"));
    }
    Ok(Attachment {
        network: attachment.network,
        aliases: attachment.aliases,
        ipv4: optional("ipv4_address", &attachment.ipv4_address)?,
        ipv6: optional("ipv6_address", &attachment.ipv6_address)?,
        mac: optional("mac_address", &attachment.mac_address)?,
        interface: attachment.interface,
        gateway_priority: attachment.gateway_priority,
    })
}

/// Converts what a container is to be on a network.
pub(crate) fn attachment_to_pb(attachment: &Attachment) -> pb::NetworkAttachment {
    pb::NetworkAttachment {
        network: attachment.network.clone(),
        aliases: attachment.aliases.clone(),
        ipv4_address: attachment.ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
        ipv6_address: attachment.ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
        mac_address: attachment.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        interface: attachment.interface.clone(),
        gateway_priority: attachment.gateway_priority,
    }
}

/// Converts exposed ports.
///
/// # Errors
/// `INVALID_ARGUMENT` for text that is none.
pub(crate) fn exposed_from_pb(texts: &[String]) -> Result<BTreeSet<ExposedPort>, Status> {
    // Ranges are written as for published ports; nothing else of that form is allowed here.
    let parse = |text: &String| match text.contains(':') {
        false => parse_publish(text).ok(),
        true => None,
    };
    let mut ports = BTreeSet::new();
    for text in texts {
        let problem = || format!("{text:?} is no port: write PORT[-LAST][/tcp|udp]");
        let parsed = parse(text).ok_or_else(|| invalid("exposed_ports", problem()))?;
        ports.extend(
            parsed
                .into_iter()
                .map(|port| ExposedPort { port: port.container_port, transport: port.transport }),
        );
    }
    Ok(ports)
}

/// Converts ports to be published.
///
/// # Errors
/// `INVALID_ARGUMENT` for text that is none.
pub(crate) fn publish_from_pb(texts: &[String]) -> Result<Vec<PortRequest>, Status> {
    let mut ports = Vec::new();
    for text in texts {
        ports.extend(parse_publish(text).map_err(|error| to_status(&NetworkError::from(error)))?);
    }
    Ok(ports)
}

/// Converts a port that was asked to be published.
pub(crate) fn binding_to_pb(port: &PortRequest) -> pb::PortMapping {
    pb::PortMapping {
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        host_port: port.host_port.unwrap_or(0).into(),
        container_port: port.container_port.into(),
        protocol: port.transport.to_string(),
    }
}

/// Converts resolvers.
///
/// # Errors
/// `INVALID_ARGUMENT` for an address that is none.
pub(crate) fn resolvers_from_pb(texts: &[String]) -> Result<Vec<IpAddr>, Status> {
    let resolver = |text: &String| {
        text.parse().map_err(|_| invalid("dns", format!("{text:?} is no address of a resolver")))
    };
    texts.iter().map(resolver).collect()
}

/// Converts entries for `/etc/hosts`.
///
/// # Errors
/// `INVALID_ARGUMENT` for text that is none.
pub(crate) fn extra_hosts_from_pb(texts: &[String]) -> Result<Vec<ExtraHost>, Status> {
    let host = |text: &String| {
        let problem = || {
            let problem =
                format!("{text:?} is no entry: write NAME:ADDRESS, or NAME:{HOST_GATEWAY}");
            invalid("extra_hosts", problem)
        };
        let (name, address) =
            text.split_once([':', '=']).filter(|(name, _)| !name.is_empty()).ok_or_else(problem)?;
        if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
            return Err(problem());
        }
        let address = match address {
            HOST_GATEWAY => None,
            address => {
                let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                Some(bare.unwrap_or(address).parse().map_err(|_| problem())?)
            }
        };
        Ok(ExtraHost { name: name.to_owned(), address })
    };
    texts.iter().map(host).collect()
}

/// Converts an entry for `/etc/hosts`.
pub(crate) fn extra_host_to_pb(host: &ExtraHost) -> String {
    match host.address {
        Some(address) => format!("{}:{address}", host.name),
        None => format!("{}:{HOST_GATEWAY}", host.name),
    }
}

/// The ports of a container as they are: published, or exposed only.
pub(crate) fn ports_to_pb(record: &Record, endpoints: &[LiveEndpoint]) -> Vec<pb::PortMapping> {
    if !record.lifecycle.is_alive() {
        return Vec::new();
    }
    let published = endpoints.iter().flat_map(|live| &live.endpoint.ports);
    let mut ports: Vec<pb::PortMapping> = published
        .map(|port| pb::PortMapping {
            host_ip: port.host_ip.to_string(),
            host_port: port.host_port.into(),
            container_port: port.container_port.into(),
            protocol: port.transport.to_string(),
        })
        .collect();
    for exposed in &record.config.exposed_ports {
        let (port, protocol) = (u32::from(exposed.port), exposed.transport.to_string());
        let is_published = ports
            .iter()
            .any(|other| (other.container_port, other.protocol.as_str()) == (port, &protocol));
        if !is_published {
            ports.push(pb::PortMapping {
                container_port: port,
                protocol,
                ..pb::PortMapping::default()
            });
        }
    }
    ports
}

/// The names of a container's networks, or its mode.
pub(crate) fn names_to_pb(record: &Record) -> Vec<String> {
    match record.host.networks.as_slice() {
        [] => vec![record.network_mode().to_string()],
        networks => networks.iter().map(|attachment| attachment.network.clone()).collect(),
    }
}

/// What a container is on each of its networks; on none that it is on while it does not run.
pub(crate) fn endpoints_to_pb(
    record: &Record,
    endpoints: &[LiveEndpoint],
) -> Vec<pb::ContainerEndpoint> {
    let attachments = record.host.networks.iter();
    let told = attachments.map(|attachment| {
        let live = endpoints.iter().find(|live| live.network == attachment.network);
        let mut told = live.map(|live| endpoint_to_pb(record, live)).unwrap_or_default();
        told.attachment = Some(attachment_to_pb(attachment));
        told
    });
    told.collect()
}

fn endpoint_to_pb(record: &Record, live: &LiveEndpoint) -> pb::ContainerEndpoint {
    let endpoint = &live.endpoint;
    let parts = |ipv6| match address_of(endpoint, ipv6) {
        Some(EndpointAddress { address, gateway }) => (
            address.address().to_string(),
            u32::from(address.prefix_len()),
            gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        ),
        None => Default::default(),
    };
    let (ipv4_address, ipv4_prefix_len, ipv4_gateway) = parts(false);
    let (ipv6_address, ipv6_prefix_len, ipv6_gateway) = parts(true);
    let short_id = record.id.as_str().get(..SHORT_ID_DIGITS).unwrap_or_default();
    let mut dns_names = Vec::new();
    if live.network != keg_network::DEFAULT_NETWORK {
        dns_names.push(endpoint.name.clone());
        dns_names.extend(endpoint.aliases.iter().cloned());
        dns_names.push(short_id.to_owned());
    }
    pb::ContainerEndpoint {
        attachment: None,
        network_id: endpoint.network.as_str().to_owned(),
        interface: endpoint.interface.clone(),
        mac_address: endpoint.mac.to_string(),
        ipv4_address,
        ipv4_prefix_len,
        ipv4_gateway,
        ipv6_address,
        ipv6_prefix_len,
        ipv6_gateway,
        dns_names,
        default_route: endpoint.default_route,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn entries_of_hosts_are_read_as_docker_does() {
        let all = texts(&["db:10.0.0.2", "six:::1", "six=[::1]", "box:host-gateway"]);

        let hosts = extra_hosts_from_pb(&all).unwrap();

        let told: Vec<String> = hosts.iter().map(extra_host_to_pb).collect();
        assert_eq!(told, ["db:10.0.0.2", "six:::1", "six:::1", "box:host-gateway"]);
        for wrong in ["db", ":1.2.3.4", "db:", "db:x", "a b:1.2.3.4", "a\nb:1.2.3.4"] {
            assert!(extra_hosts_from_pb(&texts(&[wrong])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn exposed_ports_can_be_ranges_and_nothing_else() {
        let ports = exposed_from_pb(&texts(&["80", "53/udp", "8000-8002"])).unwrap();

        assert_eq!(ports.len(), 5);
        for wrong in ["80:80", "x", "0", "80/icmp"] {
            assert!(exposed_from_pb(&texts(&[wrong])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn gateways_and_ranges_find_their_subnets() {
        let request = |gateway: &str| {
            request_from_pb(pb::CreateNetworkRequest {
                name: "front".into(),
                subnets: texts(&["10.1.0.0/16", "fd00:1::/64"]),
                gateways: texts(&["fd00:1::9", gateway]),
                ip_ranges: texts(&["10.1.5.0/24"]),
                ..pb::CreateNetworkRequest::default()
            })
        };

        let subnets = request("10.1.0.7").unwrap().subnets;

        assert_eq!(subnets[0].gateway.unwrap().to_string(), "10.1.0.7");
        assert_eq!(subnets[0].range.unwrap().to_string(), "10.1.5.0/24");
        assert_eq!(subnets[1].gateway.unwrap().to_string(), "fd00:1::9");
        assert!(request("10.2.0.7").unwrap_err().message().contains("10.2.0.7"));
    }

    #[test]
    fn a_network_needs_a_driver_that_there_is() {
        let request = |driver: &str| {
            request_from_pb(pb::CreateNetworkRequest {
                name: "front".into(),
                driver: driver.into(),
                ..pb::CreateNetworkRequest::default()
            })
        };

        assert!(request("").is_ok() && request("bridge").is_ok());
        assert!(request("macvlan").unwrap_err().message().contains("parent"));
        assert!(request("overlay").unwrap_err().message().contains("overlay"));
    }
}
