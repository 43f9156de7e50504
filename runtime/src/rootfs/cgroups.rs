//! The `cgroup` mount: the container's own cgroups, in the layout that the host has.
//!
//! ```text
//! v2            /sys/fs/cgroup            the container's directory
//! v1, hybrid    /sys/fs/cgroup            tmpfs
//!               ├── cpu,cpuacct/          the container's directory in that hierarchy
//!               ├── cpu -> cpu,cpuacct
//!               └── unified/              the same in v2's
//! ```
//!
//! The directories are bound from the host, which costs a third of the calls that mounting each
//! hierarchy anew does and looks the same from inside a cgroup namespace. Without one, v2 shows the
//! whole hierarchy, as it does for a process of the host.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;
use rustix::mount::{MoveMountFlags, move_mount};

use super::label::MountLabel;
use super::mount::{attach, clone_tree, make_filesystem};
use super::resolve::{Missing, Root};
use crate::plan::mounts::MountPlan;
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys::mount::{MountAttr, attr, mount_setattr};

/// The container's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Controllers of a v1 hierarchy (or `name=…`); none of v2's.
    pub controllers: Vec<String>,
    /// Where the host has mounted it.
    pub mount: PathBuf,
    /// The container's directory in it.
    pub directory: PathBuf,
}

impl Hierarchy {
    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// Shows `hierarchies` at the destination of the entry `mounts[index]`.
///
/// `own_root`: whether the container is in a cgroup namespace of its own.
///
/// # Errors
/// The step that failed, with `index`.
pub fn mount_cgroups(
    root: &Root,
    index: usize,
    plan: &MountPlan,
    hierarchies: &[Hierarchy],
    own_root: bool,
    label: MountLabel<'_>,
) -> Result<(), Failure> {
    let place = root
        .open_or_create(&plan.destination, Missing::Directory)
        .at_index(Step::MountTarget, index)?;
    let attributes = plan.attributes.set | plan.recursive_attributes.set;
    if let [only] = hierarchies
        && only.is_v2()
    {
        let shown = if own_root { &only.directory } else { &only.mount };
        let tree = clone_tree(shown, false).at_index(Step::MountCgroup, index)?;
        restrict(&tree, attributes).at_index(Step::MountAttributes, index)?;
        return attach(&tree, &place).at_index(Step::MountAttach, index);
    }
    let mut parameters = vec![(c"mode", c"755")];
    parameters.extend(label.context(c"tmpfs", &[]).map(|label| (c"context", label)));
    let tmpfs = make_filesystem(c"tmpfs", &parameters, attributes & !attr::RDONLY)
        .at_index(Step::MountCreate, index)?;
    attach(&tmpfs, &place).at_index(Step::MountAttach, index)?;
    for hierarchy in hierarchies {
        show(&tmpfs, hierarchy, attributes).at_index(Step::MountCgroup, index)?;
    }
    restrict(&tmpfs, attributes & attr::RDONLY).at_index(Step::MountAttributes, index)
}

fn restrict(mount: &OwnedFd, attributes: u64) -> Result<(), Errno> {
    if attributes == 0 {
        return Ok(());
    }
    mount_setattr(mount, false, &MountAttr { set: attributes, ..MountAttr::default() })
}

fn show(tmpfs: &OwnedFd, hierarchy: &Hierarchy, attributes: u64) -> Result<(), Errno> {
    let Some(name) = hierarchy.mount.file_name() else { return Ok(()) };
    let name = Path::new(name);
    mkdirat(tmpfs, name, Mode::from_bits_truncate(0o755))?;
    let tree = clone_tree(&hierarchy.directory, false).map_err(errno)?;
    restrict(&tree, attributes)?;
    move_mount(&tree, c"", tmpfs, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(errno)?;
    for controller in hierarchy.controllers.iter().map(Path::new) {
        let alias = !controller.as_os_str().to_string_lossy().contains('=') && controller != name;
        match alias.then(|| symlinkat(name, tmpfs, controller)) {
            None | Some(Ok(()) | Err(Errno::EEXIST)) => {}
            Some(Err(errno)) => return Err(errno),
        }
    }
    Ok(())
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
