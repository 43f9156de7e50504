//! The eight kinds of namespaces, and the files that name them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::fstatfs;
use oci_spec::runtime::LinuxNamespaceType;

/// `CLONE_NEWTIME`, which nix does not know.
const CLONE_NEWTIME: i32 = 0x80;

/// Magic number of the file system that namespace files live on.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// One kind of namespace (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespaceKind {
    /// User and group ids, capabilities, keys.
    User,
    /// Control group roots.
    Cgroup,
    /// System V IPC, POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// Network devices, addresses, ports, rules.
    Network,
    /// Process ids; concerns children only.
    Pid,
    /// Mounts.
    Mount,
    /// Boot and monotonic clocks; concerns children only.
    Time,
}

impl NamespaceKind {
    /// All kinds, in an order in which a process that has the privilege can join them: the user
    /// namespace first, since it brings the privilege, the mount namespace late, since it takes
    /// the host's paths away.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Cgroup,
        Self::Ipc,
        Self::Uts,
        Self::Network,
        Self::Pid,
        Self::Time,
        Self::Mount,
    ];

    /// Returns the `CLONE_NEW*` flag.
    #[must_use]
    pub fn flag(self) -> CloneFlags {
        match self {
            Self::User => CloneFlags::CLONE_NEWUSER,
            Self::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::Network => CloneFlags::CLONE_NEWNET,
            Self::Pid => CloneFlags::CLONE_NEWPID,
            Self::Mount => CloneFlags::CLONE_NEWNS,
            Self::Time => CloneFlags::from_bits_retain(CLONE_NEWTIME),
        }
    }

    /// Returns the name of the file below `/proc/PID/ns`.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Network => "net",
            Self::Pid => "pid",
            Self::Mount => "mnt",
            Self::Time => "time",
        }
    }
}

impl From<LinuxNamespaceType> for NamespaceKind {
    fn from(kind: LinuxNamespaceType) -> Self {
        match kind {
            LinuxNamespaceType::Mount => Self::Mount,
            LinuxNamespaceType::Cgroup => Self::Cgroup,
            LinuxNamespaceType::Uts => Self::Uts,
            LinuxNamespaceType::Ipc => Self::Ipc,
            LinuxNamespaceType::User => Self::User,
            LinuxNamespaceType::Pid => Self::Pid,
            LinuxNamespaceType::Network => Self::Network,
            LinuxNamespaceType::Time => Self::Time,
        }
    }
}

/// A set of namespace kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NamespaceSet(CloneFlagsBits);

type CloneFlagsBits = i32;

impl NamespaceSet {
    /// Returns whether `kind` is in the set.
    #[must_use]
    pub fn contains(self, kind: NamespaceKind) -> bool {
        self.0 & kind.flag().bits() != 0
    }

    /// Returns the set with `kind` added.
    #[must_use]
    pub fn with(self, kind: NamespaceKind) -> Self {
        Self(self.0 | kind.flag().bits())
    }

    /// Returns whether no kind is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the `CLONE_NEW*` flags of the members.
    #[must_use]
    pub fn flags(self) -> CloneFlags {
        CloneFlags::from_bits_retain(self.0)
    }

    /// Returns the members, in the order of [`NamespaceKind::ALL`].
    pub fn iter(self) -> impl Iterator<Item = NamespaceKind> {
        NamespaceKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<NamespaceKind> for NamespaceSet {
    fn from_iter<I: IntoIterator<Item = NamespaceKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

/// Opens the file of a namespace.
///
/// # Errors
/// The kernel's, and `EINVAL` if the file is not a namespace's.
pub fn open_namespace(path: &Path) -> Result<OwnedFd, Errno> {
    let fd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())?;
    if fstatfs(fd.as_fd())?.filesystem_type().0 == NSFS_MAGIC { Ok(fd) } else { Err(Errno::EINVAL) }
}

/// Returns whether process `pid` is in another namespace of `kind` than the caller, as far as the
/// caller may know.
#[must_use]
pub fn is_apart(kind: NamespaceKind, pid: i32) -> bool {
    let inode = |process: &str| {
        let file = Path::new("/proc").join(process).join("ns").join(kind.file_name());
        nix::sys::stat::stat(&file).map(|found| found.st_ino)
    };
    match (inode("self"), inode(&pid.to_string())) {
        (Ok(own), Ok(theirs)) => own != theirs,
        _ => false,
    }
}

/// Returns whether the caller is already in the namespace of `kind` that `file` names.
///
/// # Errors
/// The kernel's, if either file cannot be read.
pub fn is_own(kind: NamespaceKind, file: impl AsFd) -> Result<bool, Errno> {
    let theirs = fstat(file)?;
    let own = nix::sys::stat::stat(&Path::new("/proc/self/ns").join(kind.file_name()))?;
    Ok((own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let set: NamespaceSet = [NamespaceKind::Time, NamespaceKind::User].into_iter().collect();

        let members: Vec<_> = set.iter().collect();

        assert_eq!(members, [NamespaceKind::User, NamespaceKind::Time]);
        assert!(NamespaceSet::default().is_empty() && !set.is_empty());
    }

    #[test]
    fn an_ordinary_file_is_no_namespace() {
        assert_eq!(open_namespace(Path::new("/proc/self/status")).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn the_own_namespace_is_recognized() {
        let own = open_namespace(Path::new("/proc/self/ns/uts")).unwrap();

        assert!(is_own(NamespaceKind::Uts, &own).unwrap());
        assert!(!is_own(NamespaceKind::Ipc, &own).unwrap());
    }
}
