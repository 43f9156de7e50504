//! From config.json to a [`ContainerPlan`]: everything is checked and converted once, here.
//!
//! What comes after reads the plan without asking again whether a field was given, absolute, free
//! of NUL bytes or contradicted by another. Pure but for the path of the rootfs, which is made
//! canonical while the host is still the only one who can change it.

pub mod mounts;
pub mod process;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, LinuxDevice, LinuxNetDevice, LinuxResources, LinuxSeccomp, Spec};

use crate::namespaces::{NamespaceKind, NamespaceSet};
use crate::plan::mounts::{MountPlan, Propagation};
use crate::plan::process::{ProcessPlan, parse_bit_list};
use crate::security::rlimits::RlimitError;
use crate::user::IdMap;

/// Why a specification cannot be carried out; names the field of config.json.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A field that must be there is not.
    #[error("config.json: {field} is missing")]
    Missing {
        /// Which.
        field: String,
    },
    /// A field holds a value that it cannot hold.
    #[error("config.json: {field}: {value:?}: expected {expected}")]
    Invalid {
        /// Which.
        field: String,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// A path must start at the root.
    #[error("config.json: {field}: {path:?} must be an absolute path")]
    NotAbsolute {
        /// Which.
        field: String,
        /// What it holds.
        path: PathBuf,
    },
    /// Two fields contradict each other.
    #[error("config.json: {field} needs {needs}")]
    Needs {
        /// The field given.
        field: String,
        /// What is missing for it.
        needs: &'static str,
    },
    /// The root filesystem is not there.
    #[error("the root filesystem {path:?} (config.json: root.path) cannot be used")]
    Rootfs {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A resource limit cannot be set.
    #[error("config.json: process.rlimits")]
    Rlimits(#[source] RlimitError),
}

/// Makes a C string of `bytes`, which come from `field`.
pub(crate) fn c_string(field: &str, bytes: &[u8]) -> Result<CString, PlanError> {
    CString::new(bytes).map_err(|_| PlanError::Invalid {
        field: field.to_owned(),
        value: String::from_utf8_lossy(bytes).into_owned(),
        expected: "no NUL byte",
    })
}

/// A namespace that exists already and is to be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedNamespace {
    /// Its kind.
    pub kind: NamespaceKind,
    /// The file that names it.
    pub path: PathBuf,
}

/// Offset of one clock in a new time namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeOffset {
    /// `monotonic` or `boottime`.
    pub clock: String,
    /// Whole seconds.
    pub secs: i64,
    /// Nanoseconds on top.
    pub nanosecs: u32,
}

/// Which namespaces the container lives in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePlan {
    /// Those that are made.
    pub new: NamespaceSet,
    /// Those that are joined.
    pub joined: Vec<JoinedNamespace>,
    /// User ids, if a user namespace is made.
    pub uid_map: IdMap,
    /// Group ids, if a user namespace is made.
    pub gid_map: IdMap,
    /// Clocks, if a time namespace is made.
    pub time_offsets: Vec<TimeOffset>,
}

impl NamespacePlan {
    /// Returns whether the container is in a namespace of this kind other than the runtime's.
    #[must_use]
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.new.contains(kind) || self.joins(kind)
    }

    /// Returns whether a namespace of this kind is joined.
    #[must_use]
    pub fn joins(&self, kind: NamespaceKind) -> bool {
        self.joined.iter().any(|joined| joined.kind == kind)
    }
}

/// The root filesystem and what is done to it.
#[derive(Debug, Clone)]
pub struct RootfsPlan {
    /// Canonical path on the host.
    pub path: PathBuf,
    /// Whether the container may not write to it.
    pub readonly: bool,
    /// How mount events travel between the host and the container.
    pub propagation: Propagation,
    /// Mounts, in order.
    pub mounts: Vec<MountPlan>,
    /// Devices beyond the ones that every container gets.
    pub devices: Vec<LinuxDevice>,
    /// Paths made unreadable.
    pub masked_paths: Vec<PathBuf>,
    /// Paths made read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// SELinux label of file systems that the container mounts.
    pub mount_label: Option<String>,
}

/// Execution domain (personality(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Personality(pub u64);

/// NUMA policy of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// Mode and flags as set_mempolicy(2) takes them.
    pub mode: i32,
    /// Nodes, lowest first.
    pub nodes: Vec<u64>,
}

