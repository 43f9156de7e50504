//! Acting in another network namespace, and on the settings of either.
//!
//! A namespace belongs to a thread. Only the thread that owns all networks (see
//! [`crate::switchboard`]) changes its own, and always back before it does anything else.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Why a namespace could not be entered, or a setting made.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No such namespace.
    #[error("open the network namespace {path:?}")]
    Open {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("enter a network namespace")]
    Enter(#[source] Errno),
    /// A setting of the kernel's was refused.
    #[error("set {path:?} to {value}")]
    Setting {
        /// Which.
        path: PathBuf,
        /// To what.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// A network namespace, held open.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
}

impl Netns {
    /// Opens the calling thread's.
    pub(crate) fn current() -> Result<Self, NetnsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Opens the one at a path, such as `/proc/PID/ns/net`.
    pub(crate) fn open(path: &Path) -> Result<Self, NetnsError> {
        let file = File::open(path)
            .map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        Ok(Self { file })
    }

    /// Runs `act` in `self` and comes back to `home`.
    ///
    /// # Panics
    /// If the way back is refused: a thread in the wrong namespace must do nothing more.
    pub(crate) fn with<T>(&self, home: &Self, act: impl FnOnce() -> T) -> Result<T, NetnsError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(NetnsError::Enter)?;
        let outcome = act();
        setns(&home.file, CloneFlags::CLONE_NEWNET)
            .map_err(NetnsError::Enter)
            .expect("a thread can return to the namespace that it holds open");
        Ok(outcome)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Reads a setting below `/proc/sys/net` of the calling thread's namespace.
pub(crate) fn setting(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok()?;
    Some(text.trim().to_owned())
}

/// Keeps the calling thread's namespace from speaking IPv6 on an interface, if it has IPv6 at all.
///
/// It is said before the interface comes up: one that is up has an address, routes and timers by
/// then, and the kernel goes through all routes to take them away again.
pub(crate) fn disable_ipv6(interface: &str) -> Result<(), NetnsError> {
    let path = Path::new("/proc/sys/net/ipv6/conf").join(interface).join("disable_ipv6");
    match std::fs::write(&path, "1") {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NetnsError::Setting { path, value: "1".to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The settings of many containers' namespaces, seen through a procfs that is mounted nowhere.
///
/// One procfs keeps what has the same name in several namespaces in one list and goes through it at
/// each look; through the host's, the two-hundredth container would wait half a millisecond for one
/// setting. So this one is given up after a few namespaces.
#[derive(Debug, Default)]
pub(crate) struct ForeignSettings {
    procfs: Option<OwnedFd>,
    /// How many namespaces were looked at through it.
    namespaces: u32,
}

impl ForeignSettings {
    const MAX_NAMESPACES: u32 = 16;

    /// As [`disable_ipv6`], for a thread that is in a container's namespace.
    pub(crate) fn disable_ipv6(&mut self, interface: &str) -> Result<(), NetnsError> {
        // Where none can be had, the host's serves.
        let Ok(procfs) = self.procfs() else { return disable_ipv6(interface) };
        let path = Path::new("sys/net/ipv6/conf").join(interface).join("disable_ipv6");
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = openat(procfs, &path, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).write_all(b"1"));
        match written {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(NetnsError::Setting { path, value: "1".to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    fn procfs(&mut self) -> rustix::io::Result<&OwnedFd> {
        if self.namespaces >= Self::MAX_NAMESPACES {
            (self.procfs, self.namespaces) = (None, 0);
        }
        self.namespaces += 1;
        if let Some(ref procfs) = self.procfs {
            return Ok(procfs);
        }
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let guarded = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, guarded)?;
        Ok(self.procfs.insert(mounted))
    }
}

/// Makes a setting below `/proc/sys/net` of the calling thread's namespace, if it is not so.
pub(crate) fn set_setting(name: &str, value: &str) -> Result<(), NetnsError> {
    if setting(name).as_deref() == Some(value) {
        return Ok(());
    }
    let path = Path::new("/proc/sys/net").join(name);
    std::fs::write(&path, value).map_err(|source| NetnsError::Setting {
        path,
        value: value.to_owned(),
        source,
    })
}
