//! What of a network is in the kernel: bridges, ports, the firewall's tables and sets.
//!
//! ```text
//! host                                                    container
//!   eth0 ─┐                     ┌─ keg0 ─┬─ kegv-…  ════  eth0
//!         ├─ routing, inet keg ─┤        └─ kegv-…  ════  eth0     (another)
//!         │                     └─ keg-ID ─ kegv-…  ════  eth0
//!   keg-out ══ keg-back   (only what the host's input rules admitted; see nft::ruleset)
//! ```
//!
//! Nothing is there before the first bridge, and nothing is left after the last. Everything is
//! made from records: what the kernel has lost, [`Plane::restore`] makes again.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;

use crate::address::{Cidr, MacAddr};
use crate::error::NetworkError;
use crate::instance::{INTERFACE_PREFIX, Names};
use crate::model::{Driver, Endpoint, Network};
use crate::netlink::link::{self, PortRules, Route, Rule, VethPair};
use crate::netlink::message::{attributes, text};
use crate::netlink::socket::{Family, Netlink, Request};
use crate::netlink::track;
use crate::netns::{ForeignSettings, Netns, disable_ipv6, set_setting, setting};
use crate::nft::batch::Batch;
use crate::nft::foreign;
use crate::nft::ruleset::{self, Entry, Variant};
use crate::ports::{ForwardMode, PublishMode};
use crate::records::RecordsError;
use crate::switchboard::Settings;

/// `NFNLGRP_NFTABLES` as a bit of the groups to hear of.
const NFTABLES_GROUP: u32 = 1 << 6;
/// Kinds of announcements that something was taken away: tables, chains, rules, sets, elements.
const DELETIONS: [u16; 5] = [2, 5, 8, 11, 14];
/// Kinds of announcements after which another's chain may drop what is routed, or may have lost
/// our rules: a chain was made or its policy changed, a rule was taken away.
const CHAIN_CHANGES: [u16; 2] = [3, 8];
const NETFILTER_SUBSYSTEM: u16 = 10;
/// Hardware address of both ends of the detour.
const ADMIT_MAC: [u8; 6] = [0x02, 0x4b, 0x65, 0x67, 0x00, 0x01];
/// Address of the detour's far end: with none at all, a host that checks where packets come from
/// would drop what comes in there.
const ADMIT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 2);

/// What somebody else's change of the firewall means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disturbance {
    /// Nothing.
    None,
    /// Another's chains are not what they were.
    Chains,
    /// Something of ours was taken away.
    Ours,
}

/// The kernel's side of all networks of one engine, in one network namespace.
#[derive(Debug)]
pub(crate) struct Plane {
    names: Names,
    publish: PublishMode,
    forward: ForwardMode,
    home: Netns,
    inside: ForeignSettings,
    route: Route,
    nft: Netlink,
    watch: Netlink,
    /// Exists while it is we who made the host a router; a later daemon has to know.
    router_marker: PathBuf,
    /// What the tables were built with, while they stand.
    standing: Option<Variant>,
}

impl Plane {
    /// Opens sockets in the calling thread's network namespace; changes nothing.
    pub(crate) fn open(names: Names, settings: &Settings) -> Result<Self, NetworkError> {
        Ok(Self {
            names,
            publish: settings.publish,
            forward: settings.forward,
            home: Netns::current()?,
            inside: ForeignSettings::default(),
            route: Route::open()?,
            nft: Netlink::open(Family::Netfilter)?,
            watch: Netlink::subscribe(Family::Netfilter, NFTABLES_GROUP)?,
            router_marker: settings.state_dir.join("made-router"),
            standing: None,
        })
    }

    /// Names of interfaces and tables.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// The namespace that all of this is in.
    pub(crate) fn home(&self) -> &Netns {
        &self.home
    }

