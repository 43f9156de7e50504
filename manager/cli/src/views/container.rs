//! Containers: the rows of `ps`, and `inspect`.

use jiff::Timestamp;
use keg_proto::keg::v1::{
    ContainerConfig, ContainerSize, ContainerState, ContainerSummary, Device, DeviceLimit,
    ExitStatus, Health, HealthCheck, HealthProbe, HostConfig, InspectContainerResponse, MountPoint,
    PortMapping, Resources, RestartPolicy, Ulimit,
};

use super::{label_lookup, labels_map, labels_text, network, ports, texts_or_null};
use crate::table::Columns;
use crate::template::Value;
use crate::{humanize, moment, reference};

/// Longest command that `ps` shows.
const COMMAND_CHARACTERS: usize = 20;

/// Columns of `ps`.
pub(crate) const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    quiet: "{{.ID}}",
    titles: &[
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Labels", "LABELS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Mounts", "MOUNTS"),
        ("Names", "NAMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
        ("Ports", "PORTS"),
        ("RunningFor", "CREATED"),
        ("Size", "SIZE"),
        ("State", "STATE"),
        ("Status", "STATUS"),
    ],
};

/// Columns of `ps --size`.
pub(crate) const COLUMNS_WITH_SIZE: Columns = Columns {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    ..COLUMNS
};

/// How rows are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowStyle {
    /// The present, from which ages are counted.
    pub(crate) now: Timestamp,
    /// Cuts ids and commands.
    pub(crate) truncate: bool,
    /// Fills in `CreatedAt`, which needs the local time zone.
    pub(crate) with_created_at: bool,
}

/// What a container was made from. An image whose name has been removed, or stands for another by now, has its id.
fn image_shown(container: &ContainerSummary, truncate: bool) -> &str {
    match truncate && container.image == container.image_id {
        true => humanize::short_id(&container.image),
        false => reference::familiar(&container.image),
    }
}

/// A row of `ps`.
pub(crate) fn row(container: &ContainerSummary, style: RowStyle) -> Value {
    let command = humanize::command_line(container.command.iter().map(String::as_str));
    let (id, command) = if style.truncate {
        let command = humanize::ellipsis(&command, COMMAND_CHARACTERS);
        (humanize::short_id(&container.id), command)
    } else {
        (container.id.as_str(), command)
    };
    let created = container.created_at.as_ref();
    let created_at = if style.with_created_at { moment::civil(created) } else { String::new() };
    let age = humanize::duration(moment::seconds_since(created, style.now));
    let is_volume = |mount: &&MountPoint| mount.r#type == "volume";
    let volumes = container.mount_points.iter().filter(is_volume).count();
    let mounts: Vec<&str> = container.mount_points.iter().map(mount_name).collect();
    Value::record([
        ("Command", Value::Text(humanize::quoted(&command))),
        ("CreatedAt", Value::Text(created_at)),
        ("ID", Value::text(id)),
        ("Image", Value::text(image_shown(container, style.truncate))),
        ("Label", label_lookup(&container.labels)),
        ("Labels", Value::Text(labels_text(&container.labels))),
        ("LocalVolumes", Value::Text(volumes.to_string())),
        ("Mounts", Value::Text(mounts.join(","))),
        ("Names", Value::text(&container.name)),
        ("Networks", Value::Text(container.networks.join(","))),
        ("Platform", Value::text(&container.platform)),
        ("Ports", Value::Text(ports::line(&container.ports))),
        ("RunningFor", Value::Text(format!("{age} ago"))),
        ("Size", Value::Text(container.size.as_ref().map_or("0B".to_owned(), size))),
        ("State", Value::text(state_word(container.state()))),
        ("Status", Value::Text(status(container, style.now))),
    ])
}

/// What a container takes: "1.1MB (virtual 5.2MB)".
fn size(size: &ContainerSize) -> String {
    let total = humanize::size(size.total_bytes);
    format!("{} (virtual {total})", humanize::size(size.written_bytes))
}

