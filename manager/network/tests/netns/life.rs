//! Networks' lives: created, used, restored, removed; nothing left behind.

use std::collections::HashSet;

use keg_network::{
    ConnectRequest, Driver, NetworkError, NetworkRequest, PublishMode, SubnetRequest,
};

use crate::lab::{HOST, Lab, Machine, container_request, eventually};
use crate::ports::network;

fn subnet(text: &str) -> SubnetRequest {
    SubnetRequest { subnet: text.parse().unwrap(), gateway: None, range: None }
}

/// What of ours is on the host.
fn traces(host: &Machine) -> String {
    host.sh("ip -o link | grep -o 'keg[^:@]*' || true; nft list tables | grep keg || true
         ip rule | grep 758 || true")
}

#[test]
fn nothing_is_there_before_the_first_container_and_nothing_after_prune() {
    Lab::run(PublishMode::Firewall, |lab| {
        assert_eq!(traces(&lab.host), "");
        lab.board.create(network("front")).unwrap();
        assert_eq!(traces(&lab.host), "");
        let web = lab.start("front", "web", &["8080:80"]);
        let other = lab.start("bridge", "other", &[]);
        assert_ne!(traces(&lab.host), "");

        lab.board.disconnect_all(&web.id).unwrap();
        lab.board.disconnect_all(&other.id).unwrap();
        let removed = lab.board.prune(|_| false).unwrap();

        assert_eq!(removed, ["front"]);
        assert_eq!(traces(&lab.host), "");
        assert_eq!(lab.host.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
    });
}

#[test]
fn a_network_in_use_stays_and_says_who_uses_it() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("front")).unwrap();
        let _web = lab.start("front", "web", &[]);

        let refusal = lab.board.remove("front").unwrap_err();

        assert_eq!(refusal.to_string(), "network front is in use by web");
        assert!(matches!(lab.board.remove("bridge"), Err(NetworkError::Permanent { .. })));
    });
}

#[test]
fn subnets_clash_with_no_route_and_no_network() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.host.sh(
            "ip route add 10.50.0.0/16 via 192.0.2.2; ip route add 172.20.0.0/14 via 192.0.2.2",
        );
        let request = |name: &str, text: &str| NetworkRequest {
            subnets: vec![subnet(text)],
            ..network(name)
        };

        let by_route = lab.board.create(request("a", "10.50.3.0/24")).unwrap_err();
        lab.board.create(request("b", "10.60.0.0/24")).unwrap();
        let by_network = lab.board.create(request("c", "10.60.0.128/25")).unwrap_err();
        let chosen = lab.board.create(network("d")).unwrap().subnets[0].subnet;

        assert!(by_route.to_string().contains("a route of the host"), "{by_route}");
        assert!(by_network.to_string().contains("network b"), "{by_network}");
        assert!(!chosen.overlaps("172.20.0.0/14".parse().unwrap()), "{chosen}");
    });
}

#[test]
fn a_network_makes_way_for_a_route_that_came_after_it_unless_its_subnet_was_asked_for() {
    Lab::run(PublishMode::Firewall, |lab| {
        let before = lab.board.inspect("bridge").unwrap().0.subnets[0].subnet;
        let fixed = NetworkRequest { subnets: vec![subnet("10.60.0.0/24")], ..network("fixed") };
        lab.board.create(fixed).unwrap();
        lab.host.sh(&format!("ip route add {before} via 192.0.2.2"));
        lab.host.sh("ip route add 10.60.0.0/16 via 192.0.2.2");

        let web = lab.start("bridge", "web", &["8080:80"]);
        let late = Machine::new();
        let refusal =
            lab.board.connect("fixed", &container_request("late"), &late.path()).unwrap_err();

        let after = lab.board.inspect("bridge").unwrap().0.subnets[0].subnet;
        assert!(!after.overlaps(before) && after.contains(web.ip()), "{before} {after}");
        assert!(refusal.to_string().contains("a route of the host"), "{refusal}");
        let _server = web.machine.serve(80);
        assert!(lab.outside.ask(&format!("{HOST}:8080")).is_some());
    });
}

