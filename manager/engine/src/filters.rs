//! Filters of lists of containers: Docker's keys, each with alternatives.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use keg_image::ImageError;
use keg_store::Digest;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::Lifecycle;
use crate::model::{Mount, MountSource, Record};
use crate::networking::LiveEndpoint;

/// States that can be asked for.
const STATES: [&str; 7] =
    ["created", "running", "paused", "restarting", "exited", "removing", "dead"];

/// States of health that can be asked for.
const HEALTH: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

/// Ports of one protocol, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortRange {
    first: u16,
    last: u16,
    transport: String,
}

/// A filter, checked.
#[derive(Debug)]
pub(crate) enum Filter {
    Id(Vec<String>),
    Name(Vec<String>),
    Status(Vec<String>),
    Label(Vec<(String, Option<String>)>),
    Ancestor {
        texts: Vec<String>,
        ids: Vec<Digest>,
    },
    Exited(Vec<u32>),
    /// Made before all of these.
    Before(Vec<Timestamp>),
    /// Made after all of these.
    Since(Vec<Timestamp>),
    /// Has one of these volumes, or something mounted at one of these paths.
    Volume(Vec<String>),
    Network(Vec<String>),
    /// Publishes one of these ports, by their numbers in the container or on the host.
    Publish(Vec<PortRange>),
    Expose(Vec<PortRange>),
    Health(Vec<String>),
}

