//! What a container has mounted (runtime-spec, config.md, “Mounts”).
//!
//! Order: the kernel's file systems, then the files of `/etc` that the engine renders, then what
//! was asked for, shallow paths first, so that nothing is hidden by what is mounted later. What was
//! asked for takes the place of a default with the same target.

use std::path::Path;

use oci_spec::runtime::Mount as SpecMount;

use super::{Input, mapping};
use crate::model::{Mount, MountSource, NamespaceMode, Propagation, Record, Submounts};

/// Bytes of `/dev/shm` unless asked otherwise.
const SHM_BYTES: u64 = 64 << 20;

/// Files that the engine renders, and where the container sees them.
const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Lists the mounts in order.
pub fn build(input: &Input<'_>) -> Vec<SpecMount> {
    let record = input.record;
    let mut asked: Vec<&Mount> = record.mounts.iter().collect();
    asked.sort_by_key(|mount| mount.target.components().count());

    let mut mounts = kernel_mounts(record);
    mounts.extend(ETC_FILES.iter().map(|name| {
        bind(&input.etc_dir().etc(name), &Path::new("/etc").join(name), &["rbind", "rprivate"])
    }));
    mounts.retain(|mount| {
        !asked.iter().any(|asked| {
            asked.target == *mount.destination()
                || (asked.target == Path::new("/dev") && mount.destination().starts_with("/dev"))
        })
    });
    mounts.extend(asked.into_iter().map(|mount| asked_mount(mount, input)));
    mounts
}

/// How mounts of the host reach the container's root, if one of its mounts wants them to.
pub fn rootfs_propagation(record: &Record) -> Option<&'static str> {
    let of = |wanted: [Propagation; 2]| {
        record.mounts.iter().any(|mount| wanted.contains(&mount.propagation))
    };
    if of([Propagation::RShared, Propagation::Shared]) {
        Some("rshared")
    } else if of([Propagation::RSlave, Propagation::Slave]) {
        Some("rslave")
    } else {
        None
    }
}

/// The file systems that the kernel itself provides.
fn kernel_mounts(record: &Record) -> Vec<SpecMount> {
    let host = &record.host;
    let shm_bytes = host.shm_size_bytes.unwrap_or(SHM_BYTES);
    let access = if host.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        proc(record),
        special("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        special(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        sysfs(record, access),
        special("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    if host.ipc_mode == NamespaceMode::Private {
        mounts.push(special("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]));
        let size = format!("size={shm_bytes}");
        mounts.push(special(
            "tmpfs",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &size],
        ));
    } else {
        for path in ["/dev/mqueue", "/dev/shm"] {
            mounts.push(bind(
                Path::new(path),
                Path::new(path),
                &["rbind", "nosuid", "noexec", "nodev"],
            ));
        }
    }
    mounts
}

/// A user namespace may mount `/proc` only for a PID namespace that it owns; else the host's is
/// bound.
fn proc(record: &Record) -> SpecMount {
    let options = ["nosuid", "noexec", "nodev"];
    if record.id_range.is_some() && record.host.pid_mode == NamespaceMode::Host {
        return bind(
            Path::new("/proc"),
            Path::new("/proc"),
            &["rbind", "nosuid", "noexec", "nodev"],
        );
    }
    special("proc", "/proc", &options)
}

/// A user namespace may mount sysfs only for a network namespace that it owns; else the host's is
/// bound.
fn sysfs(record: &Record, access: &str) -> SpecMount {
    if record.id_range.is_some() && !record.network_mode().has_own_namespace() {
        let options = ["rbind", "nosuid", "noexec", "nodev", access];
        return bind(Path::new("/sys"), Path::new("/sys"), &options);
    }
    special("sysfs", "/sys", &["nosuid", "noexec", "nodev", access])
}

fn asked_mount(mount: &Mount, input: &Input<'_>) -> SpecMount {
    let access = if mount.read_only { "ro" } else { "rw" };
    if let MountSource::Tmpfs { options } = &mount.source {
        let mut all = vec!["nosuid", "nodev", "noexec"];
        all.extend(options.iter().map(String::as_str));
        all.push(access);
        return special_at("tmpfs", &mount.target, &all);
    }
    let source = input.sources.get(&mount.target).unwrap_or(&mount.target);
    let (depth, access) = match (mount.submounts, mount.read_only) {
        (Submounts::Disabled, _) => ("bind", access),
        (Submounts::Enabled, true) => ("rbind", "rro"),
        (Submounts::Enabled, false) | (Submounts::Writable, _) => ("rbind", access),
    };
    let mut spec = bind(source, &mount.target, &[depth, mount.propagation.as_str(), access]);
    if let Some(range) = input.record.id_range {
        // What root owns on the host appears as root's inside, and the other way round.
        let mut options = spec.options().clone().unwrap_or_default();
        options.push("idmap".to_owned());
        spec.set_options(Some(options))
            .set_uid_mappings(Some(mapping(range)))
            .set_gid_mappings(Some(mapping(range)));
    }
    spec
}

fn special(typ: &str, target: &str, options: &[&str]) -> SpecMount {
    special_at(typ, Path::new(target), options)
}

fn special_at(typ: &str, target: &Path, options: &[&str]) -> SpecMount {
    let source = match typ {
        "tmpfs" if target == Path::new("/dev/shm") => "shm",
        other => other,
    };
    mount(typ, Path::new(source), target, options)
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> SpecMount {
    mount("bind", source, target, options)
}

fn mount(typ: &str, source: &Path, target: &Path, options: &[&str]) -> SpecMount {
    let mut mount = SpecMount::default();
    mount
        .set_destination(target.to_owned())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}
