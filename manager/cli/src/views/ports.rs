//! Ports as Docker shows them: "0.0.0.0:8080->80/tcp", consecutive ones as ranges.

use std::collections::BTreeMap;

use keg_proto::keg::v1::PortMapping;

use crate::template::Value;

/// Where a port is on the host: "0.0.0.0:8080", "[::]:8080".
pub(crate) fn host_address(port: &PortMapping) -> String {
    with_host(&port.host_ip, &port.host_port.to_string())
}

fn with_host(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// Ports in a line. Those that are published under their own numbers, and those that are not
/// published, are put together where they follow each other.
pub(crate) fn line(ports: &[PortMapping]) -> String {
    let mut sorted: Vec<&PortMapping> = ports.iter().collect();
    sorted.sort_by_key(|port| {
        (port.container_port, port.host_ip.clone(), port.host_port, port.protocol.clone())
    });
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut others = Vec::new();
    for port in sorted {
        let is_published = port.host_port != 0;
        if is_published && port.host_port != port.container_port {
            others.push(format!(
                "{}->{}/{}",
                host_address(port),
                port.container_port,
                port.protocol
            ));
            continue;
        }
        let ip = if is_published { port.host_ip.as_str() } else { "" };
        let number = port.container_port;
        let follows = |group: &&mut Group<'_>| {
            (group.ip, group.protocol, group.last + 1) == (ip, port.protocol.as_str(), number)
        };
        match groups.iter_mut().find(follows) {
            Some(group) => group.last = number,
            None => {
                groups.push(Group { ip, protocol: &port.protocol, first: number, last: number });
            }
        }
    }
    let texts: Vec<String> = groups.iter().map(Group::text).chain(others).collect();
    texts.join(", ")
}

/// Ports that follow each other.
struct Group<'a> {
    /// Address of the host; empty: not published.
    ip: &'a str,
    protocol: &'a str,
    first: u32,
    last: u32,
}

impl Group<'_> {
    fn text(&self) -> String {
        let numbers = if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        };
        if self.ip.is_empty() {
            return format!("{numbers}/{}", self.protocol);
        }
        format!("{}->{numbers}/{}", with_host(self.ip, &numbers), self.protocol)
    }
}

/// Ports by "80/tcp", each with the addresses where it is published; `null` where it is not.
pub(crate) fn map(ports: &[PortMapping]) -> Value {
    let mut by_name: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in ports {
        let name = format!("{}/{}", port.container_port, port.protocol);
        let places = by_name.entry(name).or_default();
        if port.host_port != 0 {
            places.push(place(&port.host_ip, &port.host_port.to_string()));
        }
    }
    let entries = by_name.into_iter().map(|(name, places)| {
        (name, if places.is_empty() { Value::NO_LIST } else { Value::List(places) })
    });
    Value::map(entries)
}

/// Ports that were asked to be published, by "80/tcp"; a port that any will do for is empty.
pub(crate) fn bindings(ports: &[PortMapping]) -> Value {
    let mut by_name: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in ports {
        let name = format!("{}/{}", port.container_port, port.protocol);
        let number = if port.host_port == 0 { String::new() } else { port.host_port.to_string() };
        by_name.entry(name).or_default().push(place(&port.host_ip, &number));
    }
    Value::map(by_name.into_iter().map(|(name, places)| (name, Value::List(places))))
}

fn place(ip: &str, port: &str) -> Value {
    Value::record([("HostIp", Value::text(ip)), ("HostPort", Value::text(port))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, host_port: u32, container_port: u32, protocol: &str) -> PortMapping {
        let (host_ip, protocol) = (ip.to_owned(), protocol.to_owned());
        PortMapping { host_ip, host_port, container_port, protocol }
    }

    #[test]
    fn ports_are_shown_as_docker_shows_them() {
        let both = [port("0.0.0.0", 8080, 80, "tcp"), port("::", 8080, 80, "tcp")];
        let range: Vec<_> = (7000..7003).map(|n| port("0.0.0.0", n, n, "tcp")).collect();
        let exposed = [port("", 0, 443, "tcp"), port("", 0, 53, "udp"), port("", 0, 444, "tcp")];

        assert_eq!(line(&both), "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp");
        assert_eq!(line(&range), "0.0.0.0:7000-7002->7000-7002/tcp");
        assert_eq!(line(&exposed), "53/udp, 443-444/tcp");
        assert_eq!(line(&[]), "");
    }

    #[test]
    fn exposed_ports_have_no_place() {
        let ports = [port("0.0.0.0", 8080, 80, "tcp"), port("", 0, 443, "tcp")];

        assert_eq!(
            map(&ports).to_json(),
            r#"{"443/tcp":null,"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}]}"#
        );
        assert_eq!(
            bindings(&[port("", 0, 80, "tcp")]).to_json(),
            r#"{"80/tcp":[{"HostIp":"","HostPort":""}]}"#
        );
    }
}
