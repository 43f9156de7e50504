//! A transaction of nf_tables: all of it happens, or nothing.
//!
//! ```text
//! BEGIN │ NEWTABLE │ NEWCHAIN … │ NEWSET … │ NEWRULE … │ NEWSETELEM … │ END
//! ```
//!
//! The kernel checks and prepares every message, and at END makes the new generation visible to
//! packets at once. A refused message undoes the whole, so callers need no clean-up of their own.

use super::expression::{Field, Rule};
use super::foreign;
use crate::netlink::message::Message;
use crate::netlink::socket::{Netlink, NetlinkError};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
const TABLE_NAME: u16 = 1;

/// Elements per message: an attribute's length has sixteen bits, and an element at most some 120
/// bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Tells `nft list`, and nobody else, that keys are text (a type, a length, and "host order").
const NAME_KEYS: [u8; 6] = [0, 4, 1, 0, 0, 0];

/// Families of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
    /// Frames on a bridge.
    Bridge,
}

impl TableFamily {
    /// The family of a number, if routed packets pass its chains.
    pub(crate) fn routed(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip4, Self::Ip6].into_iter().find(|family| family.number() == number)
    }

    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip4 => 2,
            Self::Ip6 => 10,
            Self::Bridge => 7,
        }
    }
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table<'a> {
    /// Its family.
    pub(crate) family: TableFamily,
    /// Its name.
    pub(crate) name: &'a str,
}

/// Where a chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// "filter" or "nat".
    pub(crate) kind: &'static str,
    /// Prerouting, input, forward, output, postrouting: 0 to 4.
    pub(crate) number: u32,
    /// Lower comes earlier.
    pub(crate) priority: i32,
}

/// A set's shape: what its keys, and if it is a map its values, are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetShape {
    /// Its name.
    pub(crate) name: &'static str,
    /// Parts of a key.
    pub(crate) key: &'static [Field],
    /// Parts of a value; empty: it is no map.
    pub(crate) value: &'static [Field],
}

/// An element: key, and if the set is a map, value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Element {
    /// Each part padded to four bytes; see [`join`].
    pub(crate) key: Vec<u8>,
    /// Empty: no map.
    pub(crate) value: Vec<u8>,
}

/// Joins parts of a key or a value as the kernel's registers hold them.
pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(64);
    for part in parts {
        joined.extend_from_slice(part);
        joined.resize(joined.len().next_multiple_of(4), 0);
    }
    joined
}

/// A transaction under construction.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    actions: Vec<String>,
    set_id: u32,
}

