//! Names on networks, asked as programs ask them: at 127.0.0.11, port 53.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use keg_network::{ConnectRequest, NetworkRequest, PublishMode};

use crate::lab::{Lab, Machine, container_request};
use crate::ports::network;

/// Asks for a name's IPv4 addresses.
fn resolve(machine: &Machine, name: &str) -> Result<Vec<IpAddr>, ResponseCode> {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
    let bytes = query.to_vec().unwrap();
    let reply = machine.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect("127.0.0.11:53").unwrap();
        socket.send(&bytes).unwrap();
        let mut reply = [0; 4096];
        let length = socket.recv(&mut reply).expect("an answer");
        Message::from_vec(&reply[..length]).unwrap()
    });
    assert_eq!(reply.metadata.id, query.metadata.id);
    if reply.metadata.response_code != ResponseCode::NoError {
        return Err(reply.metadata.response_code);
    }
    let addresses = reply.answers.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    });
    Ok(addresses.collect())
}

#[test]
fn containers_find_each_other_across_a_restart_with_a_new_address() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("front")).unwrap();
        let web = lab.start("front", "web", &[]);
        let request =
            ConnectRequest { aliases: vec!["store".to_owned()], ..container_request("db") };
        let before = lab.start_as("front", &request);
        assert_eq!(resolve(&web.machine, "db."), Ok(vec![before.ip()]));

        lab.board.disconnect_all(&before.id).unwrap();
        assert_eq!(resolve(&web.machine, "db."), Err(ResponseCode::ServFail), "gone");
        let after = lab.start_as("front", &request);

        assert_ne!(before.ip(), after.ip());
        for name in ["db.", "DB.", "store.", "db.front."] {
            assert_eq!(resolve(&web.machine, name), Ok(vec![after.ip()]), "{name}");
        }
    });
}

#[test]
fn names_survive_the_daemon() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("front")).unwrap();
        let (web, db) = (lab.start("front", "web", &[]), lab.start("front", "db", &[]));

        let reconciled = lab.restart(&[web.live(), db.live()]);

        assert_eq!((reconciled.kept, reconciled.problems), (2, vec![]));
        assert_eq!(resolve(&web.machine, "db."), Ok(vec![db.ip()]));
    });
}

#[test]
fn what_no_network_knows_is_asked_of_the_hosts_resolvers_unless_the_network_is_internal() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("front")).unwrap();
        lab.board.create(NetworkRequest { internal: true, ..network("inner") }).unwrap();
        let (web, shut) = (lab.start("front", "web", &[]), lab.start("inner", "shut", &[]));
        fs::write(&lab.settings.resolv_conf, "nameserver 192.0.2.2\n").unwrap();
        let resolver = lab.outside.run(|| UdpSocket::bind("192.0.2.2:53").unwrap());
        let answering = thread::spawn(move || {
            let mut bytes = [0; 512];
            let (length, peer) = resolver.recv_from(&mut bytes).unwrap();
            let query = Message::from_vec(&bytes[..length]).unwrap();
            let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
            reply.add_queries(query.queries.iter().cloned());
            let address = RData::A(A::new(203, 0, 113, 9));
            reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, address));
            resolver.send_to(&reply.to_vec().unwrap(), peer).unwrap();
        });

        assert_eq!(resolve(&shut.machine, "example.org."), Err(ResponseCode::NXDomain));
        let answer = resolve(&web.machine, "example.org.");

        answering.join().unwrap();
        assert_eq!(answer, Ok(vec!["203.0.113.9".parse().unwrap()]));
    });
}

#[test]
fn names_are_answered_over_tcp_too() {
    use std::io::{Read, Write};
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("front")).unwrap();
        let web = lab.start("front", "web", &[]);
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_str("web.").unwrap(), RecordType::A));
        let bytes = query.to_vec().unwrap();

        let reply = web.machine.run(|| {
            let mut stream = std::net::TcpStream::connect("127.0.0.11:53").unwrap();
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &bytes].concat()).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut reply).unwrap();
            Message::from_vec(&reply).unwrap()
        });

        assert_eq!(reply.answers.len(), 1);
    });
}

#[test]
fn a_container_that_floods_its_server_leaves_the_others_theirs() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("front")).unwrap();
        let (loud, quiet) = (lab.start("front", "loud", &[]), lab.start("front", "quiet", &[]));
        fs::write(&lab.settings.resolv_conf, "nameserver 192.0.2.99\n").unwrap();
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_str("slow.example.").unwrap(), RecordType::A));
        let bytes = query.to_vec().unwrap();

        loud.machine.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..20_000 {
                let _ = socket.send_to(&bytes, "127.0.0.11:53");
            }
        });

        assert_eq!(resolve(&quiet.machine, "loud."), Ok(vec![loud.ip()]));
    });
}

#[test]
fn a_container_may_be_a_name_server_itself() {
    Lab::run(PublishMode::Firewall, |lab| {
        lab.board.create(network("front")).unwrap();
        let server = lab.start("front", "server", &[]);

        let own = server.machine.serve(53);

        assert_eq!(resolve(&server.machine, "server."), Ok(vec![server.ip()]));
        drop(own);
    });
}
