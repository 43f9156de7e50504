//! Flags of `run` and `create` for devices and for limits that few need.

use clap::Args;
use keg_proto::keg::v1::{Device, DeviceLimit, HostConfig, Resources};

use super::size;

/// Why a device or a limit cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    /// Not a device.
    #[error("{text:?} is no device: give HOST[:CONTAINER[:rwm]], or VENDOR/CLASS=NAME for CDI")]
    Device { text: String },
    /// Not a limit of a device.
    #[error("{text:?} is no limit of a device: give PATH:NUMBER, as in /dev/sda:1mb")]
    DeviceLimit { text: String },
    /// Only devices that CDI describes.
    #[error("{text:?}: give \"all\", a number, or device=NAME; devices are looked up by CDI")]
    Gpus { text: String },
}

// No doc comment: see `commands`.
#[derive(Debug, Args)]
#[command(next_display_order = None)]
pub(crate) struct LimitFlags {
    /// Weight for one block device (PATH:WEIGHT)
    #[arg(long, value_name = "LIMIT")]
    blkio_weight_device: Vec<String>,
    /// Cgroup to make its own in
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    cgroup_parent: String,
    /// Give it a device of the host (HOST[:CONTAINER[:rwm]], or VENDOR/CLASS=NAME by CDI)
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Allow devices by a rule, as in "c 1:3 rw"
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// Limit bytes read per second (PATH:BYTES)
    #[arg(long, value_name = "LIMIT")]
    device_read_bps: Vec<String>,
    /// Limit reads per second (PATH:NUMBER)
    #[arg(long, value_name = "LIMIT")]
    device_read_iops: Vec<String>,
    /// Limit bytes written per second (PATH:BYTES)
    #[arg(long, value_name = "LIMIT")]
    device_write_bps: Vec<String>,
    /// Limit writes per second (PATH:NUMBER)
    #[arg(long, value_name = "LIMIT")]
    device_write_iops: Vec<String>,
    /// Give it graphics processors: "all", a number, or device=NAME (by CDI)
    #[arg(long, value_name = "WHICH")]
    gpus: Option<String>,
    /// How readily memory is swapped out, 0 to 100
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
    /// Let processes wait for memory, and do not kill them
    #[arg(long)]
    oom_kill_disable: bool,
}

impl LimitFlags {
    /// Enters what the flags say.
    ///
    /// # Errors
    /// [`LimitError`].
    pub(crate) fn describe(&self, host: &mut HostConfig) -> Result<(), LimitError> {
        host.devices = self.device.iter().map(|text| device(text)).collect::<Result<_, _>>()?;
        if let Some(which) = &self.gpus {
            host.devices.extend(gpus(which)?);
        }
        host.device_cgroup_rules.clone_from(&self.device_cgroup_rule);
        host.cgroup_parent.clone_from(&self.cgroup_parent);
        let resources = host.resources.get_or_insert_with(Resources::default);
        // Docker has -1 for "as the host".
        resources.memory_swappiness =
            self.memory_swappiness.and_then(|percent| u64::try_from(percent).ok());
        resources.oom_kill_disable = self.oom_kill_disable;
        resources.blkio_weight_device = limits(&self.blkio_weight_device)?;
        resources.device_read_bps = limits(&self.device_read_bps)?;
        resources.device_write_bps = limits(&self.device_write_bps)?;
        resources.device_read_iops = limits(&self.device_read_iops)?;
        resources.device_write_iops = limits(&self.device_write_iops)?;
        Ok(())
    }
}

/// Understands `HOST[:CONTAINER[:rwm]]`; what is not a path is left to the daemon.
fn device(text: &str) -> Result<Device, LimitError> {
    let bad = || LimitError::Device { text: text.to_owned() };
    if !text.starts_with('/') {
        let is_cdi = text.contains('/') && text.contains('=');
        let device = Device { host_path: text.to_owned(), ..Device::default() };
        return is_cdi.then_some(device).ok_or_else(bad);
    }
    let is_access = |text: &str| !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b));
    let (host, container, permissions) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [host] => (*host, "", ""),
        [host, access] if is_access(access) => (*host, "", *access),
        [host, container] if container.starts_with('/') => (*host, *container, ""),
        [host, container, access] if container.starts_with('/') && is_access(access) => {
            (*host, *container, *access)
        }
        _ => return Err(bad()),
    };
    Ok(Device {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        permissions: permissions.to_owned(),
    })
}

/// Names of CDI for what Docker calls graphics processors.
fn gpus(text: &str) -> Result<Vec<Device>, LimitError> {
    let named = |name: &str| Device {
        host_path: format!("nvidia.com/gpu={}", name.trim_matches('"')),
        ..Device::default()
    };
    if text == "all" || text == "-1" {
        return Ok(vec![named("all")]);
    }
    if let Ok(count) = text.parse::<u32>() {
        return Ok((0..count).map(|index| named(&index.to_string())).collect());
    }
    match text.trim_matches('"').strip_prefix("device=") {
        Some(names) if !names.is_empty() => Ok(names.split(',').map(named).collect()),
        _ => Err(LimitError::Gpus { text: text.to_owned() }),
    }
}

fn limits(texts: &[String]) -> Result<Vec<DeviceLimit>, LimitError> {
    let one = |text: &String| {
        let (path, value) = text.rsplit_once(':')?;
        let value = u64::try_from(size::bytes(value).ok()?).ok()?;
        path.starts_with('/').then(|| DeviceLimit { path: path.to_owned(), value })
    };
    texts
        .iter()
        .map(|text| one(text).ok_or_else(|| LimitError::DeviceLimit { text: text.clone() }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_paths_with_rights_or_names_of_cdi() {
        let shown = |text: &str| {
            device(text)
                .map(|device| {
                    format!("{} {} {}", device.host_path, device.container_path, device.permissions)
                })
                .ok()
        };
        let table = [
            ("/dev/fuse", Some("/dev/fuse  ")),
            ("/dev/sda:r", Some("/dev/sda  r")),
            ("/dev/sda:/dev/x", Some("/dev/sda /dev/x ")),
            ("/dev/sda:/dev/x:rw", Some("/dev/sda /dev/x rw")),
            ("vendor.com/net=one", Some("vendor.com/net=one  ")),
            ("/dev/sda:x", None),
            ("fuse", None),
            ("/a:/b:rw:z", None),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text).as_deref(), expected, "{text}");
        }
        let names = |text: &str| {
            gpus(text).map(|list| list.iter().map(|d| d.host_path.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names("all").expect("all"), ["nvidia.com/gpu=all"]);
        assert_eq!(names("device=0,2").expect("two"), ["nvidia.com/gpu=0", "nvidia.com/gpu=2"]);
        assert!(names("some").is_err());
    }

    #[test]
    fn limits_of_devices_are_a_path_and_a_number() {
        let parsed = limits(&["/dev/sda:1mb".to_owned()]).expect("a limit");

        assert_eq!((parsed[0].path.as_str(), parsed[0].value), ("/dev/sda", 1 << 20));
        for text in ["/dev/sda", "sda:1", "/dev/sda:x"] {
            assert!(limits(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
