//! What a container has from outside: bind mounts, covers, devices, cgroups, joined namespaces.
//!
//! | | name in the images | at restore |
//! | --- | --- | --- |
//! | bind mount, and the mounts below it | its place in the container | the source of the bundle's entry |
//! | masked file | `/dev/null` | the host's `/dev/null` |
//! | device that was bound (user namespaces) | its place | the host's device of that name |
//! | cgroup directory (no cgroup namespace) | its place | the new container's directory |
//! | joined network or PID namespace | `extRootNetNS`, `extRootPidNS` | the namespace that the bundle names |
//! | other joined namespaces | – | the namespace that the bundle names |

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::CriuError;
use super::rpc::{ExternalMount, InheritedFd, JoinedNamespace, Options};
use crate::mount_table::{self, MountLine};
use crate::namespaces::{NamespaceKind, open_namespace};
use crate::plan::ContainerPlan;
use crate::plan::mounts::{MountPlan, MountSource};
use crate::rootfs::cgroups::Hierarchy;
use crate::rootfs::devices::device_paths;
use crate::rootfs::resolve::{Missing, Root, lexically_clean};

/// Covers masked files, and names them in the images.
const NULL: &str = "/dev/null";

/// A mount from outside: its name in the images, and where it is (dump) or comes from (restore).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedMount {
    pub(crate) key: PathBuf,
    pub(crate) value: PathBuf,
}

