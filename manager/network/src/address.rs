//! Addresses: subnets, hardware addresses, and what of them may be given out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text that is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not `ADDRESS/PREFIX`.
    #[error("{text:?} is not a subnet: write ADDRESS/PREFIX, as 172.28.0.0/16")]
    NotASubnet {
        /// What was given.
        text: String,
    },
    /// More bits than the family has.
    #[error("prefix length {prefix_len} is more than {address} has bits")]
    PrefixTooLong {
        /// The address.
        address: IpAddr,
        /// What was given.
        prefix_len: u8,
    },
    /// Not six pairs of hexadecimal digits, or an address of a group.
    #[error(
        "{text:?} is not a hardware address for one interface: write six pairs of hexadecimal \
         digits, as 02:42:ac:11:00:02"
    )]
    NotAMac {
        /// What was given.
        text: String,
    },
}

/// An address and how many of its bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// Joins an address and a prefix length.
    ///
    /// # Errors
    /// [`AddressError::PrefixTooLong`].
    pub fn new(address: IpAddr, prefix_len: u8) -> Result<Self, AddressError> {
        if prefix_len > bits(address) {
            return Err(AddressError::PrefixTooLong { address, prefix_len });
        }
        Ok(Self { address, prefix_len })
    }

    /// The address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits name the network.
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(self) -> bool {
        self.address.is_ipv6()
    }

    /// The network's first address, with the same prefix.
    #[must_use]
    pub fn network(self) -> Self {
        Self { address: self.at(0), prefix_len: self.prefix_len }
    }

    /// Whether the network holds an address.
    pub fn contains(self, address: IpAddr) -> bool {
        self.is_ipv6() == address.is_ipv6()
            && (number(address) ^ number(self.address)) & !self.host_mask() == 0
    }

    /// Whether two networks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.at(0)) || other.contains(self.at(0))
    }

    /// The network's address with an offset. Wraps within the network.
    pub fn at(self, offset: u128) -> IpAddr {
        let value = (number(self.address) & !self.host_mask()) | (offset & self.host_mask());
        match self.address {
            IpAddr::V4(_) => {
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(value).unwrap_or(u32::MAX)))
            }
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(value)),
        }
    }

    /// The offset of an address in the network.
    pub fn offset_of(self, address: IpAddr) -> u128 {
        number(address) & self.host_mask()
    }

    /// The highest offset.
    pub fn last_offset(self) -> u128 {
        self.host_mask()
    }

    /// Whether an address of the network may be an interface's: not the network's own, and not
    /// IPv4's broadcast address.
    pub fn is_host(self, address: IpAddr) -> bool {
        let offset = self.offset_of(address);
        let tiny = bits(self.address) - self.prefix_len < 2;
        self.contains(address)
            && (tiny || (offset != 0 && (self.is_ipv6() || offset != self.last_offset())))
    }

    /// Bits that name the host, in the low end of a number.
    fn host_mask(self) -> u128 {
        let host_bits = u32::from(bits(self.address) - self.prefix_len);
        1_u128.checked_shl(host_bits).map_or(u128::MAX, |end| end - 1)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Cidr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = || AddressError::NotASubnet { text: text.to_owned() };
        let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
        Self::new(address.parse().map_err(|_| refuse())?, prefix.parse().map_err(|_| refuse())?)
    }
}

impl TryFrom<String> for Cidr {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// The hardware address of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// Makes a locally administered address of six bytes that are as good as random.
    pub fn local(mut octets: [u8; 6]) -> Self {
        octets[0] = (octets[0] & 0xfc) | 0x02;
        Self(octets)
    }

    /// Takes bytes as they are.
    pub(crate) fn from_octets(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Its bytes.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The link-local IPv6 address that the kernel makes of it (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = || AddressError::NotAMac { text: text.to_owned() };
        let mut octets = [0; 6];
        let mut pieces = text.split([':', '-']);
        for octet in &mut octets {
            let piece = pieces.next().filter(|piece| piece.len() == 2).ok_or_else(refuse)?;
            *octet = u8::from_str_radix(piece, 16).map_err(|_| refuse())?;
        }
        let is_group = octets[0] & 1 == 1;
        if pieces.next().is_some() || is_group || octets == [0; 6] {
            return Err(refuse());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a subnet")
    }

    #[test]
    fn a_network_knows_its_own() {
        let network = cidr("172.28.5.9/20").network();

        assert_eq!(network.to_string(), "172.28.0.0/20");
        assert!(network.contains("172.28.15.255".parse().expect("an address")));
        assert!(!network.contains("172.28.16.0".parse().expect("an address")));
        assert!(!network.contains("::1".parse().expect("an address")));
    }

    #[test]
    fn the_first_and_the_last_address_are_nobodys() {
        let network = cidr("10.0.0.0/30");

        let hosts: Vec<_> = (0..4).map(|offset| network.is_host(network.at(offset))).collect();

        assert_eq!(hosts, [false, true, true, false]);
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        for (a, b, overlap) in [
            ("10.0.0.0/8", "10.3.0.0/16", true),
            ("10.0.0.0/9", "10.128.0.0/9", false),
            ("0.0.0.0/0", "192.168.0.0/24", true),
            ("fd00::/8", "10.0.0.0/8", false),
        ] {
            assert_eq!(cidr(a).overlaps(cidr(b)), overlap, "{a} {b}");
            assert_eq!(cidr(b).overlaps(cidr(a)), overlap, "{b} {a}");
        }
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "x/8", "10.0.0.0/-1"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_hardware_address_is_refused() {
        for text in ["", "02:42", "01:00:5e:00:00:01", "00:00:00:00:00:00", "0242ac110002", "2:4:a"]
        {
            assert!(text.parse::<MacAddr>().is_err(), "{text:?}");
        }
        let mac: MacAddr = "02:42:ac:11:00:02".parse().expect("a hardware address");
        assert_eq!(mac.link_local().to_string(), "fe80::42:acff:fe11:2");
    }

    proptest! {
        #[test]
        fn every_offset_is_in_the_network_and_comes_back(
            bits: u32, prefix_len in 0_u8..=32, offset: u32,
        ) {
            let network = Cidr::new(IpAddr::V4(bits.into()), prefix_len).expect("valid").network();

            let address = network.at(u128::from(offset));

            prop_assert!(network.contains(address));
            let expected = u128::from(offset) & network.last_offset();
            prop_assert_eq!(network.offset_of(address), expected);
        }
    }
}
