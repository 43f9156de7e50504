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
use super::mount::{attach, clone_at, clone_tree, make_filesystem};
use super::resolve::Root;
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys::AsErrno;
use crate::sys::mount::{MountAttr, attr, mount_setattr};

/// What masked paths are covered with; each is made when first needed.
#[derive(Debug, Default)]
struct Covers {
    directory: Option<OwnedFd>,
    file: Option<OwnedFd>,
}

impl Covers {
    /// One empty read-only file system serves all directories.
    fn directory(&mut self) -> Result<&OwnedFd, Errno> {
        if self.directory.is_none() {
            let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
            let parameters = [(c"nr_blocks", c"1"), (c"nr_inodes", c"1"), (c"mode", c"755")];
            let tmpfs = make_filesystem(c"tmpfs", &parameters, attributes)
                .map_err(|error| error.as_errno())?;
            self.directory = Some(tmpfs);
        }
        self.directory.as_ref().ok_or(Errno::EIO)
    }

    /// The host's `/dev/null`.
    fn file(&mut self) -> Result<&OwnedFd, Errno> {
        if self.file.is_none() {
            let null =
                clone_tree(Path::new("/dev/null"), false).map_err(|error| error.as_errno())?;
            if !is_character_device(&null, 1, 3)? {
                return Err(Errno::ENODEV);
            }
            self.file = Some(null);
        }
        self.file.as_ref().ok_or(Errno::EIO)
    }
}

/// Covers every masked path that exists.
///
/// # Errors
/// The step that failed, with the index of the path.
pub(super) fn mask(root: &Root, paths: &[PathBuf]) -> Result<(), Failure> {
    let mut covers = Covers::default();
    for (index, path) in paths.iter().enumerate() {
        mask_one(root, path, &mut covers).at_index(Step::MaskPath, index)?;
    }
    Ok(())
}

fn mask_one(root: &Root, path: &Path, covers: &mut Covers) -> Result<(), Errno> {
    let Some(place) = existing(root, path)? else { return Ok(()) };
    let kind = SFlag::from_bits_truncate(fstat(&place)?.st_mode) & SFlag::S_IFMT;
    let cover = if kind == SFlag::S_IFDIR { covers.directory()? } else { covers.file()? };
    let tree = clone_at(cover, false).map_err(|error| error.as_errno())?;
    attach(tree, place).map_err(|error| error.as_errno())
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
