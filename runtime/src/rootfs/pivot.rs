//! The change of root, and the end of the host's file systems in the container's view.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, statfs};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::mount::{attach, make_filesystem, set_propagation};
use super::resolve::Root;
use crate::mount_table::{self, MountLine};
use crate::plan::mounts::Propagation;
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys::AsErrno as _;
use crate::sys::mount::attr;

/// What sysfs calls itself, which nix does not know.
const SYSFS_MAGIC: FsType = FsType(libc::SYSFS_MAGIC);

/// Opens the present root directory.
///
/// # Errors
/// [`Step::Pivot`].
pub(super) fn open_current_root() -> Result<OwnedFd, Failure> {
    open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).at(Step::Pivot)
}

/// Makes `root` the root directory and detaches everything that was above it.
///
/// The old root is stacked onto the new one, so no directory of the container is needed for it.
/// `old_root` is the root before; it gets no events back to the host when it goes.
///
/// # Errors
/// [`Step::Pivot`] or [`Step::DetachOldRoot`].
pub(super) fn pivot(root: &Root, old_root: OwnedFd) -> Result<(), Failure> {
    fchdir(root.as_fd()).at(Step::Pivot)?;
    pivot_root(".", ".").at(Step::Pivot)?;
    fchdir(&old_root).at(Step::DetachOldRoot)?;
    set_propagation(&old_root, Propagation { kind: libc::MS_SLAVE, recursive: true })
        .at(Step::DetachOldRoot)?;
    // The kernel frees the detached tree when the last reference goes: the descriptor first.
    drop(old_root);
    umount2(".", MntFlags::MNT_DETACH).at(Step::DetachOldRoot)?;
    chdir("/").at(Step::DetachOldRoot)
}

/// Takes the host's procfs and sysfs away from a container whose root is only changed: what chroot(2)
/// leaves behind stays in the mount namespace, and the kernel lets whoever owns a user namespace mount
/// these file systems anew, without masks, as long as whole ones are there. What cannot be detached,
/// in a user namespace, is covered.
///
/// Paths lead into the host's tree here, since the root is not changed yet.
///
/// # Errors
/// [`Step::DetachOldRoot`].
pub(super) fn hide_host(old_root: &OwnedFd) -> Result<(), Failure> {
    set_propagation(old_root, Propagation { kind: libc::MS_SLAVE, recursive: true })
        .at(Step::DetachOldRoot)?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").at(Step::DetachOldRoot)?;
    let mut points: Vec<PathBuf> =
        mount_table::parse(&table).into_iter().filter_map(whole_kernel_view).collect();
    points.sort_unstable();
    points.dedup();
    for point in points {
        hide(&point).at(Step::DetachOldRoot)?;
    }
    Ok(())
}

/// Where a mount shows a whole procfs or sysfs.
fn whole_kernel_view(line: MountLine) -> Option<PathBuf> {
    let whole = line.root == Path::new("/") && matches!(line.kind.as_str(), "proc" | "sysfs");
    whole.then_some(line.point)
}

fn hide(point: &Path) -> Result<(), Errno> {
    loop {
        match umount2(point, MntFlags::MNT_DETACH) {
            // There may be another below it.
            Ok(()) => {}
            // It went with what it was in.
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EINVAL | Errno::EPERM) => break,
            Err(errno) => return Err(errno),
        }
    }
    let kind = statfs(point)?.filesystem_type();
    if kind != PROC_SUPER_MAGIC && kind != SYSFS_MAGIC {
        return Ok(());
    }
    let cover = make_filesystem(c"tmpfs", &[], attr::RDONLY).map_err(|e| e.as_errno())?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let place = open(point, flags, Mode::empty())?;
    attach(&cover, &place).map_err(|error| error.as_errno())
}

/// Changes the root by chroot(2) alone: for `--no-pivot` (an initramfs cannot be pivoted away), and
/// where the container shares the host's mount namespace.
///
/// # Errors
/// [`Step::Pivot`].
pub(super) fn change_root(root: &Root) -> Result<(), Failure> {
    fchdir(root.as_fd()).at(Step::Pivot)?;
    chroot(".").at(Step::Pivot)?;
    chdir("/").at(Step::Pivot)
}
