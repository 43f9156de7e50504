//! The files of `/etc` that are the container's own: written before the start, and kept up to date
//! while its networks change.
//!
//! They are bound over the image's own as files, so they are changed in place and never renamed:
//! another file of that name would not be seen inside. The container may change them too; what it
//! has written stays, and only the lines that are ours come and go.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use keg_network::files::{HostFiles, Request};
use keg_network::{DEFAULT_NETWORK, EtcFiles, NetworkMode};

use crate::engine::file_error;
use crate::error::EngineError;
use crate::model::{ContainerDir, Record};
use crate::networking::{LiveEndpoint, is_cni};

/// Names that lead to the host in every container that can reach it.
const NAMES_OF_THE_HOST: [&str; 2] = ["host.docker.internal", "host.keg.internal"];
/// The host's own resolver settings, and those that systemd-resolved keeps for who cannot reach it.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Writes the files for a container that is on no network yet, and gives them to its root.
pub(crate) fn write(record: &Record, dir: &ContainerDir, owner: u32) -> Result<(), EngineError> {
    let files = render(record, &[]);
    for (name, text) in
        [("hosts", files.hosts), ("hostname", files.hostname), ("resolv.conf", files.resolv_conf)]
    {
        let path = dir.etc(name);
        std::fs::write(&path, text).map_err(file_error("write", &path))?;
        std::os::unix::fs::chown(&path, Some(owner), Some(owner))
            .map_err(file_error("give to the container", &path))?;
    }
    Ok(())
}

/// Where the files are.
pub(crate) fn paths(dir: &ContainerDir) -> [PathBuf; 3] {
    ["hosts", "hostname", "resolv.conf"].map(|name| dir.etc(name))
}

/// Brings the files up to date after the container's record and endpoints have changed.
pub(crate) fn refresh(
    dir: &ContainerDir,
    before: (&Record, &[LiveEndpoint]),
    after: (&Record, &[LiveEndpoint]),
) -> Result<(), EngineError> {
    let (old, new) = (render(before.0, before.1), render(after.0, after.1));
    for (name, old, new) in
        [("hosts", old.hosts, new.hosts), ("resolv.conf", old.resolv_conf, new.resolv_conf)]
    {
        if old == new {
            continue;
        }
        let path = dir.etc(name);
        let now = std::fs::read_to_string(&path).map_err(file_error("read", &path))?;
        std::fs::write(&path, patched(&now, &old, &new)).map_err(file_error("write", &path))?;
    }
    Ok(())
}

/// `now`, with the lines that only `old` has taken out, and those that only `new` has put in.
fn patched(now: &str, old: &str, new: &str) -> String {
    if now == old {
        return new.to_owned();
    }
    let has = |text: &str, line: &str| text.lines().any(|other| other == line);
    let kept = now.lines().filter(|line| !has(old, line) || has(new, line));
    let added = new.lines().filter(|line| !has(old, line) && !has(now, line));
    kept.chain(added).map(|line| format!("{line}\n")).collect()
}

fn render(record: &Record, endpoints: &[LiveEndpoint]) -> EtcFiles {
    let mode = record.network_mode();
    let host = &record.host;
    let hosts_address = match mode {
        NetworkMode::Host => Some(IpAddr::from([127, 0, 0, 1])),
        _ => gateway(endpoints),
    };
    let given = |name: &str| host.extra_hosts.iter().any(|extra| extra.name == name);
    let usual = NAMES_OF_THE_HOST.iter().filter(|name| !given(name));
    let usual = usual.filter_map(|name| Some(((*name).to_owned(), hosts_address?)));
    let asked = host.extra_hosts.iter();
    let asked =
        asked.filter_map(|extra| Some((extra.name.clone(), extra.address.or(hosts_address)?)));
    let request = Request {
        hostname: record.hostname(),
        domainname: &record.config.domainname,
        addresses: endpoints.iter().flat_map(|live| live.endpoint.ips()).collect(),
        extra_hosts: usual.chain(asked).collect(),
        dns: if host.dns.is_empty() { given_by_plugins(endpoints) } else { host.dns.clone() },
        asks_us: host.networks.iter().any(|attachment| has_names(&attachment.network)),
        dns_search: host.dns_search.clone(),
        dns_options: host.dns_options.clone(),
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (hosts, resolv_conf) = (read("/etc/hosts"), host_resolv_conf());
    EtcFiles::render(&mode, &request, HostFiles { hosts: &hosts, resolv_conf: &resolv_conf })
}

/// Whether containers on a network find each other by name.
fn has_names(network: &str) -> bool {
    network != DEFAULT_NETWORK && !is_cni(network)
}

/// Resolvers that CNI plugins have for a container.
fn given_by_plugins(endpoints: &[LiveEndpoint]) -> Vec<IpAddr> {
    let made_by_plugins = endpoints.iter().filter(|live| is_cni(&live.network));
    made_by_plugins.flat_map(|live| &live.endpoint.dns).copied().collect()
}

/// The host, as a container with these interfaces sees it: the gateway of its way out, if that is a
/// bridge of ours.
fn gateway(endpoints: &[LiveEndpoint]) -> Option<IpAddr> {
    let way_out = endpoints.iter().map(|live| &live.endpoint);
    let way_out = way_out.filter(|endpoint| endpoint.default_route && !endpoint.port.is_empty());
    way_out.flat_map(|endpoint| &endpoint.addresses).find_map(|address| address.gateway)
}

/// The host's resolver settings. Where they name a resolver on the loopback device only, which a
/// container cannot reach, those that systemd-resolved asks itself.
fn host_resolv_conf() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let [usual, upstream] = RESOLV_CONF;
    let text = read(usual).unwrap_or_default();
    let stub = |line: &str| line.trim_start().starts_with("nameserver 127.0.0.53");
    let has_stub = text.lines().any(stub) && Path::new(upstream).exists();
    if has_stub { read(upstream).unwrap_or(text) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ours_come_and_go_and_those_of_the_container_stay() {
        let (old, new) = ("a\n1 web\n", "a\n2 web\n");

        assert_eq!(patched(old, old, new), new);
        assert_eq!(patched("a\n1 web\nmine\n", old, new), "a\nmine\n2 web\n");
        assert_eq!(patched("mine\n", old, new), "mine\n2 web\n");
        assert_eq!(patched("a\n2 web\n# x\n", old, new), "a\n2 web\n# x\n");
    }
}
