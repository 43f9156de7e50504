//! What can go wrong with a cgroup, told so that the user knows which file, which field and what to do.

use std::path::PathBuf;

use nix::errno::Errno;

use super::systemd::DBusError;

/// Why a cgroup could not be found, made, limited, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The kernel's own description of the hierarchies could not be read.
    #[error("read {file}")]
    Describe {
        /// The file below `/proc`.
        file: &'static str,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The kernel's description of the hierarchies has a line that means nothing to us.
    #[error("{file}: cannot make sense of the line {line:?}")]
    Malformed {
        /// The file below `/proc`.
        file: &'static str,
        /// The line as it was read.
        line: String,
    },
    /// No hierarchy is mounted at all.
    #[error("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup")]
    NoHierarchy,
    /// The path of a cgroup would leave the hierarchy, or cannot be a path of a cgroup.
    #[error("cgroup path {path:?}: {why}")]
    Path {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A directory of a cgroup could not be made.
    #[error("make the cgroup {dir:?}")]
    Make {
        /// The directory.
        dir: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A directory of a cgroup could not be opened.
    #[error("open the cgroup {dir:?}")]
    Open {
        /// The directory.
        dir: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A control file could not be read.
    #[error("read {file:?}")]
    Read {
        /// The control file.
        file: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A control file could not be written.
    #[error("write {value:?} to {file:?}")]
    Write {
        /// The control file.
        file: PathBuf,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// A control file holds something that it should not.
    #[error("{file:?} holds {text:?}, which is no {expected}")]
    Parse {
        /// The control file.
        file: PathBuf,
        /// Its content, shortened.
        text: String,
        /// What was expected there.
        expected: &'static str,
    },
    /// A limit was asked for whose controller this machine does not offer.
    #[error(
        "linux.resources.{field}: the cgroup controller {controller:?} is not available here; \
         enable it in the kernel, or delegate it to this cgroup, or drop the limit"
    )]
    ControllerAbsent {
        /// The controller's name.
        controller: &'static str,
        /// The field that asks for it.
        field: &'static str,
    },
    /// A limit was asked for, and the controller is here but knows no such limit.
    #[error("linux.resources.{field}: the kernel has no {file:?} in {dir:?}")]
    LimitAbsent {
        /// The field that asks for it.
        field: String,
        /// The control file that would hold it.
        file: String,
        /// The cgroup.
        dir: PathBuf,
    },
    /// A limit was asked for that cannot hold.
    #[error("linux.resources.{field}: {why}")]
    Limit {
        /// The field.
        field: String,
        /// What is wrong with its value.
        why: String,
    },
    /// The new memory limit lies below what the processes use.
    #[error(
        "linux.resources.memory.limit: {limit_bytes} bytes is less than the {usage_bytes} bytes in use \
         (peak {peak_bytes}); free memory in the container or raise the limit"
    )]
    MemoryInUse {
        /// The limit that was asked for.
        limit_bytes: i64,
        /// What is in use.
        usage_bytes: u64,
        /// What was in use at most.
        peak_bytes: u64,
    },
    /// A rule about devices cannot be expressed.
    #[error("linux.resources.devices[{index}]: {why}")]
    DeviceRule {
        /// Position in the list.
        index: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The filter of devices could not be loaded into the kernel or attached.
    #[error("{step} the device filter of {dir:?}")]
    DeviceFilter {
        /// What was attempted.
        step: &'static str,
        /// The cgroup.
        dir: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The cgroup exists already and other processes live in it.
    #[error(
        "container's cgroup is not empty: {dir:?} holds process {process}; choose another \
         linux.cgroupsPath"
    )]
    Occupied {
        /// The directory.
        dir: PathBuf,
        /// One of its processes.
        process: i32,
    },
    /// The cgroup exists already and is frozen: a process that enters would never run.
    #[error("the cgroup {dir:?} is frozen: thaw it first, or choose another linux.cgroupsPath")]
    Frozen {
        /// The directory.
        dir: PathBuf,
    },
    /// The cgroup was not to be made for lack of permission, and a limit was asked for.
    #[error(
        "no cgroup could be made for lack of permission, so linux.resources.{field} cannot be honoured; \
         run as root, have a cgroup delegated to you, or drop the limit"
    )]
    NotPermitted {
        /// The first field that asks for a limit.
        field: &'static str,
    },
    /// Some of the processes would not freeze.
    #[error("the processes of {dir:?} did not {what} within {deadline_secs} s")]
    FreezeTimedOut {
        /// The directory.
        dir: PathBuf,
        /// What was attempted.
        what: &'static str,
        /// How long we waited.
        deadline_secs: u64,
    },
    /// This container has no hierarchy that can freeze.
    #[error(
        "the container has no cgroup with a freezer: neither v1's controller nor v2 is available"
    )]
    NoFreezer,
    /// A process could not be signalled.
    #[error("send signal {signal} to process {pid}")]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The process.
        pid: i32,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// systemd could not be asked, or did not do it.
    #[error("{action} the systemd unit {unit:?}")]
    Systemd {
        /// What was attempted.
        action: &'static str,
        /// The unit.
        unit: String,
        /// Why not.
        #[source]
        cause: DBusError,
    },
    /// An annotation that asks for a property of the unit cannot be understood.
    #[error("annotation {key:?}: {value:?}: {why}")]
    UnitProperty {
        /// The annotation.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The process that holds the place in a unit could not be made.
    #[error("make a process that holds the place in the unit")]
    Seat(#[source] Errno),
    /// A directory of a cgroup could not be removed.
    #[error("remove the cgroup {dir:?}")]
    Remove {
        /// The directory.
        dir: PathBuf,
        /// The kernel's answer, after all retries.
        #[source]
        errno: Errno,
    },
}

impl CgroupError {
    /// The kernel's answer beneath this error, if it came from the kernel.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Describe { errno, .. }
            | Self::Make { errno, .. }
            | Self::Open { errno, .. }
            | Self::Read { errno, .. }
            | Self::Write { errno, .. }
            | Self::DeviceFilter { errno, .. }
            | Self::Signal { errno, .. }
            | Self::Seat(errno)
            | Self::Remove { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the kernel refused for lack of permission, as it does to an unprivileged user.
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
    }
}
