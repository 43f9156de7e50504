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
//!
//! The file at stake is the program's, whichever program uses this library. So a [`Protected`] is what
//! every function wants that makes a process in a container, and only this module gives one.

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

use crate::namespaces::NamespaceKind;
use crate::plan::namespaces::NamespacePlan;
use crate::rootfs::mount::clone_tree;
use crate::sys::AsErrno;
use crate::sys::mount::{MountAttr, attr, mount_setattr};

const EXE: &str = "/proc/self/exe";

/// Proof that the program that is running is out of a container's reach.
#[derive(Debug, Clone, Copy)]
pub struct Protected(());

/// Why the program cannot be protected.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// Its file cannot be looked at; `/proc` may not be mounted.
    #[error("look at the runtime's own program")]
    Look(#[source] Errno),
    /// It can neither be mounted read-only nor copied into memory, or not be executed from there.
    #[error("protect the runtime's own program from the container")]
    Restart(#[source] Errno),
}

/// Returns once this process runs from a file that a container with these namespaces cannot write.
///
/// If it does not yet, the program is executed anew, with the same arguments and environment: a
/// program that uses this library should call this before it does anything that is not to be done
/// twice, and before it has threads. Descriptors that are not close-on-exec stay open.
///
/// # Errors
/// [`ProtectError`].
pub fn protect(namespaces: &NamespacePlan) -> Result<Protected, ProtectError> {
    let exe = stat(EXE).map_err(ProtectError::Look)?;
    let unreachable = namespaces.new.contains(NamespaceKind::User)
        && !namespaces.uid_map.reaches_host(exe.st_uid);
    if unreachable { Ok(Protected(())) } else { protect_always() }
}

/// Returns once this process runs from a file that no container can write; see [`protect`].
///
/// # Errors
/// [`ProtectError`].
pub fn protect_always() -> Result<Protected, ProtectError> {
    if is_protected().map_err(ProtectError::Look)? {
        return Ok(Protected(()));
    }
    let args: Vec<CString> =
        std::env::args_os().map(|arg| CString::new(arg.into_vec()).unwrap_or_default()).collect();
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| {
            let both = [name.into_vec(), b"=".to_vec(), value.into_vec()].concat();
            CString::new(both).unwrap_or_default()
        })
        .collect();
    let program = readonly_clone().or_else(|_| sealed_copy()).map_err(ProtectError::Restart)?;
    match execveat(&program, c"", &args, &env, AtFlags::AT_EMPTY_PATH) {
        Ok(never) => match never {},
        Err(errno) => Err(ProtectError::Restart(errno)),
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
