//! What this engine's interfaces, tables and marks are called, so that several engines can share
//! a machine: the one that is installed, and one that a test or a demonstration started.
//!
//! | | the engine with no tag | with the tag `a1b2` |
//! | --- | --- | --- |
//! | tables | `keg` | `kega1b2` |
//! | default bridge | `keg0` | `kega1b20` |
//! | other bridges | `keg-ID` | `kega1b2-ID` |
//! | our ends of containers' interfaces | `kegv-ID` | `kegva1b2-ID` |
//! | the detour of admitted packets | `keg-out`, `keg-back` | `kega1b2-out`, … |

use crate::model::NetworkId;

/// What all names of interfaces begin with.
pub(crate) const INTERFACE_PREFIX: &str = "keg";
/// Longest name of an interface (`IFNAMSIZ` less the NUL).
const INTERFACE_NAME_BYTES: usize = 15;
/// Length of a tag, where there is one.
const TAG_DIGITS: usize = 4;
/// Marks of ours have these high bits, and the tag as their low ones.
const MARK_BASE: u32 = 0x4b00_0000;

/// A tag that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{tag:?} is not a tag of {TAG_DIGITS} hexadecimal digits")]
pub struct TagError {
    /// What was given.
    pub tag: String,
}

/// Names of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    table: String,
    port_prefix: String,
    admit_out: String,
    admit_back: String,
    mark: u32,
}

impl Names {
    /// Makes the names of the engine with a tag: nothing, or four hexadecimal digits.
    pub(crate) fn new(tag: &str) -> Result<Self, TagError> {
        let refuse = || TagError { tag: tag.to_owned() };
        let number = match tag.len() {
            0 => 0,
            TAG_DIGITS => u32::from_str_radix(tag, 16).map_err(|_| refuse())?,
            _ => return Err(refuse()),
        };
        let prefix = format!("{INTERFACE_PREFIX}{tag}");
        Ok(Self {
            port_prefix: format!("{INTERFACE_PREFIX}v{tag}-"),
            admit_out: format!("{prefix}-out"),
            admit_back: format!("{prefix}-back"),
            mark: MARK_BASE | number,
            table: prefix,
        })
    }

    /// Name of the firewall's tables.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// What names of bridges begin with.
    pub(crate) fn bridge_prefix(&self) -> &str {
        &self.table
    }

    /// What names of our ends of containers' interfaces begin with, and nothing else's.
    pub(crate) fn port_prefix(&self) -> &str {
        &self.port_prefix
    }

    /// Interface that admitted packets leave by.
    pub(crate) fn admit_out(&self) -> &str {
        &self.admit_out
    }

    /// Interface that admitted packets come in by again.
    pub(crate) fn admit_back(&self) -> &str {
        &self.admit_back
    }

    /// Mark of admitted packets, and number of their routing table.
    pub(crate) fn mark(&self) -> u32 {
        self.mark
    }

    /// Name of a network's bridge.
    pub(crate) fn bridge(&self, is_default: bool, id: &NetworkId) -> String {
        if is_default {
            return format!("{}0", self.table);
        }
        fill(&format!("{}-", self.table), id.as_str())
    }

    /// Name of our end of a container's interface.
    pub(crate) fn port(&self, random: &str) -> String {
        fill(&self.port_prefix, random)
    }
}

/// As much of `digits` behind `prefix` as a name has room for.
fn fill(prefix: &str, digits: &str) -> String {
    let room = INTERFACE_NAME_BYTES.saturating_sub(prefix.len());
    format!("{prefix}{}", digits.get(..room).unwrap_or(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_engines_share_no_name() {
        let id = NetworkId::new([0xab; 32]);
        let all = |tag: &str| {
            let names = Names::new(tag).expect("a tag");
            let (default, other) = (names.bridge(true, &id), names.bridge(false, &id));
            let port = names.port(id.as_str());
            let detour = [names.admit_out().to_owned(), names.admit_back().to_owned()];
            [default, other, port].into_iter().chain(detour).collect::<Vec<_>>()
        };

        let (one, two) = (all(""), all("a1b2"));

        assert!(one.iter().all(|name| !two.contains(name)), "{one:?} {two:?}");
        let longest = one.iter().chain(&two).map(String::len).max();
        assert!(longest <= Some(INTERFACE_NAME_BYTES), "{one:?} {two:?}");
        let foreign = Names::new("").expect("no tag");
        assert!(two.iter().all(|name| !name.starts_with(foreign.port_prefix())), "{two:?}");
    }

    #[test]
    fn a_tag_has_four_hexadecimal_digits() {
        for tag in ["a", "abcde", "wxyz", "ä1b"] {
            assert!(Names::new(tag).is_err(), "{tag:?}");
        }
    }
}
