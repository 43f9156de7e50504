//! Forward chains of others whose policy is to drop.
//!
//! A packet is routed only if every forward chain of the host lets it pass, so no rule of our own
//! tables can help a container where the host's *policy* is to drop what is routed, as ufw's is by
//! default. To such a chain two rules are appended, for what comes from our bridges and what goes
//! to them. They stand at its end: they decide in place of the policy, and every rule that the
//! administrator wrote decides before them. What may go to a bridge is decided by our own table's
//! forward chain all the same, and of what came for a published port the host's input rules
//! have already let it pass.
//!
//! Chains of the old iptables, which keeps its rules elsewhere, are not seen.

use super::batch::{Batch, Table, TableFamily};
use super::expression::{Field, Rule, Verdict};
use crate::instance::Names;
use crate::netlink::NetlinkError;
use crate::netlink::message::{Message, attributes, text};
use crate::netlink::socket::{Netlink, Request};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const SUBSYSTEM: u16 = 10 << 8;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;

const FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;

/// A rule for what comes from our bridges, and one for what goes to them.
const SIDES: [Field; 2] = [Field::IncomingName, Field::OutgoingName];

/// A chain of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: TableFamily,
    table: String,
    name: String,
}

/// A rule of ours in such a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Guest {
    chain: Chain,
    handle: u64,
}

/// Appends our rules to every forward chain whose policy is to drop, in place of those that are
/// there.
pub(crate) fn open(socket: &mut Netlink, names: &Names) -> Result<(), NetlinkError> {
    let chains = dropping_chains(socket, names)?;
    let guests = guests(socket, names)?;
    let there = |chain: &Chain| guests.iter().filter(|guest| guest.chain == *chain).count();
    if guests.len() == SIDES.len() * chains.len() && chains.iter().all(|c| there(c) == SIDES.len())
    {
        return Ok(());
    }
    let mut batch = Batch::new();
    delete(&mut batch, &guests);
    for chain in &chains {
        let table = Table { family: chain.family, name: &chain.table };
        for side in SIDES {
            let rule = Rule::new().when(side, names.bridge_prefix()).then(Verdict::Accept);
            batch.add_foreign_rule(table, &chain.name, &rule, names.table());
        }
    }
    batch.commit(socket)
}

/// Takes our rules out of every chain.
pub(crate) fn close(socket: &mut Netlink, names: &Names) -> Result<(), NetlinkError> {
    let guests = guests(socket, names)?;
    let mut batch = Batch::new();
    delete(&mut batch, &guests);
    batch.commit(socket)
}

fn delete(batch: &mut Batch, guests: &[Guest]) {
    for guest in guests {
        let table = Table { family: guest.chain.family, name: &guest.chain.table };
        batch.delete_rule(table, &guest.chain.name, guest.handle);
    }
}

fn dropping_chains(socket: &mut Netlink, names: &Names) -> Result<Vec<Chain>, NetlinkError> {
    let mut chains = Vec::new();
    socket.dump(everything(GETCHAIN, "list the firewall's chains"), |body| {
        let Some(family) = body.first().copied().and_then(TableFamily::routed) else { return };
        let (mut table, mut name, mut kind) = (String::new(), String::new(), String::new());
        let (mut hook, mut policy) = (None, None);
        for (attribute, payload) in attributes(body.get(4..).unwrap_or(&[])) {
            match attribute {
                1 => table = text(payload),
                3 => name = text(payload),
                4 => {
                    let number = attributes(payload).find(|(inner, _)| *inner == 1);
                    hook = number.and_then(|(_, bytes)| be32(bytes));
                }
                5 => policy = be32(payload),
                7 => kind = text(payload),
                _ => {}
            }
        }
        let drops = hook == Some(FORWARD) && policy == Some(POLICY_DROP) && kind == "filter";
        if drops && table != names.table() {
            chains.push(Chain { family, table, name });
        }
    })?;
    Ok(chains)
}

/// Finds our rules in others' tables, by the comment that they carry.
fn guests(socket: &mut Netlink, names: &Names) -> Result<Vec<Guest>, NetlinkError> {
    let mut guests = Vec::new();
    socket.dump(everything(GETRULE, "list the firewall's rules"), |body| {
        let Some(family) = body.first().copied().and_then(TableFamily::routed) else { return };
        let (mut table, mut name) = (String::new(), String::new());
        let (mut handle, mut ours) = (None, false);
        for (attribute, payload) in attributes(body.get(4..).unwrap_or(&[])) {
            match attribute {
                1 => table = text(payload),
                2 => name = text(payload),
                3 => handle = payload.try_into().ok().map(u64::from_be_bytes),
                7 => ours = payload == comment(names.table()),
                _ => {}
            }
        }
        if let (Some(handle), true) = (handle, ours && table != names.table()) {
            guests.push(Guest { chain: Chain { family, table, name }, handle });
        }
    })?;
    Ok(guests)
}

/// A rule's comment as `nft` stores it: a type, a length, text.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![0, length];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

fn everything(kind: u16, action: &str) -> Request {
    let message = Message::new(SUBSYSTEM | kind, NLM_F_REQUEST | NLM_F_DUMP, &[0, 0, 0, 0]);
    Request { action: action.to_owned(), message }
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