impl Batch {
    /// Opens a transaction.
    pub(crate) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), sequence: 0, actions: Vec::new(), set_id: 0 };
        batch.frame(BATCH_BEGIN);
        batch
    }

    /// Makes a table, if it is not there.
    pub(crate) fn add_table(&mut self, table: Table<'_>) {
        let mut message = message(NEWTABLE, NLM_F_CREATE, table);
        message.string(TABLE_NAME, table.name);
        self.push(message, format!("make the table {}", table.name));
    }

    /// Removes a table with all that is in it. It has to be there: add it first, in the same
    /// transaction, where that is not known.
    pub(crate) fn delete_table(&mut self, table: Table<'_>) {
        let mut message = message(DELTABLE, 0, table);
        message.string(TABLE_NAME, table.name);
        self.push(message, format!("remove the table {}", table.name));
    }

    /// Makes a chain; without a hook it is one that others jump to.
    pub(crate) fn add_chain(&mut self, table: Table<'_>, name: &'static str, hook: Option<Hook>) {
        let mut message = message(NEWCHAIN, NLM_F_CREATE, table);
        message.string(1, table.name).string(3, name);
        if let Some(hook) = hook {
            message.nest(4, |inner| {
                inner.be32(1, hook.number).attr(2, &hook.priority.to_be_bytes());
            });
            message.string(7, hook.kind);
        }
        self.push(message, format!("make the chain {name}"));
    }

    /// Makes a set or a map.
    pub(crate) fn add_set(&mut self, table: Table<'_>, shape: SetShape) {
        const MAP: u32 = 8;
        self.set_id += 1;
        let mut message = message(NEWSET, NLM_F_CREATE, table);
        let is_map = !shape.value.is_empty();
        message
            .string(1, table.name)
            .string(2, shape.name)
            .be32(3, if is_map { MAP } else { 0 })
            .be32(4, type_of(shape.key))
            .be32(5, length_of(shape.key));
        if is_map {
            message.be32(6, type_of(shape.value)).be32(7, length_of(shape.value));
        }
        message.be32(10, self.set_id);
        if let [Field::IncomingName | Field::OutgoingName] = shape.key {
            message.attr(13, &NAME_KEYS);
        }
        self.push(message, format!("make the set {}", shape.name));
    }

    /// Appends a rule to a chain.
    pub(crate) fn add_rule(&mut self, table: Table<'_>, chain: &'static str, rule: &Rule) {
        let mut message = message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, table);
        message.string(1, table.name).string(2, chain);
        message.nest(4, |expressions| rule.encode(expressions));
        self.push(message, format!("add a rule to the chain {chain}"));
    }

    /// Appends a rule to a chain of somebody else's, with a comment to know it by.
    pub(crate) fn add_foreign_rule(
        &mut self,
        table: Table<'_>,
        chain: &str,
        rule: &Rule,
        comment: &str,
    ) {
        let mut message = message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, table);
        message.string(1, table.name).string(2, chain);
        message.nest(4, |expressions| rule.encode(expressions));
        message.attr(7, &foreign::comment(comment));
        self.push(message, format!("add a rule to the chain {chain} of table {}", table.name));
    }

    /// Removes one rule.
    pub(crate) fn delete_rule(&mut self, table: Table<'_>, chain: &str, handle: u64) {
        let mut message = message(DELRULE, 0, table);
        message.string(1, table.name).string(2, chain).attr(3, &handle.to_be_bytes());
        self.push(message, format!("take a rule from the chain {chain} of table {}", table.name));
    }

    /// Adds elements; one that is there already with the same value is no error.
    pub(crate) fn add_elements(
        &mut self,
        table: Table<'_>,
        set: &'static str,
        elements: &[Element],
    ) {
        self.elements(NEWSETELEM, NLM_F_CREATE, table, set, elements);
    }

    /// Takes elements away, which have to be there.
    pub(crate) fn delete_elements(
        &mut self,
        table: Table<'_>,
        set: &'static str,
        elements: &[Element],
    ) {
        self.elements(DELSETELEM, 0, table, set, elements);
    }

    /// Commits.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`], naming the first refused message; nothing has changed then.
    pub(crate) fn commit(mut self, socket: &mut Netlink) -> Result<(), NetlinkError> {
        if self.actions.is_empty() {
            return Ok(());
        }
        self.frame(BATCH_END);
        let actions = self.actions;
        socket.transact(&self.bytes, |sequence| {
            // Sequence 1 is the opening frame.
            let index = usize::try_from(sequence).unwrap_or(0).checked_sub(2);
            index
                .and_then(|index| actions.get(index).cloned())
                .unwrap_or_else(|| "commit the firewall's transaction".to_owned())
        })
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        set: &'static str,
        elements: &[Element],
    ) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut message = message(kind, flags, table);
            message.string(1, table.name).string(2, set);
            message.nest(3, |list| {
                for element in chunk {
                    list.nest(1, |entry| encode_element(entry, element));
                }
            });
            let verb = if kind == NEWSETELEM { "add to" } else { "take from" };
            self.push(message, format!("{verb} the set {set}"));
        }
    }

    fn push(&mut self, message: Message, action: String) {
        self.sequence += 1;
        self.bytes.extend(message.finish(self.sequence));
        self.actions.push(action);
    }

    /// Opens or closes the transaction.
    fn frame(&mut self, kind: u16) {
        self.sequence += 1;
        // Family, version, and in network order the subsystem that the transaction is for.
        let message = Message::new(kind, NLM_F_REQUEST, &[0, 0, 0, 10]);
        self.bytes.extend(message.finish(self.sequence));
    }
}

fn message(kind: u16, flags: u16, table: Table<'_>) -> Message {
    Message::new(SUBSYSTEM | kind, NLM_F_REQUEST | flags, &[table.family.number(), 0, 0, 0])
}

fn encode_element(message: &mut Message, element: &Element) {
    message.nest(1, |key| {
        key.attr(1, &element.key);
    });
    if !element.value.is_empty() {
        message.nest(2, |value| {
            value.attr(1, &element.value);
        });
    }
}

/// `nft`'s number for a concatenation of types: six bits each.
fn type_of(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |joined, field| (joined << 6) | field.nft_type())
}

fn length_of(fields: &[Field]) -> u32 {
    let bytes: usize = match fields {
        [field] => field.bytes(),
        _ => fields.iter().map(|field| field.bytes().next_multiple_of(4)).sum(),
    };
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
