//! Lists of processors and of memory nodes: `0-2,4` (cpuset(7), “List format”).
//!
//! A list that names what the host has not is refused before anything is made: the kernel would refuse it
//! too, by a number.

use std::collections::BTreeSet;
use std::fs;

use crate::error::EngineError;

/// Numbers that the kernel has for processors and nodes at most, so that a range is no burden.
const NUMBERS_MAX: u32 = 8192;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--cpuset-cpus`.
    Processors,
    /// `--cpuset-mems`.
    Nodes,
}

impl Kind {
    fn field(self) -> &'static str {
        match self {
            Self::Processors => "cpuset-cpus",
            Self::Nodes => "cpuset-mems",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Processors => "processors",
            Self::Nodes => "memory nodes",
        }
    }

    /// Where the kernel lists those that are there.
    fn online(self) -> &'static str {
        match self {
            Self::Processors => "/sys/devices/system/cpu/online",
            Self::Nodes => "/sys/devices/system/node/online",
        }
    }
}

/// Refuses a list that is none, or that names what the host has not.
///
/// # Errors
/// [`EngineError::InvalidField`] with what there is.
pub(crate) fn check(kind: Kind, list: Option<&str>) -> Result<(), EngineError> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(()) };
    // A kernel that does not tell decides by itself.
    let online = fs::read_to_string(kind.online()).unwrap_or_default();
    problem(kind, list, online.trim())
        .map_or(Ok(()), |problem| Err(EngineError::InvalidField { field: kind.field(), problem }))
}

/// What is wrong with a list where `online` are there.
fn problem(kind: Kind, list: &str, online: &str) -> Option<String> {
    let Some(wanted) = numbers(list) else {
        return Some(format!("{list:?} is no list: give numbers and ranges, as in 0-2,4"));
    };
    let present = numbers(online)?;
    (!wanted.is_subset(&present)).then(|| {
        format!("{list:?} names what is not here: this host has the {} {online}", kind.name())
    })
}

/// The numbers of a list; `None` if it is none.
fn numbers(list: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= NUMBERS_MAX {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_what_is_there_and_nothing_else() {
        for list in ["0", "0-3", "1,3", "2-2,0-1"] {
            assert_eq!(problem(Kind::Processors, list, "0-3"), None, "{list}");
        }
        for (list, word) in [
            ("4", "this host has the processors 0-3"),
            ("0-9", "this host has the processors 0-3"),
            ("", "no list"),
            ("x", "no list"),
            ("3-1", "no list"),
            ("1,,2", "no list"),
            ("0-4294967295", "no list"),
        ] {
            let told = problem(Kind::Processors, list, "0-3").unwrap_or_default();
            assert!(told.contains(word), "{list}: {told}");
        }
        assert_eq!(problem(Kind::Nodes, "7", ""), None, "a kernel that does not tell");
    }
}
