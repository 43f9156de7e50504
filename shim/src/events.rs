//! Publishes what happens to the daemon, in order, without waiting for it.
//!
//! ```text
//! publish() ─▶ queue (bounded) ─▶ one sender ─▶ Events.Forward on TTRPC_ADDRESS
//!                                  │ fails: waits 1, 2, 4 … 60 s, or until a client connects
//! ```
//!
//! There is one sender and it goes on with the next event only when the last one was taken, so that
//! order holds. While no daemon listens, events wait; when the queue is full the oldest is lost:
//! a daemon that comes back asks for states anyway, and exits are on disk.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use keg_proto::containerd::events as pb;
use keg_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use keg_proto::containerd::types::Envelope;
use keg_ttrpc::Client;
use prost::Message;
use tokio::sync::Notify;

use crate::clock::timestamp;
use crate::later::later;
use crate::self_log;

/// Events that wait for the daemon.
const QUEUE_LENGTH: usize = 1024;

/// How long the daemon may take for one event.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How often the daemon may refuse one event before it is given up.
const MAX_REFUSALS: u32 = 5;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// A message of `containerd.events` with its names.
pub(crate) trait Event: Message {
    /// Where subscribers find it.
    const TOPIC: &'static str;
    /// Full name of the message.
    const TYPE: &'static str;
}

macro_rules! events {
    ($($message:ident $topic:literal;)*) => {$(
        impl Event for pb::$message {
            const TOPIC: &'static str = $topic;
            const TYPE: &'static str = concat!("containerd.events.", stringify!($message));
        }
    )*};
}

events! {
    TaskCreate "/tasks/create";
    TaskStart "/tasks/start";
    TaskExecAdded "/tasks/exec-added";
    TaskExecStarted "/tasks/exec-started";
    TaskExit "/tasks/exit";
    TaskDelete "/tasks/delete";
    TaskPaused "/tasks/paused";
    TaskResumed "/tasks/resumed";
    TaskCheckpointed "/tasks/checkpointed";
}

impl Event for pb::TaskOom {
    const TOPIC: &'static str = "/tasks/oom";
    // prost writes "Oom"; the interface does not.
    const TYPE: &'static str = "containerd.events.TaskOOM";
}

/// The queue and its sender.
#[derive(Debug)]
pub(crate) struct Publisher {
    namespace: String,
    /// `None`: nobody wants events.
    daemon: Option<PathBuf>,
    queue: RefCell<VecDeque<ForwardRequest>>,
    /// Told of new events, and of signs that the daemon lives.
    wake: Notify,
    /// Told when the queue is empty.
    empty: Notify,
    lost: Cell<u64>,
}

impl Publisher {
    pub(crate) fn new(namespace: &str, daemon: Option<PathBuf>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            daemon,
            queue: RefCell::default(),
            wake: Notify::new(),
            empty: Notify::new(),
            lost: Cell::new(0),
        }
    }

    /// Queues an event and sends it.
    pub(crate) fn publish<E: Event>(&self, event: &E) {
        self.queue(event);
        self.wake.notify_one();
    }

    /// Queues an event that a daemon hears of in a moment, or with the next one: what it waits for is
    /// the answer to its call.
    pub(crate) fn publish_later<E: Event>(self: &Rc<Self>, event: &E) {
        self.queue(event);
        let publisher = Rc::clone(self);
        later(move || publisher.hurry());
    }

    fn queue<E: Event>(&self, event: &E) {
        if self.daemon.is_none() {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: Some(prost_types::Any {
                type_url: E::TYPE.to_owned(),
                value: event.encode_to_vec(),
            }),
        };
        let mut queue = self.queue.borrow_mut();
        if queue.len() == QUEUE_LENGTH {
            queue.pop_front();
            self.lost.set(self.lost.get() + 1);
        }
        queue.push_back(ForwardRequest { envelope: Some(envelope) });
    }

    /// Tries again at once: someone connected, so a daemon lives.
    pub(crate) fn hurry(&self) {
        if !self.queue.borrow().is_empty() {
            self.wake.notify_one();
        }
    }

    /// Waits until all events were taken.
    pub(crate) async fn flushed(&self) {
        loop {
            let empty = self.empty.notified();
            if self.queue.borrow().is_empty() {
                return;
            }
            empty.await;
        }
    }

    /// Sends for ever.
    pub(crate) async fn run(&self) {
        let Some(daemon) = &self.daemon else { return };
        let mut connection = None;
        let mut pause = Duration::ZERO;
        let mut refusals = 0;
        loop {
            let Some(event) = self.queue.borrow().front().cloned() else {
                *self.queue.borrow_mut() = VecDeque::new();
                self.empty.notify_waiters();
                self.wake.notified().await;
                continue;
            };
            let lost_before = self.lost.get();
            let taken = forward(&mut connection, daemon, &event).await;
            match taken {
                Taken::Yes => {}
                Taken::Refused if refusals == MAX_REFUSALS => {
                    self_log::info("the daemon refuses an event: it is given up");
                }
                Taken::Refused | Taken::NobodyThere => {
                    refusals += u32::from(matches!(taken, Taken::Refused));
                    pause = (pause * 2).clamp(Duration::from_secs(1), MAX_PAUSE);
                    // Sooner if there is a sign of life.
                    let _ = tokio::time::timeout(pause, self.wake.notified()).await;
                    continue;
                }
            }
            (pause, refusals) = (Duration::ZERO, 0);
            // While it was sent, the queue may have lost it.
            if self.lost.get() == lost_before {
                self.queue.borrow_mut().pop_front();
            }
        }
    }
}

/// What became of an event.
#[derive(Clone, Copy)]
enum Taken {
    Yes,
    Refused,
    NobodyThere,
}

async fn forward(
    connection: &mut Option<Client>,
    daemon: &std::path::Path,
    event: &ForwardRequest,
) -> Taken {
    if connection.as_ref().is_none_or(Client::is_closed) {
        *connection = Client::connect(daemon).await.ok();
    }
    let Some(client) = connection else { return Taken::NobodyThere };
    match client.call::<_, ()>(SERVICE, "Forward", event, Some(FORWARD_LIMIT)).await {
        Ok(()) => Taken::Yes,
        Err(error) if error.status().is_some() => Taken::Refused,
        Err(_) => {
            *connection = None;
            Taken::NobodyThere
        }
    }
}
