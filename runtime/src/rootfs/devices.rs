//! Device nodes: the six that every container gets, those of the specification, and the links
//! beside them (runtime-spec, config-linux.md, "Default Devices" and "Devices").
//!
//! Where the kernel lets the container make no nodes (in a user namespace), the host's are bound.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, dev_t, fstat, fstatat, makedev, mknodat};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, FsType};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::mount::{attach, clone_tree};
use super::resolve::{Missing, Root};
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys::mount::{MountAttr, attr, mount_setattr};

/// What devpts calls itself, for checks of terminals.
pub(crate) const DEVPTS: FsType = DEVPTS_SUPER_MAGIC;

/// Name, major and minor number of what every container finds in `/dev`.
const DEFAULT_DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Link and target of what every container finds in `/dev`.
const DEFAULT_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

struct Node<'a> {
    kind: SFlag,
    rdev: dev_t,
    mode: Mode,
    owner: (Option<Uid>, Option<Gid>),
    host_path: &'a Path,
}

/// Creates the default devices and links, and the `devices` of the specification.
///
/// # Errors
/// The step that failed, with the index of the device.
pub fn create_devices(root: &Root, devices: &[LinuxDevice]) -> Result<(), Failure> {
    let dev = root.open_or_create(Path::new("/dev"), Missing::Directory).at(Step::DefaultLink)?;
    for (index, (name, major, minor)) in DEFAULT_DEVICES.into_iter().enumerate() {
        let path = Path::new("/dev").join(name);
        // A device of the specification takes the place of the default one.
        if devices.iter().any(|device| *device.path() == path) {
            continue;
        }
        let node = Node {
            kind: SFlag::S_IFCHR,
            rdev: makedev(major, minor),
            mode: Mode::from_bits_truncate(0o666),
            owner: (None, None),
            host_path: &path,
        };
        create_node(&dev, OsStr::new(name), &node).at_index(Step::DefaultDevice, index)?;
    }
    for (index, device) in devices.iter().enumerate() {
        create_device(root, device).at_index(Step::Device, index)?;
    }
    for (link, target) in DEFAULT_LINKS {
        ignore_existing(symlinkat(target, &dev, link)).at(Step::DefaultLink)?;
    }
    if Path::new("/proc/kcore").exists() {
        ignore_existing(symlinkat("/proc/kcore", &dev, "core")).at(Step::DefaultLink)?;
    }
    link_ptmx(root, &dev).at(Step::DefaultLink)
}

/// Returns where the devices are: the default ones, and `devices`.
pub fn device_paths(devices: &[LinuxDevice]) -> impl Iterator<Item = PathBuf> {
    let default = DEFAULT_DEVICES.iter().map(|(name, ..)| Path::new("/dev").join(name));
    default.chain(devices.iter().map(|device| device.path().clone()))
}

/// `/dev/ptmx` must be the container's own devpts': the host's would open the host's terminals.
fn link_ptmx(root: &Root, dev: &OwnedFd) -> Result<(), Errno> {
    match root.open(Path::new("/dev/pts/ptmx"), OFlag::O_PATH) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        result => result?,
    };
    match unlinkat(dev, "ptmx", UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => symlinkat("pts/ptmx", dev, "ptmx"),
        // Something is mounted there on purpose.
        Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn ignore_existing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}

fn create_device(root: &Root, device: &LinuxDevice) -> Result<(), Errno> {
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(Errno::EINVAL),
    };
    let number = |n: i64| u64::try_from(n).map_err(|_| Errno::EINVAL);
    let rdev = if kind == SFlag::S_IFIFO {
        0
    } else {
        makedev(number(device.major())?, number(device.minor())?)
    };
    let node = Node {
        kind,
        rdev,
        mode: Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & 0o7777),
        owner: (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw)),
        host_path: device.path(),
    };
    let (parent, name) = root.open_parent(device.path())?;
    create_node(&parent, name, &node)
}

fn create_node(parent: &OwnedFd, name: &OsStr, node: &Node<'_>) -> Result<(), Errno> {
    match mknodat(parent, name, node.kind, node.mode, node.rdev) {
        Ok(()) => {}
        Err(Errno::EPERM | Errno::EACCES) if node.kind != SFlag::S_IFIFO => {
            return bind_node(parent, name, node);
        }
        Err(Errno::EEXIST) => return check_existing(parent, name, node),
        Err(errno) => return Err(errno),
    }
    if node.owner == (None, None) {
        return Ok(());
    }
    fchownat(parent, name, node.owner.0, node.owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// What is there already may only be the very device: an image could bring a file of that name.
fn check_existing(parent: &OwnedFd, name: &OsStr, node: &Node<'_>) -> Result<(), Errno> {
    let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind == node.kind && stat.st_rdev == node.rdev { Ok(()) } else { Err(Errno::EEXIST) }
}

fn bind_node(parent: &OwnedFd, name: &OsStr, node: &Node<'_>) -> Result<(), Errno> {
    let tree =
        clone_tree(node.host_path, false).map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    let stat = fstat(&tree)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind != node.kind || stat.st_rdev != node.rdev {
        return Err(Errno::ENODEV);
    }
    // The mount is the host's /dev; whatever that is mounted with, this is a device and nothing else.
    let attributes = MountAttr { set: attr::NOSUID | attr::NOEXEC, ..MountAttr::default() };
    mount_setattr(&tree, false, &attributes)?;
    let place = Root::new(parent.try_clone().map_err(|_| Errno::EMFILE)?)
        .open_or_create(&PathBuf::from(name), Missing::File)?;
    attach(tree, place).map_err(|error| Errno::from_raw(error.raw_os_error()))
}

/// Returns whether `fd` is the character device with these numbers.
///
/// # Errors
/// The kernel's.
pub fn is_character_device(fd: impl AsFd, major: u64, minor: u64) -> Result<bool, Errno> {
    let stat = fstat(fd)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFCHR && stat.st_rdev == makedev(major, minor))
}
