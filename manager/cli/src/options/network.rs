//! The flags of `run` and `create` that concern networks.

use clap::Args;
use keg_proto::keg::v1::{HostConfig, NetworkAttachment};

/// The network that flags mean which need one, where none is named.
const DEFAULT_NETWORK: &str = "bridge";
/// Docker's name for the option by which an interface gets a name.
const INTERFACE_OPTION: &str = "com.docker.network.endpoint.ifname";

// No doc comment: see `commands`.
#[derive(Debug, Default, Args)]
#[command(next_display_order = None)]
pub(crate) struct NetworkFlags {
    /// Add an entry to /etc/hosts (the address "host-gateway" is the host's)
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Ask this resolver in place of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Set an option of resolv.conf
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Look names up in this domain too ("." for none)
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Domain behind the host name
    #[arg(long, value_name = "DOMAIN", default_value = "", hide_default_value = true)]
    pub(crate) domainname: String,
    /// Declare a port, for -P
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub(crate) expose: Vec<String>,
    /// Address on its first network
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ip: String,
    /// IPv6 address on its first network
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ip6: String,
    #[arg(long, hide = true)]
    link: Vec<String>,
    /// Hardware address on its first network
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    mac_address: String,
    /// Network: the name of one, "none", "host" or "container:NAME" (repeatable)
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// Answer to this name, too, on its first network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Publish a port on the host
    #[arg(short = 'p', long, value_name = "[IP:][HOST_PORT:]PORT[/PROTOCOL]")]
    publish: Vec<String>,
    /// Publish every port that the image declares
    #[arg(short = 'P', long)]
    publish_all: bool,
}

/// Why flags about networks cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetworkFlagError {
    /// Docker's legacy.
    #[error(
        "there is no --link: create a network with `keg network create`, and run both containers \
         with --network on it; they find each other by name"
    )]
    Link,
    /// A field of `--network` that is none.
    #[error(
        "--network {text}: there is no field {field:?}; there are name, alias, ip, ip6, \
         mac-address, gw-priority, and driver-opt={INTERFACE_OPTION}=NAME"
    )]
    Field { text: String, field: String },
    /// An option that no driver has.
    #[error("there is no driver option {text:?}; there is {INTERFACE_OPTION}=NAME")]
    DriverOption { text: String },
    /// No number.
    #[error("--network {text}: gw-priority is a whole number, which may be negative")]
    Priority { text: String },
    /// A network that is not named.
    #[error("--network {text}: no name is given")]
    NoName { text: String },
    /// A mode beside a network.
    #[error("--network {mode} goes with no other network, and with no address or alias")]
    Mode { mode: String },
}

impl NetworkFlags {
    /// Enters what the flags say.
    ///
    /// # Errors
    /// [`NetworkFlagError`].
    pub(crate) fn describe(&self, host: &mut HostConfig) -> Result<(), NetworkFlagError> {
        if !self.link.is_empty() {
            return Err(NetworkFlagError::Link);
        }
        let mut networks: Vec<NetworkAttachment> =
            self.network.iter().map(|text| attachment(text)).collect::<Result<_, _>>()?;
        let says_more = !(self.ip.is_empty()
            && self.ip6.is_empty()
            && self.mac_address.is_empty()
            && self.network_alias.is_empty());
        if networks.is_empty() && says_more {
            networks.push(bare(DEFAULT_NETWORK));
        }
        if let Some(first) = networks.first_mut() {
            let set = |field: &mut String, value: &String| {
                if !value.is_empty() {
                    field.clone_from(value);
                }
            };
            set(&mut first.ipv4_address, &self.ip);
            set(&mut first.ipv6_address, &self.ip6);
            set(&mut first.mac_address, &self.mac_address);
            first.aliases.extend(self.network_alias.iter().cloned());
        }
        let mode = networks.iter().find(|one| is_mode(&one.network));
        if let Some(mode) = mode {
            if networks.len() > 1 || *mode != bare(&mode.network) {
                return Err(NetworkFlagError::Mode { mode: mode.network.clone() });
            }
            host.network_mode.clone_from(&mode.network);
        } else if let Some(first) = networks.first() {
            host.network_mode.clone_from(&first.network);
            // "default" is what the daemon says it is, which may be a mode.
            networks.retain(|one| *one != bare("default"));
            host.networks = networks;
        }
        host.publish.clone_from(&self.publish);
        host.publish_all_ports = self.publish_all;
        host.dns.clone_from(&self.dns);
        host.dns_search.clone_from(&self.dns_search);
        host.dns_options.clone_from(&self.dns_option);
        host.extra_hosts.clone_from(&self.add_host);
        Ok(())
    }
}

/// Whether a name means a mode, and no network.
fn is_mode(name: &str) -> bool {
    name == "none" || name == "host" || name.starts_with("container:")
}

