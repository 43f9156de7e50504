//! Where a container's network namespace comes from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Network modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetworkMode {
    /// A network namespace of its own, with a loopback device only.
    None,
    /// The host's network namespace.
    Host,
}

/// No network mode is called that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown network {name:?}: give \"none\" or \"host\"")]
pub struct UnknownNetwork {
    /// What was given.
    pub name: String,
}

impl NetworkMode {
    /// Whether the container gets a network namespace of its own.
    pub fn has_own_namespace(self) -> bool {
        match self {
            Self::None => true,
            Self::Host => false,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

impl FromStr for NetworkMode {
    type Err = UnknownNetwork;

    fn from_str(name: &str) -> Result<Self, UnknownNetwork> {
        match name {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            _ => Err(UnknownNetwork { name: name.to_owned() }),
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for NetworkMode {
    type Error = UnknownNetwork;

    fn try_from(name: String) -> Result<Self, UnknownNetwork> {
        name.parse()
    }
}

impl From<NetworkMode> for String {
    fn from(mode: NetworkMode) -> Self {
        mode.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_survive_their_own_names() {
        for mode in [NetworkMode::None, NetworkMode::Host] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
    }

    #[test]
    fn an_unknown_mode_is_named_in_the_error() {
        let error = "bridge2".parse::<NetworkMode>().unwrap_err();

        assert!(error.to_string().contains("bridge2"));
    }
}