/// A kernel parameter of the container's namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Dotted name as written.
    pub name: String,
    /// Path below `/proc`.
    pub path: String,
    /// What is written.
    pub value: String,
}

/// A network device that moves into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name on the host.
    pub host_name: String,
    /// Its name in the container.
    pub container_name: String,
}

/// A container, validated.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    /// `ociVersion`.
    pub oci_version: String,
    /// The first process.
    pub process: ProcessPlan,
    /// The root filesystem.
    pub rootfs: RootfsPlan,
    /// The namespaces.
    pub namespaces: NamespacePlan,
    /// Host name.
    pub hostname: Option<CString>,
    /// NIS domain name.
    pub domainname: Option<CString>,
    /// Kernel parameters.
    pub sysctls: Vec<Sysctl>,
    /// Hooks.
    pub hooks: Hooks,
    /// Where the cgroup is.
    pub cgroups_path: Option<PathBuf>,
    /// Limits of the cgroup.
    pub resources: Option<LinuxResources>,
    /// System call filter.
    pub seccomp: Option<LinuxSeccomp>,
    /// Execution domain.
    pub personality: Option<Personality>,
    /// NUMA policy.
    pub memory_policy: Option<MemoryPolicy>,
    /// Network devices to take along.
    pub net_devices: Vec<NetDevice>,
    /// Intel's resource director.
    pub intel_rdt: Option<oci_spec::runtime::LinuxIntelRdt>,
    /// Free text about the container.
    pub annotations: std::collections::HashMap<String, String>,
}

impl ContainerPlan {
    /// Validates `spec`, found in `bundle`.
    ///
    /// # Errors
    /// [`PlanError`] for the first field that does not hold.
    pub fn from_spec(mut spec: Spec, bundle: &Path) -> Result<Self, PlanError> {
        version(spec.version())?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| PlanError::Missing { field: "process".to_owned() })
            .and_then(ProcessPlan::from_spec)?;
        let linux = spec
            .linux_mut()
            .take()
            .ok_or_else(|| PlanError::Missing { field: "linux".to_owned() })?;
        let namespaces = namespaces(&linux)?;
        let rootfs = rootfs(&spec, &linux, bundle)?;
        let name = |field: &str, value: &Option<String>| {
            value
                .as_deref()
                .filter(|value| !value.is_empty())
                .map(|value| c_string(field, value.as_bytes()))
                .transpose()
        };
        let plan = Self {
            oci_version: spec.version().clone(),
            process,
            rootfs,
            hostname: name("hostname", spec.hostname())?,
            domainname: name("domainname", spec.domainname())?,
            sysctls: sysctls(&linux, &namespaces)?,
            hooks: spec.hooks().clone().unwrap_or_default(),
            cgroups_path: linux.cgroups_path().clone(),
            resources: linux.resources().clone(),
            seccomp: linux.seccomp().clone(),
            personality: linux.personality().as_ref().map(personality),
            memory_policy: linux.memory_policy().as_ref().map(memory_policy).transpose()?,
            net_devices: net_devices(&linux),
            intel_rdt: linux.intel_rdt().clone(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            namespaces,
        };
        plan.check_consistency()?;
        Ok(plan)
    }

    /// Checks what concerns more than one field.
    fn check_consistency(&self) -> Result<(), PlanError> {
        let namespaces = &self.namespaces;
        let needs = |given: bool, field: &str, kind: NamespaceKind, needs: &'static str| {
            if given && !namespaces.has(kind) {
                return Err(PlanError::Needs { field: field.to_owned(), needs });
            }
            Ok(())
        };
        let uts = "a uts namespace (linux.namespaces)";
        needs(self.hostname.is_some(), "hostname", NamespaceKind::Uts, uts)?;
        needs(self.domainname.is_some(), "domainname", NamespaceKind::Uts, uts)?;
        let mount = "a mount namespace (linux.namespaces)";
        let rootfs = &self.rootfs;
        needs(!rootfs.masked_paths.is_empty(), "linux.maskedPaths", NamespaceKind::Mount, mount)?;
        needs(
            !rootfs.readonly_paths.is_empty(),
            "linux.readonlyPaths",
            NamespaceKind::Mount,
            mount,
        )?;
        needs(
            !self.net_devices.is_empty(),
            "linux.netDevices",
            NamespaceKind::Network,
            "a network namespace (linux.namespaces)",
        )?;
        if namespaces.new.contains(NamespaceKind::User) {
            for (field, id, map) in [
                ("process.user.uid", self.process.uid, &namespaces.uid_map),
                ("process.user.gid", self.process.gid, &namespaces.gid_map),
            ] {
                if map.to_host(id).is_none() {
                    return Err(PlanError::Invalid {
                        field: field.to_owned(),
                        value: id.to_string(),
                        expected: "an id that linux.uidMappings and gidMappings map",
                    });
                }
            }
        }
        Ok(())
    }
}

