//! Published ports, and the promise that what the host's firewall drops stays dropped.

use std::io::ErrorKind;

use keg_network::PublishMode;

use crate::lab::{HOST, Lab, OUTSIDE, ask_on, eventually};

/// Ways in which administrators close a host: a script, and one that then opens port 8080.
const CLOSED_HOSTS: [(&str, &str, &str); 4] = [
    (
        "nftables with a policy",
        "nft -f - <<'END'
         table inet filter {
           chain input {
             type filter hook input priority 0; policy drop;
             ct state established,related accept
             iifname lo accept
             icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
           }
         }
END",
        "nft add rule inet filter input meta l4proto '{ tcp, udp }' th dport 8080 accept",
    ),
    (
        "as ufw has it, with what is routed dropped by policy",
        "iptables -P INPUT DROP
         iptables -P FORWARD DROP
         iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         ip6tables -P FORWARD DROP
         iptables -N ufw-user-input
         iptables -A INPUT -i lo -j ACCEPT
         iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         iptables -A INPUT -m conntrack --ctstate INVALID -j DROP
         iptables -A INPUT -j ufw-user-input",
        "iptables -A ufw-user-input -p tcp --dport 8080 -j ACCEPT
         iptables -A ufw-user-input -p udp --dport 8080 -j ACCEPT",
    ),
    (
        "as firewalld has it, with the same for what is routed",
        "nft -f - <<'END'
         table inet firewalld {
           chain services { }
           chain filter_PREROUTING {
             type filter hook prerouting priority filter + 10; policy accept;
             icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
             meta nfproto ipv6 fib saddr . mark . iif oif missing drop
           }
           chain filter_INPUT {
             type filter hook input priority filter + 10; policy accept;
             ct state { established, related } accept
             ct status dnat accept
             iifname lo accept
             ct state invalid drop
             icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
             jump services
             reject with icmpx admin-prohibited
           }
           chain filter_FORWARD {
             type filter hook forward priority filter + 10; policy accept;
             ct state { established, related } accept
             ct status dnat accept
             iifname lo accept
             ct state invalid drop
             reject with icmpx admin-prohibited
           }
         }
END",
        "nft add rule inet firewalld services meta l4proto '{ tcp, udp }' th dport 8080 accept",
    ),
    (
        "nftables with the client's address judged",
        "nft -f - <<'END'
         table ip guard {
           chain input {
             type filter hook input priority -10; policy accept;
             iifname eth0 ip saddr 192.0.2.0/24 drop
           }
         }
END",
        "nft insert rule ip guard input ip saddr 192.0.2.2 th dport 8080 accept",
    ),
];

#[test]
fn what_the_hosts_firewall_drops_stays_dropped() {
    for (host, close, open) in CLOSED_HOSTS {
        Lab::run(PublishMode::Firewall, |lab| {
            let web = lab.start("bridge", "web", &["8080:80", "8080:80/udp"]);
            let _server = web.machine.serve(80);
            let published = format!("{HOST}:8080");
            assert_eq!(lab.outside.ask(&published).as_deref(), Some(OUTSIDE), "an open host");

            lab.host.sh(close);
            assert!(lab.outside.cannot_reach(&published), "{host}: closed");
            assert!(lab.outside.cannot_reach_udp(&published), "{host}: closed, UDP");

            lab.host.sh(open);
            lab.board.heal().unwrap();
            let tcp = lab.outside.ask(&published);
            let udp = lab.outside.ask_udp(&published);
            assert_eq!(tcp.as_deref(), Some(OUTSIDE), "{host}: allowed");
            assert_eq!(udp.as_deref(), Some(OUTSIDE), "{host}: allowed, UDP");
        });
    }
}

#[test]
fn bypass_opens_a_closed_host_as_docker_does() {
    Lab::run(PublishMode::Bypass, |lab| {
        let web = lab.start("bridge", "web", &["8080:80"]);
        let _server = web.machine.serve(80);

        lab.host.sh(CLOSED_HOSTS[0].1);

        assert_eq!(lab.outside.ask(&format!("{HOST}:8080")).as_deref(), Some(OUTSIDE));
    });
}

