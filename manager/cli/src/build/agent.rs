//! Connections to the SSH agent, carried in frames.

use std::collections::HashMap;
use std::path::PathBuf;

use keg_proto::keg::v1::build_request::Part;
use keg_proto::keg::v1::{AgentFrame, BuildRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Bytes in one frame.
const FRAME_BYTES: usize = 16 * 1024;

/// The agents that are offered, and their connections.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    sockets: HashMap<String, PathBuf>,
    open: HashMap<u64, mpsc::UnboundedSender<Vec<u8>>>,
}

impl Agents {
    /// Offers agents, by their ids.
    pub(crate) fn new(sockets: HashMap<String, PathBuf>) -> Self {
        Self { sockets, open: HashMap::new() }
    }

    /// Takes a frame of the daemon.
    pub(crate) async fn frame(&mut self, frame: AgentFrame, answers: &mpsc::Sender<BuildRequest>) {
        let number = frame.connection;
        if let Some(sender) = self.open.get(&number) {
            if !frame.data.is_empty() {
                // The agent may have hung up.
                let _ = sender.send(frame.data);
            }
            if frame.end {
                self.open.remove(&number);
            }
            return;
        }
        if frame.id.is_empty() {
            return;
        }
        let stream = match self.sockets.get(&frame.id) {
            Some(socket) => UnixStream::connect(socket).await.ok(),
            None => None,
        };
        let answer = move |data: Vec<u8>, end: bool| BuildRequest {
            part: Some(Part::Agent(AgentFrame {
                connection: number,
                id: String::new(),
                data,
                end,
            })),
        };
        let _ = answers.send(answer(Vec::new(), stream.is_none())).await;
        let Some(stream) = stream else { return };
        let (sender, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
        self.open.insert(number, sender);
        let (mut from_agent, mut to_agent) = stream.into_split();
        tokio::spawn(async move {
            while let Some(bytes) = outgoing.recv().await {
                if to_agent.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        });
        let answers = answers.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; FRAME_BYTES];
            loop {
                let length = from_agent.read(&mut buffer).await.unwrap_or(0);
                let sent = answers.send(answer(buffer[..length].to_vec(), length == 0)).await;
                if sent.is_err() || length == 0 {
                    break;
                }
            }
        });
    }
}
