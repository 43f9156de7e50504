//! Our rules, which never change, and the sets, which do.
//!
//! ```text
//! inet keg ── routed packets            bridge keg ── frames from containers
//!   raw        127/8 stays inside          ports      only what was given to that port
//!   publish    DNAT by map                            (hardware address, ARP, IPv4, IPv6)
//!   admit      the host's judgement     ip keg, ip6 keg
//!   forward    isolation                  again       sends the admitted packet round
//!   leave      masquerade
//! ```
//!
//! **What the host's firewall drops stays dropped.** A connection from outside to a published port
//! is not translated when it comes in: it goes, as it is, through every input rule that the host
//! has, where an administrator's rules name the port that they know. Our chain `admit` comes after
//! them all; a packet that is still alive there has been allowed. It is marked, sent out of one end
//! of a veth pair whose other end is in the same namespace, and so comes in a second time, by an
//! interface that nothing else uses: there it is translated, and the connection is tracked as
//! such. All later packets of the connection are translated by connection tracking where they
//! come in, at full speed; neither a process nor the daemon takes part. A host that publishes by
//! `bypass` translates at once, as Docker does.
//!
//! Containers and the host itself are not judged so: they are not outside.
//!
//! Four tables and not one, since a table has one family: `dup` exists only for IPv4 and for IPv6
//! each, and frames are seen only by the bridge's. All are changed in one transaction.
//!
//! Invariant: starting a container or publishing a port changes elements and nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::batch::{Batch, Element, Hook, SetShape, Table, TableFamily, join};
use super::expression::{Field, Rule, Verdict};
use crate::address::MacAddr;
use crate::instance::{INTERFACE_PREFIX, Names};
use crate::model::Network;
use crate::ports::{PublishMode, Transport};

/// Next hop of admitted packets; only has to be one that the interface reaches.
const ADMIT_GATEWAY_4: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 1);
/// The same for IPv6.
const ADMIT_GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x4b, 1);

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const IPV4: [u8; 1] = [2];
const IPV6: [u8; 1] = [10];
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const NEW: u32 = 8;
/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 0x20;

/// A port of ours that packets of one kind may be sent to.
const TARGET_4: &[Field] = &[Field::Ip4Destination, Field::DestinationPort];
const TARGET_6: &[Field] = &[Field::Ip6Destination, Field::DestinationPort];
const ANY: &[Field] = &[Field::TransportProtocol, Field::DestinationPort];
const AT_4: &[Field] = &[Field::Ip4Destination, Field::TransportProtocol, Field::DestinationPort];
const AT_6: &[Field] = &[Field::Ip6Destination, Field::TransportProtocol, Field::DestinationPort];
const INCOMING: &[Field] = &[Field::IncomingName];
const OUTGOING: &[Field] = &[Field::OutgoingName];
const LINK: &[Field] = &[Field::IncomingName, Field::OutgoingName];
const PAIR_4: &[Field] = &[Field::Ip4Source, Field::Ip4Destination];
const PAIR_6: &[Field] = &[Field::Ip6Source, Field::Ip6Destination];
const PORT: &[Field] = &[Field::IncomingName, Field::EtherSource];
const LEASE_4: &[Field] = &[Field::IncomingName, Field::EtherSource, Field::Ip4Source];
const LEASE_6: &[Field] = &[Field::IncomingName, Field::EtherSource, Field::Ip6Source];
const ARP_LEASE: &[Field] = &[Field::IncomingName, Field::ArpSenderMac, Field::ArpSenderIp];
const NEIGHBOUR_LEASE: &[Field] =
    &[Field::IncomingName, Field::EtherSource, Field::NeighbourTarget];

const INET_SETS: &[SetShape] = &[
    SetShape { name: "bridges", key: INCOMING, value: &[] },
    SetShape { name: "masqueraded", key: INCOMING, value: &[] },
    SetShape { name: "internal", key: INCOMING, value: &[] },
    SetShape { name: "links", key: LINK, value: &[] },
    SetShape { name: "walled", key: LINK, value: &[] },
    SetShape { name: "own4", key: PAIR_4, value: &[] },
    SetShape { name: "own6", key: PAIR_6, value: &[] },
    SetShape { name: "published4", key: ANY, value: TARGET_4 },
    SetShape { name: "published4_at", key: AT_4, value: TARGET_4 },
    SetShape { name: "published6", key: ANY, value: TARGET_6 },
    SetShape { name: "published6_at", key: AT_6, value: TARGET_6 },
    SetShape { name: "ports4", key: ANY, value: &[] },
    SetShape { name: "ports4_at", key: AT_4, value: &[] },
    SetShape { name: "ports6", key: ANY, value: &[] },
    SetShape { name: "ports6_at", key: AT_6, value: &[] },
];