#[test]
fn a_host_that_checks_where_packets_come_from_still_publishes() {
    for rp_filter in ["0", "1", "2"] {
        Lab::run(PublishMode::Firewall, |lab| {
            lab.host.sh(&format!("sysctl -qw net.ipv4.conf.all.rp_filter={rp_filter}"));
            let web = lab.start("bridge", "web", &["8080:80"]);
            let _server = web.machine.serve(80);

            let answer = lab.outside.ask(&format!("{HOST}:8080"));

            assert_eq!(answer.as_deref(), Some(OUTSIDE), "rp_filter={rp_filter}");
        });
    }
}

#[test]
fn the_host_reaches_published_ports_by_every_address_of_its_own() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.host.sh(CLOSED_HOSTS[0].1);
        let web = lab.start("bridge", "web", &["8080:80", "8080:80/udp"]);
        let _server = web.machine.serve(80);

        for address in ["127.0.0.1:8080", "127.1.2.3:8080", "192.0.2.1:8080"] {
            assert!(lab.host.ask(address).is_some(), "{address}");
            assert!(lab.host.ask_udp(address).is_some(), "{address} by UDP");
        }
    });
}

#[test]
fn containers_reach_published_ports_their_own_too() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("other")).unwrap();
        let web = lab.start("bridge", "web", &["8080:80"]);
        let neighbour = lab.start("bridge", "neighbour", &[]);
        let stranger = lab.start("other", "stranger", &[]);
        let _server = web.machine.serve(80);
        let published = format!("{HOST}:8080");

        for (container, who) in
            [(&web, "itself"), (&neighbour, "neighbour"), (&stranger, "stranger")]
        {
            assert!(container.machine.ask(&published).is_some(), "{who}");
        }
    });
}

#[test]
fn a_port_published_on_one_address_is_closed_on_the_others() {
    Lab::run(PublishMode::Firewall, |lab| {
        let web = lab.start("bridge", "web", &["127.0.0.1:8080:80"]);
        let _server = web.machine.serve(80);

        assert!(lab.host.ask("127.0.0.1:8080").is_some());
        assert!(lab.outside.cannot_reach(&format!("{HOST}:8080")));
    });
}

#[test]
fn nobody_outside_reaches_the_hosts_loopback_by_way_of_a_bridge() {
    Lab::run(PublishMode::Firewall, |lab| {
        let shell = lab.start("bridge", "shell", &[]);
        let _secret = lab.host.serve(9000);
        shell.machine.sh(&format!(
            "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via {}; sysctl -qw \
             net.ipv4.conf.eth0.route_localnet=1",
            shell.gateway()
        ));

        assert!(shell.machine.cannot_reach("127.0.0.1:9000"));
    });
}

#[test]
fn a_client_that_goes_on_sending_reaches_the_containers_successor() {
    Lab::run(PublishMode::Firewall, |lab| {
        let before = lab.start("bridge", "before", &["8080:80/udp"]);
        let server = before.machine.serve(80);
        let client = lab.outside.asker(&format!("{HOST}:8080"));
        eventually("the first answers", || ask_on(&client).is_some());

        lab.board.disconnect_all(&before.id).unwrap();
        drop(server);
        let after = lab.start("bridge", "after", &["8080:80/udp"]);
        let _server = after.machine.serve(80);

        // What is tracked lives longer than this waits, and each question prolongs it.
        eventually("the successor answers", || ask_on(&client).is_some());
    });
}