fn bare(network: &str) -> NetworkAttachment {
    NetworkAttachment { network: network.to_owned(), ..NetworkAttachment::default() }
}

/// Understands `com.docker.network.endpoint.ifname=NAME`: the name of the interface.
///
/// # Errors
/// [`NetworkFlagError::DriverOption`].
pub(crate) fn interface_option(text: &str) -> Result<String, NetworkFlagError> {
    let name = text.strip_prefix(INTERFACE_OPTION).and_then(|rest| rest.strip_prefix('='));
    let name = name.filter(|name| !name.is_empty()).map(str::to_owned);
    name.ok_or_else(|| NetworkFlagError::DriverOption { text: text.to_owned() })
}

/// Understands a name, or `name=NETWORK,alias=NAME,ip=ADDRESS,…`.
fn attachment(text: &str) -> Result<NetworkAttachment, NetworkFlagError> {
    if !text.contains('=') {
        return match text {
            "" => Err(NetworkFlagError::NoName { text: text.to_owned() }),
            name => Ok(bare(name)),
        };
    }
    let mut told = NetworkAttachment::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let value = || value.to_owned();
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => told.network = value(),
            "alias" => told.aliases.push(value()),
            "ip" => told.ipv4_address = value(),
            "ip6" => told.ipv6_address = value(),
            "mac-address" => told.mac_address = value(),
            "driver-opt" => told.interface = interface_option(&value())?,
            "gw-priority" => {
                let bad = || NetworkFlagError::Priority { text: text.to_owned() };
                told.gateway_priority = value().parse().map_err(|_| bad())?;
            }
            _ => {
                let (text, field) = (text.to_owned(), field.to_owned());
                return Err(NetworkFlagError::Field { text, field });
            }
        }
    }
    if told.network.is_empty() {
        return Err(NetworkFlagError::NoName { text: text.to_owned() });
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Run {
        #[command(flatten)]
        flags: NetworkFlags,
    }

    fn described(line: &str) -> Result<HostConfig, String> {
        let words = ["run"].into_iter().chain(line.split_whitespace());
        let flags = Run::try_parse_from(words).map_err(|error| error.to_string())?.flags;
        let mut host = HostConfig::default();
        flags.describe(&mut host).map_err(|error| error.to_string())?;
        Ok(host)
    }

    #[test]
    fn the_first_network_is_the_mode_and_gets_what_is_said_of_none() {
        let host = described("--network front --net back --ip 10.0.0.5 --network-alias db")
            .expect("networks");

        assert_eq!(host.network_mode, "front");
        let names: Vec<_> = host.networks.iter().map(|one| one.network.as_str()).collect();
        assert_eq!(names, ["front", "back"]);
        assert_eq!(host.networks[0].ipv4_address, "10.0.0.5");
        assert_eq!(host.networks[0].aliases, ["db"]);
        assert!(host.networks[1].aliases.is_empty());
    }

    #[test]
    fn fields_of_a_network_are_understood() {
        let text = "name=front,alias=a,alias=b,ip=10.0.0.5,mac-address=02:00:00:00:00:01,\
                    driver-opt=com.docker.network.endpoint.ifname=lan0,gw-priority=-3";

        let host = described(&format!("--network {text} -p 80:80 -P --dns 1.1.1.1")).expect(text);

        let first = &host.networks[0];
        assert_eq!((first.network.as_str(), first.interface.as_str()), ("front", "lan0"));
        assert_eq!(first.gateway_priority, -3);
        assert_eq!((first.aliases.len(), first.ipv4_address.as_str()), (2, "10.0.0.5"));
        assert_eq!((host.publish, host.publish_all_ports), (vec!["80:80".to_owned()], true));
        assert_eq!(host.dns, ["1.1.1.1"]);
    }

    #[test]
    fn modes_and_nothing_stand_alone() {
        for (line, mode) in [("", ""), ("--network none", "none"), ("--net default", "default")] {
            let host = described(line).expect(line);
            assert_eq!((host.network_mode.as_str(), host.networks.len()), (mode, 0), "{line}");
        }
        let host = described("--mac-address 02:00:00:00:00:01").expect("a default");
        assert_eq!((host.network_mode.as_str(), host.networks.len()), ("bridge", 1));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let table = [
            ("--link db", "no --link"),
            ("--network host --network front", "--network host goes with no other"),
            ("--network none --ip 10.0.0.1", "--network none goes with no other"),
            ("--network name=x,colour=blue", "colour=blue"),
            ("--network name=x,gw-priority=high", "gw-priority is a whole number"),
            ("--network name=x,driver-opt=colour=blue", "no driver option \"colour=blue\""),
            ("--network alias=x", "no name"),
        ];
        for (line, expected) in table {
            let error = described(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
