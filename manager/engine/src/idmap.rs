//! File systems whose mounts cannot have an id map (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
//!
//! What is mounted from one of them is mounted as it is: in a container with ids of its own its
//! files belong to nobody, and can be used as far as everybody may. That is told, and better than
//! no container: what people take from such file systems is mostly read (`/sys`, devices, a share
//! on the network).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::model::{MountSource, Record};

/// Types that the kernel maps no ids for; all others are tried.
const UNMAPPABLE: [&str; 15] = [
    "9p", "cgroup", "cgroup2", "cifs", "debugfs", "devpts", "devtmpfs", "mqueue", "nfs", "nfs4",
    "overlay", "proc", "smb3", "sysfs", "tracefs",
];

/// Targets of mounts whose sources are on such a file system.
pub(crate) fn unmappable(sources: &BTreeMap<PathBuf, PathBuf>) -> BTreeSet<PathBuf> {
    let plain = sources.iter().filter(|(_, source)| filesystem(source).is_some());
    plain.map(|(target, _)| target.clone()).collect()
}

/// The type of the file system that `path` is on, if that is one without id maps.
fn filesystem(path: &Path) -> Option<&'static str> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let found = type_of(&mounts, stat.stx_mnt_id)?;
    UNMAPPABLE.into_iter().find(|known| *known == found)
}

/// The type of a mount, by its id, in a list of mounts (proc_pid_mountinfo(5)).
fn type_of(mounts: &str, id: u64) -> Option<&str> {
    let is_it =
        |line: &&str| line.split_once(' ').is_some_and(|(first, _)| first.parse() == Ok(id));
    // Paths have no blanks there; behind the dash come type, source and options.
    mounts.lines().find(is_it)?.split_once(" - ")?.1.split(' ').next()
}

/// What the caller should know of a container's bind mounts, one sentence each.
pub(crate) fn warnings(record: &Record) -> Vec<String> {
    if record.id_range.is_none() {
        return Vec::new();
    }
    let told = record.mounts.iter().filter_map(|mount| {
        let MountSource::Bind { path, .. } = &mount.source else { return None };
        let kind = filesystem(path)?;
        Some(format!(
            "{} is on {kind}, which has no id maps: its files belong to nobody inside, and can be \
             used as far as everybody may; --userns host shows their owners",
            path.display()
        ))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_mount_stands_behind_the_dash() {
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                      23 22 0:21 / /sys rw - sysfs sysfs rw\n";

        assert_eq!(type_of(mounts, 23), Some("sysfs"));
        assert_eq!(type_of(mounts, 22), Some("ext4"));
        assert_eq!(type_of(mounts, 2), None);
    }

    #[test]
    fn the_kernels_own_file_systems_have_no_id_maps() {
        assert_eq!(filesystem(Path::new("/proc/self")), Some("proc"));
        assert_eq!(filesystem(Path::new("/nonexistent")), None);
    }
}
