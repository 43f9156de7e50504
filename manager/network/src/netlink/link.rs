//! Interfaces, addresses, routes and rules (rtnetlink(7)).
//!
//! Functions build requests; [`Route::apply`] sends any number of them in one call. One message
//! makes a veth pair whole: our end enslaved and up, the other end in the container's namespace
//! with its name and address.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{Message, attributes, text, u32_at};
use super::socket::{Family, Netlink, NetlinkError, Request};
use crate::address::{Cidr, MacAddr};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_BRIDGE: u32 = 4;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the addresses are ours to give, and waiting costs a second.
const IFA_F_NODAD: u32 = 0x02;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;

const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FR_ACT_TO_TBL: u8 = 1;

const IFF_UP: u32 = 1;
const IFF_NOARP: u32 = 0x80;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// Its index.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its hardware address, if it has one.
    pub(crate) mac: Option<MacAddr>,
}

/// A policy rule that sends some packets to a routing table of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule<'a> {
    /// Of IPv6, not IPv4.
    pub(crate) ipv6: bool,
    /// Its place among the rules.
    pub(crate) priority: u32,
    /// Packets that came in here.
    pub(crate) incoming: Option<&'a str>,
    /// Packets with this mark, under this mask.
    pub(crate) mark: Option<(u32, u32)>,
    /// Where they are routed.
    pub(crate) table: u32,
}

/// A rtnetlink socket.
#[derive(Debug)]
pub(crate) struct Route {
    socket: Netlink,
}

impl Route {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Netlink::open(Family::Route)? })
    }

    /// Carries requests out in order, in one call; returns the first refusal.
    pub(crate) fn apply(&mut self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        self.socket.request(requests)
    }

    /// Lists the interfaces.
    pub(crate) fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError> {
        let message = Message::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, &interface(0, 0, 0));
        let request = Request { action: "list the interfaces".to_owned(), message };
        let mut links = Vec::new();
        self.socket.dump(request, |body| links.extend(link_info(body)))?;
        Ok(links)
    }

    /// Finds an interface by its name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<LinkInfo>, NetlinkError> {
        let mut message = Message::new(RTM_GETLINK, NLM_F_REQUEST, &interface(0, 0, 0));
        message.string(IFLA_IFNAME, name);
        let request = Request { action: format!("find the interface {name}"), message };
        Ok(self.socket.get(request)?.as_deref().and_then(link_info))
    }

    /// Returns an interface's index, if there is such an interface.
    pub(crate) fn index_of(&mut self, name: &str) -> Result<Option<u32>, NetlinkError> {
        Ok(self.link(name)?.map(|link| link.index))
    }

    /// Lists what the host has routes to, the default routes aside.
    pub(crate) fn routed(&mut self) -> Result<Vec<Cidr>, NetlinkError> {
        let mut routed = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let fixed = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let message = Message::new(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &fixed);
            let request = Request { action: "list the routes".to_owned(), message };
            self.socket.dump(request, |body| {
                let prefix = body.get(1).copied().unwrap_or(0);
                let destination =
                    attributes(body.get(12..).unwrap_or(&[])).find(|(kind, _)| *kind == RTA_DST);
                if let Some((_, bytes)) = destination {
                    routed.extend(ip_of(bytes).and_then(|ip| Cidr::new(ip, prefix).ok()));
                }
            })?;
        }
        routed.retain(|cidr| cidr.prefix_len() > 0);
        Ok(routed)
    }
}

/// Reads what the kernel says of an interface.
fn link_info(body: &[u8]) -> Option<LinkInfo> {
    let mut link = LinkInfo { index: u32_at(body, 4)?, name: String::new(), mac: None };
    for (kind, payload) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(payload),
            IFLA_ADDRESS => link.mac = payload.try_into().ok().map(MacAddr::from_octets),
            _ => {}
        }
    }
    Some(link)
}

/// Makes a bridge, up.
pub(crate) fn add_bridge(name: &str, mac: MacAddr, mtu: u32) -> Request {
    let mut message = new_link(0, IFF_UP);
    message.string(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &mac.octets()).u32(IFLA_MTU, mtu);
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "bridge");
    });
    Request { action: format!("make the bridge {name}"), message }
}

