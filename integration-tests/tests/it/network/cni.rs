//! Networks that CNI plugins make (CNI specification 1.1), by Debian's plugins.

use std::fs;
use std::path::Path;

use keg_fixtures::{Daemon, Machine, requires};

use super::{address, etc, serve};

/// A bridge with addresses of host-local, ports of portmap.
const CONFLIST: &str = r#"{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
     "ipam": {"type": "host-local", "dataDir": "DATA", "ranges": [[{"subnet": "10.99.0.0/24"}]],
              "routes": [{"dst": "0.0.0.0/0"}]},
     "dns": {"nameservers": ["10.99.0.53"]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]}"#;

/// Where the administrator's configurations are, and where plugins keep theirs.
fn set_up(directory: &Path, conflist: &str) -> String {
    let (configs, data) = (directory.join("net.d"), directory.join("data"));
    fs::create_dir_all(&configs).unwrap();
    let text = conflist.replace("DATA", data.to_str().unwrap());
    fs::write(configs.join("10-pods.conflist"), text).unwrap();
    format!("[network]\ncni_config_dirs = [{configs:?}]\n")
}

/// Addresses that host-local has given out.
fn given_out(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory.join("data/pods")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.99.")).collect()
}

#[test]
fn a_container_is_connected_and_disconnected_by_plugins() {
    requires!(root, cni_plugins);
    let (host, outside) = Machine::pair();
    let directory = tempfile::tempdir().unwrap();
    let (daemon, image) = Daemon::on(&host, &set_up(directory.path(), CONFLIST));

    let _ = serve(&daemon, &image, "web", &["--network", "cni:pods", "-p", "8080:80"]);

    let ip = address(&daemon, "web", "cni:pods");
    assert!(ip.starts_with("10.99.0."), "{ip}");
    assert_eq!(given_out(directory.path()), std::slice::from_ref(&ip));
    assert!(host.hear(&format!("{ip}:80")).unwrap().starts_with("web "));
    assert!(outside.hear("192.0.2.1:8080").unwrap().starts_with("web "));
    assert!(etc(&daemon, "web", "hosts").contains(&ip));
    assert!(etc(&daemon, "web", "resolv.conf").starts_with("nameserver 10.99.0.53\n"));
    assert_eq!(daemon.keg(["port", "web"]).success().stdout, "80/tcp -> 0.0.0.0:8080\n");
    let listed = daemon.keg(["network", "ls", "-f", "driver=cni", "--format", "{{.Name}}"]);
    assert_eq!(listed.success().stdout, "cni:pods\n");

    let _ = daemon.keg(["rm", "-f", "web"]).success();
    assert!(given_out(directory.path()).is_empty());
    assert!(!outside.reaches("192.0.2.1:8080"));
}

#[test]
fn what_a_container_had_is_given_back_after_a_crash_of_the_daemon() {
    requires!(root, cni_plugins);
    let host = Machine::new();
    let directory = tempfile::tempdir().unwrap();
    let (mut daemon, image) = Daemon::on(&host, &set_up(directory.path(), CONFLIST));
    let _ = serve(&daemon, &image, "stays", &["--network", "cni:pods"]);
    let _ = serve(&daemon, &image, "ends", &["--network", "cni:pods"]);
    let (pid, stays) = (daemon.pid_of("ends"), address(&daemon, "stays", "cni:pods"));

    daemon.kill9();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.start();

    assert_eq!(given_out(directory.path()), std::slice::from_ref(&stays));
    assert_eq!(address(&daemon, "stays", "cni:pods"), stays);
    let _ = daemon.keg(["rm", "-f", "stays"]).success();
    assert!(given_out(directory.path()).is_empty());
}

#[test]
fn what_plugins_refuse_is_told_in_their_words_and_leaves_nothing() {
    requires!(root, cni_plugins);
    let host = Machine::new();
    let directory = tempfile::tempdir().unwrap();
    // The second plugin fails: what the first has given must be taken back.
    let conflist =
        CONFLIST.replace("\"portmap\"", "\"tuning\", \"sysctl\": {\"net.no.such\": \"1\"}");
    let (daemon, image) = Daemon::on(&host, &set_up(directory.path(), &conflist));
    let refused = |network: &str, expected: &str| {
        let outcome = daemon.keg(["run", "--rm", "--network", network, &image, "true"]);
        assert_eq!(outcome.exit_code, 125);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    };

    refused("cni:pods", "tuning");
    assert!(given_out(directory.path()).is_empty());
    refused("cni:nowhere", "there is no CNI network \"nowhere\"; there are: pods");
    let config = directory.path().join("net.d/10-pods.conflist");
    fs::write(config, r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"no-such"}]}"#)
        .unwrap();
    refused("cni:pods", "\"no-such\" is in none of");
}