/// All that is from outside.
#[derive(Debug, Default)]
pub(crate) struct Externals {
    pub(crate) mounts: Vec<NamedMount>,
    /// `KIND[INODE]:NAME` and `file[…]`, for the dump.
    pub(crate) resources: Vec<String>,
    /// Names and descriptors, for the restore.
    inherited: Vec<(String, i32)>,
    joined: Vec<(NamespaceKind, PathBuf)>,
    /// What `inherited` numbers.
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Externals {
    pub(super) fn add_to(self, options: &mut Options) {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        options.external_mounts.extend(
            self.mounts
                .iter()
                .map(|mount| ExternalMount { key: text(&mount.key), value: text(&mount.value) }),
        );
        options.external.extend(self.resources);
        options
            .inherited_fds
            .extend(self.inherited.into_iter().map(|(key, fd)| InheritedFd { key, fd }));
        options.joined_namespaces.extend(self.joined.iter().map(|(kind, path)| JoinedNamespace {
            kind: kind.file_name().to_owned(),
            file: text(path),
        }));
    }
}

/// Refuses what CRIU would lose without a word.
pub(crate) fn check(plan: &ContainerPlan) -> Result<(), CriuError> {
    for (index, mount) in plan.rootfs.mounts.iter().enumerate() {
        if mount.idmap.is_some() {
            let why = "CRIU cannot restore mounts with an id map; use a mount without one";
            return Err(CriuError::Impossible { field: format!("mounts[{index}]"), why });
        }
    }
    if !plan.namespaces.has(NamespaceKind::Mount) {
        let field = "linux.namespaces".to_owned();
        let why = "CRIU needs a container with a mount namespace of its own";
        return Err(CriuError::Impossible { field, why });
    }
    Ok(())
}

/// Finds what the running container `init` has from outside.
pub(crate) fn of_container(plan: &ContainerPlan, init: Pid) -> Result<Externals, CriuError> {
    let look = |what: &str| {
        let what = format!("look at the container's {what}");
        move |errno| CriuError::Look { what, errno }
    };
    let path = format!("/proc/{init}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(Path::new(&path), flags, Mode::empty()).map_err(look("root"))?;
    let table = std::fs::read_to_string(format!("/proc/{init}/mountinfo"))
        .map_err(|error| look("mounts")(errno(&error)))?;
    let mounts = mount_table::parse(&table);
    let mut externals = Externals {
        mounts: foreign_mounts(plan, &Root::new(root), &mounts),
        ..Externals::default()
    };
    for (kind, name) in BY_DESCRIPTOR {
        if plan.namespaces.joins(kind) {
            let file = format!("/proc/{init}/ns/{}", kind.file_name());
            let inode =
                std::fs::metadata(file).map_err(|error| look("namespaces")(errno(&error)))?.ino();
            externals.resources.push(format!("{}[{inode}]:{name}", kind.file_name()));
        }
    }
    Ok(externals)
}

/// Namespaces that CRIU gets as descriptors, and their names in the images.
const BY_DESCRIPTOR: [(NamespaceKind, &str); 2] =
    [(NamespaceKind::Network, "extRootNetNS"), (NamespaceKind::Pid, "extRootPidNS")];

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Returns whether the table has a mount of that number.
pub(super) fn has_mount(table: &str, id: u32) -> bool {
    mount_table::parse(table).iter().any(|mount| mount.id == id)
}

fn foreign_mounts(plan: &ContainerPlan, root: &Root, mounts: &[MountLine]) -> Vec<NamedMount> {
    let places: Vec<(PathBuf, &MountPlan)> = plan
        .rootfs
        .mounts
        .iter()
        .filter(|mount| !mount.remount)
        .map(|mount| (place_of(root, &mount.destination), mount))
        .collect();
    let masked: Vec<PathBuf> =
        plan.rootfs.masked_paths.iter().map(|path| place_of(root, path)).collect();
    let readonly: Vec<PathBuf> =
        plan.rootfs.readonly_paths.iter().map(|path| place_of(root, path)).collect();
    let own_cgroups = plan.namespaces.has(NamespaceKind::Cgroup);
    let mut named = Vec::new();
    for mount in mounts {
        let point = mount.point.as_path();
        let owner = places.iter().filter(|(place, _)| point.starts_with(place));
        let owner = owner.max_by_key(|(place, _)| place.components().count());
        let is_foreign = match owner.map(|(place, plan)| (place, &plan.source)) {
            // What lies over it is the runtime's, made of what is below.
            _ if readonly.iter().any(|path| path == point) => false,
            Some((_, MountSource::Bind { .. })) => true,
            Some((place, MountSource::Cgroups)) => {
                !own_cgroups && point != place && mount.kind.starts_with("cgroup")
            }
            Some((_, MountSource::Filesystem { .. })) | None => {
                // The host's devices, where the container could make none, and its /dev/null.
                mount.kind == "devtmpfs" || (mount.root == Path::new("/null"))
            }
        };
        if is_foreign {
            let is_mask = masked.iter().any(|path| path == point);
            let value = if is_mask { NULL.into() } else { mount.point.clone() };
            named.push(NamedMount { key: mount.point.clone(), value });
        }
    }
    named
}

/// Where a path of the specification leads in the container; what leads nowhere, as it is written.
fn place_of(root: &Root, path: &Path) -> PathBuf {
    root.open(path, OFlag::O_PATH)
        .ok()
        .and_then(|place| path_of(&place))
        .unwrap_or_else(|| lexically_clean(path))
}

fn path_of(fd: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
}

/// Finds the replacements for all that a container of this plan has from outside, and makes the
/// places in its root filesystem that mounts need, as a start would.
pub(crate) fn of_plan(
    plan: &ContainerPlan,
    hierarchies: &[Hierarchy],
) -> Result<Externals, CriuError> {
    let mut externals = Externals { mounts: sources(plan, hierarchies)?, ..Externals::default() };
    for namespace in &plan.namespaces.joined {
        let by_descriptor = BY_DESCRIPTOR.iter().find(|(kind, _)| *kind == namespace.kind);
        match (by_descriptor, namespace.kind) {
            (Some((_, name)), _) => {
                let file = open_namespace(&namespace.path).map_err(|errno| CriuError::Look {
                    what: format!("open the namespace {:?}", namespace.path),
                    errno,
                })?;
                externals.inherited.push(((*name).to_owned(), file.as_raw_fd()));
                externals.descriptors.push(file);
            }
            (None, NamespaceKind::Cgroup | NamespaceKind::Time | NamespaceKind::Mount) => {
                let field = format!("linux.namespaces: {}", namespace.kind.file_name());
                let why = "CRIU cannot restore into a namespace of this kind that exists already";
                return Err(CriuError::Impossible { field, why });
            }
            (None, kind) => externals.joined.push((kind, namespace.path.clone())),
        }
    }
    Ok(externals)
}

fn sources(plan: &ContainerPlan, hierarchies: &[Hierarchy]) -> Result<Vec<NamedMount>, CriuError> {
    let rootfs = &plan.rootfs.path;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let failed = |what: String| move |errno| CriuError::Look { what, errno };
    let root = open(rootfs, flags, Mode::empty()).map_err(failed(format!("open {rootfs:?}")))?;
    let root = Root::new(root);
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let host = mount_table::parse(&host);
    let mut named = Vec::new();
    for (index, mount) in plan.rootfs.mounts.iter().enumerate() {
        let place = make_place(plan, &root, index)
            .map_err(failed(format!("mounts[{index}]: make {:?}", mount.destination)))?;
        match &mount.source {
            _ if mount.remount => {}
            MountSource::Bind { path, recursive } => {
                // CRIU, as `below`, compares it with the kernel's table as text.
                let path = std::fs::canonicalize(path).map_err(|error| {
                    failed(format!("mounts[{index}]: find the source {path:?}"))(errno(&error))
                })?;
                if *recursive {
                    named.extend(below(&host, &path, &place));
                }
                named.push(NamedMount { key: place, value: path });
            }
            MountSource::Cgroups if !plan.namespaces.has(NamespaceKind::Cgroup) => {
                named.extend(hierarchies.iter().filter_map(|hierarchy| {
                    let key = place.join(hierarchy.mount.file_name()?);
                    Some(NamedMount { key, value: hierarchy.directory.clone() })
                }));
            }
            MountSource::Cgroups | MountSource::Filesystem { .. } => {}
        }
    }
    named.push(NamedMount { key: NULL.into(), value: NULL.into() });
    let known: Vec<PathBuf> = named.iter().map(|mount| mount.key.clone()).collect();
    let devices = device_paths(&plan.rootfs.devices).filter(|path| !known.contains(path));
    named.extend(devices.map(|path| NamedMount { key: path.clone(), value: path }));
    Ok(named)
}

/// The mounts that the host has below `source` show below `place` as well.
fn below<'m>(
    host: &'m [MountLine],
    source: &'m Path,
    place: &'m Path,
) -> impl Iterator<Item = NamedMount> + 'm {
    host.iter().filter_map(move |mount| {
        let inner = mount.point.strip_prefix(source).ok()?;
        let deeper = !inner.as_os_str().is_empty();
        deeper.then(|| NamedMount { key: place.join(inner), value: mount.point.clone() })
    })
}

