//! What a container gets of its host: `HostConfig`, both ways.

use keg_engine::devices::Device;
use keg_engine::log::LogChoice;
use keg_engine::model::{
    HostConfig, KeptId, NamespaceMode, Record, SeccompChoice, Ulimit, UsernsMode,
};
use keg_engine::spec::mounts::SHM_BYTES;
use keg_engine::{EngineError, RestartPolicy};
use keg_proto::keg::v1 as pb;
use tonic::Status;

use super::mounts::{mount_from_pb, mount_to_pb};
use super::network;
use super::resources::{resources_from_pb, resources_to_pb, restart_from_pb};
use crate::status::{invalid, to_status};

pub(super) fn host_from_pb(host: pb::HostConfig) -> Result<HostConfig, Status> {
    let network_mode = match host.network_mode.as_str() {
        "" | "default" => None,
        name => Some(name.parse().map_err(|error| to_status(&EngineError::UnknownNetwork(error)))?),
    };
    let userns = userns_from_pb(&host.userns_mode)?;
    Ok(HostConfig {
        mounts: host.mounts.into_iter().map(mount_from_pb).collect::<Result<_, _>>()?,
        network_mode,
        auto_remove: host.auto_remove,
        resources: resources_from_pb(host.resources.unwrap_or_default())?,
        read_only_rootfs: host.read_only_rootfs,
        userns,
        runtime: host.runtime,
        pid_mode: namespace_from_pb("pid_mode", &host.pid_mode)?,
        ipc_mode: namespace_from_pb("ipc_mode", &host.ipc_mode)?,
        uts_mode: namespace_from_pb("uts_mode", &host.uts_mode)?,
        cgroupns_mode: namespace_from_pb("cgroupns_mode", &host.cgroupns_mode)?,
        cap_add: host.cap_add,
        cap_drop: host.cap_drop,
        privileged: host.privileged,
        no_new_privileges: host.no_new_privileges,
        seccomp: match host.seccomp.as_str() {
            "" | "default" if !host.seccomp_profile.is_empty() => {
                SeccompChoice::Profile(host.seccomp_profile)
            }
            "" | "default" => SeccompChoice::Default,
            "unconfined" => SeccompChoice::Unconfined,
            other => {
                let problem = format!("unknown profile {other:?}: give \"unconfined\" or nothing");
                return Err(invalid("seccomp", problem));
            }
        },
        shm_size_bytes: Some(host.shm_size_bytes).filter(|bytes| *bytes != 0),
        ulimits: host
            .ulimits
            .into_iter()
            .map(|ulimit| Ulimit { name: ulimit.name, soft: ulimit.soft, hard: ulimit.hard })
            .collect(),
        sysctls: host.sysctls.into_iter().collect(),
        group_add: host.group_add,
        oom_score_adj: host.oom_score_adj,
        annotations: host.annotations.into_iter().collect(),
        restart: restart_from_pb(host.restart_policy.unwrap_or_default())?,
        volumes_from: host.volumes_from,
        init: host.init,
        devices: host
            .devices
            .into_iter()
            .map(|device| Device {
                host: device.host_path,
                container: device.container_path,
                permissions: device.permissions,
            })
            .collect(),
        device_cgroup_rules: host.device_cgroup_rules,
        system_paths_unconfined: host.system_paths_unconfined,
        masked_paths: host.masked_paths,
        unmasked_paths: host.unmasked_paths,
        cgroup_parent: host.cgroup_parent,
        networks: network::attachments_from_pb(host.networks)?,
        ports: network::publish_from_pb(&host.publish)?,
        publish_all: host.publish_all_ports,
        dns: network::resolvers_from_pb(&host.dns)?,
        dns_search: host.dns_search,
        dns_options: host.dns_options,
        extra_hosts: network::extra_hosts_from_pb(&host.extra_hosts)?,
        apparmor_profile: host.apparmor_profile,
        selinux_options: host.selinux_options,
        log: LogChoice { driver: host.log_driver, options: host.log_options.into_iter().collect() },
    })
}

