//! Containers: the request that makes one, and what is told of it.

use std::path::Path;

use keg_engine::id::ContainerName;
use keg_engine::lifecycle::Lifecycle;
use keg_engine::model::{AttachedStreams, ContainerConfig, CreateRequest, Entrypoint, Record};
use keg_engine::{Details, EngineError, LiveEndpoint, RootDirectories, Size, spec};
use keg_proto::keg::v1 as pb;
use tonic::Status;

use super::health;
use super::host::{host_from_pb, host_to_pb};
use super::mounts::{mount_point_to_pb, mount_to_pb};
use super::{exit_to_pb, network, platform_from_pb, signal_from_pb, size_from_pb, timestamp_to_pb};
use crate::status::{invalid, to_status};

/// Converts a request for a new container; `caller` is the user and group of who asks.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field that makes no sense.
pub(crate) fn create_from_pb(
    request: pb::CreateContainerRequest,
    caller: Option<(u32, u32)>,
) -> Result<CreateRequest, Status> {
    let name = match request.name.as_str() {
        "" => None,
        name => Some(
            ContainerName::parse(name)
                .map_err(|error| to_status(&EngineError::InvalidId(error)))?,
        ),
    };
    Ok(CreateRequest {
        name,
        config: config_from_pb(request.config.unwrap_or_default())?,
        host: host_from_pb(request.host_config.unwrap_or_default())?,
        platform: request.platform.as_ref().map(platform_from_pb),
        caller,
    })
}

/// Converts a container to a line of a list.
///
/// `volumes` is the directory of all volumes.
pub(crate) fn summary_to_pb(
    record: &Record,
    volumes: &Path,
    endpoints: &[LiveEndpoint],
) -> pb::ContainerSummary {
    let dead = match &record.lifecycle {
        Lifecycle::Dead { error } => {
            Some(pb::ExitStatus { error: error.clone(), ..pb::ExitStatus::default() })
        }
        _ => None,
    };
    pb::ContainerSummary {
        id: record.id.as_str().to_owned(),
        name: record.name.as_str().to_owned(),
        image: record.image.reference.clone(),
        image_id: record.image.id.clone(),
        command: record.process.args.clone(),
        created_at: Some(timestamp_to_pb(record.created_at)),
        state: state_to_pb(record).into(),
        started_at: record.lifecycle.started_at().map(timestamp_to_pb),
        status: record.lifecycle.exit().map(exit_to_pb).or(dead),
        pid: record.lifecycle.pid().unwrap_or_default(),
        labels: record.config.labels.clone().into_iter().collect(),
        network_mode: record.network_mode().to_string(),
        mounts: record.host.mounts.iter().map(mount_to_pb).collect(),
        mount_points: record.mounts.iter().map(|mount| mount_point_to_pb(mount, volumes)).collect(),
        ports: network::ports_to_pb(record, endpoints),
        networks: network::names_to_pb(record),
        health_status: record
            .health
            .as_ref()
            .map_or("", |health| health.status.as_str())
            .to_owned(),
        size: None,
        platform: record.image.platform.clone(),
    }
}

/// Converts what a container takes on the disk.
pub(crate) fn size_of_to_pb(size: Size) -> pb::ContainerSize {
    pb::ContainerSize { written_bytes: size.written_bytes, total_bytes: size.total_bytes }
}

/// Converts everything that is known of a container.
pub(crate) fn details_to_pb(details: &Details) -> pb::InspectContainerResponse {
    let record = &details.record;
    let mut args = record.process.args.iter().cloned();
    pb::InspectContainerResponse {
        summary: Some(summary_to_pb(record, &details.volumes, &details.endpoints)),
        config: Some(config_to_pb(record)),
        host_config: Some(host_to_pb(record)),
        path: args.next().unwrap_or_default(),
        args: args.collect(),
        log_path: details.log_path.to_string_lossy().into_owned(),
        runtime: details.runtime.clone(),
        id_range: record
            .id_range
            .map(|range| pb::IdRange { start: range.start, length: range.length }),
        restart_count: record.restart_count,
        snapshot_key: record.snapshot_key.clone(),
        bundle: details
            .bundle
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        health: record.health.as_ref().map(health::health_to_pb),
        networks: network::endpoints_to_pb(record, &details.endpoints),
        hosts_path: path_to_pb(&details.etc_dir.etc("hosts")),
        hostname_path: path_to_pb(&details.etc_dir.etc("hostname")),
        resolv_conf_path: path_to_pb(&details.etc_dir.etc("resolv.conf")),
        network_namespace: details.network_namespace.as_deref().map(path_to_pb).unwrap_or_default(),
        masked_paths: spec::masked_paths(record),
        read_only_paths: spec::read_only_paths(record),
        snapshotter: details.snapshotter.to_owned(),
        process_label: record.selinux.as_ref().map(|of| of.process.clone()).unwrap_or_default(),
        mount_label: record.selinux.as_ref().map(|of| of.mount.clone()).unwrap_or_default(),
        root_directories: None,
    }
}

/// Converts what a root filesystem is made of.
pub(crate) fn root_directories_to_pb(directories: RootDirectories) -> pb::RootDirectories {
    pb::RootDirectories {
        lower: directories.lower,
        upper: directories.upper,
        work: directories.work,
        merged: path_to_pb(&directories.merged),
    }
}

