//! Who is called what, on which network. Pure.
//!
//! A container is found by its name, its aliases, the beginning of its id, and each of these with
//! the network's name after a dot. Several containers may share an alias.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::address::Cidr;
use crate::model::{Endpoint, Network, NetworkId};

/// Digits of an id that are a name.
const SHORT_ID_DIGITS: usize = 12;

/// What one network knows.
#[derive(Debug, Default)]
struct Zone {
    internal: bool,
    subnets: Vec<Cidr>,
    forward: BTreeMap<String, BTreeSet<IpAddr>>,
    reverse: BTreeMap<IpAddr, String>,
    /// Each container's names and addresses, to take them out by.
    members: BTreeMap<String, (Vec<String>, Vec<IpAddr>)>,
}

/// What all networks know.
#[derive(Debug, Default)]
pub(super) struct Zones {
    zones: BTreeMap<NetworkId, Zone>,
}

/// What a container's networks say about a name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// This.
    Known(T),
    /// It is theirs to say, and there is nothing.
    Nothing,
    /// It is not theirs to say.
    NotOurs,
}

impl Zones {
    /// Enters an endpoint's names, in place of those that it had.
    pub(super) fn add(&mut self, network: &Network, endpoint: &Endpoint) {
        self.remove(endpoint);
        let zone = self.zones.entry(network.id.clone()).or_default();
        zone.internal = network.internal;
        zone.subnets = network.subnets.iter().map(|subnet| subnet.subnet).collect();
        let short_id = endpoint.container.get(..SHORT_ID_DIGITS).unwrap_or(&endpoint.container);
        let mut names = vec![endpoint.name.clone(), short_id.to_owned()];
        names.extend(endpoint.aliases.iter().cloned());
        let qualified: Vec<String> =
            names.iter().map(|name| format!("{name}.{}", network.name)).collect();
        names.extend(qualified);
        for name in &mut names {
            name.make_ascii_lowercase();
        }
        names.retain(|name| !name.is_empty() && !name.starts_with('.'));
        let addresses: Vec<IpAddr> = endpoint.ips().collect();
        for name in &names {
            zone.forward.entry(name.clone()).or_default().extend(&addresses);
        }
        for address in &addresses {
            zone.reverse.insert(*address, format!("{}.{}", endpoint.name, network.name));
        }
        zone.members.insert(endpoint.container.clone(), (names, addresses));
    }

    /// Takes an endpoint's names out; returns whether the container has others still.
    pub(super) fn remove(&mut self, endpoint: &Endpoint) -> bool {
        if let Some(zone) = self.zones.get_mut(&endpoint.network) {
            if let Some((names, addresses)) = zone.members.remove(&endpoint.container) {
                for name in names {
                    if let Some(known) = zone.forward.get_mut(&name) {
                        known.retain(|address| !addresses.contains(address));
                    }
                }
                zone.forward.retain(|_, known| !known.is_empty());
                zone.reverse.retain(|address, _| !addresses.contains(address));
            }
            if zone.members.is_empty() {
                self.zones.remove(&endpoint.network);
            }
        }
        self.of(&endpoint.container).next().is_some()
    }

