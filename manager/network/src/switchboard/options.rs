//! What `network create --opt` may say: our names, and Docker's where they mean the same.
//!
//! | option | what |
//! | --- | --- |
//! | `mtu`, `com.docker.network.driver.mtu` | bytes of the largest packet |
//! | `com.docker.network.container_iface_prefix` | what names of interfaces inside begin with |
//! | `masquerade`, `com.docker.network.bridge.enable_ip_masquerade` | whether containers appear outside with the host's address |
//! | `com.docker.network.bridge.enable_icc` | whether containers reach each other |
//! | `com.docker.network.bridge.host_binding_ipv4` | where ports are published that name no address |
//! | `com.docker.network.bridge.name` | name of the bridge |
//!
//! Containers that do not reach each other reach what the others publish, at the host's addresses;
//! except where the host has bridged packets pass its IP rules (br_netfilter): such a packet is
//! translated while it is on the bridge, and then is one of those that are kept back.

use std::net::{IpAddr, Ipv4Addr};

use crate::error::NetworkError;
use crate::instance::INTERFACE_PREFIX;
use crate::model::{Driver, NetworkRequest};

/// Bytes of the largest packet, unless a network has another.
const USUAL_MTU: u32 = 1500;
/// Longest name of an interface.
const INTERFACE_NAME_BYTES: usize = 15;
/// Most digits that are put behind the beginning of a name inside.
const INDEX_DIGITS: usize = 3;
/// Docker's names of options that only a bridge has.
const DOCKER_BRIDGE: &str = "com.docker.network.bridge.";

/// A driver's options, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) mtu: u32,
    pub(super) masquerade: bool,
    pub(super) isolated: bool,
    pub(super) publish_at: Option<IpAddr>,
    pub(super) interface_prefix: String,
    pub(super) bridge: Option<String>,
}

impl Options {
    /// Reads the options of a network that is to be created.
    ///
    /// # Errors
    /// [`NetworkError::Option`] for one that is none, that its driver does not have, or whose value
    /// is none.
    pub(super) fn of(request: &NetworkRequest) -> Result<Self, NetworkError> {
        let mut options = Self {
            mtu: USUAL_MTU,
            masquerade: true,
            isolated: false,
            publish_at: None,
            interface_prefix: String::new(),
            bridge: None,
        };
        for (key, value) in &request.options {
            let is_of_bridges = key.starts_with(DOCKER_BRIDGE) || key == "masquerade";
            let fits = request.driver == Driver::Bridge || !is_of_bridges;
            options.set(key, value).filter(|()| fits).ok_or_else(|| NetworkError::Option {
                network: request.name.clone(),
                key: key.clone(),
                value: value.clone(),
            })?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "mtu" | "com.docker.network.driver.mtu" => {
                self.mtu = value.parse().ok().filter(|mtu| (68..=65535).contains(mtu))?;
            }
            "com.docker.network.container_iface_prefix" => {
                let longest = INTERFACE_NAME_BYTES - INDEX_DIGITS;
                let fits = is_interface_name(value) && value.len() <= longest;
                self.interface_prefix = fits.then(|| value.to_owned())?;
            }
            "masquerade" | "com.docker.network.bridge.enable_ip_masquerade" => {
                self.masquerade = truth(value)?;
            }
            "com.docker.network.bridge.enable_icc" => self.isolated = !truth(value)?,
            "com.docker.network.bridge.host_binding_ipv4" => {
                let address: Ipv4Addr = value.parse().ok()?;
                self.publish_at = (!address.is_unspecified()).then_some(IpAddr::V4(address));
            }
            "com.docker.network.bridge.name" => {
                // Names that begin so tell engines' interfaces from those of others.
                let fits = is_interface_name(value) && !value.starts_with(INTERFACE_PREFIX);
                self.bridge = Some(fits.then(|| value.to_owned())?);
            }
            _ => return None,
        }
        Some(())
    }
}

/// Whether an interface can have this name, "lo" aside, which has it already.
pub(super) fn is_interface_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    let is_taken = matches!(name, "." | ".." | "lo");
    !name.is_empty() && name.len() <= INTERFACE_NAME_BYTES && !is_taken && name.bytes().all(fits)
}

/// Reads what Docker takes for true and for false.
fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(driver: Driver, key: &str, value: &str) -> Result<Options, NetworkError> {
        let options = [(key.to_owned(), value.to_owned())].into();
        Options::of(&NetworkRequest { driver, options, ..NetworkRequest::default() })
    }

    #[test]
    fn dockers_options_are_understood() {
        let read = |key: &str, value: &str| {
            read(Driver::Bridge, &format!("com.docker.network.{key}"), value).unwrap()
        };

        assert_eq!(read("driver.mtu", "9000").mtu, 9000);
        assert!(!read("bridge.enable_ip_masquerade", "0").masquerade);
        assert!(read("bridge.enable_icc", "false").isolated);
        assert!(!read("bridge.enable_icc", "True").isolated);
        assert_eq!(read("bridge.name", "br-web").bridge.as_deref(), Some("br-web"));
        assert_eq!(read("container_iface_prefix", "net").interface_prefix, "net");
        let at = |value| read("bridge.host_binding_ipv4", value).publish_at;
        assert_eq!(at("127.0.0.1"), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(at("0.0.0.0"), None);
    }

    #[test]
    fn what_is_no_option_or_no_value_of_it_is_named() {
        let docker = |key: &str| format!("com.docker.network.{key}");
        for (key, value) in [
            ("colour".to_owned(), "red"),
            ("mtu".to_owned(), "67"),
            (docker("bridge.enable_icc"), "perhaps"),
            (docker("bridge.host_binding_ipv4"), "::1"),
            (docker("bridge.name"), "a/b"),
            (docker("bridge.name"), "keg7"),
            (docker("bridge.name"), "sixteen-letters-"),
            (docker("container_iface_prefix"), "thirteen-chars"),
        ] {
            let error = read(Driver::Bridge, &key, value).unwrap_err();

            assert!(error.to_string().contains(&format!("{key}={value}")), "{error}");
        }
        let macvlan = || Driver::Macvlan { parent: "eth0".into() };
        assert!(read(macvlan(), &docker("bridge.enable_icc"), "false").is_err());
        assert!(read(macvlan(), &docker("container_iface_prefix"), "net").is_ok());
    }
}
