//! Networks: the rows of `network ls`, `network inspect`, and what `inspect` shows of a
//! container's networks.

use std::collections::BTreeMap;

use keg_proto::keg::v1::{
    ContainerEndpoint, InspectContainerResponse, InspectNetworkResponse, Network,
    NetworkAttachment, Subnet,
};

use super::{label_lookup, labels_map, labels_text, ports, texts_or_null};
use crate::table::Columns;
use crate::template::Value;
use crate::{humanize, moment};

/// The network whose addresses `inspect` shows at the top, too.
const DEFAULT_NETWORK: &str = "bridge";

/// Columns of `network ls`.
pub(crate) const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "{{.ID}}",
    titles: &[
        ("CreatedAt", "CREATED AT"),
        ("Driver", "DRIVER"),
        ("ID", "NETWORK ID"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("Name", "NAME"),
        ("Scope", "SCOPE"),
    ],
};

/// How rows are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowStyle {
    /// Cuts ids.
    pub(crate) truncate: bool,
    /// Fills in `CreatedAt`, which needs the local time zone.
    pub(crate) with_created_at: bool,
}

/// A row of `network ls`.
pub(crate) fn row(network: &Network, style: RowStyle) -> Value {
    let id = if style.truncate { humanize::short_id(&network.id) } else { &network.id };
    let created = network.created_at.as_ref();
    let created_at = if style.with_created_at { moment::civil(created) } else { String::new() };
    Value::record([
        ("CreatedAt", Value::Text(created_at)),
        ("Driver", Value::text(&network.driver)),
        ("ID", Value::text(id)),
        ("IPv4", Value::Text(network.enable_ipv4.to_string())),
        ("IPv6", Value::Text(network.enable_ipv6.to_string())),
        ("Internal", Value::Text(network.internal.to_string())),
        ("Label", label_lookup(&network.labels)),
        ("Labels", Value::Text(labels_text(&network.labels))),
        ("Name", Value::text(&network.name)),
        ("Scope", Value::text("local")),
    ])
}

/// One network as `network inspect` shows it.
pub(crate) fn inspect(response: &InspectNetworkResponse) -> Value {
    let network = response.network.clone().unwrap_or_default();
    let members = response.members.iter().map(|member| {
        let told = Value::record([
            ("Name", Value::text(&member.name)),
            ("EndpointID", Value::text(&member.container_id)),
            ("MacAddress", Value::text(&member.mac_address)),
            ("IPv4Address", Value::text(&member.ipv4_address)),
            ("IPv6Address", Value::text(&member.ipv6_address)),
        ]);
        (member.container_id.clone(), told)
    });
    let subnets = network.subnets.iter().map(|one| subnet(one, &network)).collect();
    Value::record([
        ("Name", Value::text(&network.name)),
        ("Id", Value::text(&network.id)),
        ("Created", Value::Text(moment::rfc3339(network.created_at.as_ref()))),
        ("Scope", Value::text("local")),
        ("Driver", Value::text(&network.driver)),
        ("EnableIPv4", Value::Bool(network.enable_ipv4)),
        ("EnableIPv6", Value::Bool(network.enable_ipv6)),
        (
            "IPAM",
            Value::record([
                ("Driver", Value::text("default")),
                ("Options", Value::NO_MAP),
                ("Config", Value::List(subnets)),
            ]),
        ),
        ("Internal", Value::Bool(network.internal)),
        ("Attachable", Value::Bool(false)),
        ("Ingress", Value::Bool(false)),
        ("ConfigFrom", Value::record([("Network", Value::text(""))])),
        ("ConfigOnly", Value::Bool(false)),
        ("Containers", Value::map(members)),
        ("Options", labels_map(&network.options)),
        ("Labels", labels_map(&network.labels)),
        (
            "Keg",
            Value::record([
                ("Bridge", Value::text(&network.bridge)),
                ("Default", Value::Bool(network.is_default)),
            ]),
        ),
    ])
}

fn subnet(subnet: &Subnet, network: &Network) -> Value {
    let mut fields = vec![("Subnet", Value::text(&subnet.subnet))];
    if !subnet.ip_range.is_empty() {
        fields.push(("IPRange", Value::text(&subnet.ip_range)));
    }
    fields.push(("Gateway", Value::text(&subnet.gateway)));
    // Each is of one family, as the subnets are.
    let is_ipv6 = subnet.subnet.contains(':');
    let reserved: BTreeMap<_, _> =
        network.aux_addresses.iter().filter(|(_, one)| one.contains(':') == is_ipv6).collect();
    if !reserved.is_empty() {
        let told = reserved.into_iter().map(|(name, one)| (name.clone(), Value::text(one)));
        fields.push(("AuxiliaryAddresses", Value::map(told)));
    }
    Value::Record(fields)
}

