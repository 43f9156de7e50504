//! Namespaces: tenants of one store, which see nothing of each other.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::{Explain, Reason};

/// Longest name of a namespace, in bytes; containerd's.
const MAX_LEN: usize = 76;

/// A name like `default` or `k8s.io`: runs of ASCII letters and digits, with single `.`, `_` or
/// `-` between them, so it is also safe as the name of a file.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(String);

/// Why a text does not name a namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name for a namespace")]
pub struct NamespaceError(pub String);

impl Explain for NamespaceError {
    fn reason(&self) -> Reason {
        Reason::InvalidArgument
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        Some("use up to 76 letters and digits, with single '.', '_' or '-' between them".into())
    }
}

impl Namespace {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    /// Returns `default`, the namespace of everything that `keg` makes.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    fn from_str(text: &str) -> Result<Self, NamespaceError> {
        let parts_are_words = text
            .split(['.', '_', '-'])
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if text.len() > MAX_LEN || !parts_are_words {
            return Err(NamespaceError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "-a", "a-", "a..b", "a b", &"a".repeat(77)] {
            assert_eq!(bad.parse::<Namespace>(), Err(NamespaceError(bad.to_owned())));
        }
        for good in ["default", "k8s.io", "a_b-c.d9", &"a".repeat(76)] {
            assert_eq!(good.parse::<Namespace>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
    }
}
