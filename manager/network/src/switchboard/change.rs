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
        if was_way_out { self.settle_way_out(container) } else { Ok(()) }
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

    /// Makes that of a container's networks its way out which has the highest priority: of equals
    /// the one that is, else the first.
    pub(super) fn settle_way_out(&mut self, container: &str) -> Result<(), NetworkError> {
        let mut leading_out = self.endpoints(container);
        leading_out
            .retain(|endpoint| endpoint.addresses.iter().any(|address| address.gateway.is_some()));
        leading_out.sort_by(|one, other| {
            let rank = |endpoint: &Endpoint| (endpoint.gateway_priority, endpoint.default_route);
            rank(other).cmp(&rank(one)).then_with(|| one.interface.cmp(&other.interface))
        });
        let Some((best, others)) = leading_out.split_first() else { return Ok(()) };
        if best.default_route {
            return Ok(());
        }
        for other in others.iter().filter(|other| other.default_route) {
            self.lead_out(other, false)?;
        }
        self.lead_out(best, true)
    }

    /// Makes an endpoint its container's way out, or no longer.
    fn lead_out(&mut self, endpoint: &Endpoint, leads_out: bool) -> Result<(), NetworkError> {
        let changed = Endpoint { default_route: leads_out, ..endpoint.clone() };
        let key = (changed.container.clone(), changed.network.clone());
        if let Some(netns) = self.held.get(&key).and_then(|held| held.netns.as_ref()) {
            self.plane.set_way_out(&changed, netns)?;
        }
        self.records.put_endpoint(&changed)?;
        self.endpoints.insert(key, changed);
        Ok(())
    }
}
