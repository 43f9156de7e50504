//! What changes while a container is connected: networks that it leaves, its name, its ports.

use super::{Switchboard, endpoint_entries};
use crate::error::NetworkError;
use crate::model::Endpoint;
use crate::nft::ruleset::Entry;
use crate::ports::PortRequest;

impl Switchboard {
    /// Disconnects a container, running or not, from a network, and gives back what it had.
    ///
    /// # Errors
    /// [`NetworkError::NotFound`], [`NetworkError::NotConnected`].
    pub fn disconnect(&mut self, name: &str, container: &str) -> Result<(), NetworkError> {
        let network = self.find(name)?;
        let key = (container.to_owned(), network.id.clone());
        if !self.endpoints.contains_key(&key) {
            let (container, network) = (container.to_owned(), network.name.clone());
            return Err(NetworkError::NotConnected { container, network });
        }
        let was_way_out = self.endpoints.get(&key).is_some_and(|endpoint| endpoint.default_route);
        self.release(&key)?;
        if was_way_out { self.choose_way_out(container) } else { Ok(()) }
    }

    /// Publishes ports of a container that is connected; for one that has lost the network on which
    /// they were published.
    ///
    /// # Errors
    /// [`NetworkError::NotConnected`], [`NetworkError::CannotPublish`], [`NetworkError::Port`].
    /// Nothing is published then.
    pub fn publish(
        &mut self,
        name: &str,
        container: &str,
        requests: &[PortRequest],
    ) -> Result<Endpoint, NetworkError> {
        let network = self.find(name)?.clone();
        let key = (container.to_owned(), network.id.clone());
        let Some(before) = self.endpoints.get(&key).cloned() else {
            let container = container.to_owned();
            return Err(NetworkError::NotConnected { container, network: network.name });
        };
        let mut endpoint = before.clone();
        let ports = self.hold_ports(&network, &mut endpoint, requests)?;
        self.records.put_endpoint(&endpoint)?;
        let added: Vec<Entry> = endpoint_entries(&endpoint)
            .into_iter()
            .filter(|entry| !endpoint_entries(&before).contains(entry))
            .collect();
        if let Err(error) = self.plane.add(&added) {
            self.records.put_endpoint(&before)?;
            return Err(error);
        }
        self.held.entry(key.clone()).or_default().ports.extend(ports);
        self.endpoints.insert(key, endpoint.clone());
        Ok(endpoint)
    }

    /// Lets others find a container by another name from now on; one on no network is no error.
    ///
    /// # Errors
    /// [`NetworkError::Records`].
    pub fn rename(&mut self, container: &str, name: &str) -> Result<(), NetworkError> {
        for key in self.keys_of(container) {
            let (Some(endpoint), Some(network)) =
                (self.endpoints.get_mut(&key), self.networks.get(&key.1))
            else {
                continue;
            };
            name.clone_into(&mut endpoint.name);
            self.records.put_endpoint(endpoint)?;
            if network.has_names() {
                self.names.rename(network, endpoint);
            }
        }
        Ok(())
    }

    /// Makes another of a container's networks its way out, after it has lost the one that was.
    fn choose_way_out(&mut self, container: &str) -> Result<(), NetworkError> {
        let mut others = self.endpoints(container);
        others.sort_by(|one, other| one.interface.cmp(&other.interface));
        let has_gateway = |endpoint: &Endpoint| {
            endpoint.addresses.iter().any(|address| address.gateway.is_some())
        };
        let Some(next) = others.into_iter().find(has_gateway) else { return Ok(()) };
        let key = (next.container.clone(), next.network.clone());
        let next = Endpoint { default_route: true, ..next };
        if let Some(netns) = self.held.get(&key).and_then(|held| held.netns.as_ref()) {
            self.plane.make_way_out(&next, netns)?;
        }
        self.records.put_endpoint(&next)?;
        self.endpoints.insert(key, next);
        Ok(())
    }
}