pub(super) fn host_to_pb(record: &Record) -> pb::HostConfig {
    let host = &record.host;
    pb::HostConfig {
        mounts: host.mounts.iter().map(mount_to_pb).collect(),
        network_mode: record.network_mode().to_string(),
        auto_remove: host.auto_remove,
        resources: Some(resources_to_pb(&host.resources)),
        read_only_rootfs: host.read_only_rootfs,
        userns_mode: userns_to_pb(&host.userns),
        runtime: host.runtime.clone(),
        pid_mode: namespace_to_pb(&host.pid_mode),
        ipc_mode: namespace_to_pb(&host.ipc_mode),
        uts_mode: namespace_to_pb(&host.uts_mode),
        cgroupns_mode: namespace_to_pb(&host.cgroupns_mode),
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        privileged: host.privileged,
        no_new_privileges: host.no_new_privileges,
        seccomp: match &host.seccomp {
            SeccompChoice::Default | SeccompChoice::Profile(_) => String::new(),
            SeccompChoice::Unconfined => "unconfined".to_owned(),
        },
        shm_size_bytes: host.shm_size_bytes.unwrap_or(SHM_BYTES),
        ulimits: host
            .ulimits
            .iter()
            .map(|ulimit| pb::Ulimit {
                name: ulimit.name.clone(),
                soft: ulimit.soft,
                hard: ulimit.hard,
            })
            .collect(),
        sysctls: host.sysctls.clone().into_iter().collect(),
        group_add: host.group_add.clone(),
        oom_score_adj: host.oom_score_adj,
        annotations: host.annotations.clone().into_iter().collect(),
        restart_policy: Some(pb::RestartPolicy {
            name: host.restart.name().to_owned(),
            maximum_retry_count: match host.restart {
                RestartPolicy::OnFailure { max_retries } => max_retries.unwrap_or_default(),
                _ => 0,
            },
        }),
        volumes_from: host.volumes_from.clone(),
        init: host.init,
        devices: host
            .devices
            .iter()
            .map(|device| pb::Device {
                host_path: device.host.clone(),
                container_path: device.container.clone(),
                permissions: device.permissions.clone(),
            })
            .collect(),
        device_cgroup_rules: host.device_cgroup_rules.clone(),
        system_paths_unconfined: host.system_paths_unconfined,
        masked_paths: host.masked_paths.clone(),
        unmasked_paths: host.unmasked_paths.clone(),
        cgroup_parent: host.cgroup_parent.clone(),
        seccomp_profile: match &host.seccomp {
            SeccompChoice::Profile(profile) => profile.clone(),
            SeccompChoice::Default | SeccompChoice::Unconfined => String::new(),
        },
        publish: Vec::new(),
        port_bindings: host.ports.iter().map(network::binding_to_pb).collect(),
        publish_all_ports: host.publish_all,
        dns: host.dns.iter().map(ToString::to_string).collect(),
        dns_search: host.dns_search.clone(),
        dns_options: host.dns_options.clone(),
        extra_hosts: host.extra_hosts.iter().map(network::extra_host_to_pb).collect(),
        networks: host.networks.iter().map(network::attachment_to_pb).collect(),
        apparmor_profile: host.apparmor_profile.clone(),
        selinux_options: host.selinux_options.clone(),
        log_driver: host.log.driver().to_owned(),
        log_options: host.log.options.clone().into_iter().collect(),
    }
}

fn namespace_from_pb(field: &'static str, mode: &str) -> Result<NamespaceMode, Status> {
    match (mode, mode.split_once(':')) {
        ("" | "private", _) => Ok(NamespaceMode::Private),
        ("host", _) => Ok(NamespaceMode::Host),
        ("shareable", _) if field == "ipc_mode" => Ok(NamespaceMode::Shareable),
        ("none", _) if field == "ipc_mode" => Ok(NamespaceMode::Bare),
        (_, Some(("container", name))) if ["ipc_mode", "pid_mode"].contains(&field) => {
            Ok(NamespaceMode::Container(name.to_owned()))
        }
        _ => {
            let modes = match field {
                "ipc_mode" => {
                    "\"private\", \"shareable\", \"none\", \"host\" or \"container:NAME\""
                }
                "pid_mode" => "\"host\", \"container:NAME\" or nothing",
                _ => "\"private\" or \"host\"",
            };
            Err(invalid(field, format!("unknown mode {mode:?}: give {modes}")))
        }
    }
}

fn namespace_to_pb(mode: &NamespaceMode) -> String {
    match mode {
        NamespaceMode::Private => String::new(),
        NamespaceMode::Shareable => "shareable".to_owned(),
        NamespaceMode::Bare => "none".to_owned(),
        NamespaceMode::Container(id) => format!("container:{id}"),
        NamespaceMode::Host => "host".to_owned(),
    }
}

fn userns_from_pb(mode: &str) -> Result<UsernsMode, Status> {
    let unknown = || {
        let problem = format!(
            "unknown mode {mode:?}: give \"auto[:size=N]\", \"host\", \"container:NAME\" or \
             \"keep-id[:uid=N,gid=N]\""
        );
        invalid("userns_mode", problem)
    };
    let (word, rest) = mode.split_once(':').unwrap_or((mode, ""));
    let mut numbers = Vec::new();
    if word == "auto" || word == "keep-id" {
        for option in rest.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').ok_or_else(unknown)?;
            numbers.push((key, value.parse::<u32>().map_err(|_| unknown())?));
        }
    }
    match (word, numbers.as_slice()) {
        ("" | "auto" | "private", []) => Ok(UsernsMode::Auto),
        ("auto", [("size", size)]) => Ok(UsernsMode::Sized(*size)),
        ("host", _) if rest.is_empty() => Ok(UsernsMode::Host),
        ("container", _) if !rest.is_empty() => Ok(UsernsMode::Container(rest.to_owned())),
        ("keep-id", options) => {
            let mut kept = KeptId::default();
            for (key, number) in options {
                match *key {
                    "uid" => kept.uid = Some(*number),
                    "gid" => kept.gid = Some(*number),
                    _ => return Err(unknown()),
                }
            }
            Ok(UsernsMode::KeepId(kept))
        }
        _ => Err(unknown()),
    }
}

fn userns_to_pb(mode: &UsernsMode) -> String {
    match mode {
        UsernsMode::Auto => "auto".to_owned(),
        UsernsMode::Sized(size) => format!("auto:size={size}"),
        UsernsMode::Container(id) => format!("container:{id}"),
        UsernsMode::Host => "host".to_owned(),
        UsernsMode::KeepId(kept) => {
            let (uid, gid) = (kept.uid.unwrap_or_default(), kept.gid.unwrap_or_default());
            format!("keep-id:uid={uid},gid={gid}")
        }
    }
}
