//! Options of the driver, by the names that Docker gives them.

use keg_network::{NetworkError, NetworkRequest, PublishMode};
use keg_store::Explain;

use crate::lab::{HOST, Lab, OUTSIDE, container_request};
use crate::ports::network;

/// A network with one of Docker's options.
fn with(name: &str, key: &str, value: &str) -> NetworkRequest {
    let options = [(format!("com.docker.network.{key}"), value.to_owned())].into();
    NetworkRequest { options, ..network(name) }
}

#[test]
fn containers_that_are_kept_from_each_other_reach_everything_else() {
    Lab::run(PublishMode::Firewall, |lab| {
        // Else a published port is translated on the bridge, and its walls are in the way.
        lab.host.sh("for name in iptables ip6tables; do
             file=/proc/sys/net/bridge/bridge-nf-call-$name; [ ! -e $file ] || echo 0 > $file
             done");
        lab.board.create(with("walled", "bridge.enable_icc", "false")).unwrap();
        let one = lab.start("walled", "one", &[]);
        let two = lab.start("walled", "two", &["8080:80"]);
        let (_open, _published) = (two.machine.serve(81), two.machine.serve(80));
        let (_far, _host) = (lab.outside.serve(80), lab.host.serve(90));

        assert!(one.machine.cannot_reach(&format!("{}:81", two.ip())), "on the bridge");
        one.machine.sh(&format!("ip route add {} via {}", two.ip(), one.gateway()));
        assert!(one.machine.cannot_reach(&format!("{}:81", two.ip())), "by way of the host");
        assert!(one.machine.ask(&format!("{OUTSIDE}:80")).is_some(), "another machine");
        assert!(one.machine.ask(&format!("{}:90", one.gateway())).is_some(), "the host");
        assert!(one.machine.ask(&format!("{HOST}:8080")).is_some(), "what is published");
        assert!(lab.outside.ask(&format!("{HOST}:8080")).is_some(), "from outside");
    });
}

#[test]
fn containers_are_kept_from_each_other_after_their_bridge_was_made_again() {
    Lab::run(PublishMode::Firewall, |lab| {
        let made = lab.board.create(with("walled", "bridge.enable_icc", "false")).unwrap();
        let (one, two) = (lab.start("walled", "one", &[]), lab.start("walled", "two", &[]));
        let _server = two.machine.serve(80);

        lab.host.sh(&format!("ip link delete {}", made.bridge));
        lab.restart(&[one.live(), two.live()]);

        assert!(one.machine.cannot_reach(&format!("{}:80", two.ip())));
        let _host = lab.host.serve(90);
        assert!(one.machine.ask(&format!("{}:90", one.gateway())).is_some(), "it is connected");
    });
}

#[test]
fn ports_are_published_where_the_network_says_unless_they_say_it_themselves() {
    Lab::run(PublishMode::Firewall, |lab| {
        let request = with("local", "bridge.host_binding_ipv4", "127.0.0.1");
        lab.board.create(request).unwrap();
        let near = lab.start("local", "near", &["8080:80"]);
        let far = lab.start("local", "far", &["0.0.0.0:8081:80"]);
        let (_near, _far) = (near.machine.serve(80), far.machine.serve(80));

        let published: Vec<String> =
            near.endpoint.ports.iter().map(|port| port.host_ip.to_string()).collect();
        assert_eq!(published, ["127.0.0.1"]);
        assert!(lab.host.ask("127.0.0.1:8080").is_some());
        assert!(lab.outside.cannot_reach(&format!("{HOST}:8080")));
        assert!(lab.outside.ask(&format!("{HOST}:8081")).is_some());
    });
}

#[test]
fn a_bridge_and_what_is_inside_are_called_as_asked() {
    Lab::run(PublishMode::Firewall, |lab| {
        let mut request = with("named", "bridge.name", "br-web");
        request.options.insert("com.docker.network.container_iface_prefix".into(), "net".into());
        let made = lab.board.create(request).unwrap();
        let one = lab.start("named", "one", &[]);
        lab.board.create(network("second")).unwrap();
        let second =
            lab.board.connect("second", &container_request("one"), &one.machine.path()).unwrap();

        assert_eq!(made.bridge, "br-web");
        lab.host.sh("ip link show br-web type bridge");
        assert_eq!((one.endpoint.interface.as_str(), second.interface.as_str()), ("net0", "eth0"));
        one.machine.sh("ip link show net0");
        let taken = lab.board.create(with("again", "bridge.name", "br-web")).unwrap_err();
        assert!(matches!(taken, NetworkError::InterfaceTaken { .. }), "{taken}");
        let taken = lab.board.create(with("physical", "bridge.name", "eth0")).unwrap_err();
        assert!(taken.remedy().unwrap().contains("another name"), "{taken}");
    });
}

#[test]
fn a_bridge_that_somebody_else_made_under_the_name_stays() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(with("named", "bridge.name", "br-web")).unwrap();
        lab.host.sh("ip link add br-web type bridge");

        let netns = crate::lab::Machine::new();
        let request = container_request("one");
        let refused = lab.board.connect("named", &request, &netns.path()).unwrap_err();
        lab.restart(&[]);
        lab.board.remove("named").unwrap();

        assert!(matches!(refused, NetworkError::InterfaceTaken { .. }), "{refused}");
        lab.host.sh("ip link show br-web");
    });
}

#[test]
fn the_host_speaks_no_ipv6_on_the_ports_of_its_bridges() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(NetworkRequest { ipv6: true, ..network("six") }).unwrap();
        let (one, two) = (lab.start("six", "one", &[]), lab.start("six", "two", &[]));
        let _server = two.machine.serve(80);
        let two_v6 = two.endpoint.ips().find(std::net::IpAddr::is_ipv6).unwrap();

        let port = &one.endpoint.port;
        let said = lab.host.sh(&format!("cat /proc/sys/net/ipv6/conf/{port}/disable_ipv6"));
        let addresses = lab.host.sh(&format!("ip -6 addr show dev {port}"));

        assert_eq!((said.trim(), addresses.trim()), ("1", ""));
        assert!(one.machine.ask(&format!("[{two_v6}]:80")).is_some(), "containers do");
    });
}
