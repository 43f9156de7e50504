//! Published ports: `-p`, `-P`, `keg port`, and the host's firewall. Story 5 of what Keg is for.

use std::net::TcpListener;

use keg_fixtures::{Daemon, Machine, requires};

use super::{probe, serve};

/// A host that lets nobody in but by ssh and for what it asked itself, as ufw sets it up: policies
/// that drop, and a chain for the administrator's own rules before them.
const UFW_LIKE: &str = "
    nft add table inet admin
    nft add chain inet admin input '{ type filter hook input priority 0; policy drop; }'
    nft add chain inet admin user
    nft add rule inet admin input ct state established,related accept
    nft add rule inet admin input iif lo accept
    nft add rule inet admin input meta l4proto ipv6-icmp accept
    nft add rule inet admin input tcp dport 22 accept
    nft add rule inet admin input jump user
    nft add chain inet admin forward '{ type filter hook forward priority 0; policy drop; }'
    nft add rule inet admin forward ct state established,related accept";

#[test]
fn a_published_port_is_reached_from_another_machine_the_host_and_other_containers() {
    requires!(root);
    let (host, outside) = Machine::pair();
    let (daemon, image) = Daemon::on(&host, "");

    let _ = serve(&daemon, &image, "web", &["-p", "8080:80"]);

    assert_eq!(outside.hear("192.0.2.1:8080").unwrap(), "web 192.0.2.2\n", "the client's address");
    assert!(host.hear("127.0.0.1:8080").unwrap().starts_with("web "));
    assert!(host.hear("192.0.2.1:8080").unwrap().starts_with("web "));
    let by_another = daemon.keg(["run", "--rm", &image, "/probe", "ask", "192.0.2.1:8080"]);
    assert!(by_another.success().stdout.starts_with("web "));
    assert!(probe(&daemon, "web", &["ask", "192.0.2.1:8080"]).success().stdout.starts_with("web "));
    let ps = daemon.keg(["ps", "--format", "{{.Ports}}"]).success().stdout;
    assert_eq!(ps, "0.0.0.0:8080->80/tcp\n");
    assert_eq!(daemon.keg(["port", "web"]).success().stdout, "80/tcp -> 0.0.0.0:8080\n");
    assert_eq!(daemon.keg(["port", "web", "80"]).success().stdout, "0.0.0.0:8080\n");
    assert_eq!(daemon.keg(["port", "web", "81"]).exit_code, 1);
}

#[test]
fn what_the_hosts_firewall_drops_stays_dropped_until_the_administrator_allows_it() {
    requires!(root);
    let (host, outside) = Machine::pair();
    host.sh(UFW_LIKE);
    let (daemon, image) = Daemon::on(&host, "");
    let _ = serve(&daemon, &image, "web", &["-p", "8080:80"]);

    assert!(!outside.reaches("192.0.2.1:8080"), "the host drops it");
    assert!(host.hear("127.0.0.1:8080").unwrap().starts_with("web "), "the host itself may");

    host.sh("nft add rule inet admin user tcp dport 8080 accept");
    assert_eq!(outside.hear("192.0.2.1:8080").unwrap(), "web 192.0.2.2\n");

    host.sh("nft flush chain inet admin user");
    assert!(!outside.reaches("192.0.2.1:8080"), "dropped again");
}

#[test]
fn bypass_publishes_whatever_the_hosts_firewall_says() {
    requires!(root);
    let (host, outside) = Machine::pair();
    host.sh(UFW_LIKE);
    let (daemon, image) = Daemon::on(&host, "[network]\npublish = \"bypass\"\n");

    let _ = serve(&daemon, &image, "web", &["-p", "8080:80"]);

    assert_eq!(outside.hear("192.0.2.1:8080").unwrap(), "web 192.0.2.2\n");
}

#[test]
fn as_many_rules_for_a_hundred_ports_as_for_one_and_for_none() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");
    let rules = || {
        let text = host.sh("nft -a list ruleset");
        text.lines().filter(|line| line.contains("# handle") && !line.contains('{')).count()
    };
    let _ = serve(&daemon, &image, "none", &[]);
    let without = rules();

    let _ = serve(&daemon, &image, "one", &["-p", "7000:80"]);
    let with_one = rules();
    let _ = serve(&daemon, &image, "hundred", &["-p", "8000-8099:8000-8099"]);
    let with_hundred = rules();

    assert!(without > 10, "{without} rules");
    assert_eq!((with_one, with_hundred), (without, without));
    assert!(host.sh("nft list ruleset").contains("8099"), "the ports are there");
}

#[test]
fn every_exposed_port_is_published_somewhere_and_a_port_in_use_names_its_holder() {
    requires!(root);
    let (host, outside) = Machine::pair();
    let (daemon, image) = Daemon::on(&host, "");
    let _ = serve(&daemon, &image, "all", &["-P", "--expose", "80", "--expose", "53/udp"]);

    let somewhere = daemon.keg(["port", "all", "80"]).success().stdout;
    let somewhere = somewhere.trim().replace("0.0.0.0", "192.0.2.1");
    assert_eq!(outside.hear(&somewhere).unwrap(), "all 192.0.2.2\n");
    assert!(daemon.keg(["port", "all", "53/udp"]).success().stdout.starts_with("0.0.0.0:"));

    let _taken = host.run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    let _ = serve(&daemon, &image, "first", &["-p", "9001:80"]);
    let refused = |port: &str, holder: &str| {
        let outcome = daemon.keg(["run", "--rm", "-p", &format!("{port}:80"), &image, "true"]);
        assert_eq!(outcome.exit_code, 125);
        assert!(outcome.stderr.contains(holder), "{}", outcome.stderr);
    };
    refused("9000", &format!("process {}", std::process::id()));
    refused("9001", "container first");
}

#[test]
fn ports_are_free_again_as_soon_as_the_container_has_ended() {
    requires!(root);
    let host = Machine::new();
    let (daemon, image) = Daemon::on(&host, "");

    for turn in 0..5 {
        let name = format!("web{turn}");
        let _ = serve(&daemon, &image, &name, &["-p", "8080:80"]);
        assert!(host.hear("127.0.0.1:8080").unwrap().starts_with(&name));
        let _ = daemon.keg(["kill", &name]).success();
        let _ = daemon.keg(["wait", &name]).success();
    }
}

#[test]
fn udp_and_ipv6_are_published_too() {
    requires!(root);
    let (host, outside) = Machine::pair();
    let (daemon, image) = Daemon::on(&host, "[network]\ndefault_ipv6 = true\n");

    let _ = serve(&daemon, &image, "web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    assert_eq!(outside.hear("[2001:db8::1]:8080").unwrap(), "web 2001:db8::2\n");
    let asked =
        outside.sh("keg-probe ask 192.0.2.1:8080 udp; keg-probe ask '[2001:db8::1]:8080' udp");
    assert_eq!(asked, "web 192.0.2.2\nweb 2001:db8::2\n");
    let ps = daemon.keg(["ps", "--format", "{{.Ports}}"]).success().stdout;
    assert_eq!(
        ps,
        "0.0.0.0:8080->80/tcp, 0.0.0.0:8080->80/udp, [::]:8080->80/tcp, [::]:8080->80/udp\n"
    );
}
