//! The specification as a runtime reads it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use keg_network::NetworkMode;
use serde_json::Value;

use super::*;
use crate::id::{ContainerId, ContainerName};
use crate::lifecycle::Lifecycle;
use crate::model::{
    ContainerConfig, HostConfig, ImageUse, Mount, MountSource, ProcessPlan, Propagation, Relabel,
    Submounts, Ulimit, VolumeMount,
};
use crate::signal::Signal;

/// A container made from an image that runs `sh`.
pub(crate) fn record() -> Record {
    Record {
        id: ContainerId::from_random([0x1f; 32]),
        name: ContainerName::parse("web").unwrap(),
        created_at: Timestamp::UNIX_EPOCH,
        image: ImageUse {
            reference: "busybox".into(),
            id: "sha256:00".into(),
            platform: "linux/amd64".into(),
        },
        config: ContainerConfig::default(),
        host: HostConfig::default(),
        mounts: Vec::new(),
        process: ProcessPlan {
            args: vec!["sh".into()],
            entrypoint_count: 0,
            env: vec!["PATH=/bin".into()],
            working_dir: PathBuf::from("/"),
            user: String::new(),
            stop_signal: Signal::TERM,
        },
        id_range: Some(IdRange { start: 100_000, length: 65_536 }),
        snapshot_key: "web".into(),
        selinux: None,
        restart_count: 0,
        stop_asked: false,
        health: None,
        is_restarting: false,
        lifecycle: Lifecycle::Created { failure: None },
    }
}

fn root() -> Identity {
    Identity { uid: 0, gid: 0, additional_gids: vec![], home: "/root".into() }
}

fn spec_of(record: &Record, identity: &Identity) -> Result<Value, SpecError> {
    let dir = ContainerDir::new(Path::new("/c"), &record.id);
    let sources = record
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Bind { path, .. } => Some((mount.target.clone(), path.clone())),
            MountSource::Volume { name, .. } => {
                Some((mount.target.clone(), Path::new("/v").join(name).join("_data")))
            }
            MountSource::Tmpfs { .. } => None,
        })
        .collect();
    let input = Input {
        record,
        identity,
        dir: &dir,
        sources: &sources,
        unmappable: &std::collections::BTreeSet::new(),
        last_capability: 40,
        network_of: None,
        joins: &Joins { has_mqueue: true, ..Joins::default() },
        init: None,
        labels: &crate::labels::Labels::default(),
        devices: &crate::devices::DeviceEdits::default(),
        kernel: "6.1.0",
    };
    build(&input).map(|spec| serde_json::to_value(spec).unwrap())
}

fn mount_at<'a>(spec: &'a Value, target: &str) -> &'a Value {
    let mounts = spec["mounts"].as_array().unwrap();
    let mut found = mounts.iter().filter(|mount| mount["destination"] == target);
    let first = found.next().unwrap_or_else(|| panic!("nothing at {target}"));
    assert!(found.next().is_none(), "two mounts at {target}");
    first
}

fn namespaces_of(spec: &Value) -> Vec<&str> {
    let list = spec["linux"]["namespaces"].as_array().unwrap();
    list.iter().map(|namespace| namespace["type"].as_str().unwrap()).collect()
}

#[test]
fn a_default_container_has_every_wall() {
    let spec = spec_of(&record(), &root()).unwrap();

    assert_eq!(namespaces_of(&spec), ["user", "mount", "pid", "ipc", "uts", "cgroup", "network"]);
    assert_eq!(spec["linux"]["uidMappings"][0]["hostID"], 100_000);
    assert_eq!(spec["linux"]["gidMappings"][0]["size"], 65_536);
    assert_eq!(spec["linux"]["cgroupsPath"], format!("/keg/{}", record().id));
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert!(spec["linux"]["maskedPaths"].as_array().unwrap().contains(&"/proc/kcore".into()));
    assert!(spec["linux"]["readonlyPaths"].as_array().unwrap().contains(&"/proc/sys".into()));
    assert!(mount_at(&spec, "/sys")["options"].as_array().unwrap().contains(&"ro".into()));
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(spec["hostname"], "1f1f1f1f1f1f");
    assert_eq!(spec["process"]["env"], serde_json::json!(["PATH=/bin", "HOME=/root"]));
    assert_eq!(spec["root"], serde_json::json!({"path": "rootfs", "readonly": false}));
}

