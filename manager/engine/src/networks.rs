//! Networks as people ask for them: create, list, inspect, remove, prune, connect, disconnect.
//!
//! The modes `host` and `none` are shown among the networks, as in Docker; they are records of
//! nobody, and nothing can be done to them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keg_network::{
    CNI_PREFIX, Endpoint, Network, NetworkError, NetworkId, NetworkMode, NetworkRequest,
};

use crate::container::{Container, Turn};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::etc_files;
use crate::events::{EngineEvent, ObjectType};
use crate::lifecycle::Lifecycle;
use crate::model::{Attachment, Record};
use crate::networking::{LiveEndpoint, connect_request, is_cni, ports_to_publish};

/// Modes that lists show, and the name of the driver that Docker has for each.
const MODES: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// A network, or what is shown as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkView {
    /// A network.
    Network(Box<Network>),
    /// A mode.
    Mode {
        /// Its name.
        name: &'static str,
        /// What stands for its driver.
        driver: &'static str,
    },
    /// A network that CNI plugins make.
    Cni {
        /// Its name, as `--network` takes it.
        name: String,
    },
}

impl NetworkView {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Network(network) => &network.name,
            Self::Mode { name, .. } => name,
            Self::Cni { name } => name,
        }
    }

    /// Its id; of what is no network of ours, one that is made of its name.
    pub fn id(&self) -> String {
        match self {
            Self::Network(network) => network.id.as_str().to_owned(),
            Self::Mode { .. } | Self::Cni { .. } => {
                NetworkId::of_name(self.name()).as_str().to_owned()
            }
        }
    }

    fn driver(&self) -> &str {
        match self {
            Self::Network(network) => network.driver.as_str(),
            Self::Mode { driver, .. } => driver,
            Self::Cni { .. } => "cni",
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        match self {
            Self::Network(network) => network.labels.clone(),
            Self::Mode { .. } | Self::Cni { .. } => BTreeMap::new(),
        }
    }

    fn is_builtin(&self) -> bool {
        match self {
            Self::Network(network) => network.is_default(),
            Self::Mode { .. } => true,
            Self::Cni { .. } => false,
        }
    }
}

/// Filters of networks, checked.
#[derive(Debug, Clone, Default)]
pub struct NetworkFilters {
    by_key: BTreeMap<String, Vec<String>>,
    until: Option<Timestamp>,
}

impl NetworkFilters {
    /// Checks filters for a list.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] for a key or value that there is not.
    pub fn for_list(by_key: BTreeMap<String, Vec<String>>) -> Result<Self, EngineError> {
        const KEYS: [&str; 7] = ["id", "name", "driver", "label", "scope", "type", "dangling"];
        let one_of = |key: &str, known: &[&str]| {
            let values = by_key.get(key).into_iter().flatten();
            let unknown = values.into_iter().find(|value| !known.contains(&value.as_str()));
            unknown.map_or(Ok(()), |value| {
                Err(invalid_filter(format!(
                    "{value:?} is no {key}: give one of {}",
                    known.join(", ")
                )))
            })
        };
        known_keys(&by_key, &KEYS)?;
        one_of("type", &["custom", "builtin"])?;
        one_of("dangling", &["true", "false", "1", "0"])?;
        Ok(Self { by_key, until: None })
    }

    /// Checks filters for a prune.
    ///
    /// # Errors
    /// As [`NetworkFilters::for_list`].
    pub fn for_prune(by_key: BTreeMap<String, Vec<String>>) -> Result<Self, EngineError> {
        known_keys(&by_key, &["label", "label!", "until"])?;
        let until = match by_key.get("until").map(Vec::as_slice) {
            None | Some([]) => None,
            Some([text]) => Some(moment(text).ok_or_else(|| {
                invalid_filter(format!("until: {text:?} is neither a moment nor a duration"))
            })?),
            Some(_) => return Err(invalid_filter("until can be given once".to_owned())),
        };
        Ok(Self { by_key, until })
    }

    fn values(&self, key: &str) -> &[String] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a network passes; `in_use` says whether containers run on it.
    fn matches(&self, view: &NetworkView, in_use: bool) -> bool {
        let labels = view.labels();
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.by_key.iter().all(|(key, values)| match key.as_str() {
            // All of several labels must be there, as in Docker.
            "label" => values.iter().all(has),
            "label!" => !values.iter().any(has),
            "until" => true,
            key => values.iter().any(|value| match key {
                "id" => view.id().starts_with(value),
                "name" => view.name().contains(value.as_str()),
                "driver" => view.driver() == value,
                "scope" => value == "local",
                "type" => (value == "builtin") == view.is_builtin(),
                _ => matches!(value.as_str(), "true" | "1") == (!in_use && !view.is_builtin()),
            }),
        }) && match (view, self.until) {
            (NetworkView::Network(network), Some(until)) => network.created_at < until,
            _ => true,
        }
    }
}

