//! One mount entry: made detached, given its attributes, then attached by descriptor.
//!
//! Nothing becomes visible in the container before it has its attributes, and nothing is looked up
//! a second time between the check of a destination and the mount onto it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    fspick, move_mount, open_tree,
};

use super::copy_up::copy_up;
use super::label::MountLabel;
use super::resolve::{Missing, Root, lexically_clean};
use crate::plan::mounts::{AttrChange, FsParameter, MountPlan, MountSource, Opener, Propagation};
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys::AsErrno as _;
use crate::sys::mount::{MountAttr, attr, mount_setattr};

/// The longest value that fsconfig(2) takes, in bytes.
const MAX_FSCONFIG_BYTES: usize = 255;

/// The inode of the root directory of every procfs.
const PROC_ROOT_INO: u64 = 1;

/// Files below `/proc` that may be covered: what LXCFS and the like provide, and what restoring
/// processes needs. Anything else of procfs tells the truth (CVE-2019-16884).
const COVERABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// What one entry leaves to do at the end.
#[derive(Debug)]
pub struct Mounted {
    /// A mount that becomes read-only when everything below it is in place.
    pub readonly_later: Option<OwnedFd>,
}

/// Clones the mount of `path` (with everything below if `recursive`) as a detached tree.
///
/// # Errors
/// The kernel's; `EPERM` without CAP_SYS_ADMIN over the mount namespace.
pub fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, rustix::io::Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(rustix::fs::CWD, path, flags)
}

/// Clones the mount that `place` is in, rooted at `place`.
///
/// # Errors
/// As [`clone_tree`].
pub fn clone_at(place: impl AsFd, recursive: bool) -> Result<OwnedFd, rustix::io::Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(place.as_fd(), c"", flags)
}

/// Attaches a detached tree at `place`.
///
/// # Errors
/// The kernel's; `ENOTDIR` if one is a file and the other a directory.
pub fn attach(tree: impl AsFd, place: impl AsFd) -> Result<(), rustix::io::Errno> {
    move_mount(
        tree.as_fd(),
        c"",
        place.as_fd(),
        c"",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Makes a file system and returns its detached mount.
///
/// # Errors
/// The kernel's.
pub fn make_filesystem(
    kind: &CStr,
    parameters: &[(&CStr, &CStr)],
    attributes: u64,
) -> Result<OwnedFd, rustix::io::Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in parameters {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr_flags(attributes))
}

/// Sets a propagation.
///
/// # Errors
/// The kernel's.
pub fn set_propagation(mount: impl AsFd, propagation: Propagation) -> Result<(), Errno> {
    mount_setattr(
        mount,
        propagation.recursive,
        &MountAttr { propagation: propagation.kind, ..MountAttr::default() },
    )
}

fn attr_flags(attributes: u64) -> MountAttrFlags {
    MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0))
}

/// Carries out the entry `mounts[index]`. `opened` is its source, where the parent could open it;
/// `base` is the propagation that the container's whole tree has.
///
/// # Errors
/// The step that failed, with `index`.
pub fn mount(
    root: &Root,
    index: usize,
    plan: &MountPlan,
    opened: Option<OwnedFd>,
    base: Propagation,
    mount_label: MountLabel<'_>,
) -> Result<Mounted, Failure> {
    if plan.remount {
        return remount(root, index, plan);
    }
    match &plan.source {
        MountSource::Bind { path, recursive } => {
            let tree = match (opened, &plan.opener) {
                (Some(tree), _) => Ok(tree),
                (None, Opener::InsideRoot(inner)) => root
                    .open(inner, OFlag::O_PATH)
                    .and_then(|place| clone_at(place, *recursive).map_err(|e| e.as_errno())),
                // Paths still start at the host's root here: what is attached over it hides nothing.
                (None, Opener::Runtime | Opener::Init) => {
                    clone_tree(path, *recursive).map_err(|error| error.as_errno())
                }
            }
            .at_index(Step::MountSource, index)?;
            bind(root, index, plan, &tree, *recursive, base)
        }
        MountSource::Filesystem { kind, source, parameters } => {
            filesystem(root, index, plan, (kind, source, parameters), mount_label)
        }
        // The caller knows the hierarchies and does these itself.
        MountSource::Cgroups => Ok(Mounted { readonly_later: None }),
    }
}

fn remount(root: &Root, index: usize, plan: &MountPlan) -> Result<Mounted, Failure> {
    let place = root.open(&plan.destination, OFlag::O_PATH).at_index(Step::MountTarget, index)?;
    if let MountSource::Filesystem { parameters, .. } = &plan.source
        && !parameters.is_empty()
    {
        reconfigure(&place, parameters).at_index(Step::MountParameter, index)?;
    }
    change(&place, plan.attributes, false).at_index(Step::MountAttributes, index)?;
    change(&place, plan.recursive_attributes, true).at_index(Step::MountAttributes, index)?;
    propagate(&place, index, &plan.propagation)?;
    Ok(Mounted { readonly_later: None })
}

