//! Where a container's network comes from: `--network`.

use keg_fixtures::{Daemon, Machine, requires};

use super::{address, etc, network, probe, serve};

#[test]
fn containers_are_on_the_default_network_and_reach_each_other_and_the_host() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");

    let id = serve(&daemon, &image, "web", &[]);

    let ip = address(&daemon, "web", "bridge");
    assert_eq!(host.hear(&format!("{ip}:80")).unwrap(), format!("web {}\n", gateway(&daemon)));
    let asked = daemon.keg(["run", "--rm", &image, "/probe", "ask", &format!("{ip}:80")]);
    assert!(asked.success().stdout.starts_with("web 172."), "a container is heard by another");
    let hosts = etc(&daemon, "web", "hosts");
    assert!(hosts.contains(&format!("{ip}\t{}\n", &id[..12])), "{hosts}");
    assert!(hosts.contains(&format!("{}\thost.docker.internal\n", gateway(&daemon))), "{hosts}");
    let info = daemon.inspect("web");
    assert_eq!(info["NetworkSettings"]["IPAddress"], ip);
    assert_eq!(info["HostConfig"]["NetworkMode"], "bridge");
    assert_eq!(network(&daemon, "bridge")["Containers"][&id]["Name"], "web");
}

fn gateway(daemon: &Daemon) -> String {
    let bridge = network(daemon, "bridge");
    bridge["IPAM"]["Config"][0]["Gateway"].as_str().unwrap().to_owned()
}

#[test]
fn none_has_a_loopback_device_only_and_host_has_the_hosts() {
    requires!(root);
    let host = Machine::new();
    host.sh("ip link add marker type bridge");
    let (daemon, image) = Daemon::on(&host, "");

    let interfaces = |mode: &str| {
        let flags = ["run", "--rm", "--network", mode, &image, "/probe", "report"];
        let report: keg_fixtures::Report = daemon.keg(flags).success().json();
        report.interfaces.into_keys().collect::<Vec<String>>()
    };

    assert_eq!(interfaces("none"), ["lo"]);
    assert!(interfaces("host").contains(&"marker".to_owned()));
}

#[test]
fn on_the_hosts_network_a_user_namespace_is_warned_of() {
    requires!(root, user_namespaces);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let run = |userns: &str| {
        daemon.keg(["run", "--rm", "--network", "host", "--userns", userns, &image, "true"])
    };

    let (with, without) = (run("auto"), run("host"));

    assert!(with.stderr.contains("ports below 1024"), "{with:?}");
    assert_eq!(without.stderr, "");
}

#[test]
fn a_container_can_have_the_network_of_another() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let _ = daemon.keg(["network", "create", "front"]).success();
    let _ = serve(&daemon, &image, "web", &["--network", "front", "--hostname", "webhost"]);
    let flags = ["run", "--rm", "--network", "container:web", &image];

    let asked = daemon.keg(flags.iter().chain(&["/probe", "ask", "127.0.0.1:80"])).success();
    let named = daemon.keg(flags.iter().chain(&["cat", "/etc/hostname"])).success();
    let found = daemon.keg(flags.iter().chain(&["/probe", "look-up", "web"])).success();

    assert_eq!(asked.stdout, "web 127.0.0.1\n");
    assert_eq!(named.stdout, "webhost\n");
    assert_eq!(found.stdout.trim(), address(&daemon, "web", "front"));
}

#[test]
fn what_contradicts_another_containers_network_is_refused() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let _ = daemon.keg(["create", "--name", "web", &image, "true"]).success();
    let _ = daemon.keg(["create", "--name", "bare", "--net", "host", &image, "true"]).success();

    let refused = |flags: &[&str], expected: &str| {
        let outcome =
            daemon.keg(["run", "--rm"].iter().chain(flags).chain(&[image.as_str(), "true"]));
        assert_eq!(outcome.exit_code, 125, "{flags:?}: {outcome:?}");
        assert!(outcome.stderr.contains(expected), "{flags:?}: {}", outcome.stderr);
    };

    refused(&["--net", "container:web"], "which does not run");
    refused(&["--net", "container:nobody"], "no such container: nobody");
    refused(&["--net", "container:bare"], "no network of its own");
    refused(&["--net", "container:web", "-p", "80"], "--publish contradicts");
    refused(&["--net", "nowhere"], "network \"nowhere\" does not exist");
    refused(&["--network-alias", "x"], "has no names");
    refused(&["--link", "web"], "there is no --link");
    refused(&["-p", "80:80:80:80"], "is not a port to publish");
}

#[test]
fn without_networks_the_daemon_serves_containers_that_need_none_and_says_why() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    // What is needed of the state directory cannot be had.
    let _ = daemon.stop();
    let endpoints = daemon.state().join("endpoints");
    std::fs::remove_dir_all(&endpoints).unwrap();
    std::fs::write(&endpoints, "in the way").unwrap();
    let mut daemon = daemon;
    daemon.start();

    let with = daemon.keg(["run", "--rm", &image, "true"]);
    let without = daemon.keg(["run", "--rm", "--network", "none", &image, "echo", "hello"]);

    assert_eq!(with.exit_code, 125);
    assert!(with.stderr.contains("there are no networks here"), "{with:?}");
    assert_eq!(without.success().stdout, "hello\n");
    let info = daemon.keg(["info"]).success();
    assert!(info.text().contains("networks cannot be used"), "{info:?}");
    std::fs::remove_file(endpoints).unwrap();
}

#[test]
fn ping_and_low_ports_are_open_to_any_user_of_the_container() {
    requires!(root, user_namespaces);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let script =
        "cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start";

    let printed = daemon.keg(["run", "--rm", "-u", "1000", &image, "sh", "-c", script]).success();

    assert_eq!(printed.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "65535", "0"]);
    let _ = daemon
        .run_detached(["--name", "low", "-u", "1000", &image, "/probe", "serve", "80", "low"]);
    daemon.wait_for_line("low", "ready");
    assert!(probe(&daemon, "low", &["ask", "127.0.0.1:80"]).success().stdout.starts_with("low"));
}
