//! The change of root, and the end of the host's file systems in the container's view.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::mount::set_propagation;
use super::resolve::Root;
use crate::plan::mounts::Propagation;
use crate::stage::failure::{AtStep, Failure, Step};

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