/// Gives the file system that is mounted at `place` other parameters.
fn reconfigure(place: &OwnedFd, parameters: &[FsParameter]) -> Result<(), rustix::io::Errno> {
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let context = fspick(place, c"", flags)?;
    set_parameters(context.as_fd(), parameters)?;
    fsconfig_reconfigure(context.as_fd())
}

fn bind(
    root: &Root,
    index: usize,
    plan: &MountPlan,
    tree: &OwnedFd,
    recursive: bool,
    base: Propagation,
) -> Result<Mounted, Failure> {
    let is_directory = is_directory(tree).at_index(Step::MountSource, index)?;
    let missing = if is_directory { Missing::Directory } else { Missing::File };
    let place =
        root.open_or_create(&plan.destination, missing).at_index(Step::MountTarget, index)?;
    let shows_proc = is_proc_root(tree).at_index(Step::MountSource, index)?;
    check_proc(&place, &plan.destination, shows_proc).at_index(Step::MountOverProc, index)?;

    set_propagation(tree, Propagation { recursive, ..base })
        .at_index(Step::MountPropagation, index)?;
    change(tree, plan.recursive_attributes, true).at_index(Step::MountAttributes, index)?;
    change(tree, plan.attributes, false).at_index(Step::MountAttributes, index)?;
    propagate(tree, index, &plan.propagation)?;
    attach(tree, &place).at_index(Step::MountAttach, index)?;
    Ok(Mounted { readonly_later: None })
}

fn filesystem(
    root: &Root,
    index: usize,
    plan: &MountPlan,
    (kind, source, parameters): (&CStr, &CStr, &[FsParameter]),
    mount_label: MountLabel<'_>,
) -> Result<Mounted, Failure> {
    let is_proc = kind == c"proc";
    let existing = (kind == c"tmpfs")
        .then(|| root.open(&plan.destination, OFlag::O_PATH).and_then(fstat).ok())
        .flatten();
    let place = if is_proc || kind == c"sysfs" {
        // What the masks protect must be where the masks look for it.
        match root.open_plain(&plan.destination, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => root
                .open_or_create(&plan.destination, Missing::Directory)
                .at_index(Step::MountTarget, index)?,
            result => result.at_index(Step::MountOntoLink, index)?,
        }
    } else {
        root.open_or_create(&plan.destination, Missing::Directory)
            .at_index(Step::MountTarget, index)?
    };
    check_proc(&place, &plan.destination, is_proc).at_index(Step::MountOverProc, index)?;
    let inherited;
    let parameters = match inherited_mode(kind, parameters, existing.as_ref()) {
        None => parameters,
        Some(mode) => {
            inherited = [parameters, &[mode]].concat();
            &inherited[..]
        }
    };

    // Mount points are still to be made in a tmpfs, so it becomes read-only last.
    let later = plan.is_readonly() && kind == c"tmpfs";
    let attributes = if later { plan.attributes.set & !attr::RDONLY } else { plan.attributes.set };
    let long = |parameter: &FsParameter| {
        matches!(parameter, FsParameter::Value(_, value)
            if value.as_bytes().len() > MAX_FSCONFIG_BYTES)
    };
    if parameters.iter().any(long) {
        let label = mount_label.quoted(kind, parameters);
        let place = mount_classic(&place, kind, source, (parameters, label))
            .and_then(|()| root.open(&plan.destination, OFlag::O_PATH))
            .at_index(Step::MountCreate, index)?;
        change(&place, plan.attributes, false).at_index(Step::MountAttributes, index)?;
        propagate(&place, index, &plan.propagation)?;
        return Ok(Mounted { readonly_later: None });
    }

    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).at_index(Step::MountType, index)?;
    configure(context.as_fd(), kind, source, parameters, mount_label, plan.is_readonly())
        .at_index(Step::MountParameter, index)?;
    let tree = fsconfig_create(context.as_fd())
        .and_then(|()| {
            fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr_flags(attributes))
        })
        .at_index(Step::MountCreate, index)?;
    mount_label.label_root(kind, &tree).at_index(Step::MountLabel, index)?;
    if plan.copy_up {
        copy_up(&place, &tree).at_index(Step::MountCopyUp, index)?;
    }
    change(&tree, plan.recursive_attributes, true).at_index(Step::MountAttributes, index)?;
    propagate(&tree, index, &plan.propagation)?;
    attach(&tree, &place).at_index(Step::MountAttach, index)?;
    Ok(Mounted { readonly_later: later.then_some(tree) })
}

/// A tmpfs over a directory that is there already looks like it, unless the bundle says how it should
/// look, as with runc.
fn inherited_mode(
    kind: &CStr,
    parameters: &[FsParameter],
    existing: Option<&FileStat>,
) -> Option<FsParameter> {
    let says = |parameter: &FsParameter| matches!(parameter, FsParameter::Value(key, _) if key.as_c_str() == c"mode");
    if kind != c"tmpfs" || parameters.iter().any(says) {
        return None;
    }
    let mode = format!("{:o}", existing?.st_mode & 0o7777);
    Some(FsParameter::Value(c"mode".to_owned(), CString::new(mode).ok()?))
}