/// What `ps` shows of a mount: where it comes from.
fn mount_name(mount: &MountPoint) -> &str {
    [&mount.name, &mount.source, &mount.destination]
        .into_iter()
        .find(|text| !text.is_empty())
        .map_or("", String::as_str)
}

/// The state in Docker's word.
pub(crate) fn state_word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Exited => "exited",
        ContainerState::Restarting => "restarting",
        ContainerState::Removing => "removing",
        ContainerState::Dead => "dead",
        ContainerState::Unspecified => "unknown",
    }
}

/// The state in a phrase: "Up 2 minutes", "Exited (0) 3 hours ago".
fn status(container: &ContainerSummary, now: Timestamp) -> String {
    let up = || humanize::duration(moment::seconds_since(container.started_at.as_ref(), now));
    match container.state() {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running => match container.health_status.as_str() {
            "" => format!("Up {}", up()),
            "starting" => format!("Up {} (health: starting)", up()),
            health => format!("Up {} ({health})", up()),
        },
        ContainerState::Paused => format!("Up {} (Paused)", up()),
        ContainerState::Exited | ContainerState::Restarting => {
            let word = match container.state() {
                ContainerState::Restarting => "Restarting",
                _ => "Exited",
            };
            let ended = container.status.as_ref();
            let code = ended.map_or(0, |status| status.code);
            let at = ended.and_then(|status| status.exited_at.as_ref());
            format!("{word} ({code}) {} ago", humanize::duration(moment::seconds_since(at, now)))
        }
        ContainerState::Removing => "Removal In Progress".to_owned(),
        ContainerState::Dead => "Dead".to_owned(),
        ContainerState::Unspecified => "Unknown".to_owned(),
    }
}

/// One container as `inspect` shows it.
pub(crate) fn inspect(container: &InspectContainerResponse) -> Value {
    let summary = container.summary.clone().unwrap_or_default();
    let config = container.config.clone().unwrap_or_default();
    let host = container.host_config.clone().unwrap_or_default();
    let id_range = container.id_range.as_ref().map_or(Value::NIL, |range| {
        Value::record([
            ("Start", Value::unsigned(range.start)),
            ("Length", Value::unsigned(range.length)),
        ])
    });
    let mut fields = vec![
        ("Id", Value::text(&summary.id)),
        ("Created", Value::Text(moment::rfc3339(summary.created_at.as_ref()))),
        ("Path", Value::text(&container.path)),
        ("Args", Value::texts(&container.args)),
        ("State", state(&summary, container.health.as_ref())),
        ("Image", Value::text(&summary.image_id)),
        ("ResolvConfPath", Value::text(&container.resolv_conf_path)),
        ("HostnamePath", Value::text(&container.hostname_path)),
        ("HostsPath", Value::text(&container.hosts_path)),
        ("LogPath", Value::text(&container.log_path)),
        ("Name", Value::Text(format!("/{}", summary.name))),
        ("RestartCount", Value::unsigned(container.restart_count)),
        ("Driver", Value::text(&container.snapshotter)),
        ("MountLabel", Value::text(&container.mount_label)),
        ("ProcessLabel", Value::text(&container.process_label)),
        ("AppArmorProfile", Value::text(&host.apparmor_profile)),
        ("ExecIDs", Value::NO_LIST),
        ("Platform", Value::text("linux")),
        ("HostConfig", host_config(container, &host)),
        ("GraphDriver", graph_driver(container)),
        ("Mounts", Value::List(summary.mount_points.iter().map(mount_point).collect())),
        ("Config", config_record(&config, &host, &summary)),
        ("NetworkSettings", network::settings(container)),
        (
            "Keg",
            Value::record([
                ("Bundle", Value::text(&container.bundle)),
                ("IdRange", id_range),
                ("SnapshotKey", Value::text(&container.snapshot_key)),
            ]),
        ),
    ];
    if let Some(size) = &summary.size {
        fields.push(("SizeRw", Value::unsigned(size.written_bytes)));
        fields.push(("SizeRootFs", Value::unsigned(size.total_bytes)));
    }
    Value::record(fields)
}

