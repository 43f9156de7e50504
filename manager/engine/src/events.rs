//! What happens to objects, told to whoever listens.
//!
//! ```text
//!  publish ──▶ history (ring) ──▶ subscribe(since): the remembered part first, then
//!         └──▶ channel (ring) ──▶ … what happens from then on
//! ```
//!
//! Invariants: nothing waits for a subscriber; one that is slower than events come in loses the
//! oldest and is told how many; between the remembered part and the live one nothing is lost or
//! told twice, since both are read under one lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

/// Events that are remembered for those who ask for the past.
const HISTORY_LENGTH: usize = 1024;
/// Events that may wait for one subscriber.
const QUEUE_LENGTH: usize = 1024;

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ObjectType {
    Container,
    Image,
    Volume,
    Network,
    Daemon,
}

impl ObjectType {
    /// The word that events and filters have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Daemon => "daemon",
        }
    }
}

/// Something that happened to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// When.
    pub time: Timestamp,
    /// To what kind of object.
    pub object: ObjectType,
    /// Docker's word for it: `create`, `die`, `pull`, …
    pub action: &'static str,
    /// Id of the object.
    pub id: String,
    /// Name, image, exit code and so on, and the object's labels.
    pub attributes: BTreeMap<String, String>,
}

/// What a subscriber is told.
#[derive(Debug, Clone)]
pub enum Told {
    /// An event.
    Event(Arc<EngineEvent>),
    /// So many events came in faster than the subscriber took them, and are lost to it.
    Lost(u64),
}

/// Where events go, and whence they come.
#[derive(Debug)]
pub struct EventHub {
    history: Mutex<VecDeque<Arc<EngineEvent>>>,
    live: broadcast::Sender<Arc<EngineEvent>>,
}

/// One listener.
#[derive(Debug)]
pub struct Subscription {
    remembered: VecDeque<Arc<EngineEvent>>,
    live: broadcast::Receiver<Arc<EngineEvent>>,
}

impl Default for EventHub {
    fn default() -> Self {
        let (live, _) = broadcast::channel(QUEUE_LENGTH);
        Self { history: Mutex::new(VecDeque::new()), live }
    }
}

impl EventHub {
    /// Tells everybody.
    pub fn publish(&self, event: EngineEvent) {
        let event = Arc::new(event);
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == HISTORY_LENGTH {
            history.pop_front();
        }
        history.push_back(Arc::clone(&event));
        // An error means that nobody listens.
        let _ = self.live.send(event);
    }

    /// Starts to listen; with `since`, what is remembered from that moment on comes first.
    pub fn subscribe(&self, since: Option<Timestamp>) -> Subscription {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = match since {
            Some(since) => history.iter().filter(|event| event.time >= since).cloned().collect(),
            None => VecDeque::new(),
        };
        Subscription { remembered, live: self.live.subscribe() }
    }
}

impl Subscription {
    /// Waits for the next event; `None` once the hub is gone.
    pub async fn next(&mut self) -> Option<Told> {
        if let Some(event) = self.remembered.pop_front() {
            return Some(Told::Event(event));
        }
        match self.live.recv().await {
            Ok(event) => Some(Told::Event(event)),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Told::Lost(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(second: i64) -> EngineEvent {
        EngineEvent {
            time: Timestamp::from_second(second).unwrap(),
            object: ObjectType::Container,
            action: "start",
            id: second.to_string(),
            attributes: BTreeMap::new(),
        }
    }

    async fn next_id(subscription: &mut Subscription) -> String {
        match subscription.next().await {
            Some(Told::Event(event)) => event.id.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_past_comes_first_and_only_as_far_as_asked() {
        let hub = EventHub::default();
        hub.publish(event(1));
        hub.publish(event(2));

        let mut all = hub.subscribe(Some(Timestamp::from_second(2).unwrap()));
        let mut new = hub.subscribe(None);
        hub.publish(event(3));

        assert_eq!(next_id(&mut all).await, "2");
        assert_eq!(next_id(&mut all).await, "3");
        assert_eq!(next_id(&mut new).await, "3");
    }

    #[tokio::test]
    async fn a_slow_subscriber_loses_the_oldest_and_is_told_how_many() {
        let hub = EventHub::default();
        let mut slow = hub.subscribe(None);
        let sent = i64::try_from(QUEUE_LENGTH).unwrap() + 7;
        for second in 0..sent {
            hub.publish(event(second));
        }

        assert!(matches!(slow.next().await, Some(Told::Lost(7))));
        assert_eq!(next_id(&mut slow).await, "7");
    }

    #[tokio::test]
    async fn history_is_bounded() {
        let hub = EventHub::default();
        for second in 0..i64::try_from(HISTORY_LENGTH).unwrap() + 5 {
            hub.publish(event(second));
        }

        let mut all = hub.subscribe(Some(Timestamp::UNIX_EPOCH));

        assert_eq!(next_id(&mut all).await, "5");
    }
}
