//! Writes below `/proc/self` and `/proc/sys` that reach the kernel and nothing else.
//!
//! A container could mount something over its `/proc`, or make a file there a link, so that what
//! the runtime writes (a security label, a sysctl) is lost or lands in another file
//! (CVE-2019-16884, CVE-2025-52881). So the runtime opens the host's `/proc` before it enters any
//! namespace, checks that it is procfs' root, and resolves below that descriptor without crossing
//! a mount or a magic link. Which process and namespaces a file concerns is decided by the kernel
//! from the task that opens it, not by the mount that it is opened through.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::write;

/// The inode of the root directory of every procfs.
const PROC_ROOT_INO: u64 = 1;

/// A descriptor of a procfs root that is known to be one.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Procfs {
    /// Opens and verifies the `/proc` that the caller sees.
    ///
    /// # Errors
    /// The kernel's; `EXDEV` if something else than procfs is mounted there.
    pub fn open() -> Result<Self, Errno> {
        let root = open(
            "/proc",
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Self::verified(root)
    }

    /// Takes a descriptor of a directory that shall be one.
    ///
    /// # Errors
    /// The kernel's; `EXDEV` if it is something else.
    pub fn verified(root: OwnedFd) -> Result<Self, Errno> {
        let genuine = fstatfs(&root)?.filesystem_type() == PROC_SUPER_MAGIC
            && fstat(&root)?.st_ino == PROC_ROOT_INO;
        if genuine { Ok(Self(root)) } else { Err(Errno::EXDEV) }
    }

    /// Opens `path` (relative, as `self/attr/exec`) below the root.
    ///
    /// # Errors
    /// The kernel's; `EXDEV` if something is mounted in between.
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        openat2(&self.0, path.as_ref(), how)
    }

    /// Writes `data` to the file at `path` in one call, as these files want it.
    ///
    /// # Errors
    /// The kernel's, also those that tell that the value is refused; `EIO` for a short write.
    pub fn write(&self, path: impl AsRef<Path>, data: &[u8]) -> Result<(), Errno> {
        let file = self.open_file(path, OFlag::O_WRONLY | OFlag::O_NOFOLLOW)?;
        if write(&file, data)? == data.len() { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Returns the number of the calling process in the PID namespace that this procfs shows: of a
    /// process that has entered a container, the one by which the host knows it.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` if the link holds no number.
    pub fn own_pid(&self) -> Result<i32, Errno> {
        let link = nix::fcntl::readlinkat(&self.0, "self")?;
        link.to_str().and_then(|number| number.parse().ok()).ok_or(Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_reaches_the_own_thread() {
        let procfs = Procfs::open().unwrap();

        procfs.write("thread-self/comm", b"written-here").unwrap();

        let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert_eq!(comm, "written-here\n");
        assert_eq!(procfs.own_pid().unwrap(), i32::try_from(std::process::id()).unwrap());
    }

    #[test]
    fn another_directory_is_none() {
        let other = open("/proc/self", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();

        assert_eq!(Procfs::verified(other).unwrap_err(), Errno::EXDEV);
    }

    #[test]
    fn magic_links_and_the_way_up_are_refused() {
        let procfs = Procfs::open().unwrap();

        assert_eq!(procfs.write("self/cwd/x", b"").unwrap_err(), Errno::ELOOP);
        assert_eq!(procfs.write("../etc/passwd", b"").unwrap_err(), Errno::EXDEV);
    }
}
