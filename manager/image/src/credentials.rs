//! Credentials: given with a call, and kept no longer.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What proves to a registry who asks. Never printed, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User and password or access token.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// A token that is exchanged for access tokens.
    IdentityToken(String),
}

impl Credentials {
    /// Returns user and password as they are sent for basic authentication.
    pub(crate) fn basic_value(&self) -> Option<String> {
        match self {
            Self::Basic { username, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            Self::IdentityToken(_) => None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic {{ username: {username:?}, .. }}"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let basic =
            Credentials::Basic { username: "me".to_owned(), password: "hunter2".to_owned() };
        let token = Credentials::IdentityToken("hunter2".to_owned());

        assert!(!format!("{basic:?} {token:?}").contains("hunter2"));
        assert_eq!(basic.basic_value().as_deref(), Some("Basic bWU6aHVudGVyMg=="));
    }
}
