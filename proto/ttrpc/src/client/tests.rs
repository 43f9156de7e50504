//! Client against server over a socket pair.

use std::cell::Cell;
use std::rc::Rc;

use keg_proto::containerd::task::v2::{ConnectRequest, ConnectResponse, StateRequest};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::*;
use crate::frame::MAX_MESSAGE_BYTES;
use crate::server::{Request, Service, serve};
use crate::status::Code;

/// Answers `Connect` with the length of the id, holds `Wait` until told, fails all others.
#[derive(Default)]
struct Echo {
    release: Notify,
    dropped: Rc<Cell<u32>>,
}

struct CountDrop(Rc<Cell<u32>>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

impl Service for Echo {
    async fn call(&self, request: Request) -> Result<Vec<u8>, Status> {
        match request.method.as_str() {
            "Connect" => {
                let input: ConnectRequest = request.decode()?;
                let shim_pid = u32::try_from(input.id.len()).unwrap();
                Ok(ConnectResponse { shim_pid, ..Default::default() }.encode_to_vec())
            }
            "Wait" => {
                let _count = CountDrop(Rc::clone(&self.dropped));
                self.release.notified().await;
                Ok(Vec::new())
            }
            "Huge" => Ok(vec![0; MAX_MESSAGE_BYTES + 1]),
            _ => Err(request.unimplemented().with_reason("NO_METHOD", "test")),
        }
    }
}

/// Runs `test` with a client of an [`Echo`], on one thread.
async fn with_echo<F: Future<Output = ()>>(test: impl FnOnce(Client, Rc<Echo>, UnixStream) -> F) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (raw, theirs_raw) = UnixStream::pair().unwrap();
    let echo = Rc::new(Echo::default());
    let local = LocalSet::new();
    for end in [theirs, theirs_raw] {
        let echo = Rc::clone(&echo);
        local.spawn_local(async move {
            serve(end, &*echo).await.unwrap();
        });
    }
    let test = test(Client::over(ours), Rc::clone(&echo), raw);
    tokio::time::timeout(Duration::from_secs(10), local.run_until(test)).await.expect("a result");
}

fn id(id: &str) -> ConnectRequest {
    ConnectRequest { id: id.to_owned() }
}

#[tokio::test]
async fn a_call_that_waits_holds_up_no_other() {
    with_echo(|client, echo, _raw| async move {
        let waits = client.call::<_, ()>("t", "Wait", &(), None);
        let answers = async {
            for length in 0..100 {
                let answer: ConnectResponse =
                    client.call("t", "Connect", &id(&"x".repeat(length)), None).await.unwrap();
                assert_eq!(answer.shim_pid as usize, length);
            }
            echo.release.notify_one();
        };
        let (waited, ()) = tokio::join!(waits, answers);
        waited.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_servers_status_arrives_with_code_and_reason() {
    with_echo(|client, _echo, _raw| async move {
        let error = client.call::<_, ()>("t.Task", "Fly", &(), None).await.unwrap_err();

        let status = error.status().expect("a status");
        assert_eq!(status.code, Code::Unimplemented);
        assert_eq!(status.message, "/t.Task/Fly is not implemented");
        assert_eq!(status.error_info().unwrap().reason, "NO_METHOD");
    })
    .await;
}

#[tokio::test]
async fn a_timeout_ends_the_call_on_both_sides() {
    with_echo(|client, echo, _raw| async move {
        let timeout = Duration::from_millis(20);
        let error = client.call::<_, ()>("t", "Wait", &(), Some(timeout)).await.unwrap_err();

        match &error {
            CallError::TimedOut { .. } => {}
            other => assert_eq!(other.status().unwrap().code, Code::DeadlineExceeded),
        }
        while echo.dropped.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_handlers() {
    with_echo(|client, echo, _raw| async move {
        {
            let waits = client.call::<_, ()>("t", "Wait", &(), None);
            let nobody = id("");
            let connects = client.call::<_, ConnectResponse>("t", "Connect", &nobody, None);
            tokio::select! {
                biased;
                _ = waits => panic!("nobody released it"),
                connected = connects => { connected.unwrap(); }
            }
        }
        assert_eq!(echo.dropped.get(), 0);
        drop(client);
        while echo.dropped.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_leaves_fails_the_waiting_and_the_next_call() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = Client::over(ours);
    let waits = client.call::<_, ()>("t", "Wait", &(), None);
    let leaves = async {
        let mut theirs = theirs;
        let mut some = [0; 10];
        theirs.read_exact(&mut some).await.unwrap();
        drop(theirs);
    };

    let (waited, ()) = tokio::join!(waits, leaves);

    assert!(matches!(waited, Err(CallError::Closed { .. })));
    client.closed().await;
    assert!(client.is_closed());
    let next = client.call::<_, ()>("t", "Wait", &(), None).await;
    assert!(matches!(next, Err(CallError::Closed { .. })));
}

#[tokio::test]
async fn oversized_requests_and_answers_become_errors() {
    with_echo(|client, _echo, _raw| async move {
        let big = StateRequest { id: "x".repeat(MAX_MESSAGE_BYTES), ..Default::default() };
        let request = client.call::<_, ()>("t", "Connect", &big, None).await;
        let answer = client.call::<_, ()>("t", "Huge", &(), None).await;

        assert!(matches!(request, Err(CallError::Request { .. })));
        assert_eq!(answer.unwrap_err().status().unwrap().code, Code::ResourceExhausted);
    })
    .await;
}

#[tokio::test]
async fn streams_even_ids_and_garbage_are_refused_and_the_connection_goes_on() {
    with_echo(|_client, _echo, mut raw| async move {
        let call = wire::Request { method: "Connect".into(), ..Default::default() };
        let call = Bytes::from(call.encode_to_vec());
        let frame = |stream_id, kind, flags, message: &Bytes| Frame {
            stream_id,
            kind,
            flags,
            message: message.clone(),
        };
        let mut out = BytesMut::new();
        for frame in [
            frame(1, Kind::Request, 2, &call),
            frame(1, Kind::Data, 1, &call),
            frame(2, Kind::Request, 0, &call),
            frame(3, Kind::Unknown(77), 0, &call),
            frame(5, Kind::Request, 0, &Bytes::from_static(b"\xff\xff\xff")),
            frame(7, Kind::Request, 0, &call),
        ] {
            frame.encode(&mut out).unwrap();
        }
        raw.write_all(&out).await.unwrap();

        let mut decoder = Decoder::default();
        let mut codes = HashMap::new();
        while codes.len() < 4 {
            assert_ne!(raw.read_buf(decoder.buffer()).await.unwrap(), 0);
            while let Some(frame) = decoder.next().unwrap() {
                let response = wire::Response::decode(frame.message).unwrap();
                codes.insert(frame.stream_id, response.status.map_or(0, |status| status.code));
            }
        }
        assert_eq!(codes, HashMap::from([(1, 12), (2, 3), (5, 3), (7, 0)]));
    })
    .await;
}
