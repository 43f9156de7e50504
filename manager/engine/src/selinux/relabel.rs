//! Gives files the label that lets containers use them: what `:z` and `:Z` ask for.
//!
//! A tree is walked by descriptors, and a link's own label is set, never that of what it leads to:
//! whoever writes to the tree meanwhile can lead nobody out of it. Directories that the host itself
//! lives by are refused.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use crate::engine::file_error;
use crate::error::EngineError;

/// The attribute that holds a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// Longest label that is read.
const LABEL_BYTES_MAX: usize = 4096;
/// What the host itself needs as it is; what is below may be relabelled.
const HOSTS_OWN: [&str; 25] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/lib",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Labels what is at `path`, through links on the way there, and all that is below it. What cannot
/// have labels is left alone.
///
/// # Errors
/// [`EngineError::InvalidField`] for a place that the host needs as it is; [`EngineError::File`].
pub(super) fn relabel(path: &Path, label: &str) -> Result<(), EngineError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| file_error("open", path)(errno.into()))?;
    let real = std::fs::read_link(through(&top)).map_err(file_error("look at", path))?;
    if is_the_hosts(&real) {
        return Err(EngineError::InvalidField {
            field: "mount",
            problem: format!(
                "{path:?}: \":z\" and \":Z\" would give all of {real:?} a container's label, and the \
                 host needs it as it is; mount a directory below it, or leave the option out and \
                 give --security-opt label=disable"
            ),
        });
    }
    walk(&top, label).map_err(|(below, errno)| {
        file_error("give a label of SELinux to", &path.join(below))(errno.into())
    })
}

/// Labels one file or directory, and nothing below it.
///
/// # Errors
/// [`EngineError::File`].
pub(super) fn label_one(path: &Path, label: &str) -> Result<(), EngineError> {
    set(path, label).map_err(|errno| file_error("give a label of SELinux to", path)(errno.into()))
}

/// Whether what is at `path` has this label.
pub(super) fn has(path: &Path, label: &str) -> bool {
    let mut value = [0_u8; LABEL_BYTES_MAX];
    rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value[..]).is_ok_and(|length| {
        let value = &value[..length];
        value.strip_suffix(b"\0").unwrap_or(value) == label.as_bytes()
    })
}

/// Changes a label if it is another. A file system that has none of its own is no error.
fn set(path: &Path, label: &str) -> Result<(), Errno> {
    if has(path, label) {
        return Ok(());
    }
    match rustix::fs::lsetxattr(path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        outcome => outcome,
    }
}

/// Says which path below the top failed.
fn walk(top: &OwnedFd, label: &str) -> Result<(), (PathBuf, Errno)> {
    let here = |errno| (PathBuf::new(), errno);
    set_opened(top, label).map_err(here)?;
    let stat = rustix::fs::fstat(top).map_err(here)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let dir = match directory(top, &path) {
            // It went away meanwhile, or became a link.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            opened => opened.map_err(|errno| (path.clone(), errno))?,
        };
        let failed = |errno| (path.clone(), errno);
        for entry in Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let below = path.join(OsStr::from_bytes(name.to_bytes()));
            match set(&through(&dir).join(OsStr::from_bytes(name.to_bytes())), label) {
                Err(Errno::NOENT) => continue,
                outcome => outcome.map_err(|errno| (below.clone(), errno))?,
            }
            // Whatever the file system says of it: what is none cannot be opened as a directory.
            if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                pending.push(below);
            }
        }
    }
    Ok(())
}

/// Labels what a descriptor stands for.
fn set_opened(fd: &OwnedFd, label: &str) -> Result<(), Errno> {
    let path = through(fd);
    match rustix::fs::setxattr(&path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        outcome => outcome,
    }
}

/// Opens a directory below the top by a way without links.
fn directory(top: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match rustix::fs::openat2(top, path, flags, Mode::empty(), resolve) {
            // The kernel gives up when a rename or a mount elsewhere races with `..`.
            Err(Errno::AGAIN) => {}
            outcome => return outcome,
        }
    }
}

/// The path that leads to what a descriptor stands for.
fn through(fd: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Whether a place is one that the host needs as it is, under this name or another, or somebody's
/// whole home.
fn is_the_hosts(real: &Path) -> bool {
    let inode = |path: &Path| -> io::Result<(u64, u64)> {
        std::fs::metadata(path).map(|found| (found.dev(), found.ino()))
    };
    let own = inode(real).ok();
    let is_home = real.parent() == Some(Path::new("/home"));
    is_home
        || HOSTS_OWN
            .iter()
            .map(Path::new)
            .any(|path| path == real || (own.is_some() && inode(path).ok() == own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_the_host_lives_by_are_refused_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/usr", &link).unwrap();

        for path in ["/", "/usr", "/etc", "/home", "/var/../usr", link.to_str().unwrap()] {
            let refused = relabel(Path::new(path), "u:object_r:t:s0").unwrap_err().to_string();
            assert!(refused.contains("the host needs it as it is"), "{path}: {refused}");
        }
        assert!(is_the_hosts(Path::new("/home/someone")));
        assert!(!is_the_hosts(Path::new("/home/someone/data")));
        assert!(!is_the_hosts(dir.path()));
    }

    #[test]
    fn a_tree_is_labelled_without_following_links() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), "").unwrap();
        std::fs::write(outside.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), at("a/out")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("file"), at("out")).unwrap();
        // Without SELinux the attribute is one like any other, and any text will do.
        let label = "system_u:object_r:usr_t:s0";
        let before = has(outside.path(), label) || has(&outside.path().join("file"), label);

        relabel(dir.path(), label).unwrap();

        let labelled = ["", "a", "a/b", "a/b/file", "a/out", "out"];
        assert!(labelled.iter().all(|name| has(&at(name), label)));
        let after = has(outside.path(), label) || has(&outside.path().join("file"), label);
        assert_eq!((before, after), (false, false));
    }
}
