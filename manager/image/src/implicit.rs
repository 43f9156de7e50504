//! Directories that a layer uses without listing them.
//!
//! In an overlay, a directory of an upper layer decides how the merged one looks. Where a layer has only
//! `tmp/x`, its `tmp` must look as in the layers below, or the image's `/tmp` would lose its mode.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as rfs, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Longest list of attribute names, and longest attribute, that the kernel has.
const XATTR_MAX_BYTES: usize = 64 * 1024;

/// Gives the implicit directories of a layer the owner, mode, times and attributes that they have in
/// the layers below, `lower`, uppermost first. What no layer has stays as it is.
///
/// # Errors
/// If the disk fails.
pub(crate) fn inherit(layer: &Path, implicit: &[PathBuf], lower: &[PathBuf]) -> io::Result<()> {
    if implicit.is_empty() {
        return Ok(());
    }
    let layer = open_root(layer)?;
    let lower = lower.iter().map(|dir| open_root(dir)).collect::<io::Result<Vec<_>>>()?;
    for path in implicit {
        let Some(target) = open_below(&layer, path)? else { continue };
        for below in &lower {
            match open_below(below, path) {
                Ok(Some(source)) => {
                    copy_attributes(&source, &target)?;
                    break;
                }
                Ok(None) => {}
                // A deletion, a file or a link is in the way: nothing below it shows.
                Err(error) if is_hidden(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rfs::open(path, flags, Mode::empty())?)
}

/// Opens a directory below another without following any link; `None` if it does not exist.
fn open_below(root: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        match rfs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(dir) => return Ok(Some(dir)),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is_hidden(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTDIR | Errno::LOOP))
}

fn copy_attributes(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let stat = rfs::fstat(source)?;
    rfs::fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rfs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(source, target)?;
    let mtime = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    };
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    Ok(rfs::futimens(target.as_fd(), &times)?)
}

fn copy_xattrs(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let mut names = vec![0_u8; XATTR_MAX_BYTES];
    let length = match rfs::flistxattr(source, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut value = vec![0_u8; XATTR_MAX_BYTES];
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        // Opaqueness is about the layer's own contents.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        // What a label of SELinux is, the place decides that a directory is in.
        if name == b"security.selinux" {
            continue;
        }
        let length = rfs::fgetxattr(source, name, value.as_mut_slice())?;
        rfs::fsetxattr(target, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_directory_looks_as_in_the_nearest_layer_that_has_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = |path: &str, mode: u32| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let layers = [dir("new", 0o755), dir("upper", 0o755), dir("lowest", 0o755)];
        for path in ["new/tmp", "new/file", "new/only", "new/link"] {
            dir(path, 0o755);
        }
        dir("lowest/tmp", 0o1777);
        dir("lowest/file", 0o700);
        dir("lowest/link", 0o700);
        fs::write(layers[1].join("file"), "").unwrap();
        std::os::unix::fs::symlink("tmp", layers[1].join("link")).unwrap();

        let implicit: Vec<PathBuf> =
            ["tmp", "file", "only", "link"].iter().map(PathBuf::from).collect();
        inherit(&layers[0], &implicit, &layers[1..]).unwrap();

        let mode = |path: &str| fs::metadata(layers[0].join(path)).unwrap().mode() & 0o7777;
        assert_eq!(mode("tmp"), 0o1777);
        assert_eq!((mode("file"), mode("only"), mode("link")), (0o755, 0o755, 0o755));
    }
}