#[test]
fn two_engines_share_a_host() {
    Lab::run(PublishMode::Firewall, |lab| {
        let web = lab.start("bridge", "web", &["8080:80"]);
        let _server = web.machine.serve(80);
        let mut other = lab.other_engine("a1b2");
        let theirs = crate::lab::Machine::new();
        let ports = keg_network::ports::parse_publish("8081:80").unwrap();
        let request =
            keg_network::ConnectRequest { ports, ..crate::lab::container_request("theirs") };

        other.connect("bridge", &request, &theirs.path()).unwrap();
        let _their_server = theirs.serve(80);

        for published in [8080, 8081] {
            let answer = lab.outside.ask(&format!("{HOST}:{published}"));
            assert_eq!(answer.as_deref(), Some(OUTSIDE), "{published}");
        }
        other.disconnect_all(&request.container).unwrap();
        other.prune(|_| false).unwrap();
        assert!(lab.outside.ask(&format!("{HOST}:8080")).is_some(), "after the other has gone");
    });
}

#[test]
fn ipv6_is_published_as_ipv4_is() {
    Lab::run(PublishMode::Firewall, |lab| {
        let request = keg_network::NetworkRequest { ipv6: true, ..network("six") };
        lab.board.create(request).unwrap();
        let web = lab.start("six", "web", &["8080:80"]);
        let _server = web.machine.serve(80);
        let published = "[2001:db8::1]:8080";

        assert_eq!(lab.outside.ask(published).as_deref(), Some("2001:db8::2"));
        assert!(lab.host.ask(published).is_some(), "from the host");
        assert_eq!(lab.host.refusal("[::1]:8080"), Some(ErrorKind::ConnectionRefused), "at once");
        assert!(web.machine.ask(published).is_some(), "from itself");
        lab.host.sh(CLOSED_HOSTS[0].1);
        assert!(lab.outside.cannot_reach(published), "closed");
        lab.host.sh(CLOSED_HOSTS[0].2);
        assert_eq!(lab.outside.ask(published).as_deref(), Some("2001:db8::2"), "allowed");
    });
}

#[test]
fn publishing_a_hundred_ports_adds_no_rule() {
    Lab::run(PublishMode::Firewall, |lab| {
        let rules = |lab: &Lab| {
            let listing = lab.host.sh("nft -a list ruleset");
            listing.lines().filter(|line| line.contains("# handle") && !line.contains('{')).count()
        };
        let _none = lab.start("bridge", "none", &[]);
        let with_none = rules(lab);
        let _one = lab.start("bridge", "one", &["8080:80"]);
        let with_one = rules(lab);
        let _hundred = lab.start("bridge", "hundred", &["9000-9099:80-179"]);

        assert!(with_none > 20, "{with_none}");
        assert_eq!((with_one, rules(lab)), (with_none, with_none));
    });
}

#[test]
fn thousands_of_ports_are_published_and_taken_back_at_once() {
    Lab::run(PublishMode::Firewall, |lab| {
        let many = ["10000-14095:10000-14095", "10000-14095:10000-14095/udp"];
        let web = lab.start("bridge", "web", &many);
        let _server = web.machine.serve(14095);

        assert!(lab.outside.ask(&format!("{HOST}:14095")).is_some());
        let reconciled = lab.restart(&[web.live()]);
        assert_eq!(reconciled.problems, Vec::<String>::new());
        assert!(lab.outside.ask(&format!("{HOST}:14095")).is_some(), "after a restart");
        lab.board.disconnect_all(&web.id).unwrap();
        assert!(!lab.host.sh("nft list ruleset").contains("14095"));
    });
}

#[test]
fn a_port_in_use_names_the_container_that_has_it() {
    Lab::run(PublishMode::Firewall, |lab| {
        let _web = lab.start("bridge", "web", &["8080:80"]);
        let late = crate::lab::Machine::new();
        let ports = keg_network::ports::parse_publish("8080:80").unwrap();
        let request =
            keg_network::ConnectRequest { ports, ..crate::lab::container_request("late") };

        let refusal = lab.board.connect("bridge", &request, &late.path()).unwrap_err();

        assert!(refusal.to_string().contains("in use by container web"), "{refusal}");
        assert!(lab.board.endpoints(&request.container).is_empty());
    });
}

pub(crate) fn network(name: &str) -> keg_network::NetworkRequest {
    keg_network::NetworkRequest { name: name.to_owned(), ..Default::default() }
}