    /// Finds the addresses of a name, as a container's networks know it.
    pub(super) fn addresses(&self, container: &str, name: &str) -> Found<Vec<IpAddr>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let known: BTreeSet<IpAddr> = self
            .of(container)
            .filter_map(|zone| zone.forward.get(&name))
            .flatten()
            .copied()
            .collect();
        if known.is_empty() {
            return Found::NotOurs;
        }
        Found::Known(known.into_iter().collect())
    }

    /// Finds the name of an address.
    pub(super) fn name(&self, container: &str, address: IpAddr) -> Found<String> {
        let mut ours = false;
        for zone in self.of(container) {
            if let Some(name) = zone.reverse.get(&address) {
                return Found::Known(name.clone());
            }
            ours |= zone.subnets.iter().any(|subnet| subnet.contains(address));
        }
        if ours { Found::Nothing } else { Found::NotOurs }
    }

    /// Whether the container may ask others than its networks: one of these has a way out.
    pub(super) fn may_forward(&self, container: &str) -> bool {
        self.of(container).any(|zone| !zone.internal)
    }

    fn of<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a Zone> {
        self.zones.values().filter(move |zone| zone.members.contains_key(container))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{EndpointAddress, Subnet};

    /// A network `name` of 10.7.N.0/24.
    pub(in crate::dns) fn network(number: u8, name: &str, internal: bool) -> Network {
        let subnet = format!("10.7.{number}.0/24").parse().expect("a subnet");
        let gateway = format!("10.7.{number}.1").parse().expect("an address");
        Network {
            id: NetworkId::new([number; 32]),
            name: name.to_owned(),
            driver: crate::model::Driver::Bridge,
            bridge: format!("keg-{number}"),
            subnets: vec![Subnet { subnet, gateway, range: None, chosen: false }],
            reserved: BTreeMap::new(),
            internal,
            mtu: 1500,
            masquerade: true,
            isolated: false,
            publish_at: None,
            interface_prefix: String::new(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// A container's endpoint on it.
    pub(in crate::dns) fn endpoint(
        network: &Network,
        name: &str,
        host: u8,
        aliases: &[&str],
    ) -> Endpoint {
        let address = network.subnets[0].subnet.at(u128::from(host));
        let address = Cidr::new(address, 24).expect("a prefix");
        Endpoint {
            network: network.id.clone(),
            container: format!("{name:0<64}"),
            name: name.to_owned(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            interface: "eth0".to_owned(),
            port: format!("kegv-{name}"),
            mac: crate::address::MacAddr::local([host; 6]),
            addresses: vec![EndpointAddress { address, gateway: None }],
            ports: Vec::new(),
            dns: Vec::new(),
            default_route: true,
            gateway_priority: 0,
        }
    }

    fn ips(texts: &[&str]) -> Found<Vec<IpAddr>> {
        Found::Known(texts.iter().map(|text| text.parse().expect("an address")).collect())
    }

    #[test]
    fn a_container_knows_only_its_own_networks() {
        let (front, back) = (network(1, "front", false), network(2, "back", false));
        let (web, db) = (endpoint(&front, "web", 2, &[]), endpoint(&back, "db", 3, &["store"]));
        let mut zones = Zones::default();
        zones.add(&front, &web);
        zones.add(&back, &db);

        assert_eq!(zones.addresses(&web.container, "db"), Found::NotOurs);
        zones.add(&back, &endpoint(&back, "web", 4, &[]));

        for name in ["db", "DB.", "store", "db.back", "store.back"] {
            assert_eq!(zones.addresses(&web.container, name), ips(&["10.7.2.3"]), "{name}");
        }
    }

    #[test]
    fn a_restart_with_a_new_address_leaves_nothing_of_the_old_one() {
        let net = network(1, "front", false);
        let asker = endpoint(&net, "asker", 9, &[]);
        let mut zones = Zones::default();
        zones.add(&net, &asker);
        zones.add(&net, &endpoint(&net, "db", 2, &["x"]));

        zones.add(&net, &endpoint(&net, "db", 3, &[]));

        assert_eq!(zones.addresses(&asker.container, "db"), ips(&["10.7.1.3"]));
        assert_eq!(zones.addresses(&asker.container, "x"), Found::NotOurs);
        let old = "10.7.1.2".parse().expect("an address");
        assert_eq!(zones.name(&asker.container, old), Found::Nothing);
    }

    #[test]
    fn containers_that_share_an_alias_are_all_found() {
        let net = network(1, "front", false);
        let (one, two) = (endpoint(&net, "a", 2, &["web"]), endpoint(&net, "b", 3, &["web"]));
        let mut zones = Zones::default();
        zones.add(&net, &one);
        zones.add(&net, &two);

        assert_eq!(zones.addresses(&one.container, "web"), ips(&["10.7.1.2", "10.7.1.3"]));
        assert!(!zones.remove(&one), "it was on one network only");
        assert_eq!(zones.addresses(&two.container, "web"), ips(&["10.7.1.3"]));
    }

    #[test]
    fn addresses_have_names_and_foreign_ones_are_not_ours_to_say() {
        let net = network(1, "front", false);
        let web = endpoint(&net, "web", 2, &[]);
        let mut zones = Zones::default();
        zones.add(&net, &web);
        let name = |ip: &str| zones.name(&web.container, ip.parse().expect("an address"));

        assert_eq!(name("10.7.1.2"), Found::Known("web.front".to_owned()));
        assert_eq!(name("10.7.1.77"), Found::Nothing);
        assert_eq!(name("8.8.8.8"), Found::NotOurs);
    }

    #[test]
    fn a_container_on_internal_networks_only_asks_nobody_else() {
        let (inner, outer) = (network(1, "inner", true), network(2, "outer", false));
        let web = endpoint(&inner, "web", 2, &[]);
        let mut zones = Zones::default();
        zones.add(&inner, &web);
        assert!(!zones.may_forward(&web.container));

        zones.add(&outer, &endpoint(&outer, "web", 2, &[]));

        assert!(zones.may_forward(&web.container));
    }
}
