//! Endpoints: where a registry is reached, and whether by TLS.

use std::net::IpAddr;
use std::path::PathBuf;

use http::HeaderMap;

use reqwest::Url;

use crate::DEFAULT_DOMAIN;

/// Where the default registry's API is.
const DEFAULT_ENDPOINT: &str = "registry-1.docker.io";

/// Where the default registry is searched.
pub(super) const SEARCH_HOST: &str = "index.docker.io";

/// How a host is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// TLS with a verified certificate, and nothing else.
    Tls,
    /// This machine itself: plain HTTP, or TLS.
    Loopback,
    /// Listed by the operator: plain HTTP, or TLS without verification.
    Insecure,
}

/// Certificates besides those of the system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct TlsFiles {
    /// Files with authorities to trust.
    pub(super) authorities: Vec<PathBuf>,
    /// File with our certificate, and with its key if that is elsewhere.
    pub(super) identity: Option<(PathBuf, Option<PathBuf>)>,
}

/// One place that answers for a registry.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// `HOST` or `HOST:PORT`.
    pub(super) host: String,
    /// `None`: to be found out.
    pub(super) scheme: Option<&'static str>,
    /// What the API's paths begin with: `/v2/`.
    pub(super) path: String,
    pub(super) trust: Trust,
    pub(super) tls: TlsFiles,
    /// Sent with every request to it.
    pub(super) headers: HeaderMap,
    /// Whether it is another host than the registry's own: it gets none of its credentials.
    pub(super) is_mirror: bool,
    /// Whether it may be asked for what has a digest.
    pub(super) pulls: bool,
    /// Whether it may be asked what a tag stands for.
    pub(super) resolves: bool,
    /// Whether it takes pushes.
    pub(super) pushes: bool,
    /// Whether it is a mirror that lists referrers too, as the operator says; the registry itself is asked
    /// in any case.
    pub(super) refers: bool,
}

impl Endpoint {
    /// Returns the registry itself, as it is without any settings.
    pub(super) fn of_registry(domain: &str, insecure: &[String]) -> Self {
        let host = api_host(domain).to_owned();
        let trust = trust(&host, insecure);
        Self {
            scheme: (trust == Trust::Tls).then_some("https"),
            host,
            path: "/v2/".to_owned(),
            trust,
            tls: TlsFiles::default(),
            headers: HeaderMap::new(),
            is_mirror: false,
            pulls: true,
            resolves: true,
            pushes: true,
            refers: false,
        }
    }
}

/// Returns the host (with its port) that answers for a registry.
pub(super) fn api_host(domain: &str) -> &str {
    if domain == DEFAULT_DOMAIN { DEFAULT_ENDPOINT } else { domain }
}

/// Tells how a host (with or without a port) is to be trusted.
pub(super) fn trust(host: &str, insecure: &[String]) -> Trust {
    if insecure.iter().any(|listed| listed == host) {
        Trust::Insecure
    } else if is_loopback(host_name(host)) {
        Trust::Loopback
    } else {
        Trust::Tls
    }
}

/// Returns `HOST` or `HOST:PORT` of a URL, as registries are written.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Returns a URL without its query, which may hold a signature, and without a user.
pub(crate) fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.into()
}

/// Tells whether a URL is of this machine.
pub(crate) fn is_on_loopback(url: &Url) -> bool {
    is_loopback(host_name(url.host_str().unwrap_or_default()))
}

fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    }
}

fn is_loopback(name: &str) -> bool {
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_listed_hosts_go_without_tls() {
        let insecure = ["old.example:5000".to_owned()];
        let trust = |host: &str| trust(host, &insecure);

        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert_eq!(trust(host), Trust::Loopback, "{host}");
        }
        for host in [
            "example.com",
            "old.example",
            "128.0.0.1",
            "[::2]",
            "localhost.evil.example",
            "0.0.0.0",
        ] {
            assert_eq!(trust(host), Trust::Tls, "{host}");
        }
        assert_eq!(trust("old.example:5000"), Trust::Insecure);
    }

    #[test]
    fn what_is_told_of_a_url_has_no_secret() {
        let url = Url::parse("https://u:p@cdn.example/b?Signature=s#f").unwrap();

        assert_eq!(without_secrets(&url), "https://cdn.example/b");
        assert_eq!(host_of(&Url::parse("http://[::1]:5000/v2/").unwrap()), "[::1]:5000");
    }

    #[test]
    fn the_default_registry_answers_elsewhere() {
        assert_eq!(api_host("docker.io"), "registry-1.docker.io");
        assert_eq!(api_host("quay.io"), "quay.io");
    }
}
