//! What nf_tables rules are made of: small instructions on registers.
//!
//! A [`Rule`] is written left to right, as `nft` prints it. Registers are the kernel's sixteen of
//! four bytes; a concatenation occupies consecutive ones, each part padded to four bytes. Every
//! statement loads afresh from the first, so no rule needs to know what another left behind.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::netlink::message::Message;

/// `NFT_REG32_00`: the first register of four bytes.
const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;

/// Something of a packet that can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// Interface that it came in by.
    IncomingName,
    /// Interface that it leaves by.
    OutgoingName,
    /// IPv4 or IPv6, as a byte.
    NetworkProtocol,
    /// TCP, UDP, …, as a byte.
    TransportProtocol,
    /// The packet's mark.
    Mark,
    /// Ethernet's source.
    EtherSource,
    /// Ethernet's payload type.
    EtherType,
    /// IPv4's source.
    Ip4Source,
    /// IPv4's destination.
    Ip4Destination,
    /// IPv6's source.
    Ip6Source,
    /// IPv6's destination.
    Ip6Destination,
    /// ARP's sender: hardware address.
    ArpSenderMac,
    /// ARP's sender: IPv4 address.
    ArpSenderIp,
    /// Destination port of TCP, UDP or SCTP.
    DestinationPort,
    /// ICMPv6's type.
    Icmp6Type,
    /// Address that a neighbour discovery message is about.
    NeighbourTarget,
    /// Kind of the destination address: local, unicast, ….
    DestinationKind,
    /// Kind of the destination address as seen from the interface that the packet came in by.
    DestinationKindHere,
    /// Connection tracking's state bits.
    TrackState,
    /// Connection tracking's status bits.
    TrackStatus,
}

/// How a field is loaded.
enum Source {
    Meta(u32),
    Payload { base: u32, offset: u32 },
    Fib { flags: u32 },
    Track(u32),
}