fn path_to_pb(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn config_from_pb(config: pb::ContainerConfig) -> Result<ContainerConfig, Status> {
    if config.image.is_empty() {
        return Err(invalid("image", "no image is named"));
    }
    let entrypoint = match (config.clear_entrypoint, config.entrypoint) {
        (true, _) => Entrypoint::Cleared,
        (false, entrypoint) if entrypoint.is_empty() => Entrypoint::FromImage,
        (false, entrypoint) => Entrypoint::Own(entrypoint),
    };
    Ok(ContainerConfig {
        image: config.image,
        command: config.command,
        entrypoint,
        env: config.env,
        working_dir: config.working_dir,
        user: config.user,
        hostname: config.hostname,
        domainname: config.domainname,
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        attached: AttachedStreams {
            stdin: config.attach_stdin,
            stdout: config.attach_stdout,
            stderr: config.attach_stderr,
        },
        labels: config.labels.into_iter().collect(),
        stop_signal: signal_from_pb(&config.stop_signal)?,
        stop_timeout_secs: config.stop_timeout_secs,
        terminal_size: config.terminal_size.map(size_from_pb).transpose()?,
        exposed_ports: network::exposed_from_pb(&config.exposed_ports)?,
        health_check: config.health_check.map(health::check_from_pb).transpose()?,
    })
}

fn config_to_pb(record: &Record) -> pb::ContainerConfig {
    let config = &record.config;
    let args = &record.process.args;
    let (entrypoint, command) = args.split_at(record.process.entrypoint_count.min(args.len()));
    pb::ContainerConfig {
        image: config.image.clone(),
        command: command.to_vec(),
        entrypoint: entrypoint.to_vec(),
        clear_entrypoint: config.entrypoint == Entrypoint::Cleared,
        env: environment_to_pb(record),
        working_dir: record.process.working_dir.to_string_lossy().into_owned(),
        user: record.process.user.clone(),
        hostname: record.hostname().to_owned(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        labels: config.labels.clone().into_iter().collect(),
        stop_signal: record.process.stop_signal.to_string(),
        stop_timeout_secs: config.stop_timeout_secs,
        terminal_size: config
            .terminal_size
            .map(|size| pb::TerminalSize { width: size.width.into(), height: size.height.into() }),
        domainname: config.domainname.clone(),
        exposed_ports: config.exposed_ports.iter().map(ToString::to_string).collect(),
        health_check: config.health_check.as_ref().map(health::check_to_pb),
        attach_stdin: config.attached.stdin,
        attach_stdout: config.attached.stdout,
        attach_stderr: config.attached.stderr,
    }
}

/// What image and request ask for, without what every process is told of its own container: who makes
/// another by this one's example would pass a wrong host name on.
fn environment_to_pb(record: &Record) -> Vec<String> {
    let hostname = format!("HOSTNAME={}", record.hostname());
    let is_asked_for = |entry: &String| record.config.env.contains(entry);
    let is_own =
        |entry: &String| *entry == hostname || (record.config.tty && entry == "TERM=xterm");
    let all = record.process.env.iter();
    all.filter(|entry| is_asked_for(entry) || !is_own(entry)).cloned().collect()
}

fn state_to_pb(record: &Record) -> pb::ContainerState {
    match &record.lifecycle {
        _ if record.is_restarting => pb::ContainerState::Restarting,
        Lifecycle::Created { .. } => pb::ContainerState::Created,
        Lifecycle::Running { .. } => pb::ContainerState::Running,
        Lifecycle::Paused { .. } => pb::ContainerState::Paused,
        Lifecycle::Exited { .. } => pb::ContainerState::Exited,
        Lifecycle::Removing => pb::ContainerState::Removing,
        Lifecycle::Dead { .. } => pb::ContainerState::Dead,
    }
}

#[cfg(test)]
mod tests {
    use keg_engine::model::HostConfig;
    use tonic::Code;

    use super::*;

    fn request() -> pb::CreateContainerRequest {
        pb::CreateContainerRequest {
            config: Some(pb::ContainerConfig { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut pb::CreateContainerRequest)) -> String {
        let mut request = request();
        change(&mut request);
        let status = create_from_pb(request, None).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        status.message().to_owned()
    }

    #[test]
    fn an_empty_request_gets_every_default() {
        let created = create_from_pb(request(), None).unwrap();

        assert_eq!(created.name, None);
        assert_eq!(created.host, HostConfig::default());
        assert_eq!(created.config.entrypoint, Entrypoint::FromImage);
    }

    #[test]
    fn fields_that_make_no_sense_are_named() {
        let host = |change: fn(&mut pb::HostConfig)| {
            refused(|request| change(request.host_config.get_or_insert_default()))
        };

        assert!(refused(|request| request.name = "a b".into()).contains("a b"));
        assert!(refused(|request| request.config = None).contains("image"));
        assert!(host(|host| host.network_mode = "container:".into()).contains("container:"));
        assert!(host(|host| host.userns_mode = "mine".into()).contains("mine"));
        assert!(host(|host| host.mounts = vec![pb::Mount::default()]).contains("type"));
    }
}