const BRIDGE_SETS: &[SetShape] = &[
    SetShape { name: "ports", key: PORT, value: &[] },
    SetShape { name: "leases4", key: LEASE_4, value: &[] },
    SetShape { name: "leases6", key: LEASE_6, value: &[] },
];

/// What the static rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variant {
    /// What tables and interfaces are called.
    pub(crate) names: Names,
    /// Whether the host's input rules judge what comes for published ports.
    pub(crate) publish: PublishMode,
    /// Whether to drop what the host would route for others: it would not, had we not made it a
    /// router.
    pub(crate) guard_forwarding: bool,
    /// Index of the interface that admitted packets leave by.
    pub(crate) admit_out: u32,
    /// Whether the host has IPv6.
    pub(crate) ipv6: bool,
}

/// An element and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    on_bridge: bool,
    set: &'static str,
    element: Element,
}

/// Replaces all of our tables by fresh ones that hold these elements, at once.
pub(crate) fn rebuild(batch: &mut Batch, variant: &Variant, entries: &[Entry]) {
    let names = &variant.names;
    remove(batch, names, variant.ipv6);
    for table in tables(names, variant.ipv6) {
        batch.add_table(table);
    }
    for shape in INET_SETS {
        batch.add_set(inet(names), *shape);
    }
    for shape in BRIDGE_SETS {
        batch.add_set(bridge(names), *shape);
    }
    raw_chain(batch, inet(names));
    publish_chains(batch, variant);
    input_chains(batch, variant);
    forward_chain(batch, inet(names), variant.guard_forwarding);
    leave_chain(batch, inet(names));
    bridge_chains(batch, names);
    add(batch, names, entries);
}

/// Removes all of our tables, whether they are there or not.
pub(crate) fn remove(batch: &mut Batch, names: &Names, ipv6: bool) {
    for table in tables(names, ipv6) {
        batch.add_table(table);
        batch.delete_table(table);
    }
}

/// Adds elements.
pub(crate) fn add(batch: &mut Batch, names: &Names, entries: &[Entry]) {
    by_set(names, entries, |table, set, elements| batch.add_elements(table, set, elements));
}

/// Takes elements away.
pub(crate) fn take(batch: &mut Batch, names: &Names, entries: &[Entry]) {
    by_set(names, entries, |table, set, elements| batch.delete_elements(table, set, elements));
}

/// What a network adds.
pub(crate) fn network_entries(network: &Network) -> Vec<Entry> {
    let name = interface_name(&network.bridge);
    let mut entries = vec![routed("bridges", &[&name]), routed("links", &[&name, &name])];
    if network.internal {
        entries.push(routed("internal", &[&name]));
    } else if network.masquerade {
        entries.push(routed("masqueraded", &[&name]));
    }
    if network.isolated {
        entries.push(routed("walled", &[&name, &name]));
    }
    entries
}

/// What an interface of a container adds: the addresses that it may use.
pub(crate) fn port_entries(port: &str, mac: MacAddr, addresses: &[IpAddr]) -> Vec<Entry> {
    let name = interface_name(port);
    let mac_octets = mac.octets();
    let mut entries = vec![framed("ports", &[&name, &mac_octets])];
    let mut speaks_ipv6 = false;
    for address in addresses {
        let bytes = octets(*address);
        let own = if address.is_ipv6() { "own6" } else { "own4" };
        entries.push(routed(own, &[&bytes, &bytes]));
        match address {
            IpAddr::V4(v4) => {
                entries.push(framed("leases4", &[&name, &mac_octets, &v4.octets()]));
            }
            IpAddr::V6(v6) => {
                speaks_ipv6 = true;
                entries.push(framed("leases6", &[&name, &mac_octets, &v6.octets()]));
            }
        }
    }
    if speaks_ipv6 {
        let own = mac.link_local().octets();
        entries.push(framed("leases6", &[&name, &mac_octets, &own]));
    }
    entries
}