impl Field {
    /// Its length in bytes.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::NetworkProtocol | Self::TransportProtocol | Self::Icmp6Type => 1,
            Self::EtherType | Self::DestinationPort => 2,
            Self::Mark
            | Self::Ip4Source
            | Self::Ip4Destination
            | Self::ArpSenderIp
            | Self::DestinationKind
            | Self::DestinationKindHere
            | Self::TrackState
            | Self::TrackStatus => 4,
            Self::EtherSource | Self::ArpSenderMac => 6,
            Self::IncomingName
            | Self::OutgoingName
            | Self::Ip6Source
            | Self::Ip6Destination
            | Self::NeighbourTarget => 16,
        }
    }

    /// How `nft` calls its type, so that `nft list` prints our sets readably (its datatype.h).
    pub(crate) fn nft_type(self) -> u32 {
        match self {
            Self::NetworkProtocol => 2,
            Self::Ip4Source | Self::Ip4Destination | Self::ArpSenderIp => 7,
            Self::Ip6Source | Self::Ip6Destination | Self::NeighbourTarget => 8,
            Self::EtherSource | Self::ArpSenderMac => 9,
            Self::EtherType => 10,
            Self::TransportProtocol => 12,
            Self::DestinationPort => 13,
            Self::Mark => 19,
            Self::TrackState => 26,
            Self::TrackStatus => 28,
            Self::Icmp6Type => 29,
            Self::IncomingName | Self::OutgoingName => 41,
            Self::DestinationKind | Self::DestinationKindHere => 42,
        }
    }

    fn source(self) -> Source {
        const LINK: u32 = 0;
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        const FIB_DADDR: u32 = 2;
        const FIB_IIF: u32 = 8;
        let payload = |base, offset| Source::Payload { base, offset };
        match self {
            Self::IncomingName => Source::Meta(6),
            Self::OutgoingName => Source::Meta(7),
            Self::NetworkProtocol => Source::Meta(15),
            Self::TransportProtocol => Source::Meta(16),
            Self::Mark => Source::Meta(3),
            Self::EtherSource => payload(LINK, 6),
            Self::EtherType => payload(LINK, 12),
            Self::Ip4Source => payload(NETWORK, 12),
            Self::Ip4Destination => payload(NETWORK, 16),
            Self::Ip6Source => payload(NETWORK, 8),
            Self::Ip6Destination => payload(NETWORK, 24),
            Self::ArpSenderMac => payload(NETWORK, 8),
            Self::ArpSenderIp => payload(NETWORK, 14),
            Self::DestinationPort => payload(TRANSPORT, 2),
            Self::Icmp6Type => payload(TRANSPORT, 0),
            Self::NeighbourTarget => payload(TRANSPORT, 8),
            Self::DestinationKind => Source::Fib { flags: FIB_DADDR },
            Self::DestinationKindHere => Source::Fib { flags: FIB_DADDR | FIB_IIF },
            Self::TrackState => Source::Track(0),
            Self::TrackStatus => Source::Track(2),
        }
    }

    fn load(self, message: &mut Message, register: u32) {
        match self.source() {
            Source::Meta(key) => expression(message, "meta", |data| {
                data.be32(1, register).be32(2, key);
            }),
            Source::Payload { base, offset } => expression(message, "payload", |data| {
                data.be32(1, register).be32(2, base).be32(3, offset).be32(4, length_of(self));
            }),
            Source::Fib { flags } => expression(message, "fib", |data| {
                const ADDRESS_TYPE: u32 = 3;
                data.be32(1, register).be32(2, ADDRESS_TYPE).be32(3, flags);
            }),
            Source::Track(key) => expression(message, "ct", |data| {
                data.be32(1, register).be32(2, key);
            }),
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This chain lets it pass.
    Accept,
    /// It ends here.
    Drop,
    /// Goes back to where the chain was called.
    Return,
    /// Calls a chain.
    Jump(&'static str),
}

/// One statement of a rule.
#[derive(Debug, Clone)]
enum Statement {
    Compare { field: Field, equal: bool, value: Vec<u8> },
    Bits { field: Field, mask: u32, any: bool },
    Lookup { fields: &'static [Field], set: &'static str, is_in: bool },
    Verdict(Verdict),
    SetMark(u32),
    Translate { fields: &'static [Field], map: &'static str, ipv6: bool },
    Masquerade,
    Duplicate { gateway: Vec<u8>, interface: u32 },
}

/// A rule: statements, left to right.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    statements: Vec<Statement>,
}

impl Rule {
    /// An empty rule, which matches everything.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The field has this value. A name may be given without its NUL, and is a prefix then.
    pub(crate) fn when(self, field: Field, value: impl Into<Vec<u8>>) -> Self {
        self.with(Statement::Compare { field, equal: true, value: value.into() })
    }

    /// The field has another value.
    pub(crate) fn unless(self, field: Field, value: impl Into<Vec<u8>>) -> Self {
        self.with(Statement::Compare { field, equal: false, value: value.into() })
    }

    /// One of these bits is set.
    pub(crate) fn has_any(self, field: Field, mask: u32) -> Self {
        self.with(Statement::Bits { field, mask, any: true })
    }

    /// None of these bits is set.
    pub(crate) fn has_none(self, field: Field, mask: u32) -> Self {
        self.with(Statement::Bits { field, mask, any: false })
    }

    /// The fields, joined, are in the set.
    pub(crate) fn within(self, fields: &'static [Field], set: &'static str) -> Self {
        self.with(Statement::Lookup { fields, set, is_in: true })
    }

    /// The fields, joined, are not in the set.
    pub(crate) fn outside(self, fields: &'static [Field], set: &'static str) -> Self {
        self.with(Statement::Lookup { fields, set, is_in: false })
    }

    /// Sets the packet's mark.
    pub(crate) fn set_mark(self, mark: u32) -> Self {
        self.with(Statement::SetMark(mark))
    }

    /// Sends the connection to the address and port that the map has for the fields, if it has.
    pub(crate) fn translate(self, fields: &'static [Field], map: &'static str, ipv6: bool) -> Self {
        self.with(Statement::Translate { fields, map, ipv6 })
    }

    /// Gives the connection the outgoing interface's address as its source.
    pub(crate) fn masquerade(self) -> Self {
        self.with(Statement::Masquerade)
    }

    /// Sends a copy out of an interface.
    pub(crate) fn duplicate_ip4(self, gateway: Ipv4Addr, interface: u32) -> Self {
        self.with(Statement::Duplicate { gateway: gateway.octets().to_vec(), interface })
    }

    /// Sends a copy out of an interface.
    pub(crate) fn duplicate_ip6(self, gateway: Ipv6Addr, interface: u32) -> Self {
        self.with(Statement::Duplicate { gateway: gateway.octets().to_vec(), interface })
    }

    /// Ends the rule.
    pub(crate) fn then(self, verdict: Verdict) -> Self {
        self.with(Statement::Verdict(verdict))
    }

    fn with(mut self, statement: Statement) -> Self {
        self.statements.push(statement);
        self
    }

    /// Writes the rule's expressions.
    pub(crate) fn encode(&self, message: &mut Message) {
        for statement in &self.statements {
            statement.encode(message);
        }
    }
}

impl Statement {
    fn encode(&self, message: &mut Message) {
        match self {
            Self::Compare { field, equal, value } => {
                field.load(message, FIRST_REGISTER);
                compare(message, *equal, value);
            }
            Self::Bits { field, mask, any } => {
                field.load(message, FIRST_REGISTER);
                expression(message, "bitwise", |data| {
                    data.be32(1, FIRST_REGISTER).be32(2, FIRST_REGISTER).be32(3, 4);
                    data.nest(4, |inner| {
                        inner.attr(DATA_VALUE, &mask.to_ne_bytes());
                    });
                    data.nest(5, |inner| {
                        inner.attr(DATA_VALUE, &[0; 4]);
                    });
                });
                compare(message, !any, &[0; 4]);
            }
            Self::Lookup { fields, set, is_in } => {
                load_all(message, fields);
                lookup(message, set, None, *is_in);
            }
            Self::Verdict(verdict) => expression(message, "immediate", |data| {
                data.be32(1, VERDICT_REGISTER).nest(2, |value| encode_verdict(value, *verdict));
            }),
            Self::SetMark(mark) => {
                immediate(message, FIRST_REGISTER, &mark.to_ne_bytes());
                expression(message, "meta", |data| {
                    data.be32(2, 3).be32(3, FIRST_REGISTER);
                });
            }
            Self::Translate { fields, map, ipv6 } => translate(message, fields, map, *ipv6),
            Self::Masquerade => expression(message, "masq", |_| {}),
            Self::Duplicate { gateway, interface } => {
                immediate(message, FIRST_REGISTER, gateway);
                immediate(message, FIRST_REGISTER + 4, &interface.to_ne_bytes());
                expression(message, "dup", |data| {
                    data.be32(1, FIRST_REGISTER).be32(2, FIRST_REGISTER + 4);
                });
            }
        }
    }
}

/// Looks an address and a port up, and makes them the connection's destination.
fn translate(message: &mut Message, fields: &[Field], map: &str, ipv6: bool) {
    const DESTINATION: u32 = 1;
    let (family, address_registers) = if ipv6 { (10, 4) } else { (2, 1) };
    load_all(message, fields);
    lookup(message, map, Some(FIRST_REGISTER), true);
    expression(message, "nat", |data| {
        data.be32(1, DESTINATION)
            .be32(2, family)
            .be32(3, FIRST_REGISTER)
            .be32(5, FIRST_REGISTER + address_registers);
    });
}

fn load_all(message: &mut Message, fields: &[Field]) {
    let mut register = FIRST_REGISTER;
    for field in fields {
        field.load(message, register);
        register += length_of(*field).div_ceil(4);
    }
}

fn lookup(message: &mut Message, set: &str, into: Option<u32>, is_in: bool) {
    expression(message, "lookup", |data| {
        data.string(1, set).be32(2, FIRST_REGISTER);
        if let Some(register) = into {
            data.be32(3, register);
        }
        data.be32(5, u32::from(!is_in));
    });
}

fn compare(message: &mut Message, equal: bool, value: &[u8]) {
    expression(message, "cmp", |data| {
        data.be32(1, FIRST_REGISTER).be32(2, if equal { CMP_EQ } else { CMP_NEQ });
        data.nest(3, |inner| {
            inner.attr(DATA_VALUE, value);
        });
    });
}

fn immediate(message: &mut Message, register: u32, value: &[u8]) {
    expression(message, "immediate", |data| {
        data.be32(1, register).nest(2, |inner| {
            inner.attr(DATA_VALUE, value);
        });
    });
}

fn encode_verdict(message: &mut Message, verdict: Verdict) {
    const NF_DROP: i32 = 0;
    const NF_ACCEPT: i32 = 1;
    const NFT_JUMP: i32 = -3;
    const NFT_RETURN: i32 = -5;
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
    };
    message.nest(DATA_VERDICT, |inner| {
        inner.attr(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            inner.string(2, chain);
        }
    });
}

fn expression(message: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    message.nest(LIST_ELEM, |element| {
        element.string(EXPR_NAME, name).nest(EXPR_DATA, fill);
    });
}

fn length_of(field: Field) -> u32 {
    u32::try_from(field.bytes()).unwrap_or(u32::MAX)
}
