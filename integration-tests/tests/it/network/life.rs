//! Networks through their lives, and through the daemon's death.

use keg_fixtures::{Daemon, Machine, requires};

use super::{address, network, probe, serve};

#[test]
fn a_network_is_created_listed_inspected_used_and_removed() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let keg = |line: &str| daemon.keg(line.split_whitespace());
    let id =
        keg("network create --subnet 10.77.0.0/24 --gateway 10.77.0.9 --ip-range 10.77.0.64/26 \
                  --label tier=db -o mtu=1400 front")
        .success()
        .stdout;

    let listed = keg("network ls -f driver=bridge -f driver=host -f driver=null \
                      --format {{.Name}}:{{.Driver}}:{{.Scope}}")
    .success()
    .stdout;
    assert_eq!(
        listed,
        "bridge:bridge:local\nfront:bridge:local\nhost:host:local\nnone:null:local\n"
    );
    assert_eq!(keg("network ls -q -f label=tier=db --no-trunc").success().stdout, id);
    let _ = serve(&daemon, &image, "web", &["--network", "front"]);
    assert!(address(&daemon, "web", "front").starts_with("10.77.0."));
    let inspected = network(&daemon, "front");
    assert_eq!(inspected["IPAM"]["Config"][0]["Gateway"], "10.77.0.9");
    assert_eq!(inspected["IPAM"]["Config"][0]["IPRange"], "10.77.0.64/26");
    assert_eq!(daemon.inspect("front")["Id"], id.trim());

    let refused = keg("network rm front");
    assert_eq!(refused.exit_code, 1);
    assert!(refused.stderr.contains("in use by web"), "{refused:?}");
    assert_eq!(keg("network prune -f").success().stdout, "");
    let _ = keg("rm -f web").success();
    assert_eq!(keg("network prune -f").success().stdout, "Deleted Networks:\nfront\n\n");
    assert_eq!(keg("network rm bridge").exit_code, 1);
    assert_eq!(keg("network rm -f front").success().stdout, "");
}

#[test]
fn nothing_is_left_on_the_host_after_prune() {
    requires!(root);
    let host = Machine::new();
    let state = || host.sh("ip -o link | cut -d: -f2 | cut -d@ -f1; nft list ruleset; ip rule");
    let (daemon, image) = Daemon::on(&host, "");
    let before = state();
    let _ = daemon.keg(["network", "create", "--ipv6", "front"]).success();
    let flags = ["run", "--rm", "--network", "front", "--net", "bridge", "-p", "80"];
    let _ = daemon.keg(flags.iter().chain(&[image.as_str(), "true"])).success();
    assert_ne!(state(), before);

    let _ = daemon.keg(["network", "prune", "-f"]).success();

    assert_eq!(state(), before);
}

#[test]
fn containers_keep_their_networks_while_the_daemon_is_killed_and_comes_back() {
    requires!(root);
    let (host, outside) = Machine::pair();
    let (mut daemon, image) = Daemon::on(&host, "");
    let _ = daemon.keg(["network", "create", "front"]).success();
    let _ = serve(&daemon, &image, "db", &["--network", "front"]);
    let _ = serve(&daemon, &image, "web", &["--network", "front", "-p", "8080:80"]);
    let before = address(&daemon, "web", "front");

    daemon.kill9();
    assert_eq!(outside.hear("192.0.2.1:8080").unwrap(), "web 192.0.2.2\n", "without a daemon");
    // A firewall that somebody flushed while nobody watched.
    host.sh("nft flush ruleset");
    daemon.start();

    assert_eq!(address(&daemon, "web", "front"), before);
    assert_eq!(outside.hear("192.0.2.1:8080").unwrap(), "web 192.0.2.2\n");
    assert!(probe(&daemon, "web", &["ask", "db:80"]).success().stdout.starts_with("db "));
    let taken = daemon.keg(["run", "--rm", "-p", "8080:80", &image, "true"]);
    assert!(taken.stderr.contains("container web"), "{taken:?}");
    let _ = serve(&daemon, &image, "new", &["--network", "front"]);
    assert_ne!(address(&daemon, "new", "front"), before);
}

#[test]
fn what_a_container_had_that_ended_while_the_daemon_was_away_is_given_back() {
    requires!(root);
    let host = Machine::new();
    let (mut daemon, image) = Daemon::on(&host, "");
    let _ = serve(&daemon, &image, "web", &["-p", "8080:80"]);
    let pid = daemon.pid_of("web");

    daemon.kill9();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.start();

    assert_eq!(network(&daemon, "bridge")["Containers"], serde_json::json!({}));
    let _ = serve(&daemon, &image, "next", &["-p", "8080:80"]);
    assert!(host.hear("127.0.0.1:8080").unwrap().starts_with("next "));
}

