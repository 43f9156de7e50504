//! A query's bytes → what to say, or that others are to be asked. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Found, Zones};

/// Seconds that an answer may be kept: a container that comes back has another address.
const TTL_SECS: u32 = 1;

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Say this.
    Reply(Vec<u8>),
    /// Ask the host's resolvers.
    Forward,
    /// Nothing: it is no query, and an answer might start a quarrel between two servers.
    Silence,
}

/// Answers a query of a container's. `most_bytes` is what the transport can carry; a query may
/// allow more.
pub(super) fn answer(zones: &Zones, container: &str, query: &[u8], most_bytes: usize) -> Answer {
    let Ok(message) = Message::from_vec(query) else { return Answer::Silence };
    if message.metadata.message_type != MessageType::Query {
        return Answer::Silence;
    }
    if message.metadata.op_code != OpCode::Query {
        return refuse(&message, ResponseCode::NotImp);
    }
    let [question] = message.queries.as_slice() else {
        return refuse(&message, ResponseCode::FormErr);
    };
    let (name, kind) = (question.name(), question.query_type());
    let found = if question.query_class() != DNSClass::IN {
        Found::NotOurs
    } else if kind == RecordType::PTR {
        match name.parse_arpa_name() {
            Ok(network) if network.prefix_len() == network.max_prefix_len() => {
                pointer(zones, container, name, network.addr())
            }
            _ => Found::NotOurs,
        }
    } else {
        addresses(zones, container, name, kind)
    };
    match found {
        Found::Known(records) => reply(&message, ResponseCode::NoError, records, most_bytes),
        Found::Nothing => reply(&message, ResponseCode::NXDomain, Vec::new(), most_bytes),
        Found::NotOurs if zones.may_forward(container) => Answer::Forward,
        Found::NotOurs => reply(&message, ResponseCode::NXDomain, Vec::new(), most_bytes),
    }
}

/// A reply that nobody who could have answered did.
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    match refuse(&message, ResponseCode::ServFail) {
        Answer::Reply(bytes) => Some(bytes),
        Answer::Forward | Answer::Silence => None,
    }
}

fn addresses(zones: &Zones, container: &str, name: &Name, kind: RecordType) -> Found<Vec<Record>> {
    let addresses = match zones.addresses(container, &name.to_ascii()) {
        Found::Known(addresses) => addresses,
        Found::Nothing => return Found::Nothing,
        Found::NotOurs => return Found::NotOurs,
    };
    let records = addresses.into_iter().filter_map(|address| match (address, kind) {
        (IpAddr::V4(v4), RecordType::A) => Some(RData::A(A(v4))),
        (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(AAAA(v6))),
        // The name exists; of this kind there is nothing.
        _ => None,
    });
    Found::Known(records.map(|data| Record::from_rdata(name.clone(), TTL_SECS, data)).collect())
}

fn pointer(zones: &Zones, container: &str, query: &Name, address: IpAddr) -> Found<Vec<Record>> {
    match zones.name(container, address) {
        Found::Known(name) => match Name::from_ascii(format!("{name}.")) {
            Ok(name) => {
                let data = RData::PTR(PTR(name));
                Found::Known(vec![Record::from_rdata(query.clone(), TTL_SECS, data)])
            }
            Err(_) => Found::Nothing,
        },
        Found::Nothing => Found::Nothing,
        Found::NotOurs => Found::NotOurs,
    }
}

fn refuse(query: &Message, code: ResponseCode) -> Answer {
    reply(query, code, Vec::new(), usize::from(u16::MAX))
}

fn reply(query: &Message, code: ResponseCode, records: Vec<Record>, most_bytes: usize) -> Answer {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(query.queries.iter().cloned());
    reply.add_answers(records);
    let most_bytes = most_bytes.max(usize::from(query.max_payload()).min(most_bytes.max(4096)));
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= most_bytes => Answer::Reply(bytes),
        Ok(_) => reply.truncate().to_vec().map_or(Answer::Silence, Answer::Reply),
        Err(_) => Answer::Silence,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::Query;
    use proptest::prelude::*;

    use super::*;
    use crate::dns::zone::tests::{endpoint, network};

    const UDP_BYTES: usize = 512;

    fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
        message.to_vec().expect("a query")
    }

    fn ask(zones: &Zones, asker: &str, name: &str, kind: RecordType) -> Message {
        match answer(zones, asker, &query(name, kind), UDP_BYTES) {
            Answer::Reply(bytes) => Message::from_vec(&bytes).expect("a reply"),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn names_and_addresses_are_answered_and_the_rest_is_forwarded() {
        let net = network(1, "front", false);
        let db = endpoint(&net, "db", 2, &[]);
        let mut zones = Zones::default();
        zones.add(&net, &db);
        let asker = &db.container;

        let address = ask(&zones, asker, "db.", RecordType::A);
        let no_ipv6 = ask(&zones, asker, "db.", RecordType::AAAA);
        let pointer = ask(&zones, asker, "2.1.7.10.in-addr.arpa.", RecordType::PTR);
        let unknown = ask(&zones, asker, "9.1.7.10.in-addr.arpa.", RecordType::PTR);
        let foreign = answer(&zones, asker, &query("example.org.", RecordType::A), UDP_BYTES);

        assert_eq!(address.answers[0].data, RData::A(A::new(10, 7, 1, 2)));
        assert_eq!(no_ipv6.metadata.response_code, ResponseCode::NoError);
        assert!(no_ipv6.answers.is_empty());
        assert!(
            matches!(&pointer.answers[0].data, RData::PTR(name) if name.to_ascii() == "db.front.")
        );
        assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(foreign, Answer::Forward);
    }

    #[test]
    fn an_internal_network_forwards_nothing() {
        let net = network(1, "inner", true);
        let db = endpoint(&net, "db", 2, &[]);
        let mut zones = Zones::default();
        zones.add(&net, &db);

        let foreign = ask(&zones, &db.container, "secret.example.org.", RecordType::A);

        assert_eq!(foreign.metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_cut_and_says_so() {
        let net = network(1, "front", false);
        let mut zones = Zones::default();
        for host in 2..100 {
            zones.add(&net, &endpoint(&net, &format!("c{host}x"), host, &["many"]));
        }
        let asker = format!("{:0<64}", "c2x");

        let cut = ask(&zones, &asker, "many.", RecordType::A);
        let whole = answer(&zones, &asker, &query("many.", RecordType::A), usize::from(u16::MAX));

        assert!(cut.metadata.truncation);
        let Answer::Reply(whole) = whole else { panic!("no reply") };
        assert_eq!(Message::from_vec(&whole).expect("a reply").answers.len(), 98);
    }

    #[test]
    fn replies_are_met_with_silence() {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(Name::root(), RecordType::A));

        let outcome =
            answer(&Zones::default(), "x", &message.to_vec().expect("a reply"), UDP_BYTES);

        assert_eq!(outcome, Answer::Silence);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_server_fall(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let net = network(1, "front", false);
            let db = endpoint(&net, "db", 2, &[]);
            let mut zones = Zones::default();
            zones.add(&net, &db);

            if let Answer::Reply(reply) = answer(&zones, &db.container, &bytes, UDP_BYTES) {
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
        }
    }
}