fn state(summary: &ContainerSummary, health_of: Option<&Health>) -> Value {
    let state = summary.state();
    let none = ExitStatus::default();
    let ended = summary.status.as_ref().unwrap_or(&none);
    let runs = matches!(state, ContainerState::Running | ContainerState::Paused);
    let code = if runs { 0 } else { ended.code };
    let mut fields = vec![
        ("Status", Value::text(state_word(state))),
        ("Running", Value::Bool(runs)),
        ("Paused", Value::Bool(state == ContainerState::Paused)),
        ("Restarting", Value::Bool(state == ContainerState::Restarting)),
        ("OOMKilled", Value::Bool(ended.oom_killed && !runs)),
        ("Dead", Value::Bool(state == ContainerState::Dead)),
        ("Pid", Value::unsigned(summary.pid)),
        ("ExitCode", Value::unsigned(code)),
        ("Error", Value::text(&ended.error)),
        ("StartedAt", Value::Text(moment::rfc3339(summary.started_at.as_ref()))),
        ("FinishedAt", Value::Text(moment::rfc3339(ended.exited_at.as_ref()))),
    ];
    if let Some(found) = health_of {
        fields.push(("Health", health(found)));
    }
    Value::Record(fields)
}

fn host_config(container: &InspectContainerResponse, host: &HostConfig) -> Value {
    let none = Resources::default();
    let resources = host.resources.as_ref().unwrap_or(&none);
    let binds: Vec<String> = host
        .mounts
        .iter()
        .filter(|mount| {
            mount.r#type == "bind" || (mount.r#type == "volume" && !mount.source.is_empty())
        })
        .map(|mount| {
            let label = match mount.selinux_relabel.as_str() {
                "shared" => Some("z"),
                "private" => Some("Z"),
                _ => None,
            };
            let words: Vec<_> = mount.read_only.then_some("ro").into_iter().chain(label).collect();
            let colon = if words.is_empty() { "" } else { ":" };
            format!("{}:{}{colon}{}", mount.source, mount.target, words.join(","))
        })
        .collect();
    let mut fields = vec![
        ("Binds", texts_or_null(&binds)),
        ("ContainerIDFile", Value::text("")),
        ("LogConfig", log_config(host)),
        ("Init", Value::Bool(host.init)),
        ("VolumesFrom", texts_or_null(&host.volumes_from)),
        ("NetworkMode", Value::text(&host.network_mode)),
        ("PortBindings", ports::bindings(&host.port_bindings)),
        ("PublishAllPorts", Value::Bool(host.publish_all_ports)),
        ("Dns", Value::texts(&host.dns)),
        ("DnsOptions", Value::texts(&host.dns_options)),
        ("DnsSearch", Value::texts(&host.dns_search)),
        ("ExtraHosts", texts_or_null(&host.extra_hosts)),
        ("Links", Value::NO_LIST),
        ("RestartPolicy", restart_policy(host.restart_policy.as_ref())),
        ("AutoRemove", Value::Bool(host.auto_remove)),
        ("VolumeDriver", Value::text("")),
        ("ConsoleSize", Value::List(vec![Value::Int(0), Value::Int(0)])),
        ("ReadonlyRootfs", Value::Bool(host.read_only_rootfs)),
        ("CapAdd", texts_or_null(&host.cap_add)),
        ("CapDrop", texts_or_null(&host.cap_drop)),
        ("CgroupnsMode", private_unless(&host.cgroupns_mode)),
        ("GroupAdd", texts_or_null(&host.group_add)),
        ("IpcMode", private_unless(&host.ipc_mode)),
        ("Cgroup", Value::text("")),
        ("OomScoreAdj", Value::Int(host.oom_score_adj.unwrap_or_default().into())),
        ("PidMode", Value::text(&host.pid_mode)),
        ("Privileged", Value::Bool(host.privileged)),
        ("SecurityOpt", texts_or_null(&security_options(host))),
        ("UTSMode", Value::text(&host.uts_mode)),
        ("UsernsMode", Value::text(&host.userns_mode)),
        ("ShmSize", Value::unsigned(host.shm_size_bytes)),
        ("Tmpfs", tmpfs(host)),
        ("Sysctls", labels_map(&host.sysctls)),
        ("Annotations", labels_map(&host.annotations)),
        ("Runtime", Value::text(&container.runtime)),
        ("Isolation", Value::text("")),
        ("MaskedPaths", Value::texts(&container.masked_paths)),
        ("ReadonlyPaths", Value::texts(&container.read_only_paths)),
    ];
    fields.extend(limits(host, resources));
    Value::record(fields)
}