#[test]
fn addresses_are_given_once_and_exhaustion_is_told() {
    Lab::run(PublishMode::Firewall, |lab| {
        let request = NetworkRequest { subnets: vec![subnet("10.60.0.0/29")], ..network("tiny") };
        lab.board.create(request).unwrap();
        let containers: Vec<_> =
            (0..5).map(|index| lab.start("tiny", &format!("c{index}"), &[])).collect();
        let distinct: HashSet<_> = containers.iter().map(super::lab::Container::ip).collect();

        let late = Machine::new();
        let refusal =
            lab.board.connect("tiny", &container_request("late"), &late.path()).unwrap_err();
        lab.board.disconnect_all(&containers[2].id).unwrap();
        let next = lab.start("tiny", "next", &[]);

        assert_eq!(distinct.len(), 5);
        assert!(refusal.to_string().contains("no free address"), "{refusal}");
        assert_eq!(next.ip(), containers[2].ip(), "the only one that was given back");
    });
}

#[test]
fn a_container_has_the_address_and_the_mac_that_it_asked_for() {
    Lab::run(PublishMode::Firewall, |lab| {
        let request = NetworkRequest { subnets: vec![subnet("10.60.0.0/24")], ..network("fixed") };
        lab.board.create(request).unwrap();
        let wanted = ConnectRequest {
            addresses: vec!["10.60.0.77".parse().unwrap()],
            mac: Some("02:00:00:00:00:77".parse().unwrap()),
            ..container_request("web")
        };

        let web = lab.start_as("fixed", &wanted);

        let seen = web.machine.sh("ip -o -4 addr show eth0; ip -o link show eth0; ip route");
        for expected in ["10.60.0.77/24", "02:00:00:00:00:77", "default via 10.60.0.1 dev eth0"] {
            assert!(seen.contains(expected), "{expected} in {seen}");
        }
    });
}

#[test]
fn a_restart_of_the_daemon_disturbs_nobody_and_releases_the_dead() {
    Lab::run(PublishMode::Firewall, |lab| {
        let (web, dead) =
            (lab.start("bridge", "web", &["8080:80"]), lab.start("bridge", "dead", &["8081:80"]));
        let _server = web.machine.serve(80);

        let reconciled = lab.restart(&[web.live()]);

        assert_eq!((reconciled.kept, reconciled.released, reconciled.problems), (1, 1, vec![]));
        assert!(lab.outside.ask(&format!("{HOST}:8080")).is_some());
        assert!(lab.board.endpoints(&dead.id).is_empty());
        assert!(lab.start("bridge", "next", &["8081:80"]).ip() != web.ip(), "the port is free");
    });
}

#[test]
fn a_bridge_that_somebody_removed_is_restored_at_the_next_start() {
    Lab::run(PublishMode::Firewall, |lab| {
        let web = lab.start("bridge", "web", &["8080:80"]);
        let _server = web.machine.serve(80);
        lab.host.sh("ip link del keg0; nft flush ruleset");

        let reconciled = lab.restart(&[web.live()]);

        assert_eq!(reconciled.problems, Vec::<String>::new());
        assert!(lab.outside.ask(&format!("{HOST}:8080")).is_some());
    });
}

#[test]
fn what_a_daemon_recorded_and_did_not_do_is_done_at_the_next_start() {
    Lab::run(PublishMode::Firewall, |lab| {
        let web = lab.start("bridge", "web", &["8080:80"]);
        lab.host.sh(&format!("ip link del {}; ip link del keg0", web.endpoint.port));
        lab.host.sh("ip link del keg-out; nft flush ruleset; sysctl -qw net.ipv4.ip_forward=0");

        let reconciled = lab.restart(&[web.live()]);

        assert_eq!(reconciled.problems, Vec::<String>::new());
        let _server = web.machine.serve(80);
        assert!(lab.outside.ask(&format!("{HOST}:8080")).is_some());
    });
}

#[test]
fn half_a_record_is_no_record() {
    Lab::run(PublishMode::Firewall, |lab| {
        let web = lab.start("bridge", "web", &[]);
        let partial = lab.settings.state_dir.join("endpoints").join("x.partial");
        std::fs::write(&partial, "{").unwrap();

        let reconciled = lab.restart(&[web.live()]);

        assert_eq!(reconciled.kept, 1);
        assert!(!partial.exists());
    });
}

