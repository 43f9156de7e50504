//! `~/.docker/config.json`, of which only the keys that concern credentials are understood, and all
//! are kept.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keg_proto::keg::v1::RegistryAuth;
use serde_json::{Map, Value};

use super::{Keeper, key};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Neither `HOME` nor `DOCKER_CONFIG` says where it is.
    #[error("there is no home directory to keep credentials in: set HOME or DOCKER_CONFIG")]
    NoHome,
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not valid.
    #[error("{} is not a valid configuration", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The configuration, as read.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// The object "auths".
    auths: Map<String, Value>,
    /// Everything else.
    rest: Map<String, Value>,
}

impl ConfigFile {
    /// Reads the user's file; `None` if there is none.
    ///
    /// # Errors
    /// [`FileError::Read`], [`FileError::Malformed`].
    pub(crate) fn of_user() -> Result<Option<Self>, FileError> {
        path_of_user().map_or(Ok(None), Self::at)
    }

    /// Reads the user's file, or begins a new one.
    ///
    /// # Errors
    /// As [`Self::of_user`]; [`FileError::NoHome`].
    pub(crate) fn to_change() -> Result<Self, FileError> {
        let path = path_of_user().ok_or(FileError::NoHome)?;
        let empty = Self { path: path.clone(), auths: Map::new(), rest: Map::new() };
        Ok(Self::at(path)?.unwrap_or(empty))
    }

    fn at(path: PathBuf) -> Result<Option<Self>, FileError> {
        let text = match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => return Ok(None),
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::Read { path, source }),
        };
        let mut rest: Map<String, Value> = match serde_json::from_str(&text) {
            Ok(document) => document,
            Err(source) => return Err(FileError::Malformed { path, source }),
        };
        let auths = match rest.remove("auths") {
            Some(Value::Object(auths)) => auths,
            _ => Map::new(),
        };
        Ok(Some(Self { path, auths, rest }))
    }

    /// Returns the file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where a registry's credentials are kept.
    pub(crate) fn keeper(&self, registry: &str) -> Keeper {
        let of_registry = self.rest.get("credHelpers").and_then(|helpers| {
            helpers.get(registry).or_else(|| helpers.get(key(registry))).and_then(Value::as_str)
        });
        let of_all = self.rest.get("credsStore").and_then(Value::as_str);
        match of_registry.or(of_all).filter(|name| !name.is_empty()) {
            Some(name) => Keeper::Helper(name.to_owned()),
            None => Keeper::File,
        }
    }

    /// Returns the credentials that the file itself has.
    pub(crate) fn find(&self, registry: &str) -> Option<RegistryAuth> {
        // The name as we would write it comes before what others wrote of the same host.
        let others = || self.auths.iter().find(|(key, _)| key_matches(key, registry));
        let entry = self.auths.get(key(registry)).or_else(|| Some(others()?.1))?;
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let identity_token = text("identitytoken").to_owned();
        let (username, password) = match text("auth") {
            "" => (text("username").to_owned(), text("password").to_owned()),
            encoded => decode(encoded)?,
        };
        let is_empty = username.is_empty() && identity_token.is_empty();
        let registry = String::new();
        (!is_empty).then_some(RegistryAuth { username, password, identity_token, registry })
    }

    /// Tells whether the file has an entry for a registry.
    pub(crate) fn has(&self, registry: &str) -> bool {
        self.auths.keys().any(|key| key_matches(key, registry))
    }

    /// Puts credentials in, or takes them out.
    pub(crate) fn set(&mut self, registry: &str, auth: Option<&RegistryAuth>) {
        self.auths.retain(|key, _| !key_matches(key, registry));
        if let Some(RegistryAuth { username, password, identity_token, .. }) = auth {
            let mut entry = Map::new();
            let encoded = STANDARD.encode(format!("{username}:{password}"));
            entry.insert("auth".to_owned(), Value::String(encoded));
            if !identity_token.is_empty() {
                let token = Value::String(identity_token.clone());
                entry.insert("identitytoken".to_owned(), token);
            }
            self.auths.insert(key(registry).to_owned(), Value::Object(entry));
        }
    }

    /// Notes that a helper has credentials, as Docker does.
    pub(crate) fn mark(&mut self, registry: &str) {
        self.auths.retain(|key, _| !key_matches(key, registry));
        self.auths.insert(key(registry).to_owned(), Value::Object(Map::new()));
    }

    /// Writes the file, for its owner alone, whole or not at all.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub(crate) fn write(&self) -> Result<(), FileError> {
        // A link leads to where people keep their settings: what it points at is replaced.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |source| FileError::Write { path: path.clone(), source };
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let unfinished = path.with_extension(format!("json.{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut document = self.rest.clone();
        document.insert("auths".to_owned(), Value::Object(self.auths.clone()));
        let outcome = options.open(&unfinished).and_then(|mut file| {
            file.write_all(&serde_json::to_vec_pretty(&document)?)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)
        });
        outcome.map_err(|source| {
            // What is half written has secrets in it; that it cannot be removed is the lesser news.
            let _ = fs::remove_file(&unfinished);
            failed(source)
        })
    }
}

