//! Mounts what the daemon says on `BUNDLE/rootfs`, and unmounts it.
//!
//! ```text
//! lower ─▶ open_tree(clone) ─▶ mount_setattr(idmap) ─┐            only with uidmap=, gidmap=
//! lower ─▶ O_PATH ───────────────────────────────────┤
//! upper, work ─▶ O_PATH ─────────────────────────────┴─▶ fsopen(overlay) ─▶ fsmount ─▶ move_mount
//! ```
//!
//! Overlays go through the new mount API, whose options are descriptors, so that neither their
//! number nor the length of their paths is limited by a page; older kernels have older ways, see
//! `overlay`. Other filesystems are mounted by mount(2).
//!
//! Either all mounts are there or none. A root that is asked for by [`DETACHED`] is mounted nowhere: it goes
//! to the runtime as a descriptor, and from there into the container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use keg_proto::containerd::types::Mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_remount,
    move_mount, open_tree, unmount,
};

use self::overlay::{make_overlay, mount_overlay};
use crate::id_map::{IdMap, IdMapError};
use crate::sys;

mod overlay;

/// Mounts that may lie on top of each other at one place.
const MAX_STACKED: usize = 64;

/// The option of a root that nobody but the container has to see. Programs other than ours are never
/// told: no kernel knows it.
const DETACHED: &str = "x-keg.detached";

/// Why the root filesystem could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootfsError {
    #[error("make directory {path:?}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("find mount target {target:?} below {rootfs:?}")]
    Target {
        target: String,
        rootfs: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("open {path:?} for a mount")]
    Open {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("mount {kind} {source_path:?} on {target:?} with options {options:?}")]
    Mount {
        kind: String,
        source_path: String,
        target: PathBuf,
        options: String,
        #[source]
        source: Errno,
    },
    #[error("read the id map of a mount")]
    IdMap(#[source] IdMapError),
    #[error("map the owners of {path:?}: the kernel or its filesystem has no idmapped mounts")]
    MapOwners {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("unmount {path:?}")]
    Unmount {
        path: PathBuf,
        #[source]
        source: Errno,
    },
}

/// Mounts all of `mounts` on `rootfs`; on failure none stays.
pub(crate) fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), RootfsError> {
    if mounts.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(rootfs)
        .map_err(|source| RootfsError::Directory { path: rootfs.to_owned(), source })?;
    mounts.iter().try_for_each(|mount| mount_one(mount, rootfs)).inspect_err(|_| {
        // The first failure is the one to report.
        let _ = unmount_all(rootfs);
    })
}

/// Makes the root of `mounts` for a runtime that takes a descriptor. Returns it if it is one that may be
/// mounted nowhere and the kernel can do that; otherwise it is mounted on `rootfs`.
pub(crate) fn make_root(mounts: &[Mount], rootfs: &Path) -> Result<Option<OwnedFd>, RootfsError> {
    let [only] = mounts else { return mount_all(mounts, rootfs).map(|()| None) };
    let options = Options::parse(&only.options)?;
    if !options.detached || only.r#type != "overlay" || !only.target.is_empty() {
        return mount_all(mounts, rootfs).map(|()| None);
    }
    fs::create_dir_all(rootfs)
        .map_err(|source| RootfsError::Directory { path: rootfs.to_owned(), source })?;
    let target = resolve_target("", rootfs)?;
    make_overlay(&options, &target)
        .map_err(|error| error.of(|source| refused(only, &options, rootfs, source)))
}

/// Unmounts everything on `rootfs`; nothing there is fine.
pub(crate) fn unmount_all(rootfs: &Path) -> Result<(), RootfsError> {
    for _ in 0..MAX_STACKED {
        let flags = UnmountFlags::NOFOLLOW;
        let unmounted = match unmount(rootfs, flags) {
            // Something below it is mounted or still used: let go of the tree as a whole.
            Err(Errno::BUSY) => unmount(rootfs, flags | UnmountFlags::DETACH),
            other => other,
        };
        match unmounted {
            Ok(()) => {}
            // Not a mount point, or not there at all.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(source) => return Err(RootfsError::Unmount { path: rootfs.to_owned(), source }),
        }
    }
    Err(RootfsError::Unmount { path: rootfs.to_owned(), source: Errno::BUSY })
}

fn mount_one(mount: &Mount, rootfs: &Path) -> Result<(), RootfsError> {
    let mut options = Options::parse(&mount.options)?;
    let target = resolve_target(&mount.target, rootfs)?;
    let failed = |options: &Options, source| refused(mount, options, rootfs, source);
    match mount.r#type.as_str() {
        "bind" | "rbind" => options.recursive |= mount.r#type == "rbind",
        _ if options.bind => {}
        "overlay" => {
            return mount_overlay(&options, &target)
                .map_err(|error| error.of(|source| failed(&options, source)));
        }
        kind => {
            let data = options.data.join(",");
            return rustix::mount::mount(
                mount.source.as_str(),
                target.path(),
                kind,
                options.flags,
                Some(&*c_string(data)),
            )
            .map_err(|source| failed(&options, source));
        }
    }
    bind(&mount.source, &options, &target)?.map_err(|source| failed(&options, source))
}

/// The kernel did not mount `mount`.
fn refused(mount: &Mount, options: &Options, rootfs: &Path, source: Errno) -> RootfsError {
    RootfsError::Mount {
        kind: mount.r#type.clone(),
        source_path: mount.source.clone(),
        target: rootfs.join(mount.target.trim_start_matches('/')),
        options: options.text(),
        source,
    }
}

