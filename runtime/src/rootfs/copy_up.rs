//! `tmpcopyup`: a tmpfs that starts with what it covers.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchown, fchownat, read, symlinkat, write};

/// How deep directories may be nested: beyond any real tree, below what exhausts the stack.
const MAX_DEPTH: u32 = 256;

/// Copies the contents of the directory `from` into the directory `to`, with owners and modes.
/// Links are copied as links; no mount below `from` is entered through a link.
///
/// # Errors
/// The kernel's; `ELOOP` for more than 256 levels.
pub(super) fn copy_up(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let from = openat(from, c".", flags, Mode::empty())?;
    let to = openat(to, c".", flags, Mode::empty())?;
    let stat = fstat(&from)?;
    copy_directory(from, &to, 0)?;
    adopt(&to, &stat)
}

fn copy_directory(from: OwnedFd, to: &OwnedFd, depth: u32) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::ELOOP);
    }
    let source = from.try_clone().map_err(|_| Errno::EMFILE)?;
    let mut dir = Dir::from_fd(from)?;
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(&source, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> Result<(), Errno> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    let nofollow = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if kind == SFlag::S_IFDIR {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | nofollow;
        mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
        let below = openat(to, name, flags, Mode::empty())?;
        copy_directory(openat(from, name, flags, Mode::empty())?, &below, depth + 1)?;
        return adopt(&below, &stat);
    }
    if kind == SFlag::S_IFREG {
        let source =
            openat(from, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK | nofollow, Mode::empty())?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | nofollow;
        let copy = openat(to, name, flags, Mode::from_bits_truncate(0o600))?;
        copy_bytes(&source, &copy)?;
        return adopt(&copy, &stat);
    }
    if kind == SFlag::S_IFLNK {
        let target = readlinkat(from, name)?;
        symlinkat(target.as_os_str(), to, name)?;
    } else {
        mknodat(to, name, kind, Mode::from_bits_truncate(stat.st_mode & 0o7777), stat.st_rdev)?;
    }
    fchownat(to, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn copy_bytes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = read(from, &mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            rest = &rest[write(to, rest)?..];
        }
    }
}

/// Ownership first: changing it takes set-id bits away.
fn adopt(fd: &OwnedFd, stat: &FileStat) -> Result<(), Errno> {
    fchown(fd, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(fd, Mode::from_bits_truncate(stat.st_mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn files_links_and_modes_are_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("d")).unwrap();
        fs::write(from.path().join("d/f"), "content").unwrap();
        fs::set_permissions(from.path().join("d/f"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("/etc/shadow", from.path().join("l")).unwrap();

        copy_up(File::open(from.path()).unwrap(), File::open(to.path()).unwrap()).unwrap();

        assert_eq!(fs::read_to_string(to.path().join("d/f")).unwrap(), "content");
        assert_eq!(fs::metadata(to.path().join("d/f")).unwrap().mode() & 0o7777, 0o4711);
        assert_eq!(
            fs::read_link(to.path().join("l")).unwrap(),
            std::path::Path::new("/etc/shadow")
        );
    }
}