impl Engine {
    /// Checks a filter, and looks up what it names.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if there is no such key or value,
    /// [`EngineError::NoSuchContainer`] if it names one.
    pub(crate) fn filter(&self, key: &str, values: &[String]) -> Result<Filter, EngineError> {
        let invalid = |problem: String| EngineError::InvalidField { field: "filter", problem };
        let owned = || values.to_vec();
        let made = || {
            values
                .iter()
                .map(|name| self.find(name).map(|container| container.record().created_at))
                .collect::<Result<Vec<_>, _>>()
        };
        let ports = || {
            let port = |value: &String| {
                PortRange::parse(value).ok_or_else(|| {
                    invalid(format!("{value:?} is no port: give 80, 53/udp or 8000-8010/tcp"))
                })
            };
            values.iter().map(port).collect::<Result<Vec<_>, _>>()
        };
        match key {
            "id" => Ok(Filter::Id(owned())),
            "name" => Ok(Filter::Name(owned())),
            "label" => Ok(Filter::Label(
                values
                    .iter()
                    .map(|value| match value.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (value.clone(), None),
                    })
                    .collect(),
            )),
            "status" => match values.iter().find(|value| !STATES.contains(&value.as_str())) {
                Some(value) => Err(invalid(format!("{value:?} is no state of a container"))),
                None => Ok(Filter::Status(owned())),
            },
            "exited" => values
                .iter()
                .map(|value| {
                    value.parse().map_err(|_| invalid(format!("{value:?} is no exit code")))
                })
                .collect::<Result<_, _>>()
                .map(Filter::Exited),
            "ancestor" => Ok(Filter::Ancestor { texts: owned(), ids: self.image_ids(values)? }),
            "before" => Ok(Filter::Before(made()?)),
            "since" => Ok(Filter::Since(made()?)),
            "volume" => Ok(Filter::Volume(owned())),
            "network" => Ok(Filter::Network(owned())),
            "publish" => Ok(Filter::Publish(ports()?)),
            "expose" => Ok(Filter::Expose(ports()?)),
            "health" => match values.iter().find(|value| !HEALTH.contains(&value.as_str())) {
                Some(value) => Err(invalid(format!("{value:?} is no state of health"))),
                None => Ok(Filter::Health(owned())),
            },
            _ => Err(invalid(format!("there is no filter {key:?}"))),
        }
    }

    /// The ids of the images that are here under these names.
    fn image_ids(&self, names: &[String]) -> Result<Vec<Digest>, EngineError> {
        let mut ids = Vec::new();
        for name in names {
            match self.shared.images.resolve(name, None) {
                Ok(image) => ids.push(image.id),
                Err(ImageError::NotFound { .. } | ImageError::Reference { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ids)
    }
}

impl Filter {
    /// Whether it asks for a state, so that containers are meant that do not run.
    pub(crate) fn is_of_state(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Exited(_))
    }

    /// Whether a container passes, which has these interfaces while it runs.
    pub(crate) fn matches(&self, record: &Record, live: &[LiveEndpoint]) -> bool {
        match self {
            Self::Id(prefixes) => {
                prefixes.iter().any(|prefix| record.id.as_str().starts_with(prefix))
            }
            Self::Name(parts) => parts.iter().any(|part| name_matches(record.name.as_str(), part)),
            Self::Status(states) => states.iter().any(|state| state == record.state_name()),
            // All of several labels must be there, as in Docker.
            Self::Label(labels) => labels.iter().all(|(key, value)| {
                record
                    .config
                    .labels
                    .get(key)
                    .is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }),
            Self::Ancestor { texts, ids } => {
                texts.contains(&record.image.reference)
                    || ids.iter().any(|id| id.as_str() == record.image.id)
            }
            Self::Exited(codes) => match &record.lifecycle {
                Lifecycle::Exited { exit, .. } => codes.contains(&exit.code),
                _ => false,
            },
            Self::Health(states) => {
                let health = record.health.as_ref().map_or("none", |health| health.status.as_str());
                states.iter().any(|state| state == health)
            }
            Self::Before(moments) => moments.iter().all(|moment| record.created_at < *moment),
            Self::Since(moments) => moments.iter().all(|moment| record.created_at > *moment),
            Self::Volume(wanted) => {
                record.mounts.iter().any(|mount| wanted.iter().any(|text| is_mount(mount, text)))
            }
            Self::Network(names) => {
                let mode = record.network_mode().to_string();
                let on: BTreeSet<&str> = record
                    .host
                    .networks
                    .iter()
                    .map(|attachment| attachment.network.as_str())
                    .chain([mode.as_str()])
                    .collect();
                names.iter().any(|name| on.contains(name.as_str()))
            }
            Self::Publish(ranges) => {
                let published = live.iter().flat_map(|live| &live.endpoint.ports);
                let published = published
                    .map(|port| (port.container_port, Some(port.host_port), port.transport));
                let asked = record.host.ports.iter();
                let asked = asked.map(|port| (port.container_port, port.host_port, port.transport));
                published.chain(asked).any(|(inside, outside, transport)| {
                    let transport = transport.to_string();
                    ranges.iter().any(|range| {
                        range.holds(inside, &transport)
                            || outside.is_some_and(|port| range.holds(port, &transport))
                    })
                })
            }
            Self::Expose(ranges) => {
                let published = record
                    .host
                    .ports
                    .iter()
                    .map(|port| (port.container_port, port.transport.to_string()));
                let exposed = record
                    .config
                    .exposed_ports
                    .iter()
                    .map(|port| (port.port, port.transport.to_string()));
                exposed
                    .chain(published)
                    .any(|(port, transport)| ranges.iter().any(|r| r.holds(port, &transport)))
            }
        }
    }
}

/// Docker's names are patterns; of those, people write parts of names, and ends that are fixed.
fn name_matches(name: &str, pattern: &str) -> bool {
    let pattern = pattern.trim_start_matches('/');
    let (pattern, from_start) = match pattern.strip_prefix('^') {
        Some(rest) => (rest.trim_start_matches('/'), true),
        None => (pattern, false),
    };
    let (pattern, to_end) = match pattern.strip_suffix('$') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    match (from_start, to_end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

fn is_mount(mount: &Mount, text: &str) -> bool {
    let is_source = match &mount.source {
        MountSource::Volume { name, .. } => name == text,
        MountSource::Bind { path, .. } => path == Path::new(text),
        MountSource::Tmpfs { .. } => false,
    };
    is_source || mount.target == Path::new(text)
}

impl PortRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, transport) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let transport = transport.to_ascii_lowercase();
        let is_known = matches!(transport.as_str(), "tcp" | "udp" | "sctp");
        (first <= last && is_known).then_some(Self { first, last, transport })
    }

    fn holds(&self, port: u16, transport: &str) -> bool {
        (self.first..=self.last).contains(&port) && self.transport == transport
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::record;

    #[test]
    fn filters_match_as_dockers_do() {
        let mut record = record();
        record.config.labels.insert("tier".into(), "db".into());
        record.image.reference = "redis:7".into();
        record.created_at = Timestamp::from_second(1000).unwrap();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let label = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        let at = |second| Timestamp::from_second(second).unwrap();

        let matching = [
            Filter::Id(words(&["1f1f"])),
            Filter::Name(words(&["none", "we"])),
            Filter::Name(words(&["^/web$"])),
            Filter::Status(words(&["running", "created"])),
            Filter::Label(vec![label("tier", None), label("tier", Some("db"))]),
            Filter::Ancestor { texts: words(&["redis:7"]), ids: vec![] },
            Filter::Before(vec![at(1001)]),
            Filter::Since(vec![at(999)]),
        ];
        for filter in matching {
            assert!(filter.matches(&record, &[]), "{filter:?}");
        }
        let others = [
            Filter::Id(words(&["2f"])),
            Filter::Name(words(&["^eb", "we$"])),
            Filter::Status(words(&["exited"])),
            Filter::Label(vec![label("tier", Some("web"))]),
            Filter::Label(vec![label("tier", None), label("owner", None)]),
            Filter::Exited(vec![0]),
            Filter::Before(vec![at(1000)]),
            Filter::Since(vec![at(999), at(1000)]),
            Filter::Volume(words(&["none"])),
            Filter::Network(words(&["elsewhere"])),
        ];
        for filter in others {
            assert!(!filter.matches(&record, &[]), "{filter:?}");
        }
    }

    #[test]
    fn ports_are_numbers_ranges_and_protocols() {
        let range = PortRange::parse("8000-8010/UDP").unwrap();

        assert!(range.holds(8010, "udp") && !range.holds(8010, "tcp") && !range.holds(8011, "udp"));
        assert!(PortRange::parse("80").unwrap().holds(80, "tcp"));
        for bad in ["", "x", "9-8", "80/icmp", "70000"] {
            assert_eq!(PortRange::parse(bad), None, "{bad}");
        }
    }
}