fn version(version: &str) -> Result<(), PlanError> {
    let invalid = |expected| PlanError::Invalid {
        field: "ociVersion".to_owned(),
        value: version.to_owned(),
        expected,
    };
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(invalid("version 1 of the specification")),
        _ => Err(invalid("a version such as 1.3.0")),
    }
}

fn namespaces(linux: &oci_spec::runtime::Linux) -> Result<NamespacePlan, PlanError> {
    let mut plan = NamespacePlan {
        uid_map: IdMap::new(linux.uid_mappings().as_deref().unwrap_or_default()),
        gid_map: IdMap::new(linux.gid_mappings().as_deref().unwrap_or_default()),
        ..NamespacePlan::default()
    };
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let kind = NamespaceKind::from(namespace.typ());
        if plan.has(kind) {
            return Err(PlanError::Invalid {
                field: format!("linux.namespaces[{index}].type"),
                value: kind.file_name().to_owned(),
                expected: "each kind once",
            });
        }
        match namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            None => plan.new = plan.new.with(kind),
            Some(path) if path.is_absolute() => {
                plan.joined.push(JoinedNamespace { kind, path: path.to_owned() });
            }
            Some(path) => {
                return Err(PlanError::NotAbsolute {
                    field: format!("linux.namespaces[{index}].path"),
                    path: path.to_owned(),
                });
            }
        }
    }
    plan.joined.sort_by_key(|joined| joined.kind);
    let missing = |field: &str| PlanError::Missing { field: field.to_owned() };
    if plan.new.contains(NamespaceKind::User) {
        if plan.uid_map.is_empty() {
            return Err(missing("linux.uidMappings"));
        }
        if plan.gid_map.is_empty() {
            return Err(missing("linux.gidMappings"));
        }
    } else if !plan.has(NamespaceKind::User) && !plan.uid_map.is_empty() {
        return Err(PlanError::Needs {
            field: "linux.uidMappings".to_owned(),
            needs: "a user namespace (linux.namespaces)",
        });
    }
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if !plan.new.contains(NamespaceKind::Time) {
            return Err(PlanError::Needs {
                field: "linux.timeOffsets".to_owned(),
                needs: "a new time namespace (linux.namespaces)",
            });
        }
        plan.time_offsets.push(TimeOffset {
            clock: clock.clone(),
            secs: offset.secs().unwrap_or(0),
            nanosecs: offset.nanosecs().unwrap_or(0),
        });
    }
    Ok(plan)
}

fn rootfs(
    spec: &Spec,
    linux: &oci_spec::runtime::Linux,
    bundle: &Path,
) -> Result<RootfsPlan, PlanError> {
    let root =
        spec.root().as_ref().ok_or_else(|| PlanError::Missing { field: "root".to_owned() })?;
    let wanted = bundle.join(root.path());
    let path = wanted
        .canonicalize()
        .and_then(|path| {
            if path.is_dir() { Ok(path) } else { Err(std::io::ErrorKind::NotADirectory.into()) }
        })
        .map_err(|source| PlanError::Rootfs { path: wanted, source })?;
    let propagation = match linux.rootfs_propagation().as_deref() {
        None | Some("") => Propagation { kind: libc::MS_SLAVE, recursive: true },
        // The specification's words mean the whole tree.
        Some(word) => Propagation::parse(word)
            .map(|propagation| Propagation { recursive: true, ..propagation })
            .ok_or_else(|| PlanError::Invalid {
                field: "linux.rootfsPropagation".to_owned(),
                value: word.to_owned(),
                expected: "shared, slave, private or unbindable",
            })?,
    };
    let mounts = spec
        .mounts()
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, mount)| MountPlan::from_spec(index, mount, bundle))
        .collect::<Result<_, _>>()?;
    Ok(RootfsPlan {
        path,
        readonly: root.readonly().unwrap_or(false),
        propagation,
        mounts,
        devices: linux.devices().clone().unwrap_or_default(),
        masked_paths: paths("linux.maskedPaths", linux.masked_paths())?,
        readonly_paths: paths("linux.readonlyPaths", linux.readonly_paths())?,
        mount_label: linux.mount_label().clone().filter(|label| !label.is_empty()),
    })
}

