//! Messages of keg.v1 and the engine's types, both ways. Nothing else knows both.

use std::path::PathBuf;

use jiff::Timestamp;
use keg_engine::id::ContainerName;
use keg_engine::lifecycle::{Exit, Lifecycle};
use keg_engine::model::{
    ContainerConfig, CreateRequest, Entrypoint, HostConfig, Mount, MountSource, NamespaceMode,
    Propagation, Record, Resources, SeccompChoice, TerminalSize, Ulimit, UsernsMode,
};
use keg_engine::signal::Signal;
use keg_engine::{Details, EngineError, ProcessInfo, RestartPolicy};
use keg_image::{ImageRecord, Platform};
use keg_proto::keg::v1 as pb;
use keg_store::Descriptor;
use tonic::Status;

use crate::status::{invalid, to_status};

/// Converts a moment.
pub(crate) fn timestamp_to_pb(time: Timestamp) -> prost_types::Timestamp {
    // Nanoseconds of a moment before 1970 are negative here, and never on the wire.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// Converts a moment.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no such moment.
pub(crate) fn timestamp_from_pb(time: prost_types::Timestamp) -> Result<Timestamp, Status> {
    Timestamp::new(time.seconds, time.nanos)
        .map_err(|_| invalid("time", "the moment is out of range"))
}

/// Converts a signal; empty is none.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no such signal.
pub(crate) fn signal_from_pb(text: &str) -> Result<Option<Signal>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    Signal::parse(text).map(Some).map_err(|error| to_status(&EngineError::UnknownSignal(error)))
}

/// Converts the size of a terminal.
///
/// # Errors
/// `INVALID_ARGUMENT` beyond what a terminal can have.
pub(crate) fn size_from_pb(size: pb::TerminalSize) -> Result<TerminalSize, Status> {
    let cells = |count: u32| {
        u16::try_from(count).map_err(|_| invalid("terminal_size", "more than 65535 cells"))
    };
    Ok(TerminalSize { width: cells(size.width)?, height: cells(size.height)? })
}

/// Converts a platform.
pub(crate) fn platform_from_pb(platform: &pb::Platform) -> Platform {
    Platform::new(&platform.os, &platform.architecture, &platform.variant)
}

/// Converts a request for a new container.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field that makes no sense.
pub(crate) fn create_from_pb(request: pb::CreateContainerRequest) -> Result<CreateRequest, Status> {
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
    })
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
        domainname: String::new(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        labels: config.labels.into_iter().collect(),
        stop_signal: signal_from_pb(&config.stop_signal)?,
        stop_timeout_secs: config.stop_timeout_secs,
        terminal_size: config.terminal_size.map(size_from_pb).transpose()?,
    })
}

fn host_from_pb(host: pb::HostConfig) -> Result<HostConfig, Status> {
    let network_mode = match host.network_mode.as_str() {
        "" | "default" => None,
        name => Some(name.parse().map_err(|error| to_status(&EngineError::UnknownNetwork(error)))?),
    };
    let userns = match host.userns_mode.as_str() {
        "" | "auto" => UsernsMode::Auto,
        "host" => UsernsMode::Host,
        other => {
            let problem = format!("unknown mode {other:?}: give \"auto\" or \"host\"");
            return Err(invalid("userns_mode", problem));
        }
    };
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
    })
}

fn restart_from_pb(policy: pb::RestartPolicy) -> Result<RestartPolicy, Status> {
    let retries = policy.maximum_retry_count;
    if retries != 0 && policy.name != "on-failure" {
        let problem = "only \"on-failure\" can have a number of retries";
        return Err(invalid("restart_policy", problem));
    }
    match policy.name.as_str() {
        "" | "no" => Ok(RestartPolicy::No),
        "on-failure" => {
            let max_retries = Some(retries).filter(|retries| *retries != 0);
            Ok(RestartPolicy::OnFailure { max_retries })
        }
        "always" => Ok(RestartPolicy::Always),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        other => {
            let problem = format!(
                "unknown policy {other:?}: give \"no\", \"on-failure\", \"always\" or \
                 \"unless-stopped\""
            );
            Err(invalid("restart_policy", problem))
        }
    }
}

fn namespace_from_pb(field: &'static str, mode: &str) -> Result<NamespaceMode, Status> {
    match mode {
        "" | "private" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        other => Err(invalid(field, format!("unknown mode {other:?}: give \"host\" or nothing"))),
    }
}