/// What a published port adds: connections to `host` (all addresses if it is unspecified) and
/// `host_port` go to the container. The two addresses are of one family.
pub(crate) fn published_entries(
    host: IpAddr,
    host_port: u16,
    transport: Transport,
    container: IpAddr,
    container_port: u16,
) -> Vec<Entry> {
    let (map, set) = match (host.is_ipv6(), host.is_unspecified()) {
        (false, true) => ("published4", "ports4"),
        (false, false) => ("published4_at", "ports4_at"),
        (true, true) => ("published6", "ports6"),
        (true, false) => ("published6_at", "ports6_at"),
    };
    let (protocol, port) = ([transport.number()], host_port.to_be_bytes());
    let key = if host.is_unspecified() {
        join(&[&protocol, &port])
    } else {
        join(&[&octets(host), &protocol, &port])
    };
    let value = join(&[&octets(container), &container_port.to_be_bytes()]);
    vec![
        Entry { on_bridge: false, set: map, element: Element { key: key.clone(), value } },
        Entry { on_bridge: false, set, element: Element { key, value: Vec::new() } },
    ]
}

fn tables(names: &Names, ipv6: bool) -> impl Iterator<Item = Table<'_>> {
    let families = [TableFamily::Inet, TableFamily::Bridge, TableFamily::Ip4];
    let families = families.into_iter().chain(ipv6.then_some(TableFamily::Ip6));
    families.map(|family| Table { family, name: names.table() })
}

fn inet(names: &Names) -> Table<'_> {
    Table { family: TableFamily::Inet, name: names.table() }
}

fn bridge(names: &Names) -> Table<'_> {
    Table { family: TableFamily::Bridge, name: names.table() }
}

fn by_set(
    names: &Names,
    entries: &[Entry],
    mut each: impl FnMut(Table<'_>, &'static str, &[Element]),
) {
    for (table, shapes) in [(inet(names), INET_SETS), (bridge(names), BRIDGE_SETS)] {
        for shape in shapes {
            let elements: Vec<Element> = entries
                .iter()
                .filter(|entry| {
                    entry.on_bridge == (table == bridge(names)) && entry.set == shape.name
                })
                .map(|entry| entry.element.clone())
                .collect();
            each(table, shape.name, &elements);
        }
    }
}

/// Addresses of 127/8 stay on the loopback device, although bridges may route them: that is for
/// the host's own connections to published ports on 127.0.0.1 alone.
fn raw_chain(batch: &mut Batch, table: Table<'_>) {
    let hook = Hook { kind: "filter", number: PREROUTING, priority: -300 };
    batch.add_chain(table, "raw", Some(hook));
    for field in [Field::Ip4Destination, Field::Ip4Source] {
        // The comparison first: it fails for all but a few packets, and spares them the set.
        let rule = Rule::new()
            .when(Field::NetworkProtocol, IPV4)
            .when(field, [127])
            .within(INCOMING, "bridges")
            .then(Verdict::Drop);
        batch.add_rule(table, "raw", &rule);
    }
}

fn publish_chains(batch: &mut Batch, variant: &Variant) {
    let names = &variant.names;
    let table = inet(names);
    batch.add_chain(table, "publish", None);
    let not_local =
        Rule::new().unless(Field::DestinationKind, LOCAL.to_ne_bytes()).then(Verdict::Return);
    batch.add_rule(table, "publish", &not_local);
    for (protocol, fields, map, ipv6) in [
        (IPV4, AT_4, "published4_at", false),
        (IPV4, ANY, "published4", false),
        (IPV6, AT_6, "published6_at", true),
        (IPV6, ANY, "published6", true),
    ] {
        let rule = Rule::new().when(Field::NetworkProtocol, protocol).translate(fields, map, ipv6);
        batch.add_rule(table, "publish", &rule);
    }

    let arrive = Hook { kind: "nat", number: PREROUTING, priority: -100 };
    batch.add_chain(table, "arrive", Some(arrive));
    let publish = Verdict::Jump("publish");
    match variant.publish {
        PublishMode::Firewall => {
            let admitted = Rule::new()
                .when(Field::IncomingName, interface_name(names.admit_back()))
                .then(publish);
            batch.add_rule(table, "arrive", &admitted);
            let containers = Rule::new().within(INCOMING, "bridges").then(publish);
            batch.add_rule(table, "arrive", &containers);
        }
        PublishMode::Bypass => batch.add_rule(table, "arrive", &Rule::new().then(publish)),
    }

    let own = Hook { kind: "nat", number: OUTPUT, priority: -100 };
    batch.add_chain(table, "own", Some(own));
    // The kernel would drop what comes back for ::1. So the port is closed there, and clients go
    // on to 127.0.0.1 at once.
    let loopback_6 = Rule::new()
        .when(Field::NetworkProtocol, IPV6)
        .when(Field::Ip6Destination, Ipv6Addr::LOCALHOST.octets())
        .then(Verdict::Accept);
    batch.add_rule(table, "own", &loopback_6);
    batch.add_rule(table, "own", &Rule::new().then(publish));
}

