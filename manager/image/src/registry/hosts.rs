//! What an operator says of a registry: mirrors, certificates, plain HTTP. In containerd's form,
//! `hosts.toml`, or in Docker's, certificates beside each other.
//!
//! ```text
//! CERTS.D/registry.example:5000/hosts.toml      server, [host."URL"] in the order in which they are asked
//! CERTS.D/registry.example_5000_/hosts.toml     the same, where a colon is no letter of a name
//! CERTS.D/registry.example:5000/*.crt           authorities besides those of the system
//! CERTS.D/registry.example:5000/NAME.{cert,key} what we show of ourselves
//! CERTS.D/_default/hosts.toml                   for registries that have no directory
//! ```
//!
//! The files are read for each operation, so that a change counts at once.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::endpoint::{self, Endpoint, TlsFiles, Trust};

/// Directory for registries that have none of their own.
const DEFAULT_DIR: &str = "_default";

/// Why an operator's settings for a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no valid TOML, or has a key that nobody knows.
    #[error("{path:?} is malformed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and how.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A host is no URL.
    #[error("{path:?}: {host:?} is not an http or https URL")]
    Url {
        /// The file.
        path: PathBuf,
        /// What should be a URL.
        host: String,
    },
    /// A header cannot be sent.
    #[error("{path:?}: the header {name:?} cannot be sent")]
    Header {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// There is no such capability.
    #[error(
        "{path:?}: there is no capability {name:?}; there are pull, resolve, push and referrers"
    )]
    Capability {
        /// The file.
        path: PathBuf,
        /// What was written.
        name: String,
    },
}

/// What hosts.toml has at its top, and below each host.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostFile {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: HashMap<String, OneOrMany>,
    /// Only at the top.
    server: Option<String>,
    /// Only at the top.
    host: HashMap<String, Spanned<HostEntry>>,
    /// Accepted for containerd's sake: our own timeouts hold.
    #[serde(rename = "dial_timeout")]
    _dial_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostEntry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: HashMap<String, OneOrMany>,
    #[serde(rename = "dial_timeout")]
    _dial_timeout: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A file with certificate and key, several such, or pairs of files.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<OneOrMany>),
}

impl OneOrMany {
    fn list(&self) -> Vec<&str> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many.iter().map(String::as_str).collect(),
        }
    }
}

/// Returns where to ask for a registry, in order: mirrors first, the registry itself last.
///
/// # Errors
/// [`HostsError`] if there are settings for it that cannot be used: nothing is guessed then.
pub(super) fn endpoints(
    domain: &str,
    dirs: &[PathBuf],
    insecure: &[String],
) -> Result<Vec<Endpoint>, HostsError> {
    let own = Endpoint::of_registry(domain, insecure);
    let Some(dir) = directory(domain, dirs) else { return Ok(vec![own]) };
    let path = dir.join("hosts.toml");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(vec![Endpoint { tls: certificates_in(&dir)?, ..own }]);
        }
        Err(source) => return Err(HostsError::Read { path, source }),
    };
    parse(&text, &path, own)
}

/// Parses a file of containerd's form; `own` is the registry as it is without one.
///
/// # Errors
/// [`HostsError`] naming the file and what is wrong in it.
pub(super) fn parse(text: &str, path: &Path, own: Endpoint) -> Result<Vec<Endpoint>, HostsError> {
    let mut file: HostFile = toml::from_str(text)
        .map_err(|source| HostsError::Malformed { path: path.to_owned(), source: source.into() })?;
    let mut hosts: Vec<(String, Spanned<HostEntry>)> = file.host.drain().collect();
    // The order in the file is the order in which they are asked.
    hosts.sort_by_key(|(_, entry)| entry.span().start);
    let mut endpoints = Vec::new();
    for (url, entry) in hosts {
        endpoints.push(entry.into_inner().endpoint(&url, path, &own)?);
    }
    let top = HostEntry {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
        header: file.header,
        _dial_timeout: None,
    };
    let server = match &file.server {
        Some(server) => top.endpoint(server, path, &own)?,
        None => top.apply(own, path)?,
    };
    // A server that is listed as a host too is asked once, as the host section says.
    if !endpoints.iter().any(|host| host.host == server.host && host.path == server.path) {
        endpoints.push(server);
    }
    Ok(endpoints)
}