fn namespace_to_pb(mode: NamespaceMode) -> String {
    match mode {
        NamespaceMode::Private => String::new(),
        NamespaceMode::Host => "host".to_owned(),
    }
}

fn resources_from_pb(resources: pb::Resources) -> Result<Resources, Status> {
    let set = |value: i64| Some(value).filter(|value| *value != 0);
    let nano_cpus = match u64::try_from(resources.nano_cpus) {
        Ok(nano_cpus) => Some(nano_cpus).filter(|nano_cpus| *nano_cpus != 0),
        Err(_) => return Err(invalid("nano_cpus", "it cannot be negative")),
    };
    Ok(Resources {
        memory_bytes: set(resources.memory_bytes),
        memory_swap_bytes: set(resources.memory_swap_bytes),
        nano_cpus,
        cpu_shares: Some(resources.cpu_shares).filter(|shares| *shares != 0),
        cpuset_cpus: Some(resources.cpuset_cpus).filter(|cpus| !cpus.is_empty()),
        pids_limit: set(resources.pids_limit),
    })
}

fn mount_from_pb(mount: pb::Mount) -> Result<Mount, Status> {
    let source = match mount.r#type.as_str() {
        "bind" => {
            MountSource::Bind { path: PathBuf::from(mount.source), create: mount.create_source }
        }
        "volume" => MountSource::Volume { name: mount.source },
        "tmpfs" => MountSource::Tmpfs { options: mount.tmpfs_options },
        other => {
            let problem = format!("unknown type {other:?}: give \"bind\", \"volume\" or \"tmpfs\"");
            return Err(invalid("mount", problem));
        }
    };
    let propagation = Propagation::parse(&mount.propagation)
        .ok_or_else(|| invalid("mount", format!("unknown propagation {:?}", mount.propagation)))?;
    Ok(Mount { source, target: mount.target.into(), read_only: mount.read_only, propagation })
}

fn mount_to_pb(mount: &Mount) -> pb::Mount {
    let (r#type, source, create_source) = match &mount.source {
        MountSource::Bind { path, create } => {
            ("bind", path.to_string_lossy().into_owned(), *create)
        }
        MountSource::Volume { name } => ("volume", name.clone(), false),
        MountSource::Tmpfs { .. } => ("tmpfs", String::new(), false),
    };
    pb::Mount {
        r#type: r#type.to_owned(),
        source,
        target: mount.target.to_string_lossy().into_owned(),
        read_only: mount.read_only,
        create_source,
        propagation: mount.propagation.as_str().to_owned(),
        tmpfs_options: match &mount.source {
            MountSource::Tmpfs { options } => options.clone(),
            MountSource::Bind { .. } | MountSource::Volume { .. } => Vec::new(),
        },
    }
}

/// Converts how a process ended.
pub(crate) fn exit_to_pb(exit: &Exit) -> pb::ExitStatus {
    pb::ExitStatus {
        code: exit.code,
        exited_at: Some(timestamp_to_pb(exit.exited_at)),
        oom_killed: exit.oom_killed,
        error: exit.error.clone(),
    }
}

fn state_to_pb(lifecycle: &Lifecycle) -> pb::ContainerState {
    match lifecycle {
        Lifecycle::Created { .. } => pb::ContainerState::Created,
        Lifecycle::Running { .. } => pb::ContainerState::Running,
        Lifecycle::Paused { .. } => pb::ContainerState::Paused,
        Lifecycle::Exited { .. } => pb::ContainerState::Exited,
        Lifecycle::Removing => pb::ContainerState::Removing,
        Lifecycle::Dead { .. } => pb::ContainerState::Dead,
    }
}

/// Converts a container to a line of a list.
pub(crate) fn summary_to_pb(record: &Record) -> pb::ContainerSummary {
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
        state: state_to_pb(&record.lifecycle).into(),
        started_at: record.lifecycle.started_at().map(timestamp_to_pb),
        status: record.lifecycle.exit().map(exit_to_pb).or(dead),
        pid: record.lifecycle.pid().unwrap_or_default(),
        labels: record.config.labels.clone().into_iter().collect(),
        network_mode: record.network_mode().as_str().to_owned(),
        mounts: record.host.mounts.iter().map(mount_to_pb).collect(),
    }
}

/// Converts everything that is known of a container.
pub(crate) fn details_to_pb(details: &Details) -> pb::InspectContainerResponse {
    let record = &details.record;
    let mut args = record.process.args.iter().cloned();
    pb::InspectContainerResponse {
        summary: Some(summary_to_pb(record)),
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
    }
}