fn input_chains(batch: &mut Batch, variant: &Variant) {
    let names = &variant.names;
    let table = inet(names);
    let enclose = Hook { kind: "filter", number: INPUT, priority: 0 };
    batch.add_chain(table, "enclose", Some(enclose));
    let beyond_the_gateway = Rule::new()
        .within(INCOMING, "internal")
        .unless(Field::DestinationKindHere, LOCAL.to_ne_bytes())
        .when(Field::NetworkProtocol, IPV4)
        .then(Verdict::Drop);
    batch.add_rule(table, "enclose", &beyond_the_gateway);
    if variant.publish == PublishMode::Bypass {
        return;
    }

    let admit = Hook { kind: "filter", number: INPUT, priority: 200 };
    batch.add_chain(table, "admit", Some(admit));
    let mut rules = vec![
        Rule::new().when(Field::IncomingName, interface_name("lo")).then(Verdict::Accept),
        // What comes round a second time was to be translated; it has no port here any more.
        Rule::new()
            .when(Field::IncomingName, interface_name(names.admit_back()))
            .then(Verdict::Drop),
        Rule::new().has_none(Field::TrackState, NEW).then(Verdict::Accept),
        Rule::new().unless(Field::DestinationKind, LOCAL.to_ne_bytes()).then(Verdict::Accept),
    ];
    for (protocol, fields, set) in [
        (IPV4, AT_4, "ports4_at"),
        (IPV4, ANY, "ports4"),
        (IPV6, AT_6, "ports6_at"),
        (IPV6, ANY, "ports6"),
    ] {
        let rule = Rule::new().when(Field::NetworkProtocol, protocol).within(fields, set);
        rules.push(rule.set_mark(names.mark()));
    }
    for rule in &rules {
        batch.add_rule(table, "admit", rule);
    }

    let again = Hook { kind: "filter", number: INPUT, priority: 201 };
    let admitted = || Rule::new().when(Field::Mark, names.mark().to_ne_bytes());
    let ip4 = Table { family: TableFamily::Ip4, name: names.table() };
    batch.add_chain(ip4, "again", Some(again));
    let rule = admitted().duplicate_ip4(ADMIT_GATEWAY_4, variant.admit_out).then(Verdict::Drop);
    batch.add_rule(ip4, "again", &rule);
    if variant.ipv6 {
        let ip6 = Table { family: TableFamily::Ip6, name: names.table() };
        batch.add_chain(ip6, "again", Some(again));
        let rule = admitted().duplicate_ip6(ADMIT_GATEWAY_6, variant.admit_out).then(Verdict::Drop);
        batch.add_rule(ip6, "again", &rule);
    }
}

fn forward_chain(batch: &mut Batch, table: Table<'_>, guard: bool) {
    let hook = Hook { kind: "filter", number: FORWARD, priority: 0 };
    batch.add_chain(table, "forward", Some(hook));
    let mut rules = vec![
        Rule::new().has_any(Field::TrackState, ESTABLISHED_OR_RELATED).then(Verdict::Accept),
        // Its ports keep them apart on the bridge; this does where the host is their detour.
        Rule::new()
            .within(LINK, "walled")
            .has_none(Field::TrackStatus, TRANSLATED)
            .then(Verdict::Drop),
        Rule::new().within(LINK, "links").then(Verdict::Accept),
        Rule::new()
            .within(OUTGOING, "bridges")
            .has_any(Field::TrackStatus, TRANSLATED)
            .then(Verdict::Accept),
        Rule::new().within(OUTGOING, "bridges").then(Verdict::Drop),
        Rule::new().within(INCOMING, "internal").then(Verdict::Drop),
        Rule::new().within(INCOMING, "bridges").then(Verdict::Accept),
    ];
    if guard {
        // Another engine of our kind on the same machine has bridges of such names too.
        for side in [Field::IncomingName, Field::OutgoingName] {
            rules.push(Rule::new().when(side, INTERFACE_PREFIX.as_bytes()).then(Verdict::Accept));
        }
        rules.push(Rule::new().then(Verdict::Drop));
    }
    for rule in &rules {
        batch.add_rule(table, "forward", rule);
    }
}

