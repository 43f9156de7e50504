//! Names: the server at 127.0.0.11, `/etc/hosts` and `/etc/resolv.conf`.

use keg_fixtures::{Daemon, Machine, requires};

use super::{address, etc, probe, serve};

#[test]
fn containers_find_each_other_by_name_across_a_restart_with_a_new_address() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let _ = daemon.keg(["network", "create", "front"]).success();
    let _ = serve(&daemon, &image, "db", &["--network", "front", "--network-alias", "store"]);
    let _ = serve(&daemon, &image, "web", &["--network", "front"]);
    let look_up = |name: &str| probe(&daemon, "web", &["look-up", name]).success().stdout;
    let before = address(&daemon, "db", "front");
    for name in ["db", "store", "db.front", "DB"] {
        assert_eq!(look_up(name).trim(), before, "{name}");
    }

    let _ = daemon.keg(["kill", "db"]).success();
    let _ = daemon.keg(["wait", "db"]).success();
    // Its address goes to another meanwhile.
    let _ = serve(&daemon, &image, "squatter", &["--network", "front", "--ip", &before]);
    let _ = daemon.keg(["start", "db"]).success();

    let after = address(&daemon, "db", "front");
    assert_ne!(after, before);
    assert_eq!(look_up("db").trim(), after);
    assert!(probe(&daemon, "web", &["ask", "db:80"]).success().stdout.starts_with("db "));
    let hosts = etc(&daemon, "db", "hosts");
    assert!(hosts.contains(&after) && !hosts.contains(&format!("{before}\t")), "{hosts}");
}

#[test]
fn a_container_knows_the_names_of_its_own_networks_only() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    for network in ["front", "back"] {
        let _ = daemon.keg(["network", "create", network]).success();
    }
    let _ = serve(&daemon, &image, "db", &["--network", "back"]);
    let _ = serve(&daemon, &image, "web", &["--network", "front"]);
    let finds = || probe(&daemon, "web", &["look-up", "db"]).exit_code == 0;
    assert!(!finds());

    let _ = daemon.keg(["network", "connect", "--alias", "w", "back", "web"]).success();
    assert!(finds());
    assert!(probe(&daemon, "web", &["ask", "db:80"]).success().stdout.starts_with("db "));
    assert_eq!(
        probe(&daemon, "db", &["look-up", "w"]).success().stdout.trim(),
        address(&daemon, "web", "back")
    );
    let networks = daemon.keg(["ps", "-f", "name=web", "--format", "{{.Networks}}"]).success();
    assert_eq!(networks.stdout, "front,back\n");

    let _ = daemon.keg(["network", "disconnect", "back", "web"]).success();
    assert!(!finds());
}

#[test]
fn files_of_etc_say_what_was_asked_for() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let _ = daemon.keg(["network", "create", "front"]).success();
    let flags = [
        "--network",
        "front",
        "--hostname",
        "web1",
        "--domainname",
        "example",
        "--add-host",
        "db:10.9.9.9",
        "--add-host",
        "box:host-gateway",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "example.org",
        "--dns-option",
        "timeout:1",
    ];
    let _ = serve(&daemon, &image, "web", &flags);

    let (hosts, resolv) = (etc(&daemon, "web", "hosts"), etc(&daemon, "web", "resolv.conf"));

    let ip = address(&daemon, "web", "front");
    assert!(hosts.contains(&format!("{ip}\tweb1.example web1\n")), "{hosts}");
    assert!(hosts.contains("10.9.9.9\tdb\n") && hosts.contains("\tbox\n"), "{hosts}");
    assert_eq!(resolv, "nameserver 127.0.0.11\nsearch example.org\noptions timeout:1 ndots:0\n");
    let _ =
        daemon.run_detached(["--name", "plain", "--dns", "192.0.2.53", &image, "/probe", "pause"]);
    assert!(etc(&daemon, "plain", "resolv.conf").starts_with("nameserver 192.0.2.53\n"));
}
