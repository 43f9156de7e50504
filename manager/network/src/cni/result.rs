//! What plugins answer (CNI specification 1.1, section 5).

use std::net::IpAddr;

use serde::Deserialize;

use crate::address::{Cidr, MacAddr};
use crate::model::EndpointAddress;

/// A success, as far as we need it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct CniResult {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    /// Resolvers for the container.
    pub(super) dns: Dns,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    mac: String,
    sandbox: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Ip {
    address: Cidr,
    #[serde(default)]
    gateway: Option<IpAddr>,
}

/// Resolvers for the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Dns {
    /// Addresses.
    pub(super) nameservers: Vec<String>,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct CniFailure {
    /// A number of the specification's, or from 100 on of the plugin's.
    pub(super) code: u32,
    /// What is wrong.
    pub(super) msg: String,
    /// More of it.
    pub(super) details: String,
}

impl CniResult {
    /// The hardware address of the interface in the container.
    pub(super) fn mac(&self, interface: &str) -> Option<MacAddr> {
        let inside = self
            .interfaces
            .iter()
            .find(|other| other.name == interface && !other.sandbox.is_empty())?;
        inside.mac.parse().ok()
    }

    /// Its addresses.
    pub(super) fn addresses(&self) -> Vec<EndpointAddress> {
        let mut addresses: Vec<EndpointAddress> = self
            .ips
            .iter()
            .map(|ip| EndpointAddress { address: ip.address, gateway: ip.gateway })
            .collect();
        addresses.sort_by_key(|address| address.address.is_ipv6());
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_tells_of_the_interface_inside() {
        let text = r#"{"cniVersion":"1.0.0","interfaces":[
              {"name":"cni0","mac":"02:00:00:00:00:09"},
              {"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/proc/1/ns/net"}],
            "ips":[{"interface":1,"address":"fd00::2/64"},
              {"interface":1,"address":"10.22.0.2/16","gateway":"10.22.0.1"}],
            "routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#;

        let result: CniResult = serde_json::from_str(text).unwrap();

        assert_eq!(result.mac("eth0").unwrap().to_string(), "02:00:00:00:00:01");
        assert_eq!(result.mac("cni0"), None);
        assert_eq!(result.addresses()[0].address.to_string(), "10.22.0.2/16");
        assert_eq!(result.addresses().len(), 2);
    }
}