/// `NetworkSettings` of a container.
pub(crate) fn settings(container: &InspectContainerResponse) -> Value {
    let summary = container.summary.clone().unwrap_or_default();
    let none = ContainerEndpoint::default();
    let on_default = container
        .networks
        .iter()
        .find(|one| attachment(one).network == DEFAULT_NETWORK)
        .unwrap_or(&none);
    let endpoint_id = endpoint_id(&summary.id, on_default);
    let mode = container.host_config.as_ref().map_or("", |host| host.network_mode.as_str());
    let joined =
        container.networks.iter().map(|one| (attachment(one).network, endpoint(&summary.id, one)));
    // Docker has networks of these names, and no addresses on them.
    let without = ["none", "host"].into_iter().filter(|name| *name == mode);
    let networks = joined.chain(without.map(|name| (name.to_owned(), endpoint("", &none))));
    let runs = !container.network_namespace.is_empty();
    Value::record([
        ("Bridge", Value::text("")),
        ("SandboxID", Value::text(if runs { summary.id.as_str() } else { "" })),
        ("HairpinMode", Value::Bool(false)),
        ("LinkLocalIPv6Address", Value::text("")),
        ("LinkLocalIPv6PrefixLen", Value::Int(0)),
        ("SecondaryIPAddresses", Value::NO_LIST),
        ("SecondaryIPv6Addresses", Value::NO_LIST),
        ("SandboxKey", Value::text(&container.network_namespace)),
        ("Ports", ports::map(&summary.ports)),
        ("EndpointID", Value::text(endpoint_id)),
        ("Gateway", Value::text(&on_default.ipv4_gateway)),
        ("GlobalIPv6Address", Value::text(&on_default.ipv6_address)),
        ("GlobalIPv6PrefixLen", Value::unsigned(on_default.ipv6_prefix_len)),
        ("IPAddress", Value::text(&on_default.ipv4_address)),
        ("IPPrefixLen", Value::unsigned(on_default.ipv4_prefix_len)),
        ("IPv6Gateway", Value::text(&on_default.ipv6_gateway)),
        ("MacAddress", Value::text(&on_default.mac_address)),
        ("Networks", Value::map(networks)),
    ])
}

fn attachment(endpoint: &ContainerEndpoint) -> NetworkAttachment {
    endpoint.attachment.clone().unwrap_or_default()
}

/// A container is on a network once, so that its id tells its endpoints apart as well.
fn endpoint_id<'a>(container: &'a str, endpoint: &ContainerEndpoint) -> &'a str {
    if endpoint.network_id.is_empty() { "" } else { container }
}

fn endpoint(container: &str, endpoint: &ContainerEndpoint) -> Value {
    let asked = attachment(endpoint);
    let fixed = [("IPv4Address", &asked.ipv4_address), ("IPv6Address", &asked.ipv6_address)];
    let fixed: Vec<_> = fixed
        .into_iter()
        .filter(|(_, address)| !address.is_empty())
        .map(|(name, address)| (name, Value::text(address)))
        .collect();
    Value::record([
        ("IPAMConfig", if fixed.is_empty() { Value::NIL } else { Value::Record(fixed) }),
        ("Links", Value::NO_LIST),
        ("Aliases", texts_or_null(&asked.aliases)),
        ("MacAddress", Value::text(&endpoint.mac_address)),
        ("DriverOpts", Value::NO_MAP),
        ("GwPriority", Value::Int(asked.gateway_priority.into())),
        ("NetworkID", Value::text(&endpoint.network_id)),
        ("EndpointID", Value::text(endpoint_id(container, endpoint))),
        ("Gateway", Value::text(&endpoint.ipv4_gateway)),
        ("IPAddress", Value::text(&endpoint.ipv4_address)),
        ("IPPrefixLen", Value::unsigned(endpoint.ipv4_prefix_len)),
        ("IPv6Gateway", Value::text(&endpoint.ipv6_gateway)),
        ("GlobalIPv6Address", Value::text(&endpoint.ipv6_address)),
        ("GlobalIPv6PrefixLen", Value::unsigned(endpoint.ipv6_prefix_len)),
        ("DNSNames", texts_or_null(&endpoint.dns_names)),
        (
            "Keg",
            Value::record([
                ("DefaultRoute", Value::Bool(endpoint.default_route)),
                ("Interface", Value::text(&endpoint.interface)),
            ]),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::RowFormat;
    use crate::template::Template;
    use keg_proto::keg::v1::ContainerSummary;

    #[test]
    fn ls_looks_like_dockers() {
        let network = Network {
            id: "0123456789abcdef".repeat(4),
            name: "front".to_owned(),
            driver: "bridge".to_owned(),
            ..Network::default()
        };
        let style = RowStyle { truncate: true, with_created_at: false };

        let text = RowFormat::new(None, false, COLUMNS)
            .and_then(|format| format.render(COLUMNS, [row(&network, style)]))
            .expect("a table");

        assert_eq!(
            text,
            "NETWORK ID     NAME      DRIVER    SCOPE\n0123456789ab   front     bridge    local\n"
        );
    }

    #[test]
    fn addresses_are_where_scripts_look_for_them() {
        let on = |network: &str, address: &str| ContainerEndpoint {
            attachment: Some(NetworkAttachment {
                network: network.to_owned(),
                ..NetworkAttachment::default()
            }),
            network_id: "n".to_owned(),
            ipv4_address: address.to_owned(),
            ..ContainerEndpoint::default()
        };
        let response = InspectContainerResponse {
            summary: Some(ContainerSummary { id: "c".to_owned(), ..ContainerSummary::default() }),
            networks: vec![on("front", "10.0.0.2"), on("bridge", "172.20.0.2")],
            ..InspectContainerResponse::default()
        };

        let value = settings(&response);

        let render = |source: &str| {
            Template::parse(source).and_then(|template| template.render(&value)).expect(source)
        };
        assert_eq!(render("{{.IPAddress}}"), "172.20.0.2");
        assert_eq!(render("{{.Networks.front.IPAddress}}"), "10.0.0.2");
        assert_eq!(render("{{range .Networks}}{{.IPAddress}} {{end}}"), "172.20.0.2 10.0.0.2 ",);
        assert_eq!(render("{{.Networks.front.EndpointID}}"), "c");
    }
}
