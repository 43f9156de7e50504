//! From config.json to a [`ContainerPlan`]: everything is checked and converted once, here.
//!
//! What comes after reads the plan without asking again whether a field was given, absolute, free
//! of NUL bytes or contradicted by another. Pure but for the path of the rootfs, which is made
//! canonical while the host is still the only one who can change it.

pub mod document;
pub mod mounts;
pub mod namespaces;
pub mod process;
pub mod sysctl;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hooks, LinuxDevice, LinuxNetDevice, LinuxPidsBuilder, LinuxResources, LinuxSeccomp, Spec,
};

use crate::namespaces::NamespaceKind;
use crate::plan::mounts::{MountPlan, Propagation};
use crate::plan::namespaces::NamespacePlan;
use crate::plan::process::{ProcessPlan, parse_bit_list};
use crate::plan::sysctl::Sysctl;
use crate::security::rlimits::RlimitError;

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
        let namespaces = namespaces::namespaces(&linux)?;
        let rootfs = rootfs(&spec, &linux, &namespaces, bundle)?;
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
            sysctls: sysctl::sysctls(&linux, &namespaces)?,
            hooks: spec.hooks().clone().unwrap_or_default(),
            cgroups_path: linux.cgroups_path().clone(),
            resources: linux.resources().clone().map(|r| resources(r, spec.version())),
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
        for (given, path) in [
            (self.hostname.is_some(), "sys/kernel/hostname"),
            (self.domainname.is_some(), "sys/kernel/domainname"),
        ] {
            if let Some(sysctl) = self.sysctls.iter().find(|sysctl| given && sysctl.path == path) {
                return Err(PlanError::Invalid {
                    field: "linux.sysctl".to_owned(),
                    value: sysctl.name.clone(),
                    expected: "a parameter that no other field sets: hostname and domainname do",
                });
            }
        }
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

/// Since version 1.3, a limit of no process at all means what it says. The kernel's closest is one,
/// since the container's first process is there already.
fn resources(mut resources: LinuxResources, version: &str) -> LinuxResources {
    let none = resources.pids().is_some_and(|pids| pids.limit() == 0);
    if none && zero_limits(version) {
        resources.set_pids(LinuxPidsBuilder::default().limit(1_i64).build().ok());
    }
    resources
}

/// Returns whether zero is a limit of processes in a bundle of this version.
pub(crate) fn zero_limits(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (1_u32, 3_u32)
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

fn rootfs(
    spec: &Spec,
    linux: &oci_spec::runtime::Linux,
    namespaces: &NamespacePlan,
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
    let mut mounts: Vec<MountPlan> = spec
        .mounts()
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, mount)| MountPlan::from_spec(index, mount, bundle))
        .collect::<Result<_, _>>()?;
    let shares_ids =
        !namespaces.has(NamespaceKind::User) && namespaces.new.contains(NamespaceKind::Mount);
    mounts::arrange(&mut mounts, &path, shares_ids);
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

/// Each path once: to cover it a second time would cover the cover. A relative one starts at the
/// container's root, as with the other runtimes.
fn paths(field: &str, paths: &Option<Vec<String>>) -> Result<Vec<PathBuf>, PlanError> {
    let mut kept = Vec::new();
    for path in paths.iter().flatten() {
        c_string(field, path.as_bytes())?;
        let path = Path::new("/").join(path);
        if !kept.contains(&path) {
            kept.push(path);
        }
    }
    Ok(kept)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEMPLATE: &str = include_str!("../commands/spec.json");

    fn bundle() -> tempfile::TempDir {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::create_dir(bundle.path().join("rootfs")).unwrap();
        bundle
    }

    fn plan(change: impl FnOnce(&mut serde_json::Value)) -> Result<ContainerPlan, PlanError> {
        let mut json: serde_json::Value = serde_json::from_str(TEMPLATE).unwrap();
        change(&mut json);
        ContainerPlan::from_spec(serde_json::from_value(json).unwrap(), bundle().path())
    }

    #[test]
    fn covered_paths_start_at_the_root_and_come_once() {
        let plan = plan(|json| {
            json["linux"]["maskedPaths"] = serde_json::json!(["proc/keys", "/sys", "/proc/keys"]);
        });

        let masked = plan.unwrap().rootfs.masked_paths;
        assert_eq!(masked, [Path::new("/proc/keys"), Path::new("/sys")]);
    }

    #[test]
    fn a_limit_of_no_process_counts_since_version_1_3() {
        for (version, limit) in [("1.0.2-dev", 0), ("1.2.1", 0), ("1.3.0", 1), ("1.10.0", 1)] {
            let plan = plan(|json| {
                json["ociVersion"] = version.into();
                json["linux"]["resources"]["pids"] = serde_json::json!({ "limit": 0 });
            });

            let resources = plan.unwrap().resources.unwrap();
            assert_eq!(resources.pids().unwrap().limit(), limit, "{version}");
        }
    }

    #[test]
    fn contradictions_are_named_by_their_fields() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(Change, &str); 7] = [
            (|json| json["ociVersion"] = "2.0.0".into(), "version 1 of the specification"),
            (|json| json["root"]["path"] = "nothing".into(), "root.path"),
            (
                |json| json["linux"]["namespaces"] = serde_json::json!([{ "type": "mount" }]),
                "hostname needs a uts namespace",
            ),
            (
                |json| {
                    json["linux"]["sysctl"] = serde_json::json!({ "kernel.panic": "1" });
                },
                "belongs to a namespace",
            ),
            (
                |json| {
                    json["linux"]["sysctl"] = serde_json::json!({ "kernel.hostname": "another" });
                },
                "no other field sets",
            ),
            (
                |json| json["linux"]["namespaces"][0]["path"] = "relative".into(),
                "must be an absolute path",
            ),
            (
                |json| {
                    json["linux"]["uidMappings"] =
                        serde_json::json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
                },
                "needs a user namespace",
            ),
        ];
        for (change, words) in cases {
            let error = plan(change).unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} should say {words:?}");
        }
    }

    #[test]
    fn a_user_without_a_name_inside_is_refused() {
        let error = plan(|json| {
            let map = serde_json::json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]);
            json["linux"]["uidMappings"] = map.clone();
            json["linux"]["gidMappings"] = map;
            let namespaces = json["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(serde_json::json!({ "type": "user" }));
            json["process"]["user"]["uid"] = 10.into();
        })
        .unwrap_err();

        assert!(error.to_string().contains("process.user.uid"), "{error}");
    }

    proptest! {
        #[test]
        fn no_specification_makes_the_plan_fall_over(
            place in 0..TEMPLATE.len(),
            replacement in prop::collection::vec(
                prop::sample::select(br#""{}[],:0-9.e/rw~\u0000null"#.to_vec()), 0..6),
        ) {
            let mut text = TEMPLATE.as_bytes().to_vec();
            text.splice(place..(place + 1), replacement);
            if let Ok(spec) = serde_json::from_slice(&text) {
                let _ = ContainerPlan::from_spec(spec, bundle().path());
            }
        }
    }
}
