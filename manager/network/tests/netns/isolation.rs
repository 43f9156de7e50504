//! What containers cannot do: reach other networks, leave internal ones, pose as others.

use std::net::IpAddr;

use keg_network::{ForwardMode, NetworkRequest, PublishMode};

use crate::lab::{HOST, Lab, OUTSIDE};
use crate::ports::network;

#[test]
fn containers_of_one_network_reach_each_other_and_the_outside() {
    Lab::run(PublishMode::Firewall, |lab| {
        let (one, two) = (lab.start("bridge", "one", &[]), lab.start("bridge", "two", &[]));
        let _server = two.machine.serve(80);
        let _outside = lab.outside.serve(80);

        let neighbour = one.machine.ask(&format!("{}:80", two.ip()));
        let outside = one.machine.ask(&format!("{OUTSIDE}:80"));

        assert_eq!(neighbour, Some(one.ip().to_string()), "with its own address");
        assert_eq!(outside.as_deref(), Some(HOST), "with the host's address");
    });
}

#[test]
fn networks_do_not_reach_each_other() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("other")).unwrap();
        let web = lab.start("bridge", "web", &["8080:80"]);
        let stranger = lab.start("other", "stranger", &[]);
        let _server = web.machine.serve(80);
        let _other_port = web.machine.serve(81);

        assert!(stranger.machine.cannot_reach(&format!("{}:80", web.ip())), "not even published");
        assert!(stranger.machine.cannot_reach(&format!("{}:81", web.ip())));
    });
}

#[test]
fn other_machines_do_not_reach_containers_by_their_addresses() {
    Lab::run(PublishMode::Firewall, |lab| {
        let web = lab.start("bridge", "web", &["8080:80"]);
        let _server = web.machine.serve(80);

        lab.outside.sh(&format!("ip route add {} via {HOST}", web.ip()));

        assert!(lab.outside.cannot_reach(&format!("{}:80", web.ip())));
    });
}

#[test]
fn an_internal_network_has_no_way_out() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(NetworkRequest { internal: true, ..network("inner") }).unwrap();
        let (one, two) = (lab.start("inner", "one", &[]), lab.start("inner", "two", &[]));
        let (_near, _far) = (two.machine.serve(80), lab.outside.serve(80));
        let _host = lab.host.serve(90);
        let subnet = lab.board.inspect("inner").unwrap().0.subnets[0];
        one.machine.sh(&format!("ip route add default via {}", subnet.gateway));

        assert!(one.machine.ask(&format!("{}:80", two.ip())).is_some(), "its neighbour");
        assert!(one.machine.cannot_reach(&format!("{OUTSIDE}:80")), "another machine");
        assert!(one.machine.cannot_reach(&format!("{HOST}:90")), "another address of the host");
    });
}

#[test]
fn a_host_that_we_made_a_router_routes_for_nobody_else() {
    Lab::run(PublishMode::Firewall, |lab| {
        let far = crate::lab::Machine::new();
        lab.host.sh(&format!(
            "ip link add eth1 type veth peer name eth0 netns {}
             ip addr add 198.51.100.1/24 dev eth1; ip link set eth1 up",
            far.path().display()
        ));
        far.sh("ip link set lo up; ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up
             ip route add default via 198.51.100.1");
        lab.outside.sh(&format!("ip route add default via {HOST}"));
        let _server = far.serve(80);

        let _web = lab.start("bridge", "web", &[]);

        assert_eq!(lab.host.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
        assert!(lab.outside.cannot_reach("198.51.100.2:80"));
    });
}

#[test]
fn a_policy_to_drop_what_is_routed_spares_containers_and_an_explicit_rule_does_not() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.host.sh("iptables -P FORWARD DROP; iptables -A FORWARD -p tcp --dport 25 -j DROP");
        let (_web, _mail) = (lab.outside.serve(80), lab.outside.serve(25));

        let one = lab.start("bridge", "one", &[]);

        assert!(one.machine.ask(&format!("{OUTSIDE}:80")).is_some(), "the policy");
        assert!(one.machine.cannot_reach(&format!("{OUTSIDE}:25")), "an explicit rule");
        let rules = lab.host.sh("iptables -S FORWARD");
        assert!(rules.contains("-A FORWARD -i keg+ "), "iptables still understands: {rules}");
        lab.board.disconnect_all(&one.id).unwrap();
        lab.board.prune(|_| false).unwrap();
        assert!(!lab.host.sh("iptables -S FORWARD").contains("keg"), "taken out again");
    });
}

