//! Netlink, spoken by hand: the few messages that a bridge network needs, and nothing else.
//!
//! | module | what |
//! | --- | --- |
//! | [`message`] | bytes: headers, attributes, nests, both ways |
//! | [`socket`] | one request and its acknowledgements; dumps |
//! | [`track`] | tracked connections |
//! | [`link`] | interfaces, addresses, routes, rules (rtnetlink) |
//!
//! Written here and not taken from a library, since a container's start is made of these calls: a
//! whole batch goes to the kernel in one system call, the kernel does the work inside that call,
//! and no asynchronous runtime has to be woken for the answer. The firewall needs the same
//! encoder for nf_tables, for which no usable library exists.
//!
//! A socket belongs to the network namespace of the thread that opened it, for ever. Nothing here
//! opens one lazily.

pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod socket;
pub(crate) mod track;

pub use socket::NetlinkError;
