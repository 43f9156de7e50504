//! The conversation with systemd, its part played by a script.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

/// A bus that answers each call in turn, after sending signals.
fn serve(stream: &mut UnixStream, answers: Vec<Vec<Vec<u8>>>) -> Vec<String> {
    let mut line = [0; 1];
    let mut auth = Vec::new();
    while !auth.ends_with(b"\r\n") {
        stream.read_exact(&mut line).unwrap();
        auth.push(line[0]);
    }
    stream.write_all(b"OK 1234deadbeef\r\n").unwrap();
    let mut begin = [0; 7];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"BEGIN\r\n");

    let mut members = Vec::new();
    for messages in answers {
        let mut bytes = vec![0; wire::FIXED_BYTES];
        stream.read_exact(&mut bytes).unwrap();
        bytes.resize(wire::message_length(&bytes).unwrap(), 0);
        stream.read_exact(&mut bytes[wire::FIXED_BYTES..]).unwrap();
        members.push(wire::decode(bytes).unwrap().member.unwrap());
        for message in messages {
            stream.write_all(&message).unwrap();
        }
    }
    members
}

/// A message to us, made from a call: its type and its header fields are exchanged.
fn message(kind: u8, reply_serial: u32, name: &str, signature: &str, body: &Writer2) -> Vec<u8> {
    let mut fields = Vec::new();
    let mut field = |code: u8, kind: u8, value: &[u8]| {
        while !fields.len().is_multiple_of(8) {
            fields.push(0);
        }
        fields.extend([code, 1, kind, 0]);
        fields.extend_from_slice(value);
    };
    let text = |text: &str| {
        let mut bytes = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        bytes
    };
    match kind {
        2 => field(5, b'u', &reply_serial.to_le_bytes()),
        3 => {
            field(5, b'u', &reply_serial.to_le_bytes());
            field(4, b's', &text(name));
        }
        _ => field(3, b's', &text(name)),
    }
    if !signature.is_empty() {
        let mut value = vec![u8::try_from(signature.len()).unwrap()];
        value.extend_from_slice(signature.as_bytes());
        value.push(0);
        field(8, b'g', &value);
    }
    let mut bytes = vec![b'l', kind, 0, 1];
    bytes.extend_from_slice(&u32::try_from(body.0.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(fields.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&fields);
    while !bytes.len().is_multiple_of(8) {
        bytes.push(0);
    }
    bytes.extend_from_slice(&body.0);
    bytes
}

/// A body that is written independently of the code under test.
struct Writer2(Vec<u8>);

impl Writer2 {
    fn none() -> Self {
        Self(Vec::new())
    }

    fn number(mut self, number: u32) -> Self {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut this = self.number(u32::try_from(text.len()).unwrap());
        this.0.extend_from_slice(text.as_bytes());
        this.0.push(0);
        this
    }
}

fn answer(serial: u32, signature: &str, body: &Writer2) -> Vec<u8> {
    message(2, serial, "", signature, body)
}

fn removed(job: &str, result: &str) -> Vec<u8> {
    let body = Writer2::none().number(1).text(job).text("x.scope").text(result);
    message(4, 0, "JobRemoved", "uoss", &body)
}

/// Runs a job against a bus that tells these results of jobs, before or after its answer.
fn job(before: &[(&str, &str)], after: &[(&str, &str)]) -> (Result<(), DBusError>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let signals = |list: &[(&str, &str)]| -> Vec<Vec<u8>> {
        list.iter().map(|(job, result)| removed(job, result)).collect()
    };
    let empty = Writer2::none();
    let started = answer(4, "o", &Writer2::none().text("/job/7"));
    let last = [signals(before), vec![started], signals(after)].concat();
    let answers = vec![
        vec![answer(1, "s", &Writer2::none().text(":1.5"))],
        vec![answer(2, "", &empty)],
        vec![answer(3, "", &empty)],
        last,
    ];
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            serve(&mut stream, answers)
        });
        let mut bus = Connection::open(&path).unwrap();
        let outcome = stop_unit(&mut bus, "x.scope");
        drop(bus);
        (outcome, server.join().unwrap())
    })
}

#[test]
fn a_job_is_waited_for_by_its_own_path() {
    let (outcome, members) =
        job(&[("/job/6", "failed")], &[("/job/8", "failed"), ("/job/7", "done")]);

    outcome.unwrap();
    assert_eq!(members, ["Hello", "AddMatch", "Subscribe", "StopUnit"]);
}

#[test]
fn a_job_that_ends_before_the_answer_is_not_missed() {
    let (outcome, _) = job(&[("/job/7", "done")], &[]);

    outcome.unwrap();
}

#[test]
fn a_job_that_fails_is_an_error() {
    let (outcome, _) = job(&[], &[("/job/7", "failed")]);

    assert!(matches!(outcome, Err(DBusError::Job { result }) if result == "failed"));
}

#[test]
fn a_refusal_is_told_by_name_and_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let name = "org.freedesktop.systemd1.NoSuchUnit";
    let refusal = message(3, 2, name, "s", &Writer2::none().text("Unit x.scope not loaded."));
    let answers = vec![vec![answer(1, "s", &Writer2::none().text(":1.5"))], vec![refusal]];

    let refused = std::thread::scope(|scope| {
        scope.spawn(move || serve(&mut listener.accept().unwrap().0, answers));
        let mut bus = Connection::open(&path).unwrap();
        reset_failed(&mut bus, "x.scope").unwrap_err()
    });

    assert!(refused.is(name));
    assert_eq!(refused.to_string(), format!("{name}: Unit x.scope not loaded."));
}