#[test]
fn the_engines_handle_repairs_the_firewall_by_itself() {
    Lab::run(PublishMode::Firewall, |lab| {
        let (networks, runtime) = lab.handle();
        let web = Machine::new();
        let ports = keg_network::ports::parse_publish("8080:80").unwrap();
        let request = ConnectRequest { ports, ..container_request("web") };
        runtime.block_on(async {
            networks.reconcile(Vec::new()).await.unwrap();
            networks.connect("bridge", request.clone(), web.path()).await.unwrap();
        });
        let _server = web.serve(80);

        lab.host.sh("nft delete table inet keg");

        eventually("the port is published again", || {
            lab.host.sh("nft list tables").contains("inet keg")
        });
        assert!(lab.outside.ask(&format!("{HOST}:8080")).is_some());
        let listed = runtime.block_on(networks.list()).unwrap();
        assert_eq!(
            listed.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(),
            ["bridge"]
        );
    });
}

#[test]
fn a_firewall_that_is_flushed_under_us_is_restored() {
    Lab::run(PublishMode::Firewall, |lab| {
        let web = lab.start("bridge", "web", &["8080:80"]);
        let _server = web.machine.serve(80);
        let before = lab.host.sh("nft list ruleset");
        assert!(!lab.board.heal().unwrap(), "what we did ourselves disturbs nobody");

        lab.host.sh("nft flush ruleset");
        eventually("the firewall is restored", || lab.board.heal().unwrap());

        assert_eq!(lab.host.sh("nft list ruleset"), before);
        assert!(lab.outside.ask(&format!("{HOST}:8080")).is_some());
    });
}

#[test]
fn nft_prints_our_sets_readably() {
    Lab::run(PublishMode::Firewall, |lab| {
        let web = lab.start("bridge", "web", &["8080:80", "127.0.0.1:8081:81/udp"]);

        let listing = lab.host.sh("nft list ruleset");

        for expected in [
            "elements = { \"keg0\" }".to_owned(),
            format!("elements = {{ tcp . 8080 : {} . 80 }}", web.ip()),
            format!("elements = {{ 127.0.0.1 . udp . 8081 : {} . 81 }}", web.ip()),
            format!("{} . {}", web.endpoint.mac, web.ip()),
        ] {
            assert!(listing.contains(&expected), "{expected} in\n{listing}");
        }
    });
}

#[test]
fn a_container_that_ended_has_no_rights_while_its_namespace_is_held() {
    Lab::run(PublishMode::Firewall, |lab| {
        let (ended, other) = (lab.start("bridge", "ended", &[]), lab.start("bridge", "other", &[]));
        let _server = other.machine.serve(80);
        let service = format!("{}:80", other.ip());
        assert!(ended.machine.ask(&service).is_some());

        lab.board.disconnect_all(&ended.id).unwrap();

        assert!(ended.machine.cannot_reach(&service));
        lab.board.prune(|_| false).unwrap();
        assert!(!ended.machine.sh("ip -o link").contains("eth0"), "gone with the next prune");
    });
}

#[test]
fn an_interface_of_somebody_else_with_our_name_is_left_alone() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.host.sh("ip link add keg0 type bridge");
        let web = Machine::new();

        let refusal =
            lab.board.connect("bridge", &container_request("web"), &web.path()).unwrap_err();

        assert!(matches!(refusal, NetworkError::InterfaceTaken { .. }), "{refusal}");
        assert!(lab.host.sh("ip -o link").contains("keg0"));
        assert!(lab.board.endpoints(&container_request("web").container).is_empty());
    });
}

#[test]
fn macvlan_puts_a_container_beside_its_host() {
    Lab::run(PublishMode::Firewall, |lab| {
        let request = NetworkRequest {
            driver: Driver::Macvlan { parent: "eth0".to_owned() },
            subnets: vec![SubnetRequest {
                subnet: "192.0.2.0/24".parse().unwrap(),
                gateway: Some("192.0.2.254".parse().unwrap()),
                range: Some("192.0.2.128/25".parse().unwrap()),
            }],
            ..network("lan")
        };
        lab.board.create(request).unwrap();
        let _server = lab.outside.serve(80);

        let web = lab.start("lan", "web", &[]);
        let answer = web.machine.ask("192.0.2.2:80");

        assert_eq!(answer, Some(web.ip().to_string()));
        lab.board.disconnect("lan", &web.id).unwrap();
        assert!(!web.machine.sh("ip -o link").contains("eth0"));
    });
}

