//! Which subnet a network gets, and which address a container.
//!
//! Both are pure: the caller says what is taken. What is taken is what the records say, so an
//! address is given out once, and given back by removing a record; there is no second book.
//!
//! Addresses are given out in turn, from just after the last one, and not the lowest free one: an
//! address that was given back is not soon another's, so that nobody's stale connection or cached
//! name meets a stranger.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::{AddressError, Cidr};
use crate::model::{Subnet, SubnetRequest};

/// Where IPv4 subnets are chosen: the private ranges that homes, offices and clouds use least,
/// the widest first.
const POOLS_4: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(172, 20, 0, 0), 14),
    (Ipv4Addr::new(172, 24, 0, 0), 13),
    (Ipv4Addr::new(10, 201, 0, 0), 16),
];
/// Prefix length of a chosen IPv4 subnet: 4,093 containers.
const CHOSEN_PREFIX_4: u8 = 20;
/// Prefix length of a chosen IPv6 subnet (RFC 4291, section 2.5.4).
const CHOSEN_PREFIX_6: u8 = 64;
/// Subnets of IPv6 that are tried.
const TRIES_6: u128 = 1 << 16;

/// Why there is no subnet or no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// All of the pools are taken.
    #[error(
        "no subnet is free: {taken} are in use by networks or routes of the host; remove a \
         network, or give one with --subnet"
    )]
    NoSubnet {
        /// How many are.
        taken: usize,
    },
    /// Another network has it.
    #[error("subnet {subnet} overlaps {other}, which {holder} has; choose another")]
    Overlap {
        /// What was asked for.
        subnet: Cidr,
        /// What is there.
        other: Cidr,
        /// Whose it is.
        holder: String,
    },
    /// Too small, or not a network.
    #[error("subnet {subnet} has no room for containers; give a shorter prefix")]
    TooSmall {
        /// What was asked for.
        subnet: Cidr,
    },
    /// Two subnets of one family.
    #[error(
        "subnet {subnet} is the network's second of its family; one of each is all it can have"
    )]
    SecondOfFamily {
        /// What was asked for.
        subnet: Cidr,
    },
    /// Outside of the subnet.
    #[error("{address} is not an address for a host in {subnet}")]
    Outside {
        /// What was asked for.
        address: IpAddr,
        /// The subnet.
        subnet: Cidr,
    },
    /// No address of any family.
    #[error("a network without IPv4 needs IPv6: give --ipv6")]
    NoFamilyAtAll,
    /// A subnet of IPv4 for a network without.
    #[error("subnet {subnet} is of IPv4, which the network is to do without")]
    UnwantedFamily {
        /// What was asked for.
        subnet: Cidr,
    },
    /// The network has no subnet of its family.
    #[error("the network has no subnet for {address}")]
    NoFamily {
        /// What was asked for.
        address: IpAddr,
    },
    /// A container has it.
    #[error("address {address} is in use")]
    Taken {
        /// What was asked for.
        address: IpAddr,
    },
    /// None is left.
    #[error(
        "network {network} has no free address: all {capacity} of {subnet} are in use; remove a \
         container, or create a network with a larger subnet"
    )]
    Exhausted {
        /// Its name.
        network: String,
        /// Where addresses are given out.
        subnet: Cidr,
        /// How many it has.
        capacity: u128,
    },
    /// Not a subnet at all.
    #[error("the chosen subnet is none")]
    Malformed(#[source] AddressError),
}

/// Chooses an IPv4 subnet that overlaps none of `taken`.
///
/// # Errors
/// [`IpamError::NoSubnet`].
pub fn choose_subnet_4(taken: &[Cidr]) -> Result<Cidr, IpamError> {
    for (pool, prefix) in POOLS_4 {
        let pool = Cidr::new(IpAddr::V4(pool), prefix).map_err(IpamError::Malformed)?;
        for index in 0..1_u128 << (CHOSEN_PREFIX_4 - prefix) {
            let start = pool.at(index << (32 - CHOSEN_PREFIX_4));
            let subnet = Cidr::new(start, CHOSEN_PREFIX_4).map_err(IpamError::Malformed)?;
            if !taken.iter().any(|other| other.overlaps(subnet)) {
                return Ok(subnet);
            }
        }
    }
    Err(IpamError::NoSubnet { taken: taken.len() })
}