fn invalid_filter(problem: String) -> EngineError {
    EngineError::InvalidField { field: "filter", problem }
}

fn known_keys(by_key: &BTreeMap<String, Vec<String>>, known: &[&str]) -> Result<(), EngineError> {
    match by_key.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(invalid_filter(format!(
            "there is no filter {key:?}; there are {}",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

/// A moment as `until` has it: in RFC 3339, in seconds since 1970, or so long ago.
fn moment(text: &str) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    let ago: jiff::SignedDuration = text.parse().ok()?;
    Timestamp::now().checked_sub(ago).ok()
}

impl Engine {
    /// Creates a network.
    ///
    /// # Errors
    /// [`EngineError::Network`], [`EngineError::NoNetworks`].
    pub async fn create_network(&self, request: NetworkRequest) -> Result<Network, EngineError> {
        let network = self.shared.networking.networks()?.create(request).await?;
        self.tell_of_network(&network, "create", None);
        Ok(network)
    }

    /// Lists networks, by name, the modes among them.
    ///
    /// # Errors
    /// [`EngineError::Network`], [`EngineError::NoNetworks`].
    pub async fn networks(
        &self,
        filters: &NetworkFilters,
    ) -> Result<Vec<NetworkView>, EngineError> {
        let networks = self.shared.networking.networks()?.list().await?;
        let mut views: Vec<NetworkView> =
            networks.into_iter().map(|network| NetworkView::Network(Box::new(network))).collect();
        let by_plugins = self.shared.networking.cni().list().into_iter();
        views.extend(
            by_plugins
                .map(|network| NetworkView::Cni { name: format!("{CNI_PREFIX}{}", network.name) }),
        );
        views.extend(MODES.map(|(name, driver)| NetworkView::Mode { name, driver }));
        views.sort_by(|one, other| one.name().cmp(other.name()));
        let in_use = |view: &NetworkView| {
            let uses = |live: &LiveEndpoint| live.network == view.name();
            self.all().iter().any(|container| container.endpoints().iter().any(uses))
        };
        let dangling_matters = !filters.values("dangling").is_empty();
        views.retain(|view| filters.matches(view, dangling_matters && in_use(view)));
        Ok(views)
    }

    /// Puts the names of networks in place of their ids, and of beginnings of those; what is none
    /// stays as it is.
    pub async fn name_networks(&self, texts: &mut [String]) {
        let Ok(networks) = self.shared.networking.networks() else { return };
        for text in texts {
            if let Ok(network) = networks.find(text).await {
                *text = network.name;
            }
        }
    }

    /// Returns a network, or a mode that is shown as one, and what is connected to it.
    ///
    /// # Errors
    /// [`EngineError::Network`], [`EngineError::NoNetworks`].
    pub async fn inspect_network(
        &self,
        name: &str,
    ) -> Result<(NetworkView, Vec<Endpoint>), EngineError> {
        let modes = MODES.map(|(name, driver)| NetworkView::Mode { name, driver });
        if let Some(mode) = modes.into_iter().find(|mode| mode.name() == name || mode.id() == name)
        {
            return Ok((mode, Vec::new()));
        }
        if is_cni(name) {
            let network = self.shared.networking.cni().find(name).await?;
            let name = format!("{CNI_PREFIX}{}", network.name);
            let live = self.all().into_iter().flat_map(|container| container.endpoints());
            let on_it = live.filter(|live| live.network == name).map(|live| live.endpoint);
            return Ok((NetworkView::Cni { name: name.clone() }, on_it.collect()));
        }
        let (network, endpoints) = self.shared.networking.networks()?.inspect(name).await?;
        Ok((NetworkView::Network(Box::new(network)), endpoints))
    }

    /// Removes a network that no running container is on.
    ///
    /// # Errors
    /// [`EngineError::Network`], [`EngineError::NoNetworks`].
    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        if let Some((mode, _)) = MODES.iter().find(|(mode, _)| *mode == name) {
            let network = (*mode).to_owned();
            return Err(NetworkError::Permanent { network }.into());
        }
        let networks = self.shared.networking.networks()?;
        let network = networks.find(name).await?;
        networks.remove(network.id.as_str()).await?;
        self.tell_of_network(&network, "destroy", None);
        Ok(())
    }

    /// Removes the networks that no running container is on, and returns their names.
    ///
    /// # Errors
    /// [`EngineError::Network`], [`EngineError::NoNetworks`].
    pub async fn prune_networks(
        &self,
        filters: NetworkFilters,
    ) -> Result<Vec<String>, EngineError> {
        let networks = self.shared.networking.networks()?;
        let before = networks.list().await?;
        let removed = networks
            .prune(move |network| {
                !filters.matches(&NetworkView::Network(Box::new(network.clone())), false)
            })
            .await?;
        for network in before.iter().filter(|network| removed.contains(&network.name)) {
            self.tell_of_network(network, "destroy", None);
        }
        Ok(removed)
    }

    /// Puts a container, running or not, on a further network.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if it has no network of its own or is on that one already.
    pub async fn connect_network(
        &self,
        container: &str,
        attachment: Attachment,
    ) -> Result<(), EngineError> {
        let container = self.find(container)?;
        let engine = self.clone();
        Self::detached("a connection to a network", async move {
            engine.connect_container(&container, attachment).await
        })
        .await
    }

    async fn connect_container(
        &self,
        container: &Container,
        mut attachment: Attachment,
    ) -> Result<(), EngineError> {
        let turn = container.turn().await;
        let record = container.record();
        changeable(&record)?;
        refuse_cni(&attachment.network)?;
        let network = self.settle_attachment(&mut attachment).await?;
        if record.host.networks.iter().any(|one| one.network == network.name) {
            let container = container.label();
            return Err(NetworkError::AlreadyConnected { container, network: network.name }.into());
        }
        let mut changed = Record::clone(&record);
        changed.host.networks.push(attachment.clone());
        changed.host.network_mode = Some(mode_of(&changed));
        let before = container.endpoints();
        let mut live = before.clone();
        if let Some(pid) = record.lifecycle.pid() {
            let mut request = connect_request(&record, &attachment);
            let is_published = before.iter().any(|live| !live.endpoint.ports.is_empty());
            if !is_published && network.can_publish() {
                request.ports = ports_to_publish(&record);
            }
            live.push(self.connect_endpoint(&record, &attachment, request, pid).await?);
            live = self.as_they_are(&record, live).await?;
        }
        let outcome = self.store_networks(container, &turn, changed, live).await;
        if outcome.is_err() && record.lifecycle.pid().is_some() {
            let networks = self.shared.networking.networks()?;
            networks.disconnect(network.id.as_str(), record.id.as_str()).await?;
        }
        outcome?;
        self.tell_of_network(&network, "connect", Some(&record));
        Ok(())
    }

    /// Takes a container, running or not, from a network.
    ///
    /// # Errors
    /// [`EngineError::Network`] if it is not on it.
    pub async fn disconnect_network(
        &self,
        network: &str,
        container: &str,
    ) -> Result<(), EngineError> {
        let container = self.find(container)?;
        let (engine, network) = (self.clone(), network.to_owned());
        Self::detached("a disconnection from a network", async move {
            engine.disconnect_container(&container, &network).await
        })
        .await
    }

    async fn disconnect_container(
        &self,
        container: &Container,
        network: &str,
    ) -> Result<(), EngineError> {
        let turn = container.turn().await;
        let record = container.record();
        changeable(&record)?;
        refuse_cni(network)?;
        let networks = self.shared.networking.networks()?;
        let network = networks.find(network).await?;
        let mut changed = Record::clone(&record);
        changed.host.networks.retain(|one| one.network != network.name);
        if changed.host.networks.len() == record.host.networks.len() {
            let container = container.label();
            return Err(NetworkError::NotConnected { container, network: network.name }.into());
        }
        changed.host.network_mode = Some(mode_of(&changed));
        let mut live = container.endpoints();
        if live.iter().any(|one| one.network == network.name) {
            networks.disconnect(network.id.as_str(), record.id.as_str()).await?;
            live = self.after_disconnect(&record, live, &network).await?;
        }
        self.store_networks(container, &turn, changed, live).await?;
        self.tell_of_network(&network, "disconnect", Some(&record));
        Ok(())
    }

    /// A container's endpoints after one was taken away: another is the way out now, and has its
    /// ports.
    async fn after_disconnect(
        &self,
        record: &Record,
        before: Vec<LiveEndpoint>,
        lost: &Network,
    ) -> Result<Vec<LiveEndpoint>, EngineError> {
        let networks = self.shared.networking.networks()?;
        let had_ports =
            |live: &LiveEndpoint| live.network == lost.name && !live.endpoint.ports.is_empty();
        let mut ports = match before.iter().any(had_ports) {
            true => ports_to_publish(record),
            false => Vec::new(),
        };
        let left = before.into_iter().filter(|live| live.network != lost.name).collect();
        let mut after = Vec::new();
        for mut live in self.as_they_are(record, left).await? {
            if !ports.is_empty() && networks.find(&live.network).await?.can_publish() {
                let wanted = std::mem::take(&mut ports);
                live.endpoint = networks.publish(&live.network, record.id.as_str(), wanted).await?;
            }
            after.push(live);
        }
        Ok(after)
    }

    /// Stores which networks a container is on, and lets it be seen, in its files too.
    async fn store_networks(
        &self,
        container: &Container,
        turn: &Turn<'_>,
        changed: Record,
        live: Vec<LiveEndpoint>,
    ) -> Result<(), EngineError> {
        let (before, before_live) = (container.record(), container.endpoints());
        let (stored, stored_live) = (changed.clone(), live.clone());
        self.blocking("a container's networks", move |shared| {
            shared.save(&stored)?;
            if stored.lifecycle.is_alive() {
                let dir = shared.dir(&stored.id);
                etc_files::refresh(&dir, (&before, &before_live), (&stored, &stored_live))?;
            }
            Ok(())
        })
        .await?;
        turn.commit(changed);
        container.set_endpoints(live);
        Ok(())
    }

    /// Tells what happened to a network, and to which container on it.
    pub(crate) fn tell_of_network(
        &self,
        network: &Network,
        action: &'static str,
        container: Option<&Record>,
    ) {
        let mut attributes = network.labels.clone();
        attributes.insert("name".to_owned(), network.name.clone());
        attributes.insert("type".to_owned(), network.driver.as_str().to_owned());
        attributes.extend(
            container.map(|record| ("container".to_owned(), record.id.as_str().to_owned())),
        );
        self.shared.events.publish(EngineEvent {
            time: Timestamp::now(),
            object: ObjectType::Network,
            action,
            id: network.id.as_str().to_owned(),
            attributes,
        });
    }
}

/// The mode of a container: its first network, or none.
fn mode_of(record: &Record) -> NetworkMode {
    match record.host.networks.first() {
        Some(first) => NetworkMode::Network(first.network.clone()),
        None => NetworkMode::None,
    }
}

/// Refuses to change what plugins have made while a container may run.
fn refuse_cni(network: &str) -> Result<(), EngineError> {
    if !is_cni(network) {
        return Ok(());
    }
    Err(EngineError::InvalidField {
        field: "network",
        problem: format!(
            "{network} is made by CNI plugins: containers are on it from their start to their \
             end; give it to `keg run --network`"
        ),
    })
}

/// Refuses to change the networks of a container that has the namespace of another.
fn changeable(record: &Record) -> Result<(), EngineError> {
    let container = || record.name.as_str().to_owned();
    if record.lifecycle == Lifecycle::Removing {
        return Err(EngineError::BeingRemoved { container: container() });
    }
    let mode = record.network_mode();
    if mode.has_own_namespace() {
        return Ok(());
    }
    Err(EngineError::InvalidField {
        field: "network",
        problem: format!(
            "container {} has the network \"{mode}\", and cannot be on others",
            container()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(pairs: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        pairs.iter().map(|(key, values)| ((*key).to_owned(), owned(values))).collect()
    }

    #[test]
    fn modes_are_listed_by_dockers_names() {
        let none = NetworkView::Mode { name: "none", driver: "null" };
        let matches = |pairs: &[(&str, &[&str])]| {
            NetworkFilters::for_list(filters(pairs)).unwrap().matches(&none, false)
        };

        assert!(matches(&[]) && matches(&[("driver", &["bridge", "null"])]));
        assert!(matches(&[("type", &["builtin"]), ("name", &["on"]), ("scope", &["local"])]));
        assert!(!matches(&[("type", &["custom"])]) && !matches(&[("dangling", &["true"])]));
        assert!(!matches(&[("label", &["a"])]));
        assert_eq!(none.id().len(), 64);
    }

    #[test]
    fn filters_that_there_are_not_are_refused() {
        for pairs in [&[("colour", &["x"][..])][..], &[("type", &["x"])], &[("dangling", &["x"])]] {
            assert!(NetworkFilters::for_list(filters(pairs)).is_err(), "{pairs:?}");
        }
        for pairs in [&[("name", &["x"][..])][..], &[("until", &["soon"])]] {
            assert!(NetworkFilters::for_prune(filters(pairs)).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn moments_are_told_in_three_ways() {
        assert_eq!(moment("0"), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(moment("1970-01-01T00:00:00Z"), Some(Timestamp::UNIX_EPOCH));
        assert!(moment("24h").unwrap() < Timestamp::now());
        assert_eq!(moment("soon"), None);
    }
}
