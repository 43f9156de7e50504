//! Containers that share namespaces with others, and ids with who made them.
//!
//! A container that joins another's PID or IPC namespace also gets that one's user namespace, unless
//! it asks for the host's: rights over what a user namespace owns are had inside it only. Its id
//! range is then the other's, and is passed on when the other is removed first.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

use crate::engine::{Engine, Shared, file_error};
use crate::error::EngineError;
use crate::model::{CreateRequest, IdRange, KeptId, NamespaceMode, Record, UsernsMode};
use crate::selinux::tmpfs_options;
use crate::spec::Joins;

/// Most ids of a range that is asked for by its size.
const SIZE_MAX: u32 = 1 << 24;

impl Engine {
    /// Replaces the names of containers that a request wants to join by their ids; returns the id
    /// range that it will share.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`]; [`EngineError::InvalidField`] if the modes contradict each
    /// other.
    pub(crate) fn resolve_joins(
        &self,
        mut request: CreateRequest,
    ) -> Result<(CreateRequest, Option<IdRange>), EngineError> {
        let host = &mut request.host;
        for mode in [&mut host.pid_mode, &mut host.ipc_mode] {
            if let NamespaceMode::Container(name) = mode {
                let other = self.find(name)?.record();
                *name = other.id.as_str().to_owned();
                if host.userns == UsernsMode::Auto {
                    host.userns = UsernsMode::Container(name.clone());
                }
            }
        }
        if let NamespaceMode::Container(id) = &host.ipc_mode {
            let other = self.find(id)?.record();
            if other.host.ipc_mode != NamespaceMode::Shareable {
                return Err(EngineError::InvalidField {
                    field: "ipc",
                    problem: format!(
                        "the IPC namespace of container {} cannot be joined: make that one with \
                         --ipc shareable",
                        other.name
                    ),
                });
            }
        }
        if let UsernsMode::Sized(size) = host.userns
            && !(1..=SIZE_MAX).contains(&size)
        {
            return Err(EngineError::InvalidField {
                field: "userns",
                problem: format!("the size of a range is from 1 to {SIZE_MAX}"),
            });
        }
        let UsernsMode::Container(name) = &mut host.userns else { return Ok((request, None)) };
        let other = self.find(name)?.record();
        *name = other.id.as_str().to_owned();
        if other.id_range.is_none() {
            host.userns = UsernsMode::Host;
        }
        Ok((request, other.id_range))
    }

    /// Where the namespaces are that a container joins.
    ///
    /// # Errors
    /// [`EngineError::OtherNotRunning`] if one of the containers that have them does not run.
    pub(crate) fn joins(&self, record: &Record) -> Result<Joins, EngineError> {
        let host = &record.host;
        let mut joins = Joins { has_mqueue: Path::new("/dev/mqueue").exists(), ..Joins::default() };
        if let UsernsMode::Container(id) = &host.userns {
            joins.user = Some(self.namespace_of(record, id, "user")?.1);
        }
        if let NamespaceMode::Container(id) = &host.pid_mode {
            joins.pid = Some(self.namespace_of(record, id, "pid")?.1);
        }
        if let NamespaceMode::Container(id) = &host.ipc_mode {
            let (other, path) = self.namespace_of(record, id, "ipc")?;
            joins.ipc = Some(path);
            joins.shm = Some(self.shared.shared_memory(&other));
        }
        if host.ipc_mode == NamespaceMode::Shareable {
            joins.shm = Some(self.shared.shared_memory(record));
        }
        Ok(joins)
    }

    fn namespace_of(
        &self,
        record: &Record,
        id: &str,
        kind: &str,
    ) -> Result<(Record, PathBuf), EngineError> {
        let other = self.find(id)?.record();
        match other.lifecycle.pid() {
            Some(pid) => {
                Ok((Record::clone(&other), PathBuf::from(format!("/proc/{pid}/ns/{kind}"))))
            }
            None => Err(EngineError::OtherNotRunning {
                container: record.name.as_str().to_owned(),
                other: other.name.as_str().to_owned(),
            }),
        }
    }

    /// Ids of the containers that must run before this one can.
    pub(crate) fn needs(record: &Record) -> Vec<String> {
        let host = &record.host;
        let mut needs = Vec::new();
        for mode in [&host.pid_mode, &host.ipc_mode] {
            if let NamespaceMode::Container(id) = mode {
                needs.push(id.clone());
            }
        }
        if let UsernsMode::Container(id) = &host.userns {
            needs.push(id.clone());
        }
        if let keg_network::NetworkMode::Container(name) = record.network_mode() {
            needs.push(name);
        }
        needs
    }
}

impl Shared {
    /// Where `/dev/shm` of a container that shares it is on the host, while that one runs.
    fn shared_memory(&self, record: &Record) -> PathBuf {
        self.dir(&record.id).path().join("shm")
    }

    /// Mounts it, if the container shares it.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub(crate) fn mount_shared_memory(
        &self,
        record: &Record,
        size_bytes: u64,
    ) -> Result<(), EngineError> {
        if record.host.ipc_mode != NamespaceMode::Shareable {
            return Ok(());
        }
        let path = self.shared_memory(record);
        self.unmount_shared_memory(record);
        std::fs::create_dir_all(&path).map_err(file_error("make", &path))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let data = format!("mode=1777,size={size_bytes}");
        let data = tmpfs_options(data, self.selinux.of(record)?);
        nix::mount::mount(Some("shm"), &path, Some("tmpfs"), flags, Some(data.as_str()))
            .map_err(|errno| file_error("mount a tmpfs on", &path)(errno.into()))
    }

    /// Takes it away again.
    pub(crate) fn unmount_shared_memory(&self, record: &Record) {
        if record.host.ipc_mode == NamespaceMode::Shareable {
            // An error means that it is not mounted.
            let _ = nix::mount::umount2(&self.shared_memory(record), MntFlags::MNT_DETACH);
        }
    }
}

/// Fills in who the caller is inside, for a container that keeps the caller's id.
///
/// # Errors
/// [`EngineError::InvalidField`] if it is not known who asks, or the ids are not in a range.
pub(crate) fn keep_caller(mut request: CreateRequest) -> Result<CreateRequest, EngineError> {
    let UsernsMode::KeepId(kept) = &mut request.host.userns else { return Ok(request) };
    let invalid = |problem: String| EngineError::InvalidField { field: "userns", problem };
    let Some((host_uid, host_gid)) = request.caller else {
        return Err(invalid(
            "keep-id needs to know who asks, which a socket of this machine tells and TCP does not"
                .to_owned(),
        ));
    };
    let (uid, gid) = (kept.uid.unwrap_or(host_uid), kept.gid.unwrap_or(host_gid));
    if uid.max(gid) > 0xfffe {
        return Err(invalid(format!("keep-id maps ids up to 65534, not {}", uid.max(gid))));
    }
    *kept = KeptId { uid: Some(uid), gid: Some(gid), host_uid, host_gid };
    if request.config.user.is_empty() {
        request.config.user = format!("{uid}:{gid}");
    }
    Ok(request)
}