/// `$DOCKER_CONFIG/config.json`, or else `~/.docker/config.json`.
fn path_of_user() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = set("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".docker")))?;
    Some(directory.join("config.json"))
}

/// Tells whether a key of the file (a host, or a URL of old) is for this registry.
fn key_matches(found: &str, registry: &str) -> bool {
    if found == key(registry) {
        return true;
    }
    let host = found.strip_prefix("https://").or_else(|| found.strip_prefix("http://"));
    let host = host.unwrap_or(found).split('/').next();
    host == Some(registry)
}

fn decode(encoded: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, ConfigFile) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        fs::write(&path, text).expect("write");
        let file = ConfigFile::at(path).expect("valid").expect("there");
        (directory, file)
    }

    fn basic(username: &str, password: &str) -> RegistryAuth {
        let (username, password) = (username.to_owned(), password.to_owned());
        RegistryAuth { username, password, ..RegistryAuth::default() }
    }

    #[test]
    fn each_registry_gets_its_own_credentials_in_every_form_of_the_file() {
        let (_directory, file) = file(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0"},
                "https://old.example/v2/": {"username": "u", "password": "p"},
                "http://both.example/v1/": {"username": "old", "password": "p"},
                "both.example": {"username": "new", "password": "p"},
                "token.example:5000": {"identitytoken": "t"},
                "empty.example": {}
            }}"#,
        );

        assert_eq!(file.find("docker.io"), Some(basic("me", "secret")));
        assert_eq!(file.find("old.example"), Some(basic("u", "p")));
        assert_eq!(file.find("both.example"), Some(basic("new", "p")));
        let token = RegistryAuth { identity_token: "t".to_owned(), ..RegistryAuth::default() };
        assert_eq!(file.find("token.example:5000"), Some(token));
        assert_eq!(file.find("token.example"), None);
        assert_eq!(file.find("empty.example"), None);
    }

    #[test]
    fn a_registrys_own_helper_comes_before_that_for_all() {
        let (_directory, file) =
            file(r#"{"credsStore": "all", "credHelpers": {"a.example": "own"}}"#);

        assert_eq!(file.keeper("a.example"), Keeper::Helper("own".to_owned()));
        assert_eq!(file.keeper("b.example"), Keeper::Helper("all".to_owned()));
    }

    #[test]
    fn what_is_written_is_found_again_beside_all_that_was_there() {
        let (_directory, mut file) =
            file(r#"{"HttpHeaders": {"X": "1"}, "auths": {"b.example": {"auth": "dTpw"}}}"#);

        file.set("docker.io", Some(&basic("me", "pa:ss")));
        file.set("b.example", None);
        file.write().expect("write");

        let again = ConfigFile::at(file.path.clone()).expect("valid").expect("there");
        assert_eq!(again.find("docker.io"), Some(basic("me", "pa:ss")));
        assert!(!again.has("b.example"));
        assert_eq!(again.rest["HttpHeaders"]["X"], "1");
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file.path).expect("file"));
        assert_eq!(mode & 0o777, 0o600);
    }
}
