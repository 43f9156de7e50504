//! Options of the driver `local`, and the mounts that they describe.
//!
//! A volume without options is a directory. With `type`, `device` and `o` it stands for something
//! that mount(8) could mount, and is mounted while a container runs that uses it.

use std::collections::BTreeMap;
use std::io;
use std::net::ToSocketAddrs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};

use super::VolumeError;

/// The options that there are.
const KNOWN: [&str; 3] = ["type", "device", "o"];

/// A mount as mount(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    kind: String,
    device: String,
    flags: MsFlags,
    data: String,
}

/// Checks the options of a new volume.
///
/// # Errors
/// [`VolumeError::InvalidOption`] for one that there is not, or if another one is missing.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), VolumeError> {
    let invalid = |option: &str, problem| {
        Err(VolumeError::InvalidOption { option: option.to_owned(), problem })
    };
    for (key, value) in options {
        match key.as_str() {
            "size" => {
                return invalid(
                    "size",
                    "a directory has no size of its own; limit a tmpfs by o=size=",
                );
            }
            key if !KNOWN.contains(&key) => {
                return invalid(key, "there is no such option; there are type, device and o");
            }
            _ if value.contains('\0') => return invalid(key, "it holds a NUL character"),
            _ => {}
        }
    }
    let has = |key| options.get(key).is_some_and(|value| !value.is_empty());
    if options.is_empty() {
        return Ok(());
    }
    if !has("type") {
        return invalid("type", "it is missing: name a file system, such as tmpfs, nfs or none");
    }
    if !has("device") {
        return invalid("device", "it is missing: name what is to be mounted");
    }
    let plan = plan(options);
    if plan.kind == "none" && !plan.flags.contains(MsFlags::MS_BIND) {
        return invalid("type", "without a file system, o must have bind or rbind");
    }
    Ok(())
}

/// Mounts what a volume stands for on its directory.
///
/// # Errors
/// [`VolumeError::Address`], [`VolumeError::Mount`].
pub(super) fn mount(
    name: &str,
    options: &BTreeMap<String, String>,
    onto: &Path,
) -> Result<(), VolumeError> {
    let mut plan = plan(options);
    plan.data = resolve_address(name, &plan.data)?;
    let error = |errno: nix::Error| VolumeError::Mount {
        name: name.to_owned(),
        device: plan.device.clone(),
        kind: plan.kind.clone(),
        source: errno.into(),
    };
    let data = Some(plan.data.as_str()).filter(|data| !data.is_empty());
    let (device, kind) = (Some(plan.device.as_str()), Some(plan.kind.as_str()));
    nix::mount::mount(device, onto, kind, plan.flags, data).map_err(error)?;
    // A bind mount takes no other flags until it is there.
    let more = plan.flags - MsFlags::MS_BIND - MsFlags::MS_REC;
    if plan.flags.contains(MsFlags::MS_BIND) && !more.is_empty() {
        let flags = more | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        if let Err(errno) = nix::mount::mount(None::<&str>, onto, None::<&str>, flags, None::<&str>)
        {
            let _ = nix::mount::umount2(onto, MntFlags::MNT_DETACH);
            return Err(error(errno));
        }
    }
    Ok(())
}

/// Takes a mount away; that nothing is mounted is no error.
///
/// # Errors
/// Of umount2(2).
pub(super) fn unmount(from: &Path) -> io::Result<()> {
    match nix::mount::umount2(from, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn plan(options: &BTreeMap<String, String>) -> Plan {
    let option = |key: &str| options.get(key).cloned().unwrap_or_default();
    let mut plan = Plan {
        kind: option("type"),
        device: option("device"),
        flags: MsFlags::empty(),
        data: String::new(),
    };
    if plan.kind == "bind" {
        // Not a file system, and yet what people write.
        plan.kind = "none".to_owned();
        plan.flags |= MsFlags::MS_BIND;
    }
    let mut data = Vec::new();
    for word in option("o").split(',').filter(|word| !word.is_empty()) {
        match flag(word) {
            Some((flag, true)) => plan.flags |= flag,
            Some((flag, false)) => plan.flags -= flag,
            None => data.push(word.to_owned()),
        }
    }
    plan.data = data.join(",");
    plan
}

/// The words of mount(8) that are flags of mount(2), and whether they set them.
fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "defaults" => (MsFlags::empty(), true),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, true),
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "mand" => (MsFlags::MS_MANDLOCK, true),
        "nomand" => (MsFlags::MS_MANDLOCK, false),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        _ => return None,
    })
}

/// Network file systems take numbers; the kernel does not ask name servers.
fn resolve_address(name: &str, data: &str) -> Result<String, VolumeError> {
    let words: Result<Vec<String>, VolumeError> = data
        .split(',')
        .map(|word| match word.strip_prefix("addr=") {
            None => Ok(word.to_owned()),
            Some(address) => {
                let unknown = |source| VolumeError::Address {
                    name: name.to_owned(),
                    address: address.to_owned(),
                    source,
                };
                let mut found = (address, 0).to_socket_addrs().map_err(unknown)?;
                let first = found.next().ok_or_else(|| unknown(io::ErrorKind::NotFound.into()))?;
                Ok(format!("addr={}", first.ip()))
            }
        })
        .collect();
    Ok(words?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn flags_are_told_from_data_of_the_file_system() {
        let tmpfs = plan(&options(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=1m,ro,uid=7,nosuid,rw"),
        ]));

        assert_eq!((tmpfs.flags, tmpfs.data.as_str()), (MsFlags::MS_NOSUID, "size=1m,uid=7"));
        let bind = plan(&options(&[("type", "bind"), ("device", "/srv"), ("o", "rbind,ro")]));
        assert_eq!(bind.kind, "none");
        assert!(bind.flags.contains(MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY));
    }

    #[test]
    fn options_that_cannot_be_mounted_are_refused_and_named() {
        type Row = (&'static [(&'static str, &'static str)], Option<&'static str>);
        let table: [Row; 7] = [
            (&[], None),
            (&[("type", "tmpfs"), ("device", "tmpfs")], None),
            (&[("type", "none"), ("device", "/srv"), ("o", "bind")], None),
            (&[("type", "none"), ("device", "/srv")], Some("type")),
            (&[("type", "nfs"), ("o", "addr=1.2.3.4")], Some("device")),
            (&[("o", "ro")], Some("type")),
            (&[("size", "1m")], Some("size")),
        ];
        for (pairs, expected) in table {
            let refused = check(&options(pairs)).err().map(|error| match error {
                VolumeError::InvalidOption { option, .. } => option,
                other => panic!("{other}"),
            });
            assert_eq!(refused.as_deref(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn addresses_become_numbers() {
        assert_eq!(resolve_address("v", "addr=127.0.0.1,x").unwrap(), "addr=127.0.0.1,x");
        assert_eq!(resolve_address("v", "").unwrap(), "");
    }
}