fn config_to_pb(record: &Record) -> pb::ContainerConfig {
    let config = &record.config;
    pb::ContainerConfig {
        image: config.image.clone(),
        command: config.command.clone(),
        entrypoint: match &config.entrypoint {
            Entrypoint::Own(entrypoint) => entrypoint.clone(),
            Entrypoint::FromImage | Entrypoint::Cleared => Vec::new(),
        },
        clear_entrypoint: config.entrypoint == Entrypoint::Cleared,
        env: record.process.env.clone(),
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
    }
}

fn host_to_pb(record: &Record) -> pb::HostConfig {
    let host = &record.host;
    let limits = &host.resources;
    pb::HostConfig {
        mounts: host.mounts.iter().map(mount_to_pb).collect(),
        network_mode: record.network_mode().as_str().to_owned(),
        auto_remove: host.auto_remove,
        resources: Some(pb::Resources {
            memory_bytes: limits.memory_bytes.unwrap_or_default(),
            memory_swap_bytes: limits.memory_swap_bytes.unwrap_or_default(),
            nano_cpus: limits
                .nano_cpus
                .and_then(|nano_cpus| i64::try_from(nano_cpus).ok())
                .unwrap_or_default(),
            cpu_shares: limits.cpu_shares.unwrap_or_default(),
            cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
            pids_limit: limits.pids_limit.unwrap_or_default(),
        }),
        read_only_rootfs: host.read_only_rootfs,
        userns_mode: match host.userns {
            UsernsMode::Auto => "auto",
            UsernsMode::Host => "host",
        }
        .to_owned(),
        runtime: host.runtime.clone(),
        pid_mode: namespace_to_pb(host.pid_mode),
        ipc_mode: namespace_to_pb(host.ipc_mode),
        uts_mode: namespace_to_pb(host.uts_mode),
        cgroupns_mode: namespace_to_pb(host.cgroupns_mode),
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        privileged: host.privileged,
        no_new_privileges: host.no_new_privileges,
        seccomp: match host.seccomp {
            SeccompChoice::Default => String::new(),
            SeccompChoice::Unconfined => "unconfined".to_owned(),
        },
        shm_size_bytes: host.shm_size_bytes.unwrap_or_default(),
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
    }
}

/// Converts a process of a container.
pub(crate) fn process_to_pb(process: ProcessInfo) -> pb::Process {
    pb::Process {
        pid: process.pid,
        parent_pid: process.parent_pid,
        uid: process.uid,
        started_at: Some(timestamp_to_pb(process.started_at)),
        cpu_usec: process.cpu_usec,
        terminal: process.terminal,
        command: process.command,
    }
}

/// Converts a content descriptor.
pub(crate) fn descriptor_to_pb(descriptor: &Descriptor) -> pb::Descriptor {
    pb::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size_bytes).unwrap_or(i64::MAX),
    }
}

/// Converts an image to a line of a list; `containers` are made from it.
pub(crate) fn image_to_pb(image: &ImageRecord, containers: usize) -> pb::ImageSummary {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().clone());
    pb::ImageSummary {
        id: image.id.to_string(),
        names: image.names.iter().map(ToString::to_string).collect(),
        digests: image.digests.clone(),
        created_at: image.created_at.map(timestamp_to_pb),
        size_bytes: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
        labels: labels.unwrap_or_default(),
        target: Some(descriptor_to_pb(&image.target)),
        containers: i64::try_from(containers).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
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
        let status = create_from_pb(request).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        status.message().to_owned()
    }

    #[test]
    fn an_empty_request_gets_every_default() {
        let created = create_from_pb(request()).unwrap();

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
        assert!(host(|host| host.network_mode = "bridge9".into()).contains("bridge9"));
        assert!(host(|host| host.userns_mode = "mine".into()).contains("mine"));
        assert!(host(|host| host.mounts = vec![pb::Mount::default()]).contains("type"));
    }

    #[test]
    fn moments_survive_the_wire() {
        for text in
            ["1970-01-01T00:00:00Z", "2026-11-22T01:02:03.000000004Z", "1969-12-31T23:59:59.5Z"]
        {
            let time: Timestamp = text.parse().unwrap();

            let wire = timestamp_to_pb(time);

            assert!((0..1_000_000_000).contains(&wire.nanos));
            assert_eq!(timestamp_from_pb(wire).unwrap(), time);
        }
    }
}