/// File systems in memory, by where they are, with their options.
fn tmpfs(host: &HostConfig) -> Value {
    let of_memory = host.mounts.iter().filter(|mount| mount.r#type == "tmpfs");
    let entries = of_memory.map(|mount| {
        let read_only = mount.read_only.then_some("ro");
        let options: Vec<&str> =
            read_only.into_iter().chain(mount.tmpfs_options.iter().map(String::as_str)).collect();
        (mount.target.clone(), Value::Text(options.join(",")))
    });
    Value::map_or_nil(entries)
}

/// A mode for which Docker has a word also where nothing else was asked for.
fn private_unless(mode: &str) -> Value {
    Value::text(if mode.is_empty() { "private" } else { mode })
}

/// What it may use, by the names that Docker has for it.
fn limits(host: &HostConfig, resources: &Resources) -> Vec<(&'static str, Value)> {
    let of_devices = |limits: &[DeviceLimit], name: &'static str| {
        let one = |limit: &DeviceLimit| {
            Value::record([
                ("Path", Value::text(&limit.path)),
                (name, Value::unsigned(limit.value)),
            ])
        };
        Value::List(limits.iter().map(one).collect())
    };
    let swappiness = resources.memory_swappiness.map_or(Value::NIL, Value::unsigned);
    vec![
        ("CpuShares", Value::unsigned(resources.cpu_shares)),
        ("Memory", Value::Int(resources.memory_bytes)),
        ("NanoCpus", Value::Int(resources.nano_cpus)),
        ("CgroupParent", Value::text(&host.cgroup_parent)),
        ("BlkioWeight", Value::unsigned(resources.blkio_weight)),
        ("BlkioWeightDevice", of_devices(&resources.blkio_weight_device, "Weight")),
        ("BlkioDeviceReadBps", of_devices(&resources.device_read_bps, "Rate")),
        ("BlkioDeviceWriteBps", of_devices(&resources.device_write_bps, "Rate")),
        ("BlkioDeviceReadIOps", of_devices(&resources.device_read_iops, "Rate")),
        ("BlkioDeviceWriteIOps", of_devices(&resources.device_write_iops, "Rate")),
        ("CpuPeriod", Value::unsigned(resources.cpu_period_usec)),
        ("CpuQuota", Value::Int(resources.cpu_quota_usec)),
        ("CpuRealtimePeriod", Value::unsigned(resources.cpu_rt_period_usec)),
        ("CpuRealtimeRuntime", Value::Int(resources.cpu_rt_runtime_usec)),
        ("CpusetCpus", Value::text(&resources.cpuset_cpus)),
        ("CpusetMems", Value::text(&resources.cpuset_mems)),
        ("Devices", Value::List(host.devices.iter().map(device).collect())),
        ("DeviceCgroupRules", texts_or_null(&host.device_cgroup_rules)),
        ("DeviceRequests", Value::NO_LIST),
        ("MemoryReservation", Value::Int(resources.memory_reservation_bytes)),
        ("MemorySwap", Value::Int(resources.memory_swap_bytes)),
        ("MemorySwappiness", swappiness),
        ("OomKillDisable", Value::Bool(resources.oom_kill_disable)),
        (
            "PidsLimit",
            if resources.pids_limit == 0 { Value::NIL } else { Value::Int(resources.pids_limit) },
        ),
        ("Ulimits", Value::List(host.ulimits.iter().map(ulimit).collect())),
        // Of other systems than Linux.
        ("CpuCount", Value::Int(0)),
        ("CpuPercent", Value::Int(0)),
        ("IOMaximumIOps", Value::Int(0)),
        ("IOMaximumBandwidth", Value::Int(0)),
    ]
}