impl HostEntry {
    /// Makes an endpoint of a URL and what is said of it.
    fn endpoint(&self, url: &str, path: &Path, own: &Endpoint) -> Result<Endpoint, HostsError> {
        let malformed = || HostsError::Url { path: path.to_owned(), host: url.to_owned() };
        let text = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let parsed = reqwest::Url::parse(&text).map_err(|_| malformed())?;
        let scheme = match parsed.scheme() {
            "https" => "https",
            "http" => "http",
            _ => return Err(malformed()),
        };
        let host = endpoint::host_of(&parsed);
        let prefix = parsed.path().trim_end_matches('/');
        let api = match self.override_path || prefix.ends_with("/v2") {
            true => format!("{prefix}/"),
            false => format!("{prefix}/v2/"),
        };
        let endpoint = Endpoint {
            is_mirror: host != own.host,
            trust: if scheme == "http" { Trust::Insecure } else { Trust::Tls },
            scheme: Some(scheme),
            host,
            path: api,
            ..own.clone()
        };
        self.apply(endpoint, path)
    }

    /// Adds what is said to an endpoint.
    fn apply(&self, mut endpoint: Endpoint, path: &Path) -> Result<Endpoint, HostsError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        if let Some(names) = &self.capabilities {
            let has = |name: &str| names.iter().any(|one| one == name);
            (endpoint.pulls, endpoint.resolves, endpoint.pushes) =
                (has("pull"), has("resolve"), has("push"));
            endpoint.refers = has("referrers");
            let known = ["pull", "resolve", "push", "referrers"];
            if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
                let (path, name) = (path.to_owned(), name.clone());
                return Err(HostsError::Capability { path, name });
            }
        }
        if self.skip_verify {
            endpoint.trust = Trust::Insecure;
            endpoint.scheme = endpoint.scheme.or(Some("https"));
        }
        for (name, values) in &self.header {
            let unsendable = || HostsError::Header { path: path.to_owned(), name: name.clone() };
            let header = HeaderName::try_from(name.as_str()).map_err(|_| unsendable())?;
            for value in values.list() {
                let value = HeaderValue::from_str(value).map_err(|_| unsendable())?;
                endpoint.headers.append(header.clone(), value);
            }
        }
        let file = |name: &str| dir.join(name);
        let authorities =
            self.ca.as_ref().map(OneOrMany::list).unwrap_or_default().into_iter().map(file);
        let identities = match &self.client {
            None => Vec::new(),
            Some(Client::One(both)) => vec![(file(both), None)],
            Some(Client::Many(many)) => many
                .iter()
                .map(|entry| match entry.list().as_slice() {
                    [certificate, key, ..] => (file(certificate), Some(file(key))),
                    [both] => (file(both), None),
                    [] => (file(""), None),
                })
                .collect(),
        };
        endpoint.tls = TlsFiles {
            authorities: authorities.collect(),
            identity: identities.into_iter().next(),
        };
        Ok(endpoint)
    }
}

/// Returns the first directory that has settings for a registry.
fn directory(domain: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    // A name is a host's, checked when the reference was parsed: it leads to no other directory.
    let windows_safe = domain.replace(':', "_") + "_";
    let names = match domain.contains(':') {
        true => vec![domain, windows_safe.as_str()],
        false => vec![domain],
    };
    let of_registry = dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name)));
    let of_all = dirs.iter().map(|dir| dir.join(DEFAULT_DIR));
    of_registry.chain(of_all).find(|dir| dir.is_dir())
}