#[test]
fn a_container_moves_between_networks_while_it_runs_and_while_it_does_not() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    for (name, subnet) in [("front", "10.77.0.0/24"), ("back", "10.78.0.0/24")] {
        let _ = daemon.keg(["network", "create", "--subnet", subnet, name]).success();
    }
    let _ = serve(&daemon, &image, "web", &["--network", "front", "-p", "8080:80"]);

    let _ = daemon.keg(["network", "connect", "--ip", "10.78.0.7", "back", "web"]).success();
    assert_eq!(address(&daemon, "web", "back"), "10.78.0.7");
    assert!(host.hear("10.78.0.7:80").unwrap().starts_with("web "));
    let again = daemon.keg(["network", "connect", "back", "web"]);
    assert!(again.stderr.contains("is on network back already"), "{again:?}");

    let _ = daemon.keg(["network", "disconnect", "front", "web"]).success();
    assert!(host.hear("10.78.0.7:80").unwrap().starts_with("web "));
    // So are its ports published by the other.
    assert!(host.hear("127.0.0.1:8080").unwrap().starts_with("web "));
    // What was its way out is gone; the other has taken its place.
    let routes = daemon.keg(["exec", "web", "/bin/busybox", "ip", "route"]).success().stdout;
    assert!(routes.contains("default via 10.78.0.1"), "{routes}");

    let _ = daemon.keg(["kill", "web"]).success();
    let _ = daemon.keg(["wait", "web"]).success();
    let _ = daemon.keg(["network", "connect", "front", "web"]).success();
    let _ = daemon.keg(["start", "web"]).success();
    assert_eq!(address(&daemon, "web", "back"), "10.78.0.7");
    assert!(address(&daemon, "web", "front").starts_with("10.77.0."));
}

#[test]
fn events_tell_of_networks() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let _ = daemon.keg(["network", "create", "front"]).success();
    let _ = serve(&daemon, &image, "web", &[]);
    let _ = daemon.keg(["network", "connect", "front", "web"]).success();
    let _ = daemon.keg(["network", "disconnect", "front", "web"]).success();
    let _ = daemon.keg(["network", "rm", "front"]).success();

    let flags =
        ["events", "--since", "1m", "--until", "0s", "-f", "type=network", "-f", "network=front"];
    let told = daemon.keg(flags.iter().chain(&["--format", "{{.Action}}"])).success().stdout;

    assert_eq!(told, "create\nconnect\ndisconnect\ndestroy\n");
}

#[test]
fn networks_are_made_with_what_dockers_flags_say() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let keg = |line: &str| daemon.keg(line.split_whitespace());
    let _ = keg("network create --subnet 10.77.0.0/24 --aux-address router=10.77.0.9 \
                 --attachable front")
    .success();
    let _ = keg("network create --subnet 10.78.0.0/24 uplink").success();
    let _ = keg("network create --ipv4=false --ipv6 six").success();
    assert_eq!(
        network(&daemon, "front")["IPAM"]["Config"][0]["AuxiliaryAddresses"]["router"],
        "10.77.0.9"
    );
    let six = network(&daemon, "six");
    assert_eq!((&six["EnableIPv4"], &six["EnableIPv6"]), (&false.into(), &true.into()));
    assert!(keg("network create --ipv4=false none-at-all").stderr.contains("--ipv6"));

    let flags = ["--network", "front", "--network", "name=uplink,gw-priority=1"];
    let _ = serve(&daemon, &image, "web", &flags);

    let routes = || daemon.keg(["exec", "web", "/bin/busybox", "ip", "route"]).success().stdout;
    assert!(routes().contains("default via 10.78.0.1"), "{}", routes());
    let on = daemon.inspect("web")["NetworkSettings"]["Networks"].clone();
    assert_eq!(on["uplink"]["GwPriority"], 1);
    assert_eq!(
        (&on["uplink"]["Keg"]["DefaultRoute"], &on["front"]["Keg"]["DefaultRoute"]),
        (&true.into(), &false.into())
    );
    let name = "com.docker.network.endpoint.ifname=six0";
    let connect = ["network", "connect", "--gw-priority", "-1", "--driver-opt", name];
    let _ = daemon.keg(connect.iter().chain(&["six", "web"])).success();
    assert!(routes().contains("default via 10.78.0.1"), "{}", routes());
    let inside = daemon.keg(["exec", "web", "/bin/busybox", "ip", "-6", "addr"]).success().stdout;
    assert!(inside.contains("six0"), "{inside}");
    let refused = daemon.keg(["run", "--rm", "--network", "front", "--ip", "10.77.0.9", &image]);
    assert!(refused.stderr.contains("10.77.0.9 is in use"), "{refused:?}");
}

#[test]
fn containers_are_listed_by_network_and_port() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let front = daemon.keg(["network", "create", "front"]).success().stdout;
    let front = front.trim();
    let _ = serve(&daemon, &image, "web", &["--network", "front", "-p", "8080:80"]);
    let _ = serve(&daemon, &image, "db", &["--expose", "5432"]);
    let listed = |filter: &str| {
        let flags = ["ps", "-f", filter, "--format", "{{.Names}}"];
        daemon.keg(flags).success().stdout.replace('\n', " ")
    };

    for (filter, expected) in [
        ("network=front", "web "),
        ("network=bridge", "db "),
        (&format!("network={front}"), "web "),
        (&format!("network={}", &front[..12]), "web "),
        ("network=nowhere", ""),
        ("publish=8080", "web "),
        ("publish=80/tcp", "web "),
        ("publish=8080/udp", ""),
        ("publish=5432", ""),
        ("expose=5000-6000", "db "),
        ("expose=80", "web "),
    ] {
        assert_eq!(listed(filter), expected, "{filter}");
    }
}