/// A device; all is allowed if nothing else was said.
fn device(device: &Device) -> Value {
    let or = |text: &String, other: &str| {
        Value::text(if text.is_empty() { other } else { text.as_str() })
    };
    Value::record([
        ("PathOnHost", Value::text(&device.host_path)),
        ("PathInContainer", or(&device.container_path, &device.host_path)),
        ("CgroupPermissions", or(&device.permissions, "rwm")),
    ])
}

/// Where what it writes is kept.
fn log_config(host: &HostConfig) -> Value {
    Value::record([
        ("Type", Value::text(&host.log_driver)),
        ("Config", labels_map(&host.log_options)),
    ])
}

/// What its root file system is made of.
fn graph_driver(container: &InspectContainerResponse) -> Value {
    let mut data = vec![("ID", container.snapshot_key.clone())];
    if let Some(directories) = &container.root_directories {
        data.extend([
            ("LowerDir", directories.lower.join(":")),
            ("MergedDir", directories.merged.clone()),
            ("UpperDir", directories.upper.clone()),
            ("WorkDir", directories.work.clone()),
        ]);
    }
    let data = data.into_iter().filter(|(_, path)| !path.is_empty());
    let data = Value::map(data.map(|(name, path)| (name.to_owned(), Value::Text(path))));
    Value::record([("Name", Value::text(&container.snapshotter)), ("Data", data)])
}

fn restart_policy(policy: Option<&RestartPolicy>) -> Value {
    let (name, retries) = match policy {
        Some(policy) => (policy.name.as_str(), policy.maximum_retry_count),
        None => ("no", 0),
    };
    Value::record([("Name", Value::text(name)), ("MaximumRetryCount", Value::unsigned(retries))])
}

/// The walls that were changed, as `--security-opt` has them.
fn security_options(host: &HostConfig) -> Vec<String> {
    let mut options = Vec::new();
    if host.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    if !host.seccomp.is_empty() {
        options.push(format!("seccomp={}", host.seccomp));
    }
    if !host.apparmor_profile.is_empty() {
        options.push(format!("apparmor={}", host.apparmor_profile));
    }
    options.extend(host.selinux_options.iter().map(|label| format!("label={label}")));
    options
}

/// A limit; the largest there is means unlimited, which Docker has as -1.
fn ulimit(limit: &Ulimit) -> Value {
    let value = |number: u64| Value::Int(i64::try_from(number).unwrap_or(-1));
    Value::record([
        ("Name", Value::text(&limit.name)),
        ("Hard", value(limit.hard)),
        ("Soft", value(limit.soft)),
    ])
}

