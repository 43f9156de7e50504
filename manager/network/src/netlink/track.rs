//! Tracked connections (ctnetlink): forgetting those that lead to a container that is gone.
//!
//! A translation that was chosen for a connection stays with it. Of UDP, which has no end, a
//! client that goes on sending would reach an address that is nobody's, or soon somebody else's.

use std::net::IpAddr;

use nix::errno::Errno;

use super::message::Message;
use super::socket::{Netlink, NetlinkError, Request};

const NLM_F_REQUEST: u16 = 1;
const CT_DELETE: u16 = (1 << 8) | 2;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const IP_V4_SRC: u16 = 1;
const IP_V6_SRC: u16 = 3;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// Of the answer's addresses and ports only the source counts.
const BY_SOURCE: u32 = 1;

/// Forgets the connections that are answered by `address`. Kernels that cannot tell them apart
/// (before 6.8) forget none.
pub(crate) fn forget_answered_by(
    socket: &mut Netlink,
    address: IpAddr,
) -> Result<(), NetlinkError> {
    let (family, kind, bytes) = match address {
        IpAddr::V4(v4) => (2, IP_V4_SRC, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, IP_V6_SRC, v6.octets().to_vec()),
    };
    // The version has to be above zero, or the family is not looked at.
    let mut message = Message::new(CT_DELETE, NLM_F_REQUEST, &[family, 1, 0, 0]);
    message.nest(TUPLE_REPLY, |tuple| {
        tuple.nest(TUPLE_IP, |ip| {
            ip.attr(kind, &bytes);
        });
    });
    message.nest(FILTER, |filter| {
        filter.u32(FILTER_ORIG_FLAGS, 0).u32(FILTER_REPLY_FLAGS, BY_SOURCE);
    });
    let action = format!("forget the connections to {address}");
    match socket.request(vec![Request { action, message }]) {
        Err(error) if error.errno() == Errno::EOPNOTSUPP => Ok(()),
        outcome => outcome,
    }
}
