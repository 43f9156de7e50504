//! Id maps of mounts: `uidmap=C:H:N`, and the user namespace that stands for them.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, kill_process};

use crate::sys;

/// A map of user and group ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdMap {
    users: Vec<Range>,
    groups: Vec<Range>,
}

/// `count` ids from `inside` on appear as those from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

/// Why there is no id map.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdMapError {
    #[error("id map {0:?}: expected INSIDE:OUTSIDE:COUNT, several of them with commas between")]
    Syntax(String),
    #[error("id maps come in pairs: uidmap= and gidmap=")]
    Half,
    #[error("make a user namespace for an id map")]
    Namespace(#[source] io::Error),
    #[error("write an id map: {text:?}")]
    Write {
        text: String,
        #[source]
        source: io::Error,
    },
}

impl IdMap {
    /// Takes the id map out of mount options; `None` if they have none.
    pub(crate) fn take(options: &mut Vec<String>) -> Result<Option<Self>, IdMapError> {
        let mut map = Self::default();
        for (name, ranges) in [("uidmap=", &mut map.users), ("gidmap=", &mut map.groups)] {
            for option in options.iter() {
                if let Some(text) = option.strip_prefix(name) {
                    ranges.append(&mut parse(text)?);
                }
            }
            options.retain(|option| !option.starts_with(name));
        }
        match (map.users.is_empty(), map.groups.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(map)),
            _ => Err(IdMapError::Half),
        }
    }

    /// Makes a user namespace with this map. It lives as long as the descriptor.
    pub(crate) fn user_namespace(&self) -> Result<OwnedFd, IdMapError> {
        let holder = sys::fork_into_user_namespace().map_err(IdMapError::Namespace)?;
        let namespace = self.fill(holder);
        if let Some(pid) = Pid::from_raw(holder) {
            // It is our child and not yet reaped, so the id is its own; the reaper takes it.
            let _ = kill_process(pid, Signal::KILL);
        }
        namespace
    }

    fn fill(&self, holder: i32) -> Result<OwnedFd, IdMapError> {
        for (file, ranges) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            let text: String = ranges
                .iter()
                .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count))
                .collect();
            fs::write(format!("/proc/{holder}/{file}"), &text)
                .map_err(|source| IdMapError::Write { text, source })?;
        }
        let file = File::open(format!("/proc/{holder}/ns/user")).map_err(IdMapError::Namespace)?;
        Ok(file.into())
    }
}

fn parse(text: &str) -> Result<Vec<Range>, IdMapError> {
    let syntax = || IdMapError::Syntax(text.to_owned());
    let range = |range: &str| {
        let mut numbers = range.split(':').map(|number| number.parse::<u32>().ok());
        let range =
            Range { inside: numbers.next()??, outside: numbers.next()??, count: numbers.next()?? };
        (numbers.next().is_none() && range.count > 0).then_some(range)
    };
    text.split(',').map(|part| range(part).ok_or_else(syntax)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(options: &[&str]) -> (Result<Option<IdMap>, IdMapError>, Vec<String>) {
        let mut options: Vec<String> = options.iter().map(ToString::to_string).collect();
        (IdMap::take(&mut options), options)
    }

    #[test]
    fn maps_are_taken_out_of_the_options() {
        let (map, rest) = take(&["index=off", "uidmap=0:1000:10,10:5:1", "gidmap=0:2:3", "ro"]);

        let map = map.unwrap().unwrap();
        let second = Range { inside: 10, outside: 5, count: 1 };
        assert_eq!((map.users.len(), map.users[1]), (2, second));
        assert_eq!(map.groups, [Range { inside: 0, outside: 2, count: 3 }]);
        assert_eq!(rest, ["index=off", "ro"]);
    }

    #[test]
    fn wrong_maps_are_refused() {
        for option in ["uidmap=0:1", "uidmap=0:1:2:3", "uidmap=a:b:c", "uidmap=0:0:0", "uidmap="] {
            assert!(matches!(take(&[option]).0, Err(IdMapError::Syntax(_))), "{option}");
        }
        assert!(matches!(take(&["uidmap=0:1:2"]).0, Err(IdMapError::Half)));
        assert!(matches!(take(&["ro"]).0, Ok(None)));
    }
}