/// Both ends of a veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VethPair<'a> {
    /// Our end.
    pub(crate) name: &'a str,
    /// Index of the bridge that our end becomes a port of.
    pub(crate) bridge: u32,
    /// The other end.
    pub(crate) peer: &'a str,
    /// Its hardware address.
    pub(crate) peer_mac: MacAddr,
    /// Where it goes.
    pub(crate) netns: BorrowedFd<'a>,
    /// Of both.
    pub(crate) mtu: u32,
}

/// Makes a veth pair: our end a port of the bridge, the other in the container, both down.
pub(crate) fn add_veth(pair: VethPair<'_>) -> Request {
    let mut message = new_link(0, 0);
    message.string(IFLA_IFNAME, pair.name).u32(IFLA_MTU, pair.mtu).u32(IFLA_MASTER, pair.bridge);
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.raw(&interface(0, 0, 0))
                    .string(IFLA_IFNAME, pair.peer)
                    .attr(IFLA_ADDRESS, &pair.peer_mac.octets())
                    .u32(IFLA_MTU, pair.mtu)
                    .attr(IFLA_NET_NS_FD, &pair.netns.as_raw_fd().to_ne_bytes());
            });
        });
    });
    Request { action: format!("make the interface {} for the container", pair.name), message }
}

/// What a bridge does with a port's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRules {
    /// They may be sent back by the port that they came from.
    pub(crate) hairpin: bool,
    /// They are passed to no other port that is isolated.
    pub(crate) isolated: bool,
}

/// Sets what a bridge does with a port's frames, and brings the port up.
pub(crate) fn raise_port(port: &str, rules: PortRules) -> Request {
    let mut message = Message::new(RTM_NEWLINK, NLM_F_REQUEST, &interface(0, IFF_UP, IFF_UP));
    message.string(IFLA_IFNAME, port);
    // Nothing to be set is nothing to be said: the kernel announces each change to all who listen.
    if rules.hairpin || rules.isolated {
        message.nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attr(IFLA_BRPORT_MODE, &[u8::from(rules.hairpin)])
                    .attr(IFLA_BRPORT_ISOLATED, &[u8::from(rules.isolated)]);
            });
        });
    }
    Request { action: format!("bring {port} up as a port of its bridge"), message }
}

/// Makes a veth pair with both ends here, with the same hardware address, so that what leaves by
/// the first (which is up, and resolves no neighbours) is taken in by the second (which is not up
/// yet: the kernel brings no end up before it has the other).
pub(crate) fn add_loop(out: &str, back: &str, mac: MacAddr) -> Request {
    let mut message = new_link(0, IFF_UP | IFF_NOARP);
    message.string(IFLA_IFNAME, out).attr(IFLA_ADDRESS, &mac.octets());
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.raw(&interface(0, 0, 0))
                    .string(IFLA_IFNAME, back)
                    .attr(IFLA_ADDRESS, &mac.octets());
            });
        });
    });
    Request { action: format!("make the interfaces {out} and {back}"), message }
}

/// Makes a macvlan interface on `parent`, in the container, down.
pub(crate) fn add_macvlan(name: &str, parent: u32, mac: MacAddr, netns: BorrowedFd<'_>) -> Request {
    let mut message = new_link(0, 0);
    message
        .string(IFLA_IFNAME, name)
        .attr(IFLA_ADDRESS, &mac.octets())
        .u32(IFLA_LINK, parent)
        .attr(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "macvlan").nest(IFLA_INFO_DATA, |data| {
            data.u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE);
        });
    });
    Request { action: format!("make the macvlan interface {name} for the container"), message }
}

/// Brings an interface up.
pub(crate) fn set_up(index: u32) -> Request {
    let message = Message::new(RTM_NEWLINK, NLM_F_REQUEST, &interface(index, IFF_UP, IFF_UP));
    Request { action: format!("bring interface {index} up"), message }
}

/// Makes an interface a port of a bridge.
pub(crate) fn set_master(index: u32, bridge: u32) -> Request {
    let mut message = Message::new(RTM_NEWLINK, NLM_F_REQUEST, &interface(index, 0, 0));
    message.u32(IFLA_MASTER, bridge);
    Request { action: format!("make interface {index} a port of the bridge"), message }
}