/// Chooses an IPv6 subnet below a unique local prefix (RFC 4193), of which
/// `global_id` are the forty random bits.
///
/// # Errors
/// [`IpamError::NoSubnet`].
pub fn choose_subnet_6(global_id: [u8; 5], taken: &[Cidr]) -> Result<Cidr, IpamError> {
    let [a, b, c, d, e] = global_id;
    let site = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let site = Cidr::new(IpAddr::V6(site), 48).map_err(IpamError::Malformed)?;
    for index in 0..TRIES_6 {
        let subnet =
            Cidr::new(site.at(index << 64), CHOSEN_PREFIX_6).map_err(IpamError::Malformed)?;
        if !taken.iter().any(|other| other.overlaps(subnet)) {
            return Ok(subnet);
        }
    }
    Err(IpamError::NoSubnet { taken: taken.len() })
}

/// Checks a subnet that was asked for, and fills in what was not said.
///
/// # Errors
/// [`IpamError::TooSmall`], [`IpamError::Outside`].
pub fn settle_subnet(request: SubnetRequest) -> Result<Subnet, IpamError> {
    let subnet = request.subnet.network();
    if subnet.last_offset() < 3 {
        return Err(IpamError::TooSmall { subnet });
    }
    let gateway = request.gateway.unwrap_or_else(|| subnet.at(1));
    if !subnet.is_host(gateway) {
        return Err(IpamError::Outside { address: gateway, subnet });
    }
    let range = request.range.map(Cidr::network);
    if let Some(range) = range
        && !(subnet.contains(range.address()) && range.prefix_len() >= subnet.prefix_len())
    {
        return Err(IpamError::Outside { address: range.address(), subnet });
    }
    Ok(Subnet { subnet, gateway, range, chosen: false })
}

