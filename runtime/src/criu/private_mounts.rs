//! A mount namespace for CRIU alone: what it mounts on its way goes with it, also if it is killed.
//!
//! CRIU wants the root filesystem as a mount that nothing covers, and mounts things in its working
//! directory. The directories that it gets as descriptors must therefore be opened in there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::fchdir;

use super::CriuError;

/// The namespace; it lives as long as this value, and as CRIU.
#[derive(Debug)]
pub(crate) struct PrivateMounts {
    namespace: OwnedFd,
}

const OWN: &str = "/proc/self/ns/mnt";

impl PrivateMounts {
    /// Makes one in which `rootfs` is shown at `root`, and calls `inside` there.
    pub(crate) fn make<T>(
        rootfs: &Path,
        root: &Path,
        inside: impl FnOnce() -> Result<T, CriuError>,
    ) -> Result<(Self, T), CriuError> {
        let failed = |errno| {
            let what = "make a mount namespace for CRIU";
            CriuError::Talk { what, errno }
        };
        let own = open_here(OWN, OFlag::O_RDONLY).map_err(failed)?;
        let directory = open_here(".", OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(failed)?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
        let made = show(rootfs, root)
            .and_then(|()| open_here(OWN, OFlag::O_RDONLY))
            .map_err(failed)
            .and_then(|namespace| Ok((Self { namespace }, inside()?)));
        setns(&own, CloneFlags::CLONE_NEWNS)
            .and_then(|()| fchdir(directory.as_fd()))
            .map_err(failed)?;
        made
    }

    /// Takes the calling process in.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)
    }
}

fn open_here(path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    open(path, flags | OFlag::O_CLOEXEC, Mode::empty())
}

fn show(rootfs: &Path, root: &Path) -> Result<(), Errno> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    mount(Some(rootfs), root, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
}
