//! Endpoints: where a registry is reached, and whether by TLS.

use std::net::IpAddr;

use reqwest::Url;

use crate::DEFAULT_DOMAIN;

/// Where the default registry's API is.
const DEFAULT_ENDPOINT: &str = "registry-1.docker.io";

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

/// Returns a URL without its query, which may hold a signature.
pub(super) fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.into()
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

        assert_eq!(without_query(&url), "https://cdn.example/b");
        assert_eq!(host_of(&Url::parse("http://[::1]:5000/v2/").unwrap()), "[::1]:5000");
    }

    #[test]
    fn the_default_registry_answers_elsewhere() {
        assert_eq!(api_host("docker.io"), "registry-1.docker.io");
        assert_eq!(api_host("quay.io"), "quay.io");
    }
}