fn configure(
    context: BorrowedFd<'_>,
    kind: &CStr,
    source: &CStr,
    parameters: &[FsParameter],
    mount_label: MountLabel<'_>,
    readonly: bool,
) -> Result<(), rustix::io::Errno> {
    // These have one superblock for many mounts, or are filled after they are mounted.
    let shared = [c"proc", c"sysfs", c"mqueue", c"tmpfs", c"devpts"].contains(&kind);
    fsconfig_set_string(context, c"source", source)?;
    if readonly && !shared {
        fsconfig_set_flag(context, c"ro")?;
    }
    set_parameters(context, parameters)?;
    match mount_label.context(kind, parameters) {
        Some(label) => fsconfig_set_string(context, c"context", label),
        None => Ok(()),
    }
}

fn set_parameters(
    context: BorrowedFd<'_>,
    parameters: &[FsParameter],
) -> Result<(), rustix::io::Errno> {
    parameters.iter().try_for_each(|parameter| match parameter {
        FsParameter::Flag(key) => fsconfig_set_flag(context, key.as_c_str()),
        FsParameter::Value(key, value) => {
            fsconfig_set_string(context, key.as_c_str(), value.as_c_str())
        }
    })
}

/// mount(2) proper, for values that fsconfig(2) does not take, such as many overlay layers. The
/// path is the magic link of a descriptor, so nothing can be swapped under it.
fn mount_classic(
    place: &OwnedFd,
    kind: &CStr,
    source: &CStr,
    (parameters, label): (&[FsParameter], Option<Vec<u8>>),
) -> Result<(), Errno> {
    let words: Vec<Vec<u8>> = parameters
        .iter()
        .map(|parameter| match parameter {
            FsParameter::Flag(key) => key.as_bytes().to_vec(),
            FsParameter::Value(key, value) => [key.as_bytes(), b"=", value.as_bytes()].concat(),
        })
        .chain(label)
        .collect();
    let data = words.join(&b","[..]);
    let target = format!("/proc/self/fd/{}", place.as_raw_fd());
    nix::mount::mount(
        Some(source),
        target.as_str(),
        Some(kind),
        nix::mount::MsFlags::empty(),
        Some(data.as_slice()),
    )
}

fn change(mount: &OwnedFd, change: AttrChange, recursive: bool) -> Result<(), Errno> {
    if change.is_empty() {
        return Ok(());
    }
    let request = MountAttr { set: change.set, clear: change.clear, ..MountAttr::default() };
    match mount_setattr(mount, recursive, &request) {
        // In a user namespace the attributes of a host's mount are locked. To keep a restriction
        // that was to be lifted is safe; to lose one that was asked for would not be.
        Err(Errno::EPERM) if change.clear & !attr::ATIME != 0 => {
            let clear = if change.clear & attr::ATIME == 0 { 0 } else { attr::ATIME };
            mount_setattr(mount, recursive, &MountAttr { clear, ..request })
        }
        result => result,
    }
}

fn propagate(mount: &OwnedFd, index: usize, list: &[Propagation]) -> Result<(), Failure> {
    list.iter().try_for_each(|propagation| {
        set_propagation(mount, *propagation).at_index(Step::MountPropagation, index)
    })
}

fn is_directory(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

fn is_proc_root(fd: impl AsFd) -> Result<bool, Errno> {
    let fd = fd.as_fd();
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC && fstat(fd)?.st_ino == PROC_ROOT_INO)
}

/// Refuses a mount that would make `/proc` lie. What the destination *is* decides, not only how it
/// is written: a link in the image may lead there.
fn check_proc(place: &OwnedFd, destination: &Path, shows_proc: bool) -> Result<(), Errno> {
    let clean = lexically_clean(destination);
    let inside = fstatfs(place)?.filesystem_type() == PROC_SUPER_MAGIC;
    let covers_root = clean == Path::new("/proc") || (inside && is_proc_root(place)?);
    let allowed = if covers_root {
        shows_proc
    } else {
        !inside || COVERABLE.iter().any(|path| clean == Path::new(path))
    };
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::open;
    use nix::sys::stat::Mode;

    use super::*;

    fn place(path: &str) -> OwnedFd {
        open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn only_listed_files_of_procfs_may_be_covered() {
        let cases = [
            ("/proc/uptime", "/proc/uptime", true),
            ("/proc/self/attr", "/proc/self/attr", false),
            ("/proc/sys", "/harmless", false),
            ("/proc/uptime", "/elsewhere", false),
            ("/tmp", "/data", true),
            ("/tmp", "/x/../proc", false),
        ];
        for (real, written, allowed) in cases {
            let outcome = check_proc(&place(real), Path::new(written), false);

            assert_eq!(outcome.is_ok(), allowed, "{written} that is {real}");
        }
    }

    #[test]
    fn the_whole_of_proc_may_be_covered_by_procfs_only() {
        assert!(check_proc(&place("/proc"), Path::new("/proc"), true).is_ok());
        assert_eq!(check_proc(&place("/proc"), Path::new("/p"), false), Err(Errno::EPERM));
    }
}
