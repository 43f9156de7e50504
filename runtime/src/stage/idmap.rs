//! Id maps: those of the container's user namespace, and those of single mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getegid, geteuid};

use super::failure::{AtStep, Failure, Step};
use crate::plan::mounts::MountPlan;
use crate::procfs::Procfs;
use crate::sys::clone::{Cloned, Kinship, clone_alone};
use crate::sys::mount::{MountAttr, attr, mount_setattr};
use crate::user::IdMap;

/// Why ids could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// The kernel refuses a map.
    #[error("write {file} of the container's user namespace: {map:?}")]
    Write {
        /// `uid_map`, `gid_map` or `setgroups`.
        file: &'static str,
        /// What was written.
        map: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The helper that maps ids for unprivileged users cannot be run.
    #[error("run {program}: it maps more ids than one for an unprivileged user (package uidmap)")]
    Helper {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The helper refuses.
    #[error("{program} refused {map:?}: see /etc/subuid and /etc/subgid: {said}")]
    Refused {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// The map asked for.
        map: String,
        /// What it said.
        said: String,
    },
}

/// Whether the caller may write any map itself.
#[must_use]
pub fn is_privileged() -> bool {
    geteuid().is_root()
}

/// Makes the caller and what it clones unreadable for others before it joins anything: a namespace
/// may have someone in it already. The files below `/proc` of such a process are root's, so an
/// unprivileged runtime, which must write its child's maps, leaves this to the child.
///
/// # Errors
/// The kernel's.
pub fn hide() -> Result<(), Errno> {
    if is_privileged() { nix::sys::prctl::set_dumpable(false) } else { Ok(()) }
}

/// Whether setgroups(2) will be denied in a user namespace with this group map.
#[must_use]
pub fn denies_setgroups(gids: &IdMap) -> bool {
    !is_privileged() && is_own_id_only(gids, getegid().as_raw())
}

/// A map of just the caller's own id needs no privilege and no helper.
fn is_own_id_only(map: &IdMap, own: u32) -> bool {
    matches!(map.ranges(), [only] if only.size == 1 && only.host == own)
}

/// Maps the ids of the user namespace that process `pid` is in.
///
/// # Errors
/// [`IdMapError`].
pub fn write_maps(procfs: &Procfs, pid: Pid, uids: &IdMap, gids: &IdMap) -> Result<(), IdMapError> {
    let write =
        |file: &'static str, text: &str| {
            procfs
                .write(format!("{pid}/{file}"), text.as_bytes())
                .map_err(|errno| IdMapError::Write { file, map: text.trim_end().to_owned(), errno })
        };
    if is_privileged() {
        write("gid_map", &gids.to_kernel())?;
        return write("uid_map", &uids.to_kernel());
    }
    if denies_setgroups(gids) {
        write("setgroups", "deny")?;
        write("gid_map", &gids.to_kernel())?;
    } else {
        run_helper("newgidmap", pid, gids)?;
    }
    if is_own_id_only(uids, geteuid().as_raw()) {
        write("uid_map", &uids.to_kernel())
    } else {
        run_helper("newuidmap", pid, uids)
    }
}

fn run_helper(program: &'static str, pid: Pid, map: &IdMap) -> Result<(), IdMapError> {
    let text = map.to_kernel();
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(text.split_whitespace())
        .output()
        .map_err(|source| IdMapError::Helper { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(IdMapError::Refused {
        program,
        map: text.trim_end().to_owned(),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Gives the detached mounts in `binds` the id maps that `mounts` ask for. `init` is the process
/// whose user namespace serves those without a map of their own.
///
/// # Errors
/// [`Step::MountIdmap`] with the index of the mount.
pub fn map_mounts(
    procfs: &Procfs,
    init: Pid,
    mounts: &[MountPlan],
    binds: &[Option<OwnedFd>],
) -> Result<(), Failure> {
    let mut own: Option<OwnedFd> = None;
    let mut made: Vec<(&(IdMap, IdMap), OwnedFd)> = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let Some(idmap) = &mount.idmap else { continue };
        let Some(tree) = binds.get(index).and_then(Option::as_ref) else {
            return Err(Errno::EPERM).at_index(Step::MountIdmap, index);
        };
        let userns = match &idmap.own {
            None => {
                if own.is_none() {
                    own = Some(userns_of(init).at_index(Step::MountIdmap, index)?);
                }
                own.as_ref()
            }
            Some(maps) => {
                if !made.iter().any(|(known, _)| *known == maps) {
                    let userns = make_userns(procfs, maps).at_index(Step::MountIdmap, index)?;
                    made.push((maps, userns));
                }
                made.iter().find(|(known, _)| *known == maps).map(|(_, userns)| userns)
            }
        };
        let userns: BorrowedFd<'_> =
            userns.ok_or(Errno::EINVAL).at_index(Step::MountIdmap, index)?.as_fd();
        let change = MountAttr { set: attr::IDMAP, userns: Some(&userns), ..MountAttr::default() };
        mount_setattr(tree, idmap.recursive, &change).at_index(Step::MountIdmap, index)?;
    }
    Ok(())
}

fn userns_of(pid: Pid) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/{pid}/ns/user");
    open(Path::new(&path), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Makes a user namespace with these maps. A namespace needs a process to come into being, which
/// ends as soon as the namespace is held by a descriptor.
fn make_userns(procfs: &Procfs, maps: &(IdMap, IdMap)) -> Result<OwnedFd, Errno> {
    match clone_alone(libc::CLONE_NEWUSER as u64, Kinship::Child, None)? {
        Cloned::Child => loop {
            nix::unistd::pause();
        },
        Cloned::Parent { pid, pidfd } => {
            let userns = procfs
                .write(format!("{pid}/gid_map"), maps.1.to_kernel().as_bytes())
                .and_then(|()| {
                    procfs.write(format!("{pid}/uid_map"), maps.0.to_kernel().as_bytes())
                })
                .and_then(|()| userns_of(pid));
            crate::sys::process::kill_by_pidfd(&pidfd)?;
            waitpid(pid, None)?;
            userns
        }
    }
}
