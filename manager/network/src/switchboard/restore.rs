//! Kernel and records brought together: after a start, and after somebody changed the firewall.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

use super::{
    EndpointKey, Held, LiveContainer, Reconciled, Switchboard, bridge_entries, endpoint_entries,
};
use crate::error::NetworkError;
use crate::model::{Driver, Network, NetworkId};
use crate::netns::Netns;
use crate::nft::ruleset::Entry;
use crate::plane::Disturbance;
use crate::ports::hold;

impl Switchboard {
    /// Brings kernel and records together after a start: gives back what containers had that do
    /// not run any more, and restores what the others should have.
    ///
    /// # Errors
    /// [`NetworkError::Records`]. What cannot be restored is a problem in the answer.
    pub fn reconcile(&mut self, live: &[LiveContainer]) -> Result<Reconciled, NetworkError> {
        let mut outcome = Reconciled::default();
        let keys: Vec<EndpointKey> = self.endpoints.keys().cloned().collect();
        let (kept, gone): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|(id, _)| live.iter().any(|one| one.id == *id));
        for key in gone {
            self.give_back(&key)?;
            outcome.released += 1;
        }
        self.remove_strays()?;
        let networks: HashSet<NetworkId> = kept.iter().map(|(_, id)| id.clone()).collect();
        self.raised = networks
            .into_iter()
            .filter(|id| self.networks.get(id).is_some_and(|n| n.driver == Driver::Bridge))
            .collect();
        if self.raised.is_empty() {
            self.sweep()?;
        } else if let Err(error) = self.restore() {
            outcome.problems.push(told(&error));
        }
        for key in kept {
            let netns = live.iter().find(|one| one.id == key.0).map(|one| one.netns.clone());
            match self.restore_endpoint(&key, netns.as_deref()) {
                Ok(()) => outcome.kept += 1,
                Err(error) => outcome.problems.push(told(&error)),
            }
        }
        Ok(outcome)
    }

    /// Restores the firewall's tables if somebody has taken of them, and says whether so; follows
    /// what others do to chains that containers' packets pass.
    ///
    /// # Errors
    /// [`NetworkError::Netlink`].
    pub fn heal(&mut self) -> Result<bool, NetworkError> {
        match self.plane.disturbance()? {
            Disturbance::None => Ok(false),
            Disturbance::Chains => self.plane.open_chains().map(|()| false),
            Disturbance::Ours => self.restore().map(|()| true),
        }
    }

    /// Makes everything in the kernel anew, of the records, at once.
    pub(super) fn restore(&mut self) -> Result<(), NetworkError> {
        let raised: Vec<&Network> =
            self.networks.values().filter(|network| self.raised.contains(&network.id)).collect();
        let mut entries: Vec<Entry> =
            raised.iter().flat_map(|network| bridge_entries(network)).collect();
        entries.extend(self.endpoints.values().flat_map(endpoint_entries));
        self.plane.restore(raised.into_iter(), &entries)
    }

    /// Removes what an earlier daemon left in the kernel, when no container is connected.
    fn sweep(&mut self) -> Result<(), NetworkError> {
        let mut present = false;
        for network in self.networks.values().filter(|n| n.driver == Driver::Bridge) {
            if self.plane.has_interface(&network.bridge)? {
                self.plane.lower_bridge(network)?;
                present = true;
            }
        }
        if present {
            // Only tables that were built can be taken down whole.
            self.plane.restore(std::iter::empty(), &[])?;
            self.plane.lower()?;
        }
        Ok(())
    }

    fn restore_endpoint(
        &mut self,
        key: &EndpointKey,
        netns: Option<&Path>,
    ) -> Result<(), NetworkError> {
        let (Some(endpoint), Some(network), Some(path)) =
            (self.endpoints.get(key).cloned(), self.networks.get(&key.1).cloned(), netns)
        else {
            return Err(NetworkError::NotFound { name: key.1.to_string() });
        };
        let netns = Netns::open(path)?;
        let mut ports = Vec::new();
        for port in &endpoint.ports {
            let address = SocketAddr::new(port.host_ip, port.host_port);
            ports.push(hold(address, port.transport, |_, _| None)?.0);
        }
        if !endpoint.port.is_empty() {
            if self.plane.is_plugged(&endpoint)? {
                self.plane.replug(&network, &endpoint)?;
            } else {
                self.plane.plug(&network, &endpoint, &netns)?;
            }
        }
        self.serve_names(&network, &endpoint, &netns)?;
        self.held.insert(key.clone(), Held { ports, netns: Some(netns) });
        Ok(())
    }
}

/// An error with its causes, as a sentence.
fn told(error: &NetworkError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