fn leave_chain(batch: &mut Batch, table: Table<'_>) {
    let hook = Hook { kind: "nat", number: POSTROUTING, priority: 100 };
    batch.add_chain(table, "leave", Some(hook));
    for rule in [
        // A container that reaches itself by a published port: of where it came from nothing but
        // its addresses is known, if the host has bridged packets pass here.
        Rule::new().when(Field::NetworkProtocol, IPV4).within(PAIR_4, "own4").masquerade(),
        Rule::new().when(Field::NetworkProtocol, IPV6).within(PAIR_6, "own6").masquerade(),
        // One that reaches a neighbour so: the answer has to come back here to be translated.
        Rule::new().within(LINK, "links").has_any(Field::TrackStatus, TRANSLATED).masquerade(),
        // The host, by its loopback address.
        Rule::new()
            .within(OUTGOING, "bridges")
            .when(Field::NetworkProtocol, IPV4)
            .when(Field::Ip4Source, [127])
            .masquerade(),
        Rule::new().within(OUTGOING, "bridges").then(Verdict::Accept),
        Rule::new().within(INCOMING, "masqueraded").masquerade(),
    ] {
        batch.add_rule(table, "leave", &rule);
    }
}

/// A container speaks only with the addresses that it was given.
fn bridge_chains(batch: &mut Batch, names: &Names) {
    let table = bridge(names);
    const ICMP6: [u8; 1] = [58];
    const SOLICITATION: [u8; 1] = [135];
    const ADVERTISEMENT: [u8; 1] = [136];
    let hook = Hook { kind: "filter", number: PREROUTING, priority: -300 };
    batch.add_chain(table, "ports", Some(hook));
    let ether = |kind: u16| Rule::new().when(Field::EtherType, kind.to_be_bytes());
    let icmp6 = || ether(0x86dd).when(Field::TransportProtocol, ICMP6);
    let mut rules = vec![
        Rule::new()
            .unless(Field::IncomingName, names.port_prefix().as_bytes())
            .then(Verdict::Accept),
        // Nearly every frame ends here, after one look into one set: a lease names port and hardware address too.
        ether(0x0800).within(LEASE_4, "leases4").then(Verdict::Accept),
        Rule::new().outside(PORT, "ports").then(Verdict::Drop),
        ether(0x0806).within(ARP_LEASE, "leases4").then(Verdict::Accept),
        icmp6()
            .when(Field::Icmp6Type, ADVERTISEMENT)
            .outside(NEIGHBOUR_LEASE, "leases6")
            .then(Verdict::Drop),
    ];
    for router_message in [134_u8, 137] {
        rules.push(icmp6().when(Field::Icmp6Type, [router_message]).then(Verdict::Drop));
    }
    rules.push(ether(0x86dd).within(LEASE_6, "leases6").then(Verdict::Accept));
    // Duplicate address detection speaks before it has an address.
    rules.push(
        icmp6()
            .when(Field::Ip6Source, Ipv6Addr::UNSPECIFIED.octets())
            .when(Field::Icmp6Type, SOLICITATION)
            .then(Verdict::Accept),
    );
    rules.push(Rule::new().then(Verdict::Drop));
    for rule in &rules {
        batch.add_rule(table, "ports", rule);
    }
}

fn routed(set: &'static str, parts: &[&[u8]]) -> Entry {
    Entry { on_bridge: false, set, element: Element { key: join(parts), value: Vec::new() } }
}

fn framed(set: &'static str, parts: &[&[u8]]) -> Entry {
    Entry { on_bridge: true, set, element: Element { key: join(parts), value: Vec::new() } }
}

/// An interface's name as registers hold it: sixteen bytes, the rest zero.
fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
