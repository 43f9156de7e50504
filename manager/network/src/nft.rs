//! nf_tables, spoken by hand over netlink: enough of it for one static ruleset with sets.
//!
//! | module | what |
//! | --- | --- |
//! | [`batch`] | a transaction: tables, chains, sets, rules and elements, all or nothing |
//! | [`expression`] | what rules are made of |
//! | [`foreign`] | chains of others that would drop what is routed for containers |
//! | [`ruleset`] | our rules, which never change, and the sets, which do |

pub(crate) mod batch;
pub(crate) mod expression;
pub(crate) mod foreign;
pub(crate) mod ruleset;