/// Finds certificates in Docker's form.
fn certificates_in(dir: &Path) -> Result<TlsFiles, HostsError> {
    let failed = |source| HostsError::Read { path: dir.to_owned(), source };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    files.sort();
    let has_extension =
        |path: &Path, wanted: &str| path.extension().is_some_and(|extension| extension == wanted);
    let certificate = files.iter().find(|path| has_extension(path, "cert")).cloned();
    let identity = certificate.map(|certificate| {
        let key = certificate.with_extension("key");
        (certificate, Some(key))
    });
    let authorities = files.into_iter().filter(|path| has_extension(path, "crt")).collect();
    Ok(TlsFiles { authorities, identity })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse_for(domain: &str, text: &str) -> Result<Vec<Endpoint>, HostsError> {
        parse(text, Path::new("/certs/x/hosts.toml"), Endpoint::of_registry(domain, &[]))
    }

    #[test]
    fn hosts_are_asked_in_their_order_and_the_server_last() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
              capabilities = ["pull", "referrers"]
              ca = ["one.crt", "/etc/two.crt"]
              [host."https://z.example".header]
                X-Team = ["a", "b"]
            [host."http://a.example:5000/prefix"]
              skip_verify = true
            [host."https://m.example/own/path"]
              override_path = true
              client = [["me.cert", "me.key"]]
        "#;

        let endpoints = parse_for("docker.io", text).unwrap();

        let places: Vec<String> = endpoints
            .iter()
            .map(|one| format!("{}://{}{}", one.scheme.unwrap_or("?"), one.host, one.path))
            .collect();
        assert_eq!(
            places,
            [
                "https://z.example/v2/",
                "http://a.example:5000/prefix/v2/",
                "https://m.example/own/path/",
                "https://registry-1.docker.io/v2/",
            ]
        );
        let [z, a, m, server] = endpoints.as_slice() else { panic!("four") };
        assert_eq!((z.pulls, z.resolves, z.pushes, z.refers), (true, false, false, true));
        assert!(!a.refers, "a mirror lists referrers if that is said");
        assert_eq!(z.tls.authorities, [Path::new("/certs/x/one.crt"), Path::new("/etc/two.crt")]);
        assert_eq!(z.headers.get_all("x-team").iter().count(), 2);
        assert_eq!(a.trust, Trust::Insecure);
        let key = Some(PathBuf::from("/certs/x/me.key"));
        assert_eq!(m.tls.identity, Some((PathBuf::from("/certs/x/me.cert"), key)));
        assert!(z.is_mirror && !server.is_mirror && server.pushes);
    }

    #[test]
    fn settings_without_a_server_are_for_the_registry_itself() {
        let endpoints = parse_for("r.example:5000", "ca = \"ca.crt\"").unwrap();

        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints[0].host, "r.example:5000");
        assert_eq!(endpoints[0].tls.authorities, [Path::new("/certs/x/ca.crt")]);
    }

    #[test]
    fn what_is_not_understood_is_refused_and_named() {
        for (text, part) in [
            ("sever = \"https://x\"", "malformed"),
            ("server = \"ftp://x\"", "ftp://x"),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"https://x\".header]\n\"a b\" = \"c\"", "a b"),
        ] {
            let error = parse_for("x", text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("hosts.toml"), "{error}");
        }
    }

    #[test]
    fn the_first_directory_with_settings_counts() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (root.path().join("1"), root.path().join("2"));
        fs::create_dir_all(first.join("_default")).unwrap();
        fs::create_dir_all(second.join("r.example_5000_")).unwrap();
        let dirs = [first.clone(), second.clone()];

        assert_eq!(directory("r.example:5000", &dirs), Some(second.join("r.example_5000_")));
        assert_eq!(directory("other.example", &dirs), Some(first.join("_default")));
        assert_eq!(directory("other.example", &[second]), None);
    }

    #[test]
    fn certificates_in_dockers_form_are_found() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("r.example");
        fs::create_dir(&dir).unwrap();
        for name in ["ca.crt", "me.cert", "me.key", "readme"] {
            fs::write(dir.join(name), "").unwrap();
        }

        let found = endpoints("r.example", &[root.path().to_owned()], &[]).unwrap();

        assert_eq!(found[0].tls.authorities, [dir.join("ca.crt")]);
        assert_eq!(found[0].tls.identity, Some((dir.join("me.cert"), Some(dir.join("me.key")))));
    }

    proptest! {
        #[test]
        fn no_file_makes_the_parser_panic(text in "\\PC{0,300}") {
            let _ = parse_for("x.example", &text);
        }
    }
}
