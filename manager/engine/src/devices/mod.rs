//! Devices of the host for containers: by path, by rule, and by the names of CDI.
//!
//! In a user namespace no device can be made, so its node on the host is bound in: it keeps its
//! owner there, and a container can open what everybody may open. With the host's ids a node is
//! made, as Docker does it.

mod cdi;

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hooks, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
    Mount as SpecMount,
};
use serde::{Deserialize, Serialize};

use crate::model::Record;

pub use cdi::CdiError;

/// A device of the host that a container is to have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Device {
    /// Path on the host, or `VENDOR/CLASS=NAME`.
    pub host: String,
    /// Path in the container; empty: the same.
    pub container: String,
    /// Some of `rwm`; empty: all.
    pub permissions: String,
}

/// A limit for one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    /// Path on the host.
    pub path: PathBuf,
    /// Bytes or operations per second, or a weight.
    pub value: u64,
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is not there, or cannot be looked at.
    #[error("device {path:?} cannot be used")]
    Look {
        /// Path on the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is no device.
    #[error("{path:?} is not a {wanted}")]
    NoDevice {
        /// Path on the host.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// A malformed request.
    #[error("{text:?} is no {what}")]
    Malformed {
        /// What was given.
        text: String,
        /// What it should be.
        what: &'static str,
    },
    /// A name of CDI that leads to nothing.
    #[error("device {name:?} cannot be had")]
    Cdi {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: CdiError,
    },
}

/// What devices change of a specification.
#[derive(Debug, Clone, Default)]
pub struct DeviceEdits {
    /// Nodes to make.
    pub nodes: Vec<LinuxDevice>,
    /// Rules of the control group, after the default ones.
    pub rules: Vec<LinuxDeviceCgroup>,
    /// Mounts.
    pub mounts: Vec<SpecMount>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Programs that the runtime runs on the way.
    pub hooks: Hooks,
    /// Limits per block device: weights, bytes read and written, operations read and written.
    pub weights: Vec<LinuxWeightDevice>,
    /// As above.
    pub throttles: [Vec<LinuxThrottleDevice>; 4],
}

/// Names of directories of `/dev` that are not for containers, not even for privileged ones.
const NOT_PASSED_ON: [&str; 6] = ["pts", "shm", "fd", "mqueue", "hugepages", "console"];

/// Finds out what a container's devices change.
///
/// # Errors
/// [`DeviceError`] for the first that cannot be had.
pub(crate) fn edits(record: &Record) -> Result<DeviceEdits, DeviceError> {
    let host = &record.host;
    let mut edits = DeviceEdits::default();
    let bound = record.id_range.is_some();
    if host.privileged && !bound {
        add_all(&mut edits, Path::new("/dev"), Path::new("/dev"), "rwm", bound)?;
        edits.rules.clear();
    }
    for device in &host.devices {
        if is_cdi(&device.host) {
            cdi::apply(&device.host, &mut edits, bound)
                .map_err(|source| DeviceError::Cdi { name: device.host.clone(), source })?;
            continue;
        }
        let permissions = permissions(&device.permissions)?;
        let inside = if device.container.is_empty() { &device.host } else { &device.container };
        let (outside, inside) = (Path::new(&device.host), Path::new(inside));
        let look = |source| DeviceError::Look { path: outside.to_owned(), source };
        if std::fs::metadata(outside).map_err(look)?.is_dir() {
            add_all(&mut edits, outside, inside, permissions, bound)?;
        } else {
            add(&mut edits, outside, inside, permissions, bound)?;
        }
    }
    for text in &host.device_cgroup_rules {
        edits.rules.push(rule_of(text)?);
    }
    let limits = &host.resources;
    for limit in &limits.blkio_weight_device {
        let (major, minor) = block_device(&limit.path)?;
        let weight = u16::try_from(limit.value).unwrap_or(u16::MAX);
        let built =
            LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight).build();
        edits.weights.extend(built);
    }
    let lists = [
        &limits.device_read_bps,
        &limits.device_write_bps,
        &limits.device_read_iops,
        &limits.device_write_iops,
    ];
    for (list, into) in lists.into_iter().zip(&mut edits.throttles) {
        for limit in list {
            let (major, minor) = block_device(&limit.path)?;
            let built = LinuxThrottleDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .rate(limit.value)
                .build();
            into.extend(built);
        }
    }
    Ok(edits)
}

/// Tells whether a description of CDI has a device, and what it describes can be had.
#[must_use]
pub fn is_described(name: &str) -> bool {
    cdi::apply(name, &mut DeviceEdits::default(), true).is_ok()
}

/// Whether a device is named as CDI does, `vendor.com/class=name`.
fn is_cdi(text: &str) -> bool {
    !text.starts_with('/') && text.contains('/') && text.contains('=')
}

/// Adds every device below a directory.
fn add_all(
    edits: &mut DeviceEdits,
    outside: &Path,
    inside: &Path,
    permissions: &str,
    bound: bool,
) -> Result<(), DeviceError> {
    let look = |source| DeviceError::Look { path: outside.to_owned(), source };
    for entry in std::fs::read_dir(outside).map_err(look)? {
        let entry = entry.map_err(look)?;
        let Ok(kind) = entry.file_type() else { continue };
        let (path, inside) = (entry.path(), inside.join(entry.file_name()));
        if NOT_PASSED_ON.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            add_all(edits, &path, &inside, permissions, bound)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            add(edits, &path, &inside, permissions, bound)?;
        }
    }
    Ok(())
}

