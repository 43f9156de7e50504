//! Serves the attach socket: one task per client.
//!
//! ```text
//! client ── Hello ──▶            ◀── Ready, output …, End ──
//!        ── input … ─▶ stdin of the process (waits with the process, holding up only this client)
//! ```

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use keg_proto::keg::shim::v1::attach_end::Reason;
use keg_proto::keg::shim::v1::{AttachEnd, AttachHello, AttachReady};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::frames::{self, from_client, to_client};
use super::hub::{Client, Hub, Next, Wanted};

/// How long a client may take to say what it wants.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// How long a client may take to read the goodbye.
const GOODBYE_LIMIT: Duration = Duration::from_secs(10);

/// Serves one client to its end. `find` knows the hub of a process.
pub(crate) async fn serve(connection: UnixStream, find: impl Fn(&str) -> Option<Rc<Hub>>) {
    let (mut reader, mut writer) = connection.into_split();
    let mut input = BytesMut::new();
    let hello = match tokio::time::timeout(HELLO_LIMIT, read_frame(&mut reader, &mut input)).await {
        Ok(Some((from_client::HELLO, payload))) => AttachHello::decode(payload).ok(),
        Ok(None) => return,
        _ => None,
    };
    let Some(hello) = hello else {
        return goodbye(&mut writer, Reason::ProtocolError, 0).await;
    };
    let Some(hub) = find(&hello.exec_id) else {
        return goodbye(&mut writer, Reason::NoSuchProcess, 0).await;
    };
    let wanted = Wanted { stdout: hello.stdout, stderr: hello.stderr, lossless: hello.lossless };
    let Some(client) = hub.attach(wanted) else {
        return goodbye(&mut writer, Reason::Unspecified, 0).await;
    };
    converse(&hello, &hub, &client, reader, input, &mut writer).await;
    hub.detach(&client);
}

/// Carries data both ways until the output ends or the client leaves.
async fn converse(
    hello: &AttachHello,
    hub: &Hub,
    client: &Client,
    reader: OwnedReadHalf,
    input: BytesMut,
    writer: &mut OwnedWriteHalf,
) {
    let ready = AttachReady { terminal: hub.terminal() }.encode_to_vec();
    if writer.write_all(&frames::encode(to_client::READY, &ready)).await.is_err() {
        return;
    }
    let end = tokio::select! {
        end = send_output(client, writer) => end,
        end = take_input(hello, hub, reader, input) => end,
    };
    if hello.stdin && hello.stdin_once {
        hub.end_stdin();
    }
    match end {
        End::Output { dropped_bytes } => {
            goodbye(writer, Reason::OutputEnded, dropped_bytes).await;
        }
        End::Protocol => goodbye(writer, Reason::ProtocolError, 0).await,
        End::Left => {}
    }
}

/// Why a conversation ended.
enum End {
    Output { dropped_bytes: u64 },
    Protocol,
    Left,
}

async fn send_output(client: &Client, writer: &mut OwnedWriteHalf) -> End {
    loop {
        match client.next().await {
            Next::Frame(frame) => {
                if writer.write_all(&frame).await.is_err() {
                    return End::Left;
                }
            }
            Next::End { dropped_bytes } => return End::Output { dropped_bytes },
        }
    }
}

async fn take_input(
    hello: &AttachHello,
    hub: &Hub,
    mut reader: OwnedReadHalf,
    mut input: BytesMut,
) -> End {
    loop {
        match frames::take(&mut input) {
            Ok(Some((from_client::STDIN, payload))) if hello.stdin => {
                // Input that nobody takes is lost, as with a closed pipe.
                let _ = hub.stdin().write(&payload).await;
            }
            Ok(Some((from_client::STDIN_END, _))) if hello.stdin => hub.end_stdin(),
            Ok(Some((from_client::HELLO, _))) | Err(_) => return End::Protocol,
            // Frames of unknown kinds are for newer shims.
            Ok(Some(_)) => {}
            Ok(None) => {
                if input.is_empty() {
                    input = BytesMut::new();
                }
                input.reserve(frames::HEADER_BYTES);
                match reader.read_buf(&mut input).await {
                    Ok(1..) => {}
                    _ => return End::Left,
                }
            }
        }
    }
}

async fn read_frame(reader: &mut OwnedReadHalf, input: &mut BytesMut) -> Option<(u8, BytesMut)> {
    loop {
        match frames::take(input) {
            Ok(Some(frame)) => return Some(frame),
            // Too long for anything that may come first.
            Err(_) => return Some((0, BytesMut::new())),
            Ok(None) => match reader.read_buf(input).await {
                Ok(1..) => {}
                _ => return None,
            },
        }
    }
}

/// Tells a client why the conversation is over. If it does not listen, that is its loss.
async fn goodbye(writer: &mut OwnedWriteHalf, reason: Reason, dropped_bytes: u64) {
    let end = AttachEnd { reason: reason.into(), dropped_bytes }.encode_to_vec();
    let frame = frames::encode(to_client::END, &end);
    let _ = tokio::time::timeout(GOODBYE_LIMIT, writer.write_all(&frame)).await;
}
