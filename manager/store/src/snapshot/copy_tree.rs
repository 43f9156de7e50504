//! A faithful copy of a tree: owners, modes, times, extended attributes, hard links, devices, holes.
//!
//! Both trees are the daemon's own (committed snapshots do not change, and the copy is not reachable
//! by anyone yet), so paths are walked by descriptor only to be quick and not to follow links.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid,
};

use super::SnapshotError;
use crate::IdRange;

/// Copies what is in `from` into the directory `to`, which gets its owner, mode and attributes too.
/// Owners are shifted into `range`.
pub(super) fn copy_tree(
    from: &Path,
    to: &Path,
    range: Option<IdRange>,
) -> Result<(), SnapshotError> {
    let source = open_dir_at(rfs::CWD, from).map_err(SnapshotError::io("open", from))?;
    copy_directory(&source, to, range)
}

/// Copies what is in the directory `source` into the directory at `to`, which gets its owner, mode
/// and attributes too. Owners are shifted into `range`.
///
/// # Errors
/// If a file cannot be read or written; what was copied until then is left.
pub fn copy_directory(
    source: &OwnedFd,
    to: &Path,
    range: Option<IdRange>,
) -> Result<(), SnapshotError> {
    let mut copier = Copier { range, links: HashMap::new() };
    let target = open_dir_at(rfs::CWD, to).map_err(SnapshotError::io("open", to))?;
    copier.directory(source, &target, to).map_err(SnapshotError::io("copy into", to))
}

struct Copier {
    range: Option<IdRange>,
    /// Where the first copy of an inode with several names is.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copier {
    /// Copies the entries of `source`, and then its attributes: entries would change its times.
    fn directory(&mut self, source: &OwnedFd, target: &OwnedFd, path: &Path) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in rfs::Dir::read_from(source)? {
            let name = entry?.file_name().to_owned();
            if name.as_c_str() != c"." && name.as_c_str() != c".." {
                names.push(name);
            }
        }
        for name in names {
            self.entry(source, target, &name, path)?;
        }
        let stat = rfs::fstat(source)?;
        copy_xattrs(source.as_fd(), target.as_fd())?;
        self.attributes(target.as_fd(), &stat)
    }

    fn entry(
        &mut self,
        source_dir: &OwnedFd,
        target_dir: &OwnedFd,
        name: &CString,
        path: &Path,
    ) -> io::Result<()> {
        use std::os::unix::ffi::OsStrExt;

        let path = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let stat = rfs::statat(source_dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&identity) {
                rfs::linkat(rfs::CWD, first, target_dir, name, AtFlags::empty())?;
                return Ok(());
            }
            self.links.insert(identity, path.clone());
        }
        match kind {
            FileType::Directory => {
                rfs::mkdirat(target_dir, name, Mode::RWXU)?;
                let source = open_dir_at(source_dir, name)?;
                let target = open_dir_at(target_dir, name)?;
                self.directory(&source, &target, &path)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rfs::openat(source_dir, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = rfs::openat(target_dir, name, flags, Mode::RUSR | Mode::WUSR)?;
                let (mut source, mut target) = (File::from(source), File::from(target));
                if rfs::ioctl_ficlone(&target, &source).is_err() {
                    copy_data(&mut source, &mut target)?;
                }
                // Attributes after the owner: a change of owner takes file capabilities away.
                self.attributes(target.as_fd(), &stat)?;
                copy_xattrs(source.as_fd(), target.as_fd())
            }
            FileType::Symlink => {
                let target = rfs::readlinkat(source_dir, name, Vec::new())?;
                rfs::symlinkat(target, target_dir, name)?;
                self.attributes_at(target_dir, name, &stat)
            }
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode);
                rfs::mknodat(target_dir, name, kind, mode, stat.st_rdev)?;
                rfs::chmodat(target_dir, name, mode, AtFlags::empty())?;
                self.attributes_at(target_dir, name, &stat)
            }
        }
    }

    fn attributes(&self, target: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
        let (uid, gid) = self.owner(stat);
        rfs::fchown(target, Some(uid), Some(gid))?;
        rfs::fchmod(target, Mode::from_raw_mode(stat.st_mode))?;
        Ok(rfs::futimens(target, &times(stat))?)
    }

    /// Sets owner and times of what cannot be opened.
    fn attributes_at(&self, dir: &OwnedFd, name: &CString, stat: &Stat) -> io::Result<()> {
        let (uid, gid) = self.owner(stat);
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rfs::chownat(dir, name, Some(uid), Some(gid), nofollow)?;
        Ok(rfs::utimensat(dir, name, &times(stat), nofollow)?)
    }

    fn owner(&self, stat: &Stat) -> (Uid, Gid) {
        let shift = |id: u32| match self.range {
            Some(range) if id < range.count => range.base + id,
            _ => id,
        };
        (Uid::from_raw(shift(stat.st_uid)), Gid::from_raw(shift(stat.st_gid)))
    }
}

fn open_dir_at(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rfs::openat(dir, name, flags, Mode::empty())?)
}

fn times(stat: &Stat) -> Timestamps {
    let spec =
        |tv_sec, nanos: u64| Timespec { tv_sec, tv_nsec: i64::try_from(nanos).unwrap_or_default() };
    Timestamps {
        last_access: spec(stat.st_atime, stat.st_atime_nsec),
        last_modification: spec(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies the data of a file and leaves its holes holes.
fn copy_data(source: &mut File, target: &mut File) -> io::Result<()> {
    use rfs::SeekFrom;

    let size = source.metadata()?.len();
    let mut offset = 0;
    while offset < size {
        let start = match rfs::seek(&*source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rfs::seek(&*source, SeekFrom::Hole(start))?;
        rfs::seek(&*source, SeekFrom::Start(start))?;
        rfs::seek(&*target, SeekFrom::Start(start))?;
        let copied = io::copy(&mut io::Read::take(&mut *source, end - start), target)?;
        if copied != end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset = end;
    }
    target.set_len(size)
}

fn copy_xattrs(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0_u8; 64 * 1024];
    let length = match rfs::flistxattr(source, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut value = Vec::new();
    for name in names[..length].split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // What a label of SELinux is, the place decides that a file is in.
        if name == c"security.selinux" {
            continue;
        }
        value.resize(64 * 1024, 0);
        let length = rfs::fgetxattr(source, name, value.as_mut_slice())?;
        rfs::fsetxattr(target, name, &value[..length], rfs::XattrFlags::empty())?;
    }
    Ok(())
}
