//! What a container has mounted (runtime-spec, config.md, “Mounts”).
//!
//! Order: the kernel's file systems, then the files of `/etc` that the engine renders, then what
//! was asked for, shallow paths first, so that nothing is hidden by what is mounted later. What was
//! asked for takes the place of a default with the same target.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount as SpecMount};

use super::{Input, mapping, shm_bytes};
use crate::model::{
    IdRange, Mount, MountSource, NamespaceMode, Propagation, Record, Submounts, UsernsMode,
};

/// Where the program is that is put before a container's own.
pub(super) const INIT: &str = "/sbin/keg-init";

/// Bytes of `/dev/shm` unless asked otherwise.
pub const SHM_BYTES: u64 = 64 << 20;

/// Files that the engine renders, and where the container sees them.
const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Lists the mounts in order.
pub fn build(input: &Input<'_>) -> Vec<SpecMount> {
    let record = input.record;
    let mut asked: Vec<&Mount> = record.mounts.iter().collect();
    asked.sort_by_key(|mount| mount.target.components().count());

    let mut mounts = kernel_mounts(input);
    mounts.extend(ETC_FILES.iter().map(|name| {
        bind(&input.etc_dir().etc(name), &Path::new("/etc").join(name), &["rbind", "rprivate"])
    }));
    mounts.retain(|mount| {
        !asked.iter().any(|asked| {
            asked.target == *mount.destination()
                || (asked.target == Path::new("/dev") && mount.destination().starts_with("/dev"))
        })
    });
    if let Some(program) = input.init {
        let options = ["bind", "rprivate", "ro", "nosuid", "nodev"];
        mounts.push(bind(program, Path::new(INIT), &options));
    }
    mounts.extend(input.devices.mounts.iter().cloned());
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
fn kernel_mounts(input: &Input<'_>) -> Vec<SpecMount> {
    let record = input.record;
    let host = &record.host;
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
    mounts.extend(ipc_mounts(input));
    mounts
}

/// Message queues and shared memory, as the IPC namespace has them.
fn ipc_mounts(input: &Input<'_>) -> Vec<SpecMount> {
    let walls = ["nosuid", "noexec", "nodev"];
    let shared = ["rbind", "nosuid", "noexec", "nodev"];
    let (queues, memory) = (Path::new("/dev/mqueue"), Path::new("/dev/shm"));
    let own_queues = special("mqueue", "/dev/mqueue", &walls);
    let size = format!("size={}", shm_bytes(input.record));
    let own_memory =
        special("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]);
    match (&input.record.host.ipc_mode, &input.joins.shm) {
        (NamespaceMode::Host, _) => {
            let bound = [(queues, input.joins.has_mqueue), (memory, true)];
            let bound = bound.into_iter().filter(|(_, there)| *there);
            bound.map(|(path, _)| bind(path, path, &shared)).collect()
        }
        (NamespaceMode::Bare, _) => vec![own_queues],
        (_, Some(other)) => vec![own_queues, bind(other, memory, &shared)],
        _ => vec![own_queues, own_memory],
    }
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
    let id_range = input.record.id_range.filter(|_| !input.unmappable.contains(&mount.target));
    if let Some(range) = id_range {
        // What root owns on the host appears as root's inside, and the other way round.
        let mut options = spec.options().clone().unwrap_or_default();
        options.push("idmap".to_owned());
        let (uids, gids) = match (&input.record.host.userns, &mount.source) {
            (UsernsMode::KeepId(kept), MountSource::Bind { .. }) => (
                swapped(range, kept.host_uid, kept.uid.unwrap_or(kept.host_uid)),
                swapped(range, kept.host_gid, kept.gid.unwrap_or(kept.host_gid)),
            ),
            _ => (mapping(range), mapping(range)),
        };
        spec.set_options(Some(options)).set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
    }
    spec
}

/// What belongs to `outside` on the disk belongs to `inside` in the container, and the other way
/// round; every other id is itself.
fn swapped(range: IdRange, outside: u32, inside: u32) -> Vec<LinuxIdMapping> {
    let mut extents: Vec<(u32, u32, u32)> = Vec::new();
    let (low, high) = (outside.min(inside), outside.max(inside));
    let end = range.length;
    // (first id on the disk, first id inside, how many)
    extents.push((0, 0, low.min(end)));
    if low != high {
        if outside < end || inside < end {
            extents.push((outside, inside, u32::from(inside < end)));
            extents.push((inside, outside, u32::from(outside < end)));
        }
        extents.push((low + 1, low + 1, high.min(end).saturating_sub(low + 1)));
        extents.push((high + 1, high + 1, end.saturating_sub(high.saturating_add(1))));
    } else {
        extents.push((low, low, end.saturating_sub(low)));
    }
    extents.retain(|(_, _, count)| *count > 0);
    extents.sort_unstable();
    extents
        .into_iter()
        .filter_map(|(disk, inside, count)| {
            LinuxIdMappingBuilder::default()
                .container_id(disk)
                .host_id(range.start + inside)
                .size(count)
                .build()
                .ok()
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_files_change_places_with_those_of_a_user_inside() {
        let range = IdRange { start: 100, length: 50 };
        let shown = |outside, inside| {
            swapped(range, outside, inside)
                .iter()
                .map(|one| (one.container_id(), one.host_id() - 100, one.size()))
                .collect::<Vec<_>>()
        };

        assert_eq!(shown(7, 7), [(0, 0, 7), (7, 7, 43)]);
        assert_eq!(shown(7, 3), [(0, 0, 3), (3, 7, 1), (4, 4, 3), (7, 3, 1), (8, 8, 42)]);
        assert_eq!(shown(1000, 3), [(0, 0, 3), (4, 4, 46), (1000, 3, 1)]);
        assert_eq!(shown(0, 49), [(0, 49, 1), (1, 1, 48), (49, 0, 1)]);
    }
}
