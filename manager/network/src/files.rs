//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` as a container sees them.
//!
//! The files live beside the container's log and are bound over the image's own, so that the image
//! stays as it is and the container may change its copy.

use std::net::IpAddr;

use crate::dns::RESOLVER;
use crate::mode::NetworkMode;

/// Name servers of a container whose host names only servers that it cannot reach.
const FALLBACK_NAME_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// What the host has in its own files.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFiles<'a> {
    /// `/etc/hosts`.
    pub hosts: &'a str,
    /// `/etc/resolv.conf`.
    pub resolv_conf: &'a str,
}

/// What to render.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// Host name inside.
    pub hostname: &'a str,
    /// Domain behind the host name, or empty.
    pub domainname: &'a str,
    /// Addresses of the container, under which its host name is entered.
    pub addresses: Vec<IpAddr>,
    /// Further entries for `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Name servers in place of the host's.
    pub dns: Vec<IpAddr>,
    /// The container asks [`crate::dns::RESOLVER`], which knows names without dots; no name
    /// server of others is entered.
    pub asks_us: bool,
    /// Search domains in place of the host's.
    pub dns_search: Vec<String>,
    /// Resolver options in place of the host's.
    pub dns_options: Vec<String>,
}

/// The three files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcFiles {
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/hostname`.
    pub hostname: String,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
}

impl EtcFiles {
    /// Renders the files for a container with network mode `mode`.
    pub fn render(mode: &NetworkMode, request: &Request<'_>, host: HostFiles<'_>) -> Self {
        Self {
            hosts: hosts(mode, request, host),
            hostname: format!("{}\n", request.hostname),
            resolv_conf: resolv_conf(mode, request, host),
        }
    }
}

/// A container on the host's network resolves as the host does; others start from the usual names.
fn hosts(mode: &NetworkMode, request: &Request<'_>, host: HostFiles<'_>) -> String {
    let mut text = match mode {
        NetworkMode::Host if !host.hosts.is_empty() => host.hosts.trim_end().to_owned() + "\n",
        _ => concat!(
            "127.0.0.1\tlocalhost\n",
            "::1\tlocalhost ip6-localhost ip6-loopback\n",
            "fe00::\tip6-localnet\n",
            "ff00::\tip6-mcastprefix\n",
            "ff02::1\tip6-allnodes\n",
            "ff02::2\tip6-allrouters\n",
        )
        .to_owned(),
    };
    for (name, address) in &request.extra_hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    for address in &request.addresses {
        text.push_str(&format!("{address}\t{}\n", own_names(request)));
    }
    text
}

/// The host name, after the full name if there is a domain.
fn own_names(request: &Request<'_>) -> String {
    if request.domainname.is_empty() {
        request.hostname.to_owned()
    } else {
        format!("{0}.{1} {0}", request.hostname, request.domainname)
    }
}

/// Takes the host's resolver settings, with what was asked for in their place. A name server on
/// the host's loopback device is out of reach from a network namespace of its own, and left out.
fn resolv_conf(mode: &NetworkMode, request: &Request<'_>, host: HostFiles<'_>) -> String {
    let of_host = |keyword: &str| -> Vec<String> {
        host.resolv_conf
            .lines()
            .filter_map(|line| line.trim().strip_prefix(keyword))
            .filter(|rest| rest.starts_with([' ', '\t']))
            .map(|rest| rest.trim().to_owned())
            .collect()
    };
    let mut servers: Vec<String> = if request.asks_us {
        vec![RESOLVER.to_string()]
    } else if request.dns.is_empty() {
        of_host("nameserver")
    } else {
        request.dns.iter().map(IpAddr::to_string).collect()
    };
    if !request.asks_us && request.dns.is_empty() && *mode != NetworkMode::Host {
        servers.retain(|server| !is_loopback(server));
        if servers.is_empty() {
            servers = FALLBACK_NAME_SERVERS.map(str::to_owned).to_vec();
        }
    }
    let or_host = |given: &[String], keyword: &str| match given {
        [] => of_host(keyword).pop().unwrap_or_default(),
        given => given.join(" "),
    };
    let mut options = or_host(&request.dns_options, "options");
    if request.asks_us && !options.contains("ndots:") {
        // Else a search domain would be asked for names that are ours to know.
        options = format!("{options} ndots:0").trim_start().to_owned();
    }
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search = or_host(&request.dns_search, "search");
    for (keyword, value) in [("search", search), ("options", options)] {
        if !value.is_empty() && value != "." {
            text.push_str(&format!("{keyword} {value}\n"));
        }
    }
    text
}

/// Whether `server` is an address of the loopback device; a zone (`%eth0`) does not matter.
fn is_loopback(server: &str) -> bool {
    server
        .split('%')
        .next()
        .and_then(|address| address.parse::<IpAddr>().ok())
        .is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOLV_CONF: &str = "# made by hand\nnameserver 127.0.0.53\nnameserver 10.0.0.2\n\
         search a.example b.example\noptions ndots:2\n";

    fn host() -> HostFiles<'static> {
        HostFiles { hosts: "127.0.0.1 localhost box\n", resolv_conf: RESOLV_CONF }
    }

    #[test]
    fn a_namespace_of_its_own_gets_no_name_server_on_the_hosts_loopback() {
        let request = Request { hostname: "web", ..Request::default() };

        let files = EtcFiles::render(&NetworkMode::None, &request, host());

        assert_eq!(
            files.resolv_conf,
            "nameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:2\n"
        );
        assert_eq!(files.hostname, "web\n");
        assert!(files.hosts.starts_with("127.0.0.1\tlocalhost\n"));
    }

    #[test]
    fn the_hosts_network_keeps_the_hosts_files() {
        let request = Request { hostname: "web", ..Request::default() };

        let files = EtcFiles::render(&NetworkMode::Host, &request, host());

        assert_eq!(files.hosts, "127.0.0.1 localhost box\n");
        assert!(files.resolv_conf.starts_with("nameserver 127.0.0.53\n"));
    }

    #[test]
    fn a_host_with_local_resolvers_only_falls_back_to_public_ones() {
        let request = Request::default();
        let host = HostFiles { hosts: "", resolv_conf: "nameserver ::1\n" };

        let files = EtcFiles::render(&NetworkMode::None, &request, host);

        assert_eq!(files.resolv_conf, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }

    #[test]
    fn what_was_asked_for_replaces_what_the_host_has() {
        let request = Request {
            hostname: "web",
            domainname: "example",
            addresses: vec!["172.20.0.2".parse().unwrap()],
            extra_hosts: vec![("db".into(), "172.20.0.3".parse().unwrap())],
            dns: vec!["192.0.2.53".parse().unwrap()],
            dns_search: vec![".".into()],
            dns_options: vec!["ndots:0".into()],
            ..Request::default()
        };

        let files = EtcFiles::render(&NetworkMode::None, &request, host());

        assert_eq!(files.resolv_conf, "nameserver 192.0.2.53\noptions ndots:0\n");
        assert!(files.hosts.ends_with("172.20.0.3\tdb\n172.20.0.2\tweb.example web\n"));
    }

    #[test]
    fn who_asks_us_asks_nobody_else_and_for_short_names_first() {
        let request = Request { asks_us: true, ..Request::default() };
        let mode = NetworkMode::Network("front".into());

        let files = EtcFiles::render(&mode, &request, HostFiles::default());
        let with_options = EtcFiles::render(&mode, &request, host());

        assert_eq!(files.resolv_conf, "nameserver 127.0.0.11\noptions ndots:0\n");
        assert!(with_options.resolv_conf.ends_with("options ndots:2\n"), "{with_options:?}");
    }
}
