//! Identifiers and names of containers.
//!
//! An id is 64 hexadecimal digits from the kernel's random source and never changes; a name is
//! chosen by people, unique among the containers that exist, and can be given again once its
//! container is gone.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Characters of an id that people see in lists.
const SHORT_LENGTH: usize = 12;

/// Longest name. A name becomes a host name and a file name; both end at 255 octets.
const NAME_MAX: usize = 253;

/// Why a text is not an id or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not 64 lowercase hexadecimal digits.
    #[error("{text:?} is not a container id: an id is 64 hexadecimal digits")]
    Id {
        /// What was given.
        text: String,
    },
    /// Breaks the rule for names.
    #[error(
        "{text:?} is not a valid container name: a name is a letter or digit, followed by one or \
         more letters, digits, \"_\", \".\" or \"-\""
    )]
    Name {
        /// What was given.
        text: String,
    },
}

/// A container's id: 64 lowercase hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Makes a new id from random octets.
    pub fn from_random(octets: [u8; 32]) -> Self {
        Self(octets.iter().map(|octet| format!("{octet:02x}")).collect())
    }

    /// Accepts a full id.
    ///
    /// # Errors
    /// [`InvalidId::Id`] if `text` is anything but 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let valid =
            text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidId::Id { text: text.to_owned() }) }
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The beginning that lists show, and that is the default host name.
    pub fn short(&self) -> &str {
        &self.0[..SHORT_LENGTH]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

/// A container's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

impl ContainerName {
    /// Accepts a name; one leading slash, which Docker's API puts there, is dropped.
    ///
    /// # Errors
    /// [`InvalidId::Name`] if it is shorter than two characters, longer than 253, or holds a
    /// character that a name must not have.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let name = text.strip_prefix('/').unwrap_or(text);
        let mut bytes = name.bytes();
        let valid = name.len() <= NAME_MAX
            && bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && bytes.len() > 0
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if valid {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidId::Name { text: text.to_owned() })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ContainerName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<ContainerName> for String {
    fn from(name: ContainerName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_its_octets_and_shortens_to_twelve_digits() {
        let id = ContainerId::from_random([0xab; 32]);

        assert_eq!(id.as_str(), "ab".repeat(32));
        assert_eq!(id.short(), "abababababab");
        assert_eq!(ContainerId::parse(id.as_str()), Ok(id));
    }

    #[test]
    fn ids_that_are_short_or_not_lowercase_hexadecimal_are_refused() {
        for text in ["", "ab", &"AB".repeat(32), &"g0".repeat(32), &"ab".repeat(33)] {
            assert!(ContainerId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_follow_dockers_rule() {
        for text in ["ab", "a1", "0web", "web_1.a-b", "/web", &"a".repeat(253)] {
            assert!(ContainerName::parse(text).is_ok(), "{text}");
        }
        let hostile =
            ["", "a", "/", "-a", ".a", "..", "a/b", "a b", "a\n", "ä1", "a\0", &"a".repeat(254)];
        for text in hostile {
            assert!(ContainerName::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(ContainerName::parse("/web").unwrap().as_str(), "web");
    }
}
