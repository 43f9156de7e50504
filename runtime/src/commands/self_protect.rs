//! Keeps the runtime's own file out of the container's reach (CVE-2019-5736).
//!
//! A container can make the runtime execute itself (`#!/proc/self/exe`) or look at the runtime's
//! process in a namespace that they share, and open the host's program behind it for writing as soon
//! as it has ended. So the runtime runs from a read-only mount of its file that is attached nowhere:
//! whatever leads to it then leads to a file that cannot be written through that way, and the mount
//! cannot be changed from a namespace that it is not in. Where mounts cannot be cloned, a sealed copy
//! in memory serves.
//!
//! Where the container's root is nobody on the host, the kernel's file permissions do, and the
//! time is saved.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, stat};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::execveat;

use super::CommandError;
use crate::namespaces::NamespaceKind;
use crate::plan::namespaces::NamespacePlan;
use crate::rootfs::mount::clone_tree;
use crate::sys::AsErrno;
use crate::sys::mount::{MountAttr, attr, mount_setattr};

const EXE: &str = "/proc/self/exe";

/// Returns once this process runs from a protected file, for a container with these namespaces.
pub(super) fn protect(namespaces: &NamespacePlan) -> Result<(), CommandError> {
    let exe = stat(EXE).map_err(CommandError::kernel("look at the runtime's own program"))?;
    let unreachable = namespaces.new.contains(NamespaceKind::User)
        && !namespaces.uid_map.reaches_host(exe.st_uid);
    if unreachable { Ok(()) } else { protect_always() }
}

/// Returns once this process runs from a protected file.
pub(super) fn protect_always() -> Result<(), CommandError> {
    let error = || CommandError::kernel("protect the runtime's own program from the container");
    if is_protected().map_err(error())? {
        return Ok(());
    }
    let args: Vec<CString> =
        std::env::args_os().map(|arg| CString::new(arg.into_vec()).unwrap_or_default()).collect();
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| {
            let both = [name.into_vec(), b"=".to_vec(), value.into_vec()].concat();
            CString::new(both).unwrap_or_default()
        })
        .collect();
    let program = readonly_clone().or_else(|_| sealed_copy()).map_err(error())?;
    match execveat(&program, c"", &args, &env, AtFlags::AT_EMPTY_PATH) {
        Ok(never) => match never {},
        Err(errno) => Err(error()(errno)),
    }
}

/// A read-only mount cannot be written through, whoever made it; a sealed file not at all.
fn is_protected() -> Result<bool, Errno> {
    if statvfs(EXE)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    let exe = nix::fcntl::open(EXE, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let seals = nix::fcntl::fcntl(&exe, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap_or(0);
    Ok(seals & libc::F_SEAL_WRITE != 0)
}

fn readonly_clone() -> Result<OwnedFd, Errno> {
    let mount = clone_tree(Path::new(EXE), false).map_err(|error| error.as_errno())?;
    mount_setattr(&mount, false, &MountAttr { set: attr::RDONLY, ..MountAttr::default() })?;
    Ok(mount)
}

fn sealed_copy() -> Result<OwnedFd, Errno> {
    let raw = |error: std::io::Error| error.as_errno();
    let mut source = std::fs::File::open(EXE).map_err(raw)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut copy = std::fs::File::from(memfd_create("keg-runtime", flags)?);
    std::io::copy(&mut source, &mut copy).map_err(raw)?;
    let seals = nix::fcntl::SealFlag::F_SEAL_SEAL
        | nix::fcntl::SealFlag::F_SEAL_SHRINK
        | nix::fcntl::SealFlag::F_SEAL_GROW
        | nix::fcntl::SealFlag::F_SEAL_WRITE;
    nix::fcntl::fcntl(&copy, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}