#[test]
fn a_policy_to_drop_what_is_routed_is_respected_if_so_configured() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.settings.forward = ForwardMode::Respect;
        lab.restart(&[]);
        lab.host.sh("iptables -P FORWARD DROP");
        let _web = lab.outside.serve(80);

        let one = lab.start("bridge", "one", &[]);

        assert!(one.machine.cannot_reach(&format!("{OUTSIDE}:80")));
    });
}

#[test]
fn a_container_cannot_pose_as_another() {
    Lab::run(PublishMode::Firewall, |lab| {
        let (thief, owner) = (lab.start("bridge", "thief", &[]), lab.start("bridge", "owner", &[]));
        let witness = lab.start("bridge", "witness", &[]);
        let _server = witness.machine.serve(80);
        let service = format!("{}:80", witness.ip());
        assert!(thief.machine.ask(&service).is_some());
        let mac = |name: &IpAddr| {
            let neighbours = witness.machine.sh("ip neigh");
            neighbours.lines().find(|l| l.starts_with(&format!("{name} "))).map(str::to_owned)
        };

        // Another's IPv4 address: neither its packets nor its ARP pass.
        thief.machine.sh(&format!("ip addr add {}/20 dev eth0", owner.ip()));
        // So that it asks who has the witness's address, and says that it is the owner.
        thief.machine.sh("ip neigh flush dev eth0");
        let as_owner = thief.machine.run(|| {
            let socket = std::net::UdpSocket::bind((owner.ip(), 0)).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            socket.send_to(b"who am I", &service).ok();
            socket.recv(&mut [0; 64]).is_ok()
        });
        let neighbour = mac(&owner.ip()).unwrap_or_default();
        assert!(!as_owner, "packets from another's address pass");
        assert!(!neighbour.contains(&thief.endpoint.mac.to_string()), "{neighbour}");

        // Another hardware address.
        thief.machine.sh(&format!("ip addr del {}/20 dev eth0", owner.ip()));
        thief.machine.sh("ip link set eth0 address 02:00:00:00:00:99");
        assert!(thief.machine.cannot_reach(&service), "another hardware address passes");
    });
}

#[test]
fn a_container_cannot_pose_as_another_by_ipv6() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(NetworkRequest { ipv6: true, ..network("six") }).unwrap();
        let (thief, owner) = (lab.start("six", "thief", &[]), lab.start("six", "owner", &[]));
        let witness = lab.start("six", "witness", &[]);
        let ipv6 = |container: &crate::lab::Container| {
            container.endpoint.ips().find(IpAddr::is_ipv6).unwrap()
        };
        let socket_of = |container: &crate::lab::Container, address: IpAddr, port: u16| {
            container.machine.run(|| std::net::UdpSocket::bind((address, port)).unwrap())
        };
        let (seen, stolen) = (ipv6(&witness), ipv6(&owner));
        let watching = socket_of(&witness, seen, 81);
        watching.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        let mut heard = [0; 16];
        socket_of(&thief, ipv6(&thief), 0).send_to(b"thief", (seen, 81)).unwrap();
        assert!(watching.recv(&mut heard).is_ok(), "with its own address");

        owner.machine.sh("ip link set eth0 down");
        thief.machine.sh(&format!("ip -6 addr add {stolen}/64 dev eth0 nodad"));
        socket_of(&thief, stolen, 0).send_to(b"owner", (seen, 81)).unwrap();
        let believed = watching.recv(&mut heard).is_ok();
        watching.send_to(b"who has this", (stolen, 82)).unwrap();
        let _ = watching.recv(&mut heard);

        assert!(!believed, "packets from another's address pass");
        let neighbours = witness.machine.sh("ip -6 neigh");
        let posing = neighbours.lines().any(|line| {
            let thief_has_it = line.contains(&thief.endpoint.mac.to_string());
            line.starts_with(&format!("{stolen} ")) && thief_has_it
        });
        assert!(!posing, "{neighbours}");
    });
}
