//! Where a container's network namespace comes from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a mode begins with that names another container.
const CONTAINER_PREFIX: &str = "container:";

/// Network modes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetworkMode {
    /// A network namespace of its own, with a loopback device only.
    None,
    /// The host's network namespace.
    Host,
    /// The network namespace of the container with this name or id.
    Container(String),
    /// A network namespace of its own, connected to the network with this name, and perhaps to
    /// others.
    Network(String),
}

/// Text that names no network mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no network: give the name of one (`keg network ls`), \"none\", \"host\" or \
     \"container:NAME\""
)]
pub struct UnknownNetwork {
    /// What was given.
    pub name: String,
}

impl NetworkMode {
    /// Whether the container gets a network namespace of its own.
    pub fn has_own_namespace(&self) -> bool {
        match self {
            Self::None | Self::Network(_) => true,
            Self::Host | Self::Container(_) => false,
        }
    }
}

impl FromStr for NetworkMode {
    type Err = UnknownNetwork;

    fn from_str(name: &str) -> Result<Self, UnknownNetwork> {
        match name {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "" | CONTAINER_PREFIX => Err(UnknownNetwork { name: name.to_owned() }),
            _ => Ok(match name.strip_prefix(CONTAINER_PREFIX) {
                Some(container) => Self::Container(container.to_owned()),
                None => Self::Network(name.to_owned()),
            }),
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(name) => write!(f, "{CONTAINER_PREFIX}{name}"),
            Self::Network(name) => f.write_str(name),
        }
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
        mode.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_survive_their_own_names() {
        let named = ["web".to_owned(), "a1b2".to_owned()];
        let [network, container] = named;
        for mode in [
            NetworkMode::None,
            NetworkMode::Host,
            NetworkMode::Container(container),
            NetworkMode::Network(network),
        ] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }

    #[test]
    fn what_names_nothing_is_no_mode() {
        for name in ["", "container:"] {
            let error = name.parse::<NetworkMode>().unwrap_err();

            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }
}
