//! Private directories.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, umount2};

use crate::report::MountEntry;

/// A directory of one test, below `/tmp` since the names of sockets must be short.
///
/// Others may pass through it and see nothing (mode 0711), so that a container in a user namespace
/// reaches its root filesystem. What is still mounted below it at the end is unmounted, and is a
/// failure of the test: the program under test left it behind.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a directory.
    ///
    /// # Panics
    /// If `/tmp` cannot be written to.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("keg-it.").rand_bytes(6).tempdir();
        let path = directory.expect("make a directory in /tmp").keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).expect("chmod 0711");
        Self { path }
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes away what is mounted below it, which otherwise fails the test: for programs of others that
    /// leave their store mounted.
    pub fn unmount(&self) {
        unmount_all(&self.path);
    }

    /// Returns the path of `name` in it, which need not exist.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a directory in it, mode 0755, and returns its path.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).expect("make a directory");
        path
    }

    /// Writes a file in it and returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).expect("write a file");
        path
    }
}

/// Writes a program that anyone may execute.
///
/// By a process that is gone afterwards: a descriptor of ours for writing could live on for a moment in
/// what another test starts, and a program that is written to cannot be executed.
///
/// # Panics
/// If it cannot be written.
#[track_caller]
pub fn write_program(path: &Path, content: impl AsRef<[u8]>) {
    let mut writer = Command::new("sh");
    writer.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut writer = writer.spawn().expect("start sh");
    let mut stdin = writer.stdin.take().expect("piped");
    stdin.write_all(content.as_ref()).expect("write a program");
    drop(stdin);
    assert!(writer.wait().is_ok_and(|status| status.success()), "write {}", path.display());
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let left = unmount_all(&self.path);
        let removed = fs::remove_dir_all(&self.path);
        if std::thread::panicking() {
            return;
        }
        assert!(left.is_empty(), "mounts left behind: {left:?}");
        removed.unwrap_or_else(|error| panic!("remove {:?}: {error}", self.path));
    }
}

/// Unmounts everything below `directory`; returns where it was.
fn unmount_all(directory: &Path) -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> =
        mounts_below(directory).into_iter().map(|mount| mount.mount_point.into()).collect();
    left.sort();
    for mount_point in left.iter().rev() {
        let _ = umount2(mount_point, MntFlags::MNT_DETACH);
    }
    left
}

/// Returns this process's mounts whose mount point is `directory` or below it.
///
/// # Panics
/// If `/proc` is not there.
#[must_use]
pub fn mounts_below(directory: &Path) -> Vec<MountEntry> {
    let table = fs::read("/proc/self/mountinfo").expect("read /proc/self/mountinfo");
    table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| MountEntry::parse(&String::from_utf8_lossy(line)))
        .filter(|mount| {
            Path::new(OsStr::from_bytes(mount.mount_point.as_bytes())).starts_with(directory)
        })
        .collect()
}