/// Makes the place of `mounts[index]` where it is missing, and returns it as the container sees it.
///
/// In a file system that CRIU restores with all that is in it nothing is made, and what is below a
/// bind mount is made in its source.
fn make_place(plan: &ContainerPlan, root: &Root, index: usize) -> Result<PathBuf, Errno> {
    let mount = &plan.rootfs.mounts[index];
    let clean = lexically_clean(&mount.destination);
    let missing = match &mount.source {
        MountSource::Bind { path, .. } if !path.is_dir() => Missing::File,
        _ => Missing::Directory,
    };
    let above = plan.rootfs.mounts[..index].iter().rev().find_map(|other| {
        let inner = clean.strip_prefix(lexically_clean(&other.destination)).ok()?;
        (!inner.as_os_str().is_empty()).then_some((&other.source, inner))
    });
    match above {
        None => {
            let place = root.open_or_create(&mount.destination, missing)?;
            let path = path_of(&place).ok_or(Errno::EIO)?;
            let inner =
                path.strip_prefix(&plan.rootfs.path).map(|inner| Path::new("/").join(inner));
            Ok(inner.unwrap_or(clean))
        }
        Some((MountSource::Bind { path, .. }, inner)) => {
            let source = File::open(path).map_err(|error| errno(&error))?;
            Root::new(source.into()).open_or_create(inner, missing)?;
            Ok(clean)
        }
        Some((MountSource::Filesystem { .. } | MountSource::Cgroups, _)) => Ok(clean),
    }
}