    /// Becomes readable when somebody changes the firewall.
    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        self.watch.fd().as_fd()
    }

    /// Whether the tables stand.
    pub(crate) fn is_standing(&self) -> bool {
        self.standing.is_some()
    }

    /// Lists what the host has routes to.
    pub(crate) fn routed(&mut self) -> Result<Vec<Cidr>, NetworkError> {
        Ok(self.route.routed()?)
    }

    /// Whether the host has an interface of that name.
    pub(crate) fn has_interface(&mut self, name: &str) -> Result<bool, NetworkError> {
        Ok(self.route.index_of(name)?.is_some())
    }

    /// Builds everything that `networks` and `entries` need, whatever is there already.
    pub(crate) fn restore<'a>(
        &mut self,
        networks: impl Iterator<Item = &'a Network>,
        entries: &[Entry],
    ) -> Result<(), NetworkError> {
        let mut ipv6 = false;
        for network in networks {
            self.raise_bridge(network)?;
            ipv6 |= network.subnets.iter().any(|subnet| subnet.subnet.is_ipv6());
        }
        let variant = self.prepare_host(ipv6)?;
        let mut batch = Batch::new();
        ruleset::rebuild(&mut batch, &variant, entries);
        batch.commit(&mut self.nft)?;
        self.standing = Some(variant);
        self.open_chains()
    }

    /// Adds elements.
    pub(crate) fn add(&mut self, entries: &[Entry]) -> Result<(), NetworkError> {
        let mut batch = Batch::new();
        ruleset::add(&mut batch, &self.names, entries);
        Ok(batch.commit(&mut self.nft)?)
    }

    /// Takes elements away.
    pub(crate) fn take(&mut self, entries: &[Entry]) -> Result<(), NetworkError> {
        let mut batch = Batch::new();
        ruleset::take(&mut batch, &self.names, entries);
        Ok(batch.commit(&mut self.nft)?)
    }

    /// Forgets the connections that lead to an address.
    pub(crate) fn forget_connections(&mut self, address: IpAddr) -> Result<(), NetworkError> {
        Ok(track::forget_answered_by(&mut self.nft, address)?)
    }

    /// Makes a network's bridge, with its addresses, unless it is there.
    pub(crate) fn raise_bridge(&mut self, network: &Network) -> Result<(), NetworkError> {
        let name = &network.bridge;
        let mac = bridge_mac(network);
        match self.route.link(name)? {
            Some(link) if link.mac == Some(mac) => {}
            Some(_) => return Err(NetworkError::InterfaceTaken { name: name.clone() }),
            None => self.route.apply(vec![link::add_bridge(name, mac, network.mtu)])?,
        }
        self.set_up_bridge(network).inspect_err(|_| {
            // Half a bridge is worse than none; the error that follows is the one to tell.
            let _ = self.route.apply(vec![link::delete_link(name)]);
        })
    }

    /// Removes a network's bridge; it need not be there, and what somebody else made under its name
    /// stays.
    pub(crate) fn lower_bridge(&mut self, network: &Network) -> Result<(), NetworkError> {
        match self.route.link(&network.bridge)? {
            Some(link) if link.mac == Some(bridge_mac(network)) => {
                self.delete_link(&network.bridge)
            }
            _ => Ok(()),
        }
    }

    /// Removes tables, detour and settings: the last bridge is gone.
    pub(crate) fn lower(&mut self) -> Result<(), NetworkError> {
        let Some(variant) = self.standing.take() else { return Ok(()) };
        let mut batch = Batch::new();
        ruleset::remove(&mut batch, &self.names, variant.ipv6);
        batch.commit(&mut self.nft)?;
        foreign::close(&mut self.nft, &self.names)?;
        for rule in self.rules(variant.ipv6) {
            let removal = self.route.apply(vec![link::delete_rule(rule.as_rule())]);
            tolerate(removal.map_err(NetworkError::from), &[Errno::ENOENT])?;
        }
        let detour = self.names.admit_out().to_owned();
        self.delete_link(&detour)?;
        let others = self.route.links()?.iter().any(|link| link.name.starts_with(INTERFACE_PREFIX));
        if variant.guard_forwarding {
            if !others {
                set_setting("ipv4/ip_forward", "0")?;
            }
            // Left behind, it would make a later daemon guard more than it has to, and no less.
            let _ = std::fs::remove_file(&self.router_marker);
        }
        Ok(())
    }

    /// Makes a container's interface and configures it.
    pub(crate) fn plug(
        &mut self,
        network: &Network,
        endpoint: &Endpoint,
        netns: &Netns,
    ) -> Result<(), NetworkError> {
        let creation = match &network.driver {
            Driver::Bridge => {
                let bridge =
                    self.index_or(&network.bridge, |name| NetworkError::InterfaceTaken { name })?;
                link::add_veth(VethPair {
                    name: &endpoint.port,
                    bridge,
                    peer: &endpoint.interface,
                    peer_mac: endpoint.mac,
                    netns: netns.as_fd(),
                    mtu: network.mtu,
                })
            }
            Driver::Macvlan { parent } => {
                let parent = self.index_or(parent, |name| NetworkError::NoParent { name })?;
                link::add_macvlan(&endpoint.interface, parent, endpoint.mac, netns.as_fd())
            }
        };
        self.route.apply(vec![creation])?;
        self.raise_port(network, endpoint)
            .and_then(|()| {
                netns.with(&self.home, || configure_inside(endpoint, &mut self.inside))?
            })
            .inspect_err(|_| {
                if !endpoint.port.is_empty() {
                    let _ = self.route.apply(vec![link::delete_link(&endpoint.port)]);
                }
            })
    }

    /// Brings our end of a container's interface up. It is the bridge that speaks IPv6 here, and not
    /// its ports: with hundreds of them their routes would make each further one slow.
    fn raise_port(&mut self, network: &Network, endpoint: &Endpoint) -> Result<(), NetworkError> {
        if network.driver != Driver::Bridge {
            return Ok(());
        }
        disable_ipv6(&endpoint.port)?;
        let rules = PortRules { hairpin: bridges_are_filtered(), isolated: network.isolated };
        Ok(self.route.apply(vec![link::raise_port(&endpoint.port, rules)])?)
    }

    /// Makes an interface that a container has its way out, or no longer: as `endpoint` says.
    pub(crate) fn set_way_out(
        &mut self,
        endpoint: &Endpoint,
        netns: &Netns,
    ) -> Result<(), NetworkError> {
        let name = &endpoint.interface;
        netns.with(&self.home, || {
            let mut route = Route::open()?;
            let index = route
                .index_of(name)?
                .ok_or_else(|| NetworkError::InterfaceTaken { name: name.clone() })?;
            if endpoint.default_route {
                return Ok(route.apply(default_routes(endpoint, index))?);
            }
            for request in routes_to_gateways(endpoint, index, link::delete_default_route) {
                // The container may have taken it away itself.
                let removal = route.apply(vec![request]);
                tolerate(removal.map_err(NetworkError::from), &[Errno::ESRCH])?;
            }
            Ok(())
        })?
    }

    /// Whether our end of a container's interface is there.
    pub(crate) fn is_plugged(&mut self, endpoint: &Endpoint) -> Result<bool, NetworkError> {
        self.has_interface(&endpoint.port)
    }

    /// Removes a container's interface; it need not be there.
    pub(crate) fn unplug(
        &mut self,
        endpoint: &Endpoint,
        netns: Option<&Netns>,
    ) -> Result<(), NetworkError> {
        if !endpoint.port.is_empty() {
            return self.delete_link(&endpoint.port);
        }
        // No end of it is here; with its namespace it goes by itself.
        let Some(netns) = netns else { return Ok(()) };
        let name = endpoint.interface.clone();
        let removal =
            netns.with(&self.home, || Route::open()?.apply(vec![link::delete_link(&name)]))?;
        tolerate(removal.map_err(NetworkError::from), &[Errno::ENODEV])
    }

    /// Removes our ends of those containers' interfaces whose name is `unwanted`.
    pub(crate) fn remove_ports(
        &mut self,
        unwanted: impl Fn(&str) -> bool,
    ) -> Result<(), NetworkError> {
        for link in self.route.links()? {
            if link.name.starts_with(self.names.port_prefix()) && unwanted(&link.name) {
                self.delete_link(&link.name)?;
            }
        }
        Ok(())
    }

    /// Makes a container's interface a port of the network's bridge again, after the bridge was made
    /// again.
    pub(crate) fn replug(
        &mut self,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<(), NetworkError> {
        let missing = |name| NetworkError::InterfaceTaken { name };
        let bridge = self.index_or(&network.bridge, missing)?;
        let port = self.index_or(&endpoint.port, missing)?;
        self.route.apply(vec![link::set_master(port, bridge)])?;
        self.raise_port(network, endpoint)
    }

    /// Takes in what was announced, and says what of it concerns us.
    pub(crate) fn disturbance(&mut self) -> Result<Disturbance, NetworkError> {
        let own_port = self.nft.port()?;
        let table = self.names.table();
        let mut disturbance = Disturbance::None;
        self.watch.announcements(|announcement| {
            let Some(announcement) = announcement else {
                disturbance = Disturbance::Ours;
                return;
            };
            let (subsystem, kind) = (announcement.kind >> 8, announcement.kind & 0xff);
            if subsystem != NETFILTER_SUBSYSTEM || announcement.port == own_port {
                return;
            }
            // In all of these the first attribute is the table's name.
            let name = attributes(announcement.body.get(4..).unwrap_or(&[]))
                .find(|(kind, _)| *kind == 1)
                .map(|(_, name)| text(name));
            let ours = name.as_deref() == Some(table);
            if ours && DELETIONS.contains(&kind) {
                disturbance = Disturbance::Ours;
            } else if !ours && CHAIN_CHANGES.contains(&kind) {
                disturbance = disturbance.max(Disturbance::Chains);
            }
        })?;
        Ok(if self.is_standing() { disturbance } else { Disturbance::None })
    }

    /// Lets containers' packets pass where the host's policy is to drop what is routed, unless it
    /// is to be respected.
    pub(crate) fn open_chains(&mut self) -> Result<(), NetworkError> {
        match self.forward {
            ForwardMode::Open => Ok(foreign::open(&mut self.nft, &self.names)?),
            ForwardMode::Respect => Ok(()),
        }
    }

    /// Makes the host a router, and builds the detour for admitted packets.
    fn prepare_host(&mut self, ipv6_networks: bool) -> Result<Variant, NetworkError> {
        let ipv6 = setting("ipv6/conf/all/forwarding").is_some();
        let was_router = setting("ipv4/ip_forward").as_deref() == Some("1");
        let guard_forwarding = !was_router || self.router_marker.exists();
        if guard_forwarding {
            let marked = std::fs::write(&self.router_marker, b"");
            marked.map_err(|source| RecordsError::Io {
                operation: "write",
                path: self.router_marker.clone(),
                source,
            })?;
        }
        if self.publish == PublishMode::Firewall {
            self.raise_detour(ipv6)?;
        }
        let admit_out = self.route.index_of(self.names.admit_out())?.unwrap_or(0);
        set_setting("ipv4/ip_forward", "1")?;
        if ipv6 && ipv6_networks {
            forward_ipv6()?;
        }
        let names = self.names.clone();
        Ok(Variant { names, publish: self.publish, guard_forwarding, admit_out, ipv6 })
    }

    /// Builds the detour: a veth pair with both ends here, and routing such that a strict check of
    /// where packets come from is content with what comes in by its far end.
    fn raise_detour(&mut self, ipv6: bool) -> Result<(), NetworkError> {
        let (out, back) = (self.names.admit_out().to_owned(), self.names.admit_back().to_owned());
        if self.route.index_of(&out)?.is_none() {
            let mac = MacAddr::local(ADMIT_MAC);
            self.route.apply(vec![link::add_loop(&out, &back, mac)])?;
        }
        let missing = |name| NetworkError::InterfaceTaken { name };
        let index = self.index_or(&back, missing)?;
        set_setting(&format!("ipv4/conf/{back}/src_valid_mark"), "1")?;
        set_setting(&format!("ipv4/conf/{back}/rp_filter"), "0")?;
        let address =
            Cidr::new(IpAddr::V4(ADMIT_ADDRESS), 32).expect("32 bits are an IPv4 address's");
        let table = self.names.mark();
        let mut requests = vec![link::set_up(index), link::add_address(index, address)];
        for family_is_ipv6 in [false, true] {
            if ipv6 || !family_is_ipv6 {
                requests.push(link::add_table_route(family_is_ipv6, table, index));
            }
        }
        self.route.apply(requests)?;
        for rule in self.rules(ipv6) {
            let addition = self.route.apply(vec![link::add_rule(rule.as_rule())]);
            tolerate(addition.map_err(NetworkError::from), &[Errno::EEXIST])?;
        }
        Ok(())
    }

    /// What comes in by the detour is routed as ever, but its source is looked up in a table that
    /// says that everything is there.
    fn rules(&self, ipv6: bool) -> Vec<OwnedRule> {
        const MAIN_TABLE: u32 = 254;
        const FIRST_PRIORITY: u32 = 7582;
        let families = if ipv6 { &[false, true][..] } else { &[false][..] };
        let mark = self.names.mark();
        let mut rules = Vec::new();
        for &ipv6 in families {
            rules.push(OwnedRule {
                ipv6,
                priority: FIRST_PRIORITY,
                incoming: Some(self.names.admit_back().to_owned()),
                mark: None,
                table: MAIN_TABLE,
            });
            rules.push(OwnedRule {
                ipv6,
                priority: FIRST_PRIORITY + 1,
                incoming: None,
                mark: Some(mark),
                table: mark,
            });
        }
        rules
    }

    fn set_up_bridge(&mut self, network: &Network) -> Result<(), NetworkError> {
        let name = &network.bridge;
        let missing = |name| NetworkError::InterfaceTaken { name };
        let index = self.index_or(name, missing)?;
        // The host's own connections to a published port on 127.0.0.1 go to the container from
        // there; the table's chain `raw` keeps everything else of 127/8 off the bridge.
        set_setting(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
        if setting(&format!("ipv6/conf/{name}/accept_ra")).is_some() {
            set_setting(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        }
        let mut requests = Vec::new();
        for subnet in &network.subnets {
            let prefix = subnet.subnet.prefix_len();
            if let Ok(address) = Cidr::new(subnet.gateway, prefix) {
                requests.push(link::add_address(index, address));
            }
        }
        requests.push(link::set_up(index));
        Ok(self.route.apply(requests)?)
    }

    fn index_or(
        &mut self,
        name: &str,
        missing: impl FnOnce(String) -> NetworkError,
    ) -> Result<u32, NetworkError> {
        self.route.index_of(name)?.ok_or_else(|| missing(name.to_owned()))
    }

    fn delete_link(&mut self, name: &str) -> Result<(), NetworkError> {
        let removal = self.route.apply(vec![link::delete_link(name)]);
        tolerate(removal.map_err(NetworkError::from), &[Errno::ENODEV])
    }
}

/// A policy rule that owns its text.
struct OwnedRule {
    ipv6: bool,
    priority: u32,
    incoming: Option<String>,
    mark: Option<u32>,
    table: u32,
}

impl OwnedRule {
    fn as_rule(&self) -> Rule<'_> {
        Rule {
            ipv6: self.ipv6,
            priority: self.priority,
            incoming: self.incoming.as_deref(),
            mark: self.mark.map(|mark| (mark, u32::MAX)),
            table: self.table,
        }
    }
}

/// Configures the interface, in the container's namespace.
fn configure_inside(
    endpoint: &Endpoint,
    settings: &mut ForeignSettings,
) -> Result<(), NetworkError> {
    const LOOPBACK: u32 = 1;
    let name = &endpoint.interface;
    let mut route = Route::open()?;
    let index =
        route.index_of(name)?.ok_or_else(|| NetworkError::InterfaceTaken { name: name.clone() })?;
    let has_ipv6 = endpoint.ips().any(|ip| ip.is_ipv6());
    if !has_ipv6 {
        settings.disable_ipv6(name)?;
    }
    let mut requests = vec![link::set_up(LOOPBACK)];
    for address in &endpoint.addresses {
        requests.push(link::add_address(index, address.address));
    }
    requests.push(link::set_up(index));
    if endpoint.default_route {
        requests.extend(default_routes(endpoint, index));
    }
    Ok(route.apply(requests)?)
}

/// What leads everything that has no better way to the gateways of an interface's network.
fn default_routes(endpoint: &Endpoint, index: u32) -> Vec<Request> {
    routes_to_gateways(endpoint, index, link::add_default_route)
}

fn routes_to_gateways(
    endpoint: &Endpoint,
    index: u32,
    request: fn(IpAddr, u32) -> Request,
) -> Vec<Request> {
    let gateways = endpoint.addresses.iter().filter_map(|address| address.gateway);
    gateways.map(|gateway| request(gateway, index)).collect()
}

/// Makes the host forward IPv6, and keeps those of its interfaces that are configured by routers'
/// advertisements listening to them, which a router otherwise does not.
fn forward_ipv6() -> Result<(), NetworkError> {
    if setting("ipv6/conf/all/forwarding").as_deref() == Some("1") {
        return Ok(());
    }
    let interfaces = std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
    for interface in interfaces {
        let name = interface.file_name().to_string_lossy().into_owned();
        let accept = format!("ipv6/conf/{name}/accept_ra");
        if name != "all" && setting(&accept).as_deref() == Some("1") {
            set_setting(&accept, "2")?;
        }
    }
    Ok(set_setting("ipv6/conf/all/forwarding", "1")?)
}

/// Whether the host has bridged packets pass its IP rules (br_netfilter): a container that reaches
/// itself by a published port is translated on the bridge then, and goes back by the port that it
/// came from.
fn bridges_are_filtered() -> bool {
    let asks = |family: &str| setting(&format!("bridge/bridge-nf-call-{family}tables"));
    // Without the module there is neither.
    asks("ip").is_some_and(|ipv4| ipv4 == "1" || asks("ip6").as_deref() == Some("1"))
}

/// A bridge's hardware address: made of the network's id, so that it is known to be ours.
fn bridge_mac(network: &Network) -> MacAddr {
    let mut octets = [0; 6];
    for (octet, pair) in octets.iter_mut().zip(network.id.as_str().as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(pair).unwrap_or("0");
        *octet = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    MacAddr::local(octets)
}

/// Lets pass what the kernel answers where something is as it should be already.
fn tolerate(outcome: Result<(), NetworkError>, errnos: &[Errno]) -> Result<(), NetworkError> {
    match outcome {
        Err(NetworkError::Netlink(error)) if errnos.contains(&error.errno()) => Ok(()),
        outcome => outcome,
    }
}