fn paths(field: &str, paths: &Option<Vec<String>>) -> Result<Vec<PathBuf>, PlanError> {
    paths
        .iter()
        .flatten()
        .map(|path| {
            c_string(field, path.as_bytes())?;
            let path = PathBuf::from(path);
            if path.is_absolute() {
                Ok(path)
            } else {
                Err(PlanError::NotAbsolute { field: field.to_owned(), path })
            }
        })
        .collect()
}

/// Kernel parameters that belong to an IPC namespace, beside `fs.mqueue.*`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Only what belongs to one of the container's own namespaces may be set: anything else would be
/// the host's.
fn sysctls(
    linux: &oci_spec::runtime::Linux,
    namespaces: &NamespacePlan,
) -> Result<Vec<Sysctl>, PlanError> {
    let mut sysctls = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        // Slashes separate as well as dots; then a dot is part of a name (as of a VLAN's).
        let path = match (name.find('.'), name.find('/')) {
            (dot, Some(slash)) if dot.is_none_or(|dot| slash < dot) => name.clone(),
            _ => name
                .chars()
                .map(|c| match c {
                    '.' => '/',
                    '/' => '.',
                    c => c,
                })
                .collect(),
        };
        let dotted: String = path.replace('/', ".");
        let kind = if IPC_SYSCTLS.contains(&dotted.as_str()) || path.starts_with("fs/mqueue/") {
            NamespaceKind::Ipc
        } else if path.starts_with("net/") {
            NamespaceKind::Network
        } else if path == "kernel/domainname" || path == "kernel/hostname" {
            NamespaceKind::Uts
        } else if path.starts_with("user/") {
            NamespaceKind::User
        } else {
            return Err(PlanError::Invalid {
                field: "linux.sysctl".to_owned(),
                value: name.clone(),
                expected: "a parameter that belongs to a namespace, not to the whole host",
            });
        };
        if !namespaces.has(kind) {
            return Err(PlanError::Needs {
                field: format!("linux.sysctl {name}"),
                needs: "a namespace of its kind (linux.namespaces)",
            });
        }
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(PlanError::Invalid {
                field: "linux.sysctl".to_owned(),
                value: name.clone(),
                expected: "a name such as net.ipv4.ip_forward",
            });
        }
        sysctls.push(Sysctl {
            name: name.clone(),
            path: format!("sys/{path}"),
            value: value.clone(),
        });
    }
    sysctls.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sysctls)
}

fn personality(personality: &oci_spec::runtime::LinuxPersonality) -> Personality {
    use oci_spec::runtime::LinuxPersonalityDomain::{PerLinux, PerLinux32};
    Personality(match personality.domain() {
        PerLinux => 0,
        PerLinux32 => 8,
    })
}

fn memory_policy(policy: &oci_spec::runtime::LinuxMemoryPolicy) -> Result<MemoryPolicy, PlanError> {
    use oci_spec::runtime::{MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                Flag::MpolFNumaBalancing => 1 << 13,
                Flag::MpolFRelativeNodes => 1 << 14,
                Flag::MpolFStaticNodes => 1 << 15,
            }
    });
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(list) => parse_bit_list(list).ok_or_else(|| PlanError::Invalid {
            field: "linux.memoryPolicy.nodes".to_owned(),
            value: list.to_owned(),
            expected: "a list such as 0-3,7",
        })?,
    };
    Ok(MemoryPolicy { mode: mode | flags, nodes })
}

fn net_devices(linux: &oci_spec::runtime::Linux) -> Vec<NetDevice> {
    let mut devices: Vec<NetDevice> = linux
        .net_devices()
        .iter()
        .flatten()
        .map(|(host_name, device): (&String, &LinuxNetDevice)| NetDevice {
            host_name: host_name.clone(),
            container_name: device
                .name()
                .clone()
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| host_name.clone()),
        })
        .collect();
    devices.sort_by(|a, b| a.host_name.cmp(&b.host_name));
    devices
}
