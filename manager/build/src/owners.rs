//! Gives what a step has written back the ids that the step saw.
//!
//! A step runs in a range of host ids, and what it writes belongs to that range. A layer has plain ids,
//! so that any other container can shift them again by an idmapped mount. Only what the step wrote is
//! touched, never what lies below.

use std::os::fd::{AsFd, BorrowedFd};

use keg_engine::model::IdRange;
use rustix::fs::{self as rfs, AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use crate::context::join;
use crate::tree::{self, Tree, TreeError};

/// Attribute with the capabilities of a file (capabilities(7), "Namespaced file capabilities").
const CAPABILITY: &str = "security.capability";
/// Octets of it with the root user that it is for, and without.
const CAPABILITY_3_BYTES: usize = 24;
const CAPABILITY_2_BYTES: usize = 20;

/// Shifts the owners of everything below `upper`'s root, and of the root, out of `range`.
///
/// # Errors
/// [`TreeError::Io`].
pub(crate) fn unshift(upper: &Tree, range: IdRange) -> Result<(), TreeError> {
    below(upper.root(), "", range)?;
    let stat = rfs::fstat(upper.root()).map_err(TreeError::io("look at", "/"))?;
    rfs::fchown(upper.root(), Some(uid(stat.st_uid, range)), Some(gid(stat.st_gid, range)))
        .and_then(|()| rfs::fchmod(upper.root(), Mode::from_raw_mode(stat.st_mode & 0o7777)))
        .map_err(TreeError::io("give back", "/"))
}

fn below(dir: BorrowedFd<'_>, path: &str, range: IdRange) -> Result<(), TreeError> {
    for name in tree::names(dir).map_err(TreeError::io("list", path))? {
        let shown = join(path, &name.name);
        let kind = name.file_type();
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rfs::openat(dir, &*name.name, flags, Mode::empty())
                .map_err(TreeError::io("open", &shown))?;
            below(inner.as_fd(), &shown, range)?;
        }
        give_back(dir, &name, range).map_err(TreeError::io("give back", &shown))?;
    }
    Ok(())
}

fn give_back(dir: BorrowedFd<'_>, name: &tree::Name, range: IdRange) -> Result<(), Errno> {
    let stat = &name.stat;
    let (user, group) = (uid(stat.st_uid, range), gid(stat.st_gid, range));
    if user.as_raw() == stat.st_uid && group.as_raw() == stat.st_gid {
        return Ok(());
    }
    let is_file = name.file_type() == FileType::RegularFile;
    let capability = if is_file { capability(dir, &name.name)? } else { None };
    rfs::chownat(dir, &*name.name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    // A change of owner takes these away.
    if is_file && stat.st_mode & 0o6000 != 0 {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rfs::chmodat(dir, &*name.name, mode, AtFlags::empty())?;
    }
    if let Some(capability) = capability {
        let fd = open_file(dir, &name.name)?;
        rfs::fsetxattr(&fd, CAPABILITY, &capability, XattrFlags::empty())?;
    }
    Ok(())
}

/// Returns a file's capabilities as they are for root itself.
fn capability(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let fd = open_file(dir, name)?;
    let mut value = vec![0_u8; CAPABILITY_3_BYTES];
    match rfs::fgetxattr(&fd, CAPABILITY, value.as_mut_slice()) {
        Ok(length) => value.truncate(length),
        Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    if value.len() == CAPABILITY_3_BYTES {
        value.truncate(CAPABILITY_2_BYTES);
        // The revision is the highest octet of the first word (little endian).
        value[3] = 2;
    }
    Ok(Some(value))
}

fn open_file(dir: BorrowedFd<'_>, name: &str) -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rfs::openat(dir, name, flags, Mode::empty())
}

fn uid(id: u32, range: IdRange) -> Uid {
    Uid::from_raw(plain(id, range))
}

fn gid(id: u32, range: IdRange) -> Gid {
    Gid::from_raw(plain(id, range))
}

fn plain(id: u32, range: IdRange) -> u32 {
    match id.checked_sub(range.start) {
        Some(inside) if inside < range.length => inside,
        _ => id,
    }
}
