//! Paths that the container may not read, or not write (`maskedPaths`, `readonlyPaths`).
//!
//! What covers a masked path comes from the host and is checked by descriptor: a container that
//! makes its own `/dev/null` something else (CVE-2025-31133) changes nothing. What is covered is
//! the descriptor that the path led to, inside the root.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::devices::is_character_device;
use super::label::MountLabel;
use super::mount::{attach, clone_at, clone_tree, make_filesystem};
use super::resolve::Root;
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys::AsErrno;
use crate::sys::mount::{MountAttr, attr, mount_setattr};

/// What masked paths are covered with: the first cover of each kind, once it is attached. Further
/// ones are clones of it; a mount that is not attached can be cloned only since Linux 6.15.
#[derive(Debug, Default)]
struct Covers {
    directory: Option<OwnedFd>,
    file: Option<OwnedFd>,
}

/// An empty read-only file system, which covers directories.
fn empty_directory(label: MountLabel<'_>) -> Result<OwnedFd, Errno> {
    let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    let mut parameters = vec![(c"nr_blocks", c"1"), (c"nr_inodes", c"1"), (c"mode", c"755")];
    parameters.extend(label.context(c"tmpfs", &[]).map(|label| (c"context", label)));
    make_filesystem(c"tmpfs", &parameters, attributes).map_err(|error| error.as_errno())
}

/// The host's `/dev/null`, which covers files.
fn host_null() -> Result<OwnedFd, Errno> {
    let null = clone_tree(Path::new("/dev/null"), false).map_err(|error| error.as_errno())?;
    if is_character_device(&null, 1, 3)? { Ok(null) } else { Err(Errno::ENODEV) }
}

/// Covers every masked path that exists.
///
/// # Errors
/// The step that failed, with the index of the path.
pub(super) fn mask(root: &Root, paths: &[PathBuf], label: MountLabel<'_>) -> Result<(), Failure> {
    let mut covers = Covers::default();
    for (index, path) in paths.iter().enumerate() {
        mask_one(root, path, &mut covers, label).at_index(Step::MaskPath, index)?;
    }
    Ok(())
}

fn mask_one(
    root: &Root,
    path: &Path,
    covers: &mut Covers,
    label: MountLabel<'_>,
) -> Result<(), Errno> {
    let Some(place) = existing(root, path)? else { return Ok(()) };
    let kind = SFlag::from_bits_truncate(fstat(&place)?.st_mode) & SFlag::S_IFMT;
    let attached = if kind == SFlag::S_IFDIR { &mut covers.directory } else { &mut covers.file };
    let cover = match attached {
        Some(cover) => clone_at(&*cover, false).map_err(|error| error.as_errno())?,
        None if kind == SFlag::S_IFDIR => empty_directory(label)?,
        None => host_null()?,
    };
    attach(&cover, place).map_err(|error| error.as_errno())?;
    attached.get_or_insert(cover);
    Ok(())
}

/// Makes every read-only path that exists a read-only mount of itself.
///
/// # Errors
/// The step that failed, with the index of the path.
pub(super) fn make_readonly(root: &Root, paths: &[PathBuf]) -> Result<(), Failure> {
    for (index, path) in paths.iter().enumerate() {
        readonly_one(root, path).at_index(Step::ReadonlyPath, index)?;
    }
    Ok(())
}

fn readonly_one(root: &Root, path: &Path) -> Result<(), Errno> {
    let Some(place) = existing(root, path)? else { return Ok(()) };
    let tree = clone_at(&place, true).map_err(|error| error.as_errno())?;
    mount_setattr(&tree, true, &MountAttr { set: attr::RDONLY, ..MountAttr::default() })?;
    attach(tree, place).map_err(|error| error.as_errno())
}

fn existing(root: &Root, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match root.open(path, OFlag::O_PATH) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