fn mount_point(mount: &MountPoint) -> Value {
    let is_volume = mount.r#type == "volume";
    let mut fields = vec![("Type", Value::text(&mount.r#type))];
    if is_volume {
        fields.push(("Name", Value::text(&mount.name)));
    }
    fields.extend([
        ("Source", Value::text(&mount.source)),
        ("Destination", Value::text(&mount.destination)),
    ]);
    if is_volume {
        fields.push(("Driver", Value::text(&mount.driver)));
    }
    fields.extend([
        ("Mode", Value::text(&mount.mode)),
        ("RW", Value::Bool(mount.writable)),
        ("Propagation", Value::text(&mount.propagation)),
    ]);
    Value::Record(fields)
}

/// Docker has times in nanoseconds.
fn health_check(check: &HealthCheck) -> Value {
    let nanos = |msec: u64| Value::unsigned(msec.saturating_mul(1_000_000));
    Value::record([
        ("Test", Value::texts(&check.test)),
        ("Interval", nanos(check.interval_msec)),
        ("Timeout", nanos(check.timeout_msec)),
        ("StartPeriod", nanos(check.start_period_msec)),
        ("StartInterval", nanos(check.start_interval_msec)),
        ("Retries", Value::unsigned(check.retries)),
        ("OnFailure", Value::text(&check.on_failure)),
    ])
}

fn health(health: &Health) -> Value {
    let probe = |probe: &HealthProbe| {
        Value::record([
            ("Start", Value::Text(moment::rfc3339(probe.start.as_ref()))),
            ("End", Value::Text(moment::rfc3339(probe.end.as_ref()))),
            ("ExitCode", Value::Int(probe.exit_code.into())),
            ("Output", Value::text(&probe.output)),
        ])
    };
    Value::record([
        ("Status", Value::text(&health.status)),
        ("FailingStreak", Value::unsigned(health.failing_streak)),
        ("Log", Value::List(health.log.iter().map(probe).collect())),
    ])
}

fn config_record(config: &ContainerConfig, host: &HostConfig, summary: &ContainerSummary) -> Value {
    let stop_timeout = config.stop_timeout_secs.map_or(Value::NIL, Value::unsigned);
    Value::record([
        ("Hostname", Value::text(&config.hostname)),
        ("Domainname", Value::text(&config.domainname)),
        ("User", Value::text(&config.user)),
        ("AttachStdin", Value::Bool(config.attach_stdin)),
        ("AttachStdout", Value::Bool(config.attach_stdout)),
        ("AttachStderr", Value::Bool(config.attach_stderr)),
        ("ExposedPorts", exposed_ports(config, host)),
        ("Tty", Value::Bool(config.tty)),
        ("OpenStdin", Value::Bool(config.open_stdin)),
        ("StdinOnce", Value::Bool(config.stdin_once)),
        ("Volumes", volume_targets(summary)),
        ("OnBuild", Value::NO_LIST),
        ("Env", Value::texts(&config.env)),
        ("Cmd", texts_or_null(&config.command)),
        ("Image", Value::text(&summary.image)),
        ("WorkingDir", Value::text(&config.working_dir)),
        ("Entrypoint", texts_or_null(&config.entrypoint)),
        ("Labels", labels_map(&config.labels)),
        ("Healthcheck", config.health_check.as_ref().map_or(Value::NIL, health_check)),
        ("StopSignal", Value::text(&config.stop_signal)),
        ("StopTimeout", stop_timeout),
    ])
}

/// Where the volumes are for which nobody has named what is to be there: names of empty objects.
fn volume_targets(summary: &ContainerSummary) -> Value {
    let has_source = |point: &MountPoint| {
        let asked = summary.mounts.iter().find(|mount| mount.target == point.destination);
        asked.is_some_and(|mount| !mount.source.is_empty())
    };
    let volumes = summary.mount_points.iter().filter(|mount| mount.r#type == "volume");
    let targets = volumes.filter(|point| !has_source(point)).map(|point| point.destination.clone());
    empty_objects(targets)
}

/// Ports that the program listens on, and those that are published.
fn exposed_ports(config: &ContainerConfig, host: &HostConfig) -> Value {
    let name = |port: &PortMapping| format!("{}/{}", port.container_port, port.protocol);
    let published = host.port_bindings.iter().map(name);
    empty_objects(config.exposed_ports.iter().cloned().chain(published))
}

/// A set as Docker has them: names of empty objects.
fn empty_objects(names: impl Iterator<Item = String>) -> Value {
    Value::map_or_nil(names.map(|name| (name, Value::record([]))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::RowFormat;
    use keg_proto::keg::v1::Mount;
    use prost_types::Timestamp as ProtoTimestamp;

    fn at(seconds: i64) -> Option<ProtoTimestamp> {
        Some(ProtoTimestamp { seconds, nanos: 0 })
    }

    fn sample(state: ContainerState) -> ContainerSummary {
        ContainerSummary {
            id: "0123456789abcdef".repeat(4),
            name: "web".to_owned(),
            image: "docker.io/library/busybox:latest".to_owned(),
            command: ["sh", "-c", "while true; do date; done"].map(str::to_owned).to_vec(),
            created_at: at(1000),
            started_at: at(1060),
            state: state.into(),
            status: Some(ExitStatus { code: 3, exited_at: at(1120), ..ExitStatus::default() }),
            ..ContainerSummary::default()
        }
    }

    fn style(truncate: bool) -> RowStyle {
        let now = Timestamp::new(1240, 0).expect("a moment");
        RowStyle { now, truncate, with_created_at: false }
    }

    #[test]
    fn ps_looks_like_dockers() {
        let rows = [row(&sample(ContainerState::Running), style(true))];

        let text = RowFormat::new(None, false, COLUMNS)
            .and_then(|format| format.render(COLUMNS, rows))
            .expect("a table");

        assert_eq!(
            text,
            "CONTAINER ID   IMAGE            COMMAND                  CREATED         STATUS         PORTS     NAMES\n\
             0123456789ab   busybox:latest   \"sh -c 'while true; …\"   4 minutes ago   Up 3 minutes             web\n"
        );
    }

    #[test]
    fn every_state_has_its_phrase() {
        let table = [
            (ContainerState::Created, "Created"),
            (ContainerState::Running, "Up 3 minutes"),
            (ContainerState::Paused, "Up 3 minutes (Paused)"),
            (ContainerState::Exited, "Exited (3) 2 minutes ago"),
            (ContainerState::Removing, "Removal In Progress"),
            (ContainerState::Dead, "Dead"),
        ];
        for (state, phrase) in table {
            assert_eq!(status(&sample(state), style(true).now), phrase);
        }
    }

    #[test]
    fn inspect_has_dockers_structure() {
        let response = InspectContainerResponse {
            summary: Some(sample(ContainerState::Exited)),
            config: Some(ContainerConfig { tty: true, ..ContainerConfig::default() }),
            path: "sh".to_owned(),
            ..InspectContainerResponse::default()
        };

        let value = inspect(&response);

        let render = |source: &str| {
            crate::template::Template::parse(source)
                .and_then(|template| template.render(&value))
                .expect(source)
        };
        assert_eq!(render("{{.Name}} {{.State.Status}} {{.State.ExitCode}}"), "/web exited 3");
        assert_eq!(render("{{.State.FinishedAt}}"), "1970-01-01T00:18:40Z");
        assert_eq!(render("{{.Config.Tty}} {{json .HostConfig.Binds}}"), "true null");
        assert!(value.to_json().starts_with(r#"{"Id":"0123456789abcdef"#));
    }

    #[test]
    fn inspect_tells_ports_volumes_and_memory_as_docker_does() {
        let mount = |kind: &str, source: &str, target: &str, options: &[&str]| Mount {
            r#type: kind.to_owned(),
            source: source.to_owned(),
            target: target.to_owned(),
            tmpfs_options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Mount::default()
        };
        let point = |target: &str| MountPoint {
            r#type: "volume".to_owned(),
            destination: target.to_owned(),
            ..MountPoint::default()
        };
        let mounts = vec![mount("volume", "data", "/named", &[]), mount("volume", "", "/own", &[])];
        let mount_points = vec![point("/named"), point("/own"), point("/of-image")];
        let (container_port, protocol) = (80, "tcp".to_owned());
        let response = InspectContainerResponse {
            summary: Some(ContainerSummary {
                mounts,
                mount_points,
                ..sample(ContainerState::Created)
            }),
            config: Some(ContainerConfig {
                exposed_ports: vec!["53/udp".to_owned()],
                attach_stdout: true,
                ..ContainerConfig::default()
            }),
            host_config: Some(HostConfig {
                mounts: vec![mount("tmpfs", "", "/t", &["size=1m", "mode=700"])],
                port_bindings: vec![PortMapping {
                    container_port,
                    protocol,
                    ..PortMapping::default()
                }],
                ..HostConfig::default()
            }),
            ..InspectContainerResponse::default()
        };

        let json = inspect(&response).to_json();

        for part in [
            r#""ExposedPorts":{"53/udp":{},"80/tcp":{}}"#,
            r#""Volumes":{"/of-image":{},"/own":{}}"#,
            r#""Tmpfs":{"/t":"size=1m,mode=700"}"#,
            r#""AttachStdin":false,"AttachStdout":true,"AttachStderr":false"#,
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
    }

    #[test]
    fn a_full_row_is_not_cut() {
        let row = row(&sample(ContainerState::Running), style(false)).to_json();

        assert!(row.contains(&"0123456789abcdef".repeat(4)), "{row}");
        assert!(row.contains("while true; do date; done"), "{row}");
    }
}