/// A place to mount on, held open so that nobody can exchange it.
#[derive(Debug)]
struct Target(OwnedFd);

impl Target {
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// Opens the target of a mount. A target within the root is resolved in it, links included, since
/// an image decides what lies there.
fn resolve_target(target: &str, rootfs: &Path) -> Result<Target, RootfsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = target.trim_start_matches('/');
    let opened = rustix::fs::openat(CWD, rootfs, flags, Mode::empty()).and_then(|root| {
        if within.is_empty() {
            return Ok(root);
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&root, within, flags, Mode::empty(), resolve) {
                // The kernel gives up when a rename or a mount elsewhere races with `..`.
                Err(Errno::AGAIN) => {}
                outcome => return outcome,
            }
        }
    });
    let failed = |source| RootfsError::Target {
        target: target.to_owned(),
        rootfs: rootfs.to_owned(),
        source,
    };
    opened.map(Target).map_err(failed)
}

/// Binds a directory, with its owners mapped if so asked. The outer result is about the source.
fn bind(
    source: &str,
    options: &Options,
    target: &Target,
) -> Result<Result<(), Errno>, RootfsError> {
    let tree = clone_tree(Path::new(source), options.recursive, options.id_map.as_ref())?;
    let attach = || {
        attach(&tree, target)?;
        let remount = options.flags - MountFlags::BIND;
        if remount.is_empty() {
            return Ok(());
        }
        // The new mount lies on top, so its path is resolved again through the descriptor's path.
        let path = fs::read_link(target.path()).unwrap_or_else(|_| target.path());
        mount_remount(path, MountFlags::BIND | remount, c"")
    };
    Ok(attach())
}

/// Copies the mount at `path` into a detached one, whose owners are mapped by `id_map`.
fn clone_tree(
    path: &Path,
    recursive: bool,
    id_map: Option<&IdMap>,
) -> Result<OwnedFd, RootfsError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, path, flags)
        .map_err(|source| RootfsError::Open { path: path.to_owned(), source })?;
    if let Some(id_map) = id_map {
        let namespace = id_map.user_namespace().map_err(RootfsError::IdMap)?;
        map_owners(&tree, &namespace, path)?;
    }
    Ok(tree)
}

/// Opens a directory for a mount.
fn open_directory(path: &Path) -> Result<OwnedFd, RootfsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|source| RootfsError::Open { path: path.to_owned(), source })
}

fn map_owners(tree: &OwnedFd, namespace: &OwnedFd, path: &Path) -> Result<(), RootfsError> {
    sys::mount_set_id_map(tree.as_fd(), namespace.as_fd())
        .map_err(|source| RootfsError::MapOwners { path: path.to_owned(), source })
}

fn attach(tree: &OwnedFd, target: &Target) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", &target.0, c"", flags)
}

/// Mount options, sorted by what they are for.
#[derive(Debug)]
struct Options {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    detached: bool,
    id_map: Option<IdMap>,
    data: Vec<String>,
}

impl Options {
    fn parse(options: &[String]) -> Result<Self, RootfsError> {
        let mut rest = options.to_vec();
        let id_map = IdMap::take(&mut rest).map_err(RootfsError::IdMap)?;
        let mut parsed = Self {
            flags: MountFlags::empty(),
            bind: false,
            recursive: false,
            detached: false,
            id_map,
            data: vec![],
        };
        for option in rest {
            match flag(&option) {
                Some((flags, true)) => parsed.flags |= flags,
                Some((flags, false)) => parsed.flags -= flags,
                None => match option.as_str() {
                    "bind" => parsed.bind = true,
                    DETACHED => parsed.detached = true,
                    "rbind" => (parsed.bind, parsed.recursive) = (true, true),
                    _ => parsed.data.push(option),
                },
            }
        }
        Ok(parsed)
    }

    fn text(&self) -> String {
        self.data.join(",")
    }
}

/// Returns the flag that an option sets (`true`) or clears.
fn flag(option: &str) -> Option<(MountFlags, bool)> {
    Some(match option {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "silent" => (MountFlags::SILENT, true),
        "loud" => (MountFlags::SILENT, false),
        "defaults" => (MountFlags::empty(), true),
        _ => return None,
    })
}

/// The attributes that a new mount gets for these flags.
fn mount_attributes(flags: MountFlags) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        (MountFlags::STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    ] {
        if flags.contains(flag) {
            attributes |= attribute;
        }
    }
    attributes
}

/// Makes a C string; what follows a NUL, which no path holds, is cut.
fn c_string(text: String) -> std::ffi::CString {
    let bytes = text.into_bytes().into_iter().take_while(|octet| *octet != 0).collect::<Vec<_>>();
    std::ffi::CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_into_flags_data_and_id_maps() {
        let options =
            ["ro", "nosuid", "suid", "rbind", "index=off", "uidmap=0:1:2", "gidmap=0:1:2"];
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();

        let parsed = Options::parse(&options).unwrap();

        assert_eq!(parsed.flags, MountFlags::RDONLY);
        assert!(parsed.bind && parsed.recursive && parsed.id_map.is_some());
        assert_eq!(parsed.data, ["index=off"]);
    }

    #[test]
    fn unmounting_what_is_not_mounted_is_fine() {
        let dir = tempfile::tempdir().unwrap();

        unmount_all(&dir.path().join("absent")).unwrap();
    }
}