/// Adds one device.
fn add(
    edits: &mut DeviceEdits,
    outside: &Path,
    inside: &Path,
    permissions: &str,
    bound: bool,
) -> Result<(), DeviceError> {
    let metadata = std::fs::metadata(outside)
        .map_err(|source| DeviceError::Look { path: outside.to_owned(), source })?;
    let typ = if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return Err(DeviceError::NoDevice { path: outside.to_owned(), wanted: "device" });
    };
    let (major, minor) = numbers(metadata.rdev());
    edits.rules.extend(cgroup_rule(typ, Some(major), Some(minor), permissions));
    if bound {
        let mut mount = SpecMount::default();
        let options = ["bind", "rprivate", "nosuid", "noexec"].map(str::to_owned).to_vec();
        mount
            .set_destination(inside.to_owned())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(outside.to_owned()))
            .set_options(Some(options));
        edits.mounts.push(mount);
    } else {
        let mut node = LinuxDevice::default();
        node.set_path(inside.to_owned());
        node.set_typ(typ);
        node.set_major(major);
        node.set_minor(minor);
        node.set_file_mode(Some(metadata.mode() & 0o7777));
        node.set_uid(Some(metadata.uid()));
        node.set_gid(Some(metadata.gid()));
        edits.nodes.push(node);
    }
    Ok(())
}

fn block_device(path: &Path) -> Result<(i64, i64), DeviceError> {
    let metadata = std::fs::metadata(path)
        .map_err(|source| DeviceError::Look { path: path.to_owned(), source })?;
    if !metadata.file_type().is_block_device() {
        let wanted = "block device";
        return Err(DeviceError::NoDevice { path: path.to_owned(), wanted });
    }
    Ok(numbers(metadata.rdev()))
}

/// Major and minor number.
fn numbers(device: u64) -> (i64, i64) {
    (i64::from(rustix::fs::major(device)), i64::from(rustix::fs::minor(device)))
}

fn permissions(text: &str) -> Result<&str, DeviceError> {
    match text {
        "" => Ok("rwm"),
        text if text.bytes().all(|byte| b"rwm".contains(&byte)) => Ok(text),
        _ => Err(DeviceError::Malformed {
            text: text.to_owned(),
            what: "set of permissions: give some of r, w and m",
        }),
    }
}

/// Understands `c 1:3 mr`, with `a` for both kinds and `*` for any number.
pub(crate) fn rule_of(text: &str) -> Result<LinuxDeviceCgroup, DeviceError> {
    let parse = || {
        let mut words = text.split_whitespace();
        let (kind, device, access) = (words.next()?, words.next()?, words.next()?);
        let typ = match kind {
            "a" => LinuxDeviceType::A,
            "b" => LinuxDeviceType::B,
            "c" => LinuxDeviceType::C,
            _ => return None,
        };
        let (major, minor) = device.split_once(':')?;
        let number = |text: &str| match text {
            "*" => Some(None),
            digits => digits.parse::<u32>().ok().map(|number| Some(i64::from(number))),
        };
        if words.next().is_some() || access.is_empty() || permissions(access).is_err() {
            return None;
        }
        cgroup_rule(typ, number(major)?, number(minor)?, access)
    };
    parse().ok_or_else(|| DeviceError::Malformed {
        text: text.to_owned(),
        what: "rule for devices: give a kind, numbers and permissions, as in \"c 1:3 rw\"",
    })
}

fn cgroup_rule(
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Option<LinuxDeviceCgroup> {
    let mut builder = LinuxDeviceCgroupBuilder::default().allow(true).typ(typ).access(access);
    if let Some(major) = major {
        builder = builder.major(major);
    }
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    builder.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_cgroups_write_them() {
        for text in ["c 1:3 mr", "b *:* rwm", "a 7:* r"] {
            assert!(rule_of(text).is_ok(), "{text}");
        }
        for text in ["", "c 1:3", "x 1:3 r", "c 1 r", "c 1:x r", "c 1:3 x", "c 1:3 r w"] {
            assert!(rule_of(text).is_err(), "{text}");
        }
        let rule = rule_of("c 1:* mr").unwrap();
        assert_eq!((rule.major(), rule.minor(), rule.allow()), (Some(1), None, true));
    }

    #[test]
    fn a_device_is_made_with_the_hosts_ids_and_bound_with_others() {
        let mut record = crate::spec::tests::record();
        let null = |container: &str| Device {
            host: "/dev/null".into(),
            container: container.into(),
            permissions: "r".into(),
        };
        record.host.devices = vec![null("/dev/empty")];

        let bound = edits(&record).unwrap();
        record.id_range = None;
        let made = edits(&record).unwrap();

        assert_eq!(bound.mounts[0].destination(), Path::new("/dev/empty"));
        assert!(bound.nodes.is_empty() && made.mounts.is_empty());
        assert_eq!((made.nodes[0].major(), made.nodes[0].minor()), (1, 3));
        assert_eq!(made.rules[0].access().as_deref(), Some("r"));
        record.host.devices = vec![Device { host: "/etc/passwd".into(), ..Device::default() }];
        assert!(matches!(edits(&record), Err(DeviceError::NoDevice { .. })));
        record.host.devices = vec![Device { host: "/dev/none".into(), ..Device::default() }];
        assert!(matches!(edits(&record), Err(DeviceError::Look { .. })));
    }
}
