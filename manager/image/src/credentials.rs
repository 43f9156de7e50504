//! Credentials: given with a call, or found in `~/.docker/config.json`.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use crate::base64;

/// Key of the default registry in Docker's file.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

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
            Self::Basic { username, password } => Some(format!(
                "Basic {}",
                base64::encode(format!("{username}:{password}").as_bytes())
            )),
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

/// Where credentials are looked for that no call gives.
#[derive(Debug, Clone, Default)]
pub struct CredentialFile {
    path: Option<PathBuf>,
}

/// The parts of Docker's file that are used.
#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerConfig {
    auths: HashMap<String, Auth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl CredentialFile {
    /// Uses this file, in Docker's format.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()) }
    }

    /// Uses `$DOCKER_CONFIG/config.json`, or else `~/.docker/config.json`.
    #[must_use]
    pub fn of_user() -> Self {
        let dir = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
        Self { path: dir.map(|dir| dir.join("config.json")) }
    }

    /// Returns the credentials for a registry, if the file has any. A file that is missing or
    /// cannot be read has none; the file is read each time, so that a login counts at once.
    #[must_use]
    pub fn find(&self, domain: &str) -> Option<Credentials> {
        let text = fs::read_to_string(self.path.as_ref()?).ok()?;
        let config: DockerConfig = match serde_json::from_str(&text) {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!(path = ?self.path, line = error.line(), "not a Docker configuration");
                return None;
            }
        };
        let auth = config.auths.iter().find(|(key, _)| key_matches(key, domain))?.1;
        credentials(auth)
    }
}

/// Tells whether a key of the file (a host, or a URL of old) is for this registry.
fn key_matches(key: &str, domain: &str) -> bool {
    if domain == crate::reference::DEFAULT_DOMAIN && key == DOCKER_HUB_KEY {
        return true;
    }
    let host = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    host.split('/').next() == Some(domain)
}

fn credentials(auth: &Auth) -> Option<Credentials> {
    if !auth.identitytoken.is_empty() {
        return Some(Credentials::IdentityToken(auth.identitytoken.clone()));
    }
    if !auth.username.is_empty() {
        let (username, password) = (auth.username.clone(), auth.password.clone());
        return Some(Credentials::Basic { username, password });
    }
    let decoded = String::from_utf8(base64::decode(auth.auth.trim())?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    let password = password.trim_end_matches('\0').to_owned();
    Some(Credentials::Basic { username: username.to_owned(), password })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_gets_its_own_credentials_in_every_form_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let text = r#"{
            "auths": {
                "https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0"},
                "https://old.example/v2/": {"username": "u", "password": "p"},
                "token.example:5000": {"identitytoken": "t"},
                "empty.example": {}
            },
            "credsStore": "desktop"
        }"#;
        fs::write(&path, text).unwrap();
        let file = CredentialFile::at(path);
        let basic = |username: &str, password: &str| {
            let (username, password) = (username.to_owned(), password.to_owned());
            Some(Credentials::Basic { username, password })
        };

        assert_eq!(file.find("docker.io"), basic("me", "secret"));
        assert_eq!(file.find("old.example"), basic("u", "p"));
        let token = Credentials::IdentityToken("t".to_owned());
        assert_eq!(file.find("token.example:5000"), Some(token));
        assert_eq!(file.find("token.example"), None);
        assert_eq!(file.find("empty.example"), None);
        assert_eq!(CredentialFile::at(dir.path().join("absent")).find("docker.io"), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let basic =
            Credentials::Basic { username: "me".to_owned(), password: "hunter2".to_owned() };
        let token = Credentials::IdentityToken("hunter2".to_owned());

        assert!(!format!("{basic:?} {token:?}").contains("hunter2"));
        assert_eq!(basic.basic_value().as_deref(), Some("Basic bWU6aHVudGVyMg=="));
    }
}