#[test]
fn the_hosts_ids_mean_no_user_namespace_and_no_mappings() {
    let mut record = record();
    record.id_range = None;

    let spec = spec_of(&record, &root()).unwrap();

    assert!(!namespaces_of(&spec).contains(&"user"));
    assert!(spec["linux"].get("uidMappings").is_none());
}

#[test]
fn the_hosts_network_in_a_user_namespace_binds_sys() {
    let mut record = record();
    record.host.network_mode = Some(NetworkMode::Host);

    let spec = spec_of(&record, &root()).unwrap();

    assert!(!namespaces_of(&spec).contains(&"network"));
    assert_eq!(mount_at(&spec, "/sys")["type"], "bind");
    record.id_range = None;
    assert_eq!(mount_at(&spec_of(&record, &root()).unwrap(), "/sys")["type"], "sysfs");
}

#[test]
fn asked_mounts_come_last_shallow_first_and_replace_defaults() {
    let mut record = record();
    let bind = |path: &str, target: &str| Mount {
        source: MountSource::Bind { path: path.into(), create: false },
        target: target.into(),
        read_only: true,
        propagation: Propagation::RSlave,
        submounts: Submounts::default(),
        relabel: Relabel::None,
    };
    record.mounts = vec![
        bind("/deep", "/data/deep"),
        bind("/data", "/data"),
        bind("/hosts", "/etc/hosts"),
        Mount {
            source: MountSource::Volume { name: "db".into(), details: VolumeMount::default() },
            target: "/var/lib/db".into(),
            read_only: false,
            propagation: Propagation::RPrivate,
            submounts: Submounts::default(),
            relabel: Relabel::None,
        },
    ];

    let spec = spec_of(&record, &root()).unwrap();

    let order: Vec<_> = spec["mounts"].as_array().unwrap().iter().rev().take(4).collect();
    assert_eq!(order[3]["destination"], "/data");
    assert_eq!(order[2]["destination"], "/data/deep");
    assert_eq!(mount_at(&spec, "/etc/hosts")["source"], "/hosts");
    let volume = mount_at(&spec, "/var/lib/db");
    assert_eq!(volume["source"], "/v/db/_data");
    assert_eq!(volume["options"], serde_json::json!(["rbind", "rprivate", "rw", "idmap"]));
    assert_eq!(volume["uidMappings"][0]["hostID"], 100_000);
    assert_eq!(spec["linux"]["rootfsPropagation"], "rslave");
}

#[test]
fn a_user_other_than_root_has_no_capabilities_and_its_groups() {
    let identity =
        Identity { uid: 33, gid: 34, additional_gids: vec![29, 44], home: "/srv".into() };

    let spec = spec_of(&record(), &identity).unwrap();

    assert_eq!(spec["process"]["user"]["uid"], 33);
    assert_eq!(spec["process"]["user"]["additionalGids"], serde_json::json!([29, 44]));
    assert_eq!(spec["process"]["capabilities"]["effective"], serde_json::json!([]));
}

#[test]
fn a_privileged_container_is_not_confined() {
    let mut record = record();
    record.host.privileged = true;

    let spec = spec_of(&record, &root()).unwrap();

    assert!(spec["linux"].get("seccomp").is_none());
    assert!(spec["linux"].get("maskedPaths").is_none());
    assert_eq!(spec["process"]["capabilities"]["effective"].as_array().unwrap().len(), 41);
}

#[test]
fn limits_that_do_not_exist_or_contradict_themselves_are_refused() {
    let mut record = record();
    let ulimit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };

    record.host.ulimits = vec![ulimit("nofile", 10, 20)];
    let spec = spec_of(&record, &root()).unwrap();
    assert_eq!(spec["process"]["rlimits"][0]["type"], "RLIMIT_NOFILE");

    record.host.ulimits = vec![ulimit("files", 1, 1)];
    assert_eq!(spec_of(&record, &root()), Err(SpecError::UnknownUlimit { name: "files".into() }));
    record.host.ulimits = vec![ulimit("nofile", 2, 1)];
    assert!(matches!(spec_of(&record, &root()), Err(SpecError::UlimitOrder { .. })));
}
