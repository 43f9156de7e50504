//! The attach socket – proto/keg/shim/v1/io.proto.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use keg_fixtures::wait::{PATIENCE, wait_until};
use keg_fixtures::{Bundle, Shim, requires};
use keg_proto::containerd::v1::types::Status;
use keg_proto::keg::shim::v1::attach_end::Reason;
use keg_proto::keg::shim::v1::{AttachEnd, AttachHello, AttachReady};
use prost::Message;

/// One attached client.
struct Client(UnixStream);

/// What a client got up to the end.
#[derive(Debug, Default, PartialEq)]
struct Got {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    reason: i32,
    dropped_bytes: u64,
}

impl Client {
    fn connect(shim: &Shim, hello: &AttachHello) -> Self {
        let address = std::fs::read_to_string(shim.bundle().path().join("address")).unwrap();
        let socket = format!("{}.io", address.strip_prefix("unix://").unwrap());
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self(stream);
        client.send(1, &hello.encode_to_vec());
        client
    }

    fn attach(shim: &Shim, stdin: bool) -> Self {
        Self::attach_as(
            shim,
            &AttachHello { stdin, stdout: true, stderr: true, ..AttachHello::default() },
        )
    }

    fn attach_as(shim: &Shim, hello: &AttachHello) -> Self {
        let mut client = Self::connect(shim, hello);
        let (kind, ready) = client.receive();
        assert_eq!(kind, 16);
        assert!(!AttachReady::decode(ready.as_slice()).unwrap().terminal);
        client
    }

    fn send(&mut self, kind: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        self.0.write_all(&[&[kind], &length[..], payload].concat()).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        self.0.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        (header[0], payload)
    }

    fn read_to_end(mut self) -> Got {
        let mut got = Got::default();
        loop {
            match self.receive() {
                (17, payload) => got.stdout.extend(payload),
                (18, payload) => got.stderr.extend(payload),
                (19, payload) => {
                    let end = AttachEnd::decode(payload.as_slice()).unwrap();
                    got.reason = end.reason;
                    got.dropped_bytes = end.dropped_bytes;
                    return got;
                }
                (kind, _) => panic!("frame of kind {kind}"),
            }
        }
    }
}

#[test]
fn every_client_gets_all_of_both_streams_and_the_end() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["both", "to one", "to the other"]));
    shim.create();
    let clients = [Client::attach(&shim, false), Client::attach(&shim, false)];

    shim.start("");

    for client in clients {
        let got = client.read_to_end();
        assert_eq!(got.stdout, b"to one\n");
        assert_eq!(got.stderr, b"to the other\n");
        assert_eq!((got.reason, got.dropped_bytes), (Reason::OutputEnded as i32, 0));
    }
}

#[test]
fn a_client_writes_standard_input_and_ends_it() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["echo"]));
    shim.create_with(|request| request.stdin = "keg:".into()).unwrap();
    let mut client = Client::attach(&shim, true);

    // Also what is sent before the program runs arrives.
    client.send(2, b"early ");
    shim.start("");
    client.send(2, b"late\n");
    client.send(3, b"");

    assert_eq!(client.read_to_end().stdout, b"early late\nend of input\n");
    assert_eq!(shim.wait("").exit_status, 0);
}

#[test]
fn standard_input_ends_with_a_client_that_says_so() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["echo"]));
    shim.create_with(|request| request.stdin = "keg:".into()).unwrap();
    shim.start("");
    let hello = AttachHello { stdin: true, stdin_once: true, ..AttachHello::default() };
    let mut client = Client::connect(&shim, &hello);

    client.send(2, b"all\n");
    client.receive();
    drop(client);

    assert_eq!(shim.wait("").exit_status, 0);
    assert_eq!(shim.logged("stdout"), "all\nend of input\n");
}

#[test]
fn a_client_that_does_not_read_loses_output_and_stalls_nobody() {
    requires!(root);
    const LINES: usize = 60_000;
    let shim = Shim::new(Bundle::probe().args(["lines", "60000", "100"]));
    shim.create();
    let slow = Client::attach(&shim, false);

    shim.start("");

    assert_eq!(shim.wait("").exit_status, 0);
    assert_eq!(shim.logged("stdout").lines().count(), LINES, "the log has everything");
    let got = slow.read_to_end();
    let lost = usize::try_from(got.dropped_bytes).unwrap();
    assert!(lost > 0);
    assert_eq!(got.stdout.len() + lost, LINES * 100);
}

#[test]
fn a_lossless_client_sets_the_pace_and_gets_everything() {
    requires!(root);
    const LINES: usize = 60_000;
    let shim = Shim::new(Bundle::probe().args(["lines", "60000", "100"]));
    shim.create();
    let hello = AttachHello { stdout: true, lossless: true, ..AttachHello::default() };
    let slow = Client::attach_as(&shim, &hello);

    shim.start("");

    // Its queue, the pipe and the socket hold less than half of what the program writes: with the
    // first part in the log, it waits.
    wait_until("the log has begun", PATIENCE, || {
        std::fs::metadata(shim.log_file()).is_ok_and(|log| log.len() > 400_000)
    });
    assert_eq!(shim.state("").unwrap().status, Status::Running as i32);
    let got = slow.read_to_end();
    assert_eq!((got.stdout.len(), got.dropped_bytes), (LINES * 100, 0));
    assert_eq!(shim.wait("").exit_status, 0);
}

#[test]
fn a_lossless_client_that_leaves_lets_the_process_go_on() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["lines", "60000", "100"]));
    shim.create();
    let hello = AttachHello { stdout: true, lossless: true, ..AttachHello::default() };
    let slow = Client::attach_as(&shim, &hello);
    shim.start("");

    drop(slow);

    assert_eq!(shim.wait("").exit_status, 0);
    assert_eq!(shim.logged("stdout").lines().count(), 60_000);
}

#[test]
fn an_unknown_process_and_a_wrong_greeting_are_told_apart() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();
    let hello = AttachHello { exec_id: "nobody".into(), ..AttachHello::default() };

    let unknown = Client::connect(&shim, &hello).read_to_end();
    let mut rude = Client::attach(&shim, false);
    rude.send(1, &hello.encode_to_vec());
    let rude = rude.read_to_end();

    assert_eq!(unknown.reason, Reason::NoSuchProcess as i32);
    assert_eq!(rude.reason, Reason::ProtocolError as i32);
}

#[test]
fn who_comes_after_the_end_is_told_at_once() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["exit", "0"]));
    shim.create();
    shim.start("");
    shim.wait("");

    let late = Client::attach(&shim, false).read_to_end();

    assert_eq!(late.reason, Reason::OutputEnded as i32);
}
