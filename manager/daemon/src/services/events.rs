//! `keg.v1.Events`.

use std::collections::{BTreeMap, HashMap};

use futures_util::stream;
use jiff::Timestamp;
use keg_engine::Engine;
use keg_engine::events::{EngineEvent, Told};
use keg_proto::keg::v1 as pb;
use tonic::{Request, Response, Status};

use super::Answers;
use crate::convert;
use crate::status::invalid;

/// The service.
#[derive(Debug)]
pub(crate) struct Events {
    engine: Engine,
}

impl Events {
    /// Serves the events of an engine.
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl pb::events_server::Events for Events {
    type SubscribeStream = Answers<pb::Event>;

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let since = request.since.map(convert::timestamp_from_pb).transpose()?;
        let until = request.until.map(convert::timestamp_from_pb).transpose()?;
        let filter = Filter::parse(request.filters)?;
        let subscription = self.engine.events().subscribe(since);
        let events = stream::unfold(subscription, move |mut subscription| {
            let filter = filter.clone();
            async move {
                loop {
                    let told = match until {
                        None => subscription.next().await?,
                        Some(until) => {
                            let left = until.duration_since(Timestamp::now());
                            let left = left.try_into().unwrap_or_default();
                            tokio::time::timeout(left, subscription.next()).await.ok()??
                        }
                    };
                    match told {
                        Told::Lost(count) => return Some((Ok(lost(count)), subscription)),
                        Told::Event(event) if until.is_some_and(|until| event.time > until) => {
                            return None;
                        }
                        Told::Event(event) if filter.matches(&event) => {
                            return Some((Ok(event_to_pb(&event)), subscription));
                        }
                        Told::Event(_) => {}
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(events)))
    }
}

/// Which events a subscriber wants: every key must match one of its values.
#[derive(Debug, Clone)]
struct Filter(BTreeMap<String, Vec<String>>);

impl Filter {
    fn parse(filters: HashMap<String, pb::FilterValues>) -> Result<Self, Status> {
        const KEYS: [&str; 7] =
            ["type", "action", "event", "container", "image", "network", "label"];
        if let Some(key) = filters.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(invalid("filters", format!("there is no filter {key:?}")));
        }
        Ok(Self(filters.into_iter().map(|(key, values)| (key, values.values)).collect()))
    }

    fn matches(&self, event: &EngineEvent) -> bool {
        let attribute = |key: &str| event.attributes.get(key).map(String::as_str);
        self.0.iter().all(|(key, values)| {
            values.iter().any(|value| match key.as_str() {
                "type" => value == event.object.as_str(),
                "action" | "event" => value == event.action,
                kind @ ("container" | "network") => {
                    event.object.as_str() == kind
                        && (event.id.starts_with(value) || attribute("name") == Some(value))
                }
                "image" => {
                    attribute("image") == Some(value)
                        || (event.object.as_str() == "image"
                            && (event.id.starts_with(value) || attribute("name") == Some(value)))
                }
                _ => match value.split_once('=') {
                    Some((key, value)) => attribute(key) == Some(value),
                    None => attribute(value).is_some(),
                },
            })
        })
    }
}

fn event_to_pb(event: &EngineEvent) -> pb::Event {
    pb::Event {
        time: Some(convert::timestamp_to_pb(event.time)),
        r#type: event.object.as_str().to_owned(),
        action: event.action.to_owned(),
        id: event.id.clone(),
        attributes: event.attributes.clone().into_iter().collect(),
    }
}

/// Tells a subscriber that it was too slow.
fn lost(count: u64) -> pb::Event {
    pb::Event {
        time: Some(convert::timestamp_to_pb(Timestamp::now())),
        r#type: "daemon".to_owned(),
        action: "lost".to_owned(),
        id: String::new(),
        attributes: HashMap::from([("count".to_owned(), count.to_string())]),
    }
}

#[cfg(test)]
mod tests {
    use keg_engine::events::ObjectType;

    use super::*;

    #[test]
    fn keys_must_all_match_and_values_one() {
        let attributes = [("name", "web"), ("image", "busybox"), ("tier", "db")];
        let event = EngineEvent {
            time: Timestamp::UNIX_EPOCH,
            object: ObjectType::Container,
            action: "start",
            id: "abc".into(),
            attributes: attributes.map(|(key, value)| (key.into(), value.into())).into(),
        };
        let matches = |filters: &[(&str, &[&str])]| {
            let filters = filters.iter().map(|(key, values)| {
                let values = values.iter().map(|value| (*value).to_owned()).collect();
                ((*key).to_owned(), pb::FilterValues { values })
            });
            Filter::parse(filters.collect()).unwrap().matches(&event)
        };

        assert!(matches(&[]));
        assert!(matches(&[("type", &["image", "container"]), ("event", &["start"])]));
        assert!(matches(&[("container", &["web"])]) && matches(&[("container", &["ab"])]));
        assert!(matches(&[("label", &["tier=db"])]) && matches(&[("image", &["busybox"])]));
        assert!(!matches(&[("label", &["tier=web"])]));
        assert!(!matches(&[("type", &["container"]), ("action", &["die"])]));
        assert!(Filter::parse([("x".to_owned(), pb::FilterValues::default())].into()).is_err());
    }
}