/// Gives an address out: the one that is asked for, or the next free one after `last`.
///
/// # Errors
/// [`IpamError::Outside`], [`IpamError::Taken`], [`IpamError::Exhausted`].
pub fn give_address<S: std::hash::BuildHasher>(
    network: &str,
    subnet: &Subnet,
    wanted: Option<IpAddr>,
    last: Option<IpAddr>,
    taken: &HashSet<IpAddr, S>,
) -> Result<IpAddr, IpamError> {
    let free = |address: IpAddr| address != subnet.gateway && !taken.contains(&address);
    if let Some(address) = wanted {
        if !subnet.subnet.is_host(address) {
            return Err(IpamError::Outside { address, subnet: subnet.subnet });
        }
        return if free(address) { Ok(address) } else { Err(IpamError::Taken { address }) };
    }

    let range = subnet.range.unwrap_or(subnet.subnet);
    let size = range.last_offset().saturating_add(1);
    let start = last.filter(|last| range.contains(*last)).map_or(0, |last| range.offset_of(last));
    // Of so many offsets one is free, unless all are taken: no more need be tried.
    let tries = u128::try_from(taken.len()).unwrap_or(u128::MAX).saturating_add(4).min(size);
    (1..=tries)
        .map(|step| range.at(start.wrapping_add(step) % size))
        .find(|address| subnet.subnet.is_host(*address) && free(*address))
        .ok_or_else(|| IpamError::Exhausted {
            network: network.to_owned(),
            subnet: range,
            capacity: size,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a subnet")
    }

    fn subnet(text: &str, range: Option<&str>) -> Subnet {
        let request = SubnetRequest { subnet: cidr(text), gateway: None, range: range.map(cidr) };
        settle_subnet(request).expect("a subnet")
    }

    #[test]
    fn a_chosen_subnet_overlaps_no_route() {
        let taken = [cidr("172.20.0.0/20"), cidr("172.20.16.0/24"), cidr("172.20.33.7/32")];

        let chosen = choose_subnet_4(&taken).expect("room");

        assert_eq!(chosen, cidr("172.20.48.0/20"));
    }

    #[test]
    fn a_host_that_routes_everything_private_leaves_no_subnet() {
        let taken = [cidr("10.0.0.0/8"), cidr("172.16.0.0/12")];

        assert_eq!(choose_subnet_4(&taken), Err(IpamError::NoSubnet { taken: 2 }));
    }

    #[test]
    fn subnets_of_ipv6_are_the_installations_own() {
        let first = choose_subnet_6([1, 2, 3, 4, 5], &[]).expect("room");
        let second = choose_subnet_6([1, 2, 3, 4, 5], &[first]).expect("room");

        assert_eq!(first, cidr("fd01:203:405::/64"));
        assert_eq!(second, cidr("fd01:203:405:1::/64"));
    }

    #[test]
    fn an_exhausted_network_says_so() {
        let network = subnet("10.9.0.0/29", None);
        let mut taken = HashSet::new();
        let mut last = None;
        for _ in 0..5 {
            let address = give_address("n", &network, None, last, &taken).expect("room");
            assert!(taken.insert(address), "{address} was given twice");
            last = Some(address);
        }

        let refusal = give_address("n", &network, None, last, &taken);

        assert!(matches!(refusal, Err(IpamError::Exhausted { .. })), "{refusal:?}");
    }

    #[test]
    fn an_address_that_was_given_back_is_not_the_next_one() {
        let network = subnet("10.9.0.0/24", None);
        let first = give_address("n", &network, None, None, &HashSet::new()).expect("room");

        let second = give_address("n", &network, None, Some(first), &HashSet::new()).expect("room");

        assert_ne!(first, second);
    }

    #[test]
    fn a_wanted_address_is_checked() {
        let network = subnet("10.9.0.0/24", Some("10.9.0.128/25"));
        let taken = HashSet::from(["10.9.0.7".parse().expect("an address")]);
        let give = |wanted: &str| {
            give_address("n", &network, Some(wanted.parse().expect("an address")), None, &taken)
        };

        assert!(give("10.9.0.9").is_ok(), "outside of the range, but in the subnet");
        assert!(matches!(give("10.9.0.7"), Err(IpamError::Taken { .. })));
        assert!(matches!(give("10.9.0.1"), Err(IpamError::Taken { .. })), "the gateway");
        assert!(matches!(give("10.9.0.255"), Err(IpamError::Outside { .. })), "broadcast");
        assert!(matches!(give("10.9.1.1"), Err(IpamError::Outside { .. })));
    }

    #[test]
    fn subnets_without_room_and_gateways_outside_are_refused() {
        let request = |subnet: &str, gateway: Option<&str>| SubnetRequest {
            subnet: cidr(subnet),
            gateway: gateway.map(|text| text.parse().expect("an address")),
            range: None,
        };

        let tiny = settle_subnet(request("10.0.0.0/31", None));
        let outside = settle_subnet(request("10.0.0.0/24", Some("10.0.1.1")));

        assert!(matches!(tiny, Err(IpamError::TooSmall { .. })));
        assert!(matches!(outside, Err(IpamError::Outside { .. })));
    }

    #[test]
    fn an_address_that_is_kept_free_is_never_given() {
        let network = subnet("10.9.0.0/29", None);
        let kept: IpAddr = "10.9.0.3".parse().expect("an address");
        let mut taken = HashSet::from([kept]);
        let mut last = None;

        while let Ok(address) = give_address("n", &network, None, last, &taken) {
            assert_ne!(address, kept);
            taken.insert(address);
            last = Some(address);
        }

        assert_eq!(taken.len(), 5, "all but the gateway");
    }

    proptest! {
        #[test]
        fn addresses_are_never_given_twice_and_all_are_given(
            prefix_len in 24_u8..30, releases: Vec<u8>,
        ) {
            let request = format!("10.3.0.0/{prefix_len}");
            let network = subnet(&request, None);
            let capacity = (1_usize << (32 - prefix_len)) - 3;
            let mut taken = HashSet::new();
            let mut given = Vec::new();
            let mut last = None;
            let mut releases = releases.into_iter();

            while given.len() < capacity {
                let address = give_address("n", &network, None, last, &taken).expect("room");
                prop_assert!(taken.insert(address));
                prop_assert!(network.subnet.is_host(address) && address != network.gateway);
                given.push(address);
                last = Some(address);
                if let Some(index) = releases.next() {
                    taken.remove(&given.swap_remove(usize::from(index) % given.len()));
                }
            }

            let full = give_address("n", &network, None, last, &taken);
            let exhausted = matches!(full, Err(IpamError::Exhausted { .. }));
            prop_assert!(exhausted);
        }
    }
}