/// Removes an interface; with one end of a veth pair goes the other.
pub(crate) fn delete_link(name: &str) -> Request {
    let mut message = Message::new(RTM_DELLINK, NLM_F_REQUEST, &interface(0, 0, 0));
    message.string(IFLA_IFNAME, name);
    Request { action: format!("remove the interface {name}"), message }
}

/// Gives an interface an address.
pub(crate) fn add_address(index: u32, address: Cidr) -> Request {
    let (family, bytes) = octets(address.address());
    let mut fixed = vec![family, address.prefix_len(), 0, 0];
    fixed.extend(index.to_ne_bytes());
    let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = Message::new(RTM_NEWADDR, flags, &fixed);
    message.attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes).u32(IFA_FLAGS, IFA_F_NODAD);
    Request { action: format!("give the address {address} to interface {index}"), message }
}

/// Routes everything of the gateway's family through it.
pub(crate) fn add_default_route(gateway: IpAddr, index: u32) -> Request {
    let (family, bytes) = octets(gateway);
    let mut message = new_route(family, RT_SCOPE_UNIVERSE);
    message.attr(RTA_GATEWAY, &bytes).u32(RTA_OIF, index);
    Request { action: format!("route through the gateway {gateway}"), message }
}

/// Takes the route through a gateway away.
pub(crate) fn delete_default_route(gateway: IpAddr, index: u32) -> Request {
    let (family, bytes) = octets(gateway);
    let mut message =
        Message::new(RTM_DELROUTE, NLM_F_REQUEST, &route_fields(family, RT_SCOPE_UNIVERSE));
    message.attr(RTA_GATEWAY, &bytes).u32(RTA_OIF, index);
    Request { action: format!("take the route through the gateway {gateway} away"), message }
}

/// Routes everything of a family straight out of an interface, in a table of its own.
pub(crate) fn add_table_route(ipv6: bool, table: u32, index: u32) -> Request {
    let mut message = new_route(family_of(ipv6), RT_SCOPE_LINK);
    message.u32(RTA_OIF, index).u32(RTA_TABLE, table);
    Request { action: format!("fill routing table {table}"), message }
}

/// Adds a policy rule.
pub(crate) fn add_rule(rule: Rule<'_>) -> Request {
    let action = format!("add a routing rule of priority {}", rule.priority);
    let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
    Request { action, message: rule_message(RTM_NEWRULE, flags, rule) }
}

/// Takes a policy rule away.
pub(crate) fn delete_rule(rule: Rule<'_>) -> Request {
    let action = format!("remove the routing rule of priority {}", rule.priority);
    Request { action, message: rule_message(RTM_DELRULE, NLM_F_REQUEST, rule) }
}

fn rule_message(kind: u16, flags: u16, rule: Rule<'_>) -> Message {
    let fixed = [family_of(rule.ipv6), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    let mut message = Message::new(kind, flags, &fixed);
    message.u32(FRA_PRIORITY, rule.priority).u32(FRA_TABLE, rule.table);
    if let Some(incoming) = rule.incoming {
        message.string(FRA_IIFNAME, incoming);
    }
    if let Some((mark, mask)) = rule.mark {
        message.u32(FRA_FWMARK, mark).u32(FRA_FWMASK, mask);
    }
    message
}

fn new_link(index: u32, flags: u32) -> Message {
    let kind = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
    Message::new(RTM_NEWLINK, kind, &interface(index, flags, flags))
}

fn new_route(family: u8, scope: u8) -> Message {
    let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
    Message::new(RTM_NEWROUTE, flags, &route_fields(family, scope))
}

/// `struct rtmsg` of a route to everywhere.
fn route_fields(family: u8, scope: u8) -> [u8; 12] {
    [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]
}

/// `struct ifinfomsg`: family, type, index, flags, and which of the flags are meant.
fn interface(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[0] = AF_UNSPEC;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

fn family_of(ipv6: bool) -> u8 {
    if ipv6 { AF_INET6 } else { AF_INET }
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    }
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}