#[test]
fn a_container_on_two_networks_leaves_by_the_first() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("back")).unwrap();
        let web = lab.start("bridge", "web", &[]);
        let request = ConnectRequest { default_route: false, ..container_request("web") };

        let second = lab.board.connect("back", &request, &web.machine.path()).unwrap();

        assert_eq!(second.interface, "eth1");
        let routes = web.machine.sh("ip route");
        assert!(routes.contains(&format!("default via {} dev eth0", web.gateway())), "{routes}");
        assert!(routes.contains("dev eth1"), "{routes}");
    });
}

#[test]
fn the_way_out_is_through_the_network_of_the_highest_priority() {
    Lab::run(PublishMode::Firewall, |lab| {
        for name in ["back", "uplink"] {
            lab.board.create(network(name)).unwrap();
        }
        let web = lab.start("bridge", "web", &[]);
        let with =
            |gateway_priority: i32| ConnectRequest { gateway_priority, ..container_request("web") };
        let way_out = || web.machine.sh("ip route show default");

        lab.board.connect("back", &with(-1), &web.machine.path()).unwrap();
        assert!(way_out().contains("dev eth0"), "{}", way_out());
        let uplink = lab.board.connect("uplink", &with(5), &web.machine.path()).unwrap();
        assert!(uplink.default_route);
        assert_eq!(way_out().lines().count(), 1, "{}", way_out());
        assert!(way_out().contains("dev eth2"), "{}", way_out());
        let leading: Vec<_> =
            lab.board.endpoints(&web.id).into_iter().filter(|one| one.default_route).collect();
        assert_eq!(leading, [uplink]);

        lab.board.disconnect("uplink", &web.id).unwrap();
        assert!(way_out().contains("dev eth0"), "{}", way_out());
    });
}

#[test]
fn a_network_can_do_without_ipv4_and_keep_addresses_free() {
    Lab::run(PublishMode::Firewall, |lab| {
        let six = NetworkRequest { ipv6: true, without_ipv4: true, ..network("six") };
        let created = lab.board.create(six).unwrap();
        assert!(created.subnets.iter().all(|subnet| subnet.subnet.is_ipv6()), "{created:?}");
        let (one, other) = (lab.start("six", "one", &[]), lab.start("six", "other", &[]));
        let _server = other.machine.serve(80);
        assert_eq!(one.machine.ask(&format!("[{}]:80", other.ip())), Some(one.ip().to_string()));

        let none = NetworkRequest { without_ipv4: true, ..network("none-at-all") };
        let refusal = lab.board.create(none).unwrap_err().to_string();
        assert!(refusal.contains("--ipv6"), "{refusal}");
    });
}

#[test]
fn reserved_addresses_are_in_the_subnet_and_nobodys() {
    Lab::run(PublishMode::Firewall, |lab| {
        let request = |address: &str| NetworkRequest {
            subnets: vec![subnet("10.60.0.0/29")],
            reserved: [("router".to_owned(), address.parse().unwrap())].into(),
            ..network("tiny")
        };
        for wrong in ["10.61.0.1", "10.60.0.1", "10.60.0.7"] {
            assert!(lab.board.create(request(wrong)).is_err(), "{wrong}");
        }
        lab.board.create(request("10.60.0.3")).unwrap();

        let given: Vec<_> =
            ["a", "b", "c", "d"].map(|name| lab.start("tiny", name, &[]).ip().to_string()).into();

        assert_eq!(given, ["10.60.0.2", "10.60.0.4", "10.60.0.5", "10.60.0.6"]);
        let wanted = ConnectRequest {
            addresses: vec!["10.60.0.3".parse().unwrap()],
            ..container_request("e")
        };
        let machine = Machine::new();
        assert!(lab.board.connect("tiny", &wanted, &machine.path()).is_err());
    });
}
