//! `features`: what this runtime can do, as JSON (runtime-spec, features.md).
//!
//! It tells what the program implements; whether the machine offers it is another question, and
//! only answered where libseccomp or the kernel decide about what can be compiled and loaded.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{CommandError, SPEC_VERSION};
use crate::security::seccomp;

#[derive(Debug, Args)]
pub(super) struct Features {}

impl Features {
    pub(super) fn run(self) -> Result<u8, CommandError> {
        let text = serde_json::to_string_pretty(&features()).unwrap_or_default();
        writeln!(std::io::stdout(), "{text}").map_err(CommandError::io("print the features"))?;
        Ok(0)
    }
}

fn features() -> Value {
    let mut annotations = serde_json::Map::new();
    if let Ok(version) = libseccomp::ScmpVersion::current() {
        let key = "io.github.seccomp.libseccomp.version".to_owned();
        annotations.insert(key, version.to_string().into());
    }
    let mut capabilities: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    capabilities.sort();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS.as_slice(),
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capabilities,
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": crate::cgroup::HAS_SYSTEMD,
                "systemdUser": crate::cgroup::HAS_SYSTEMD,
                "rdma": true,
            },
            "seccomp": {
                "enabled": true,
                "actions": seccomp::ACTIONS,
                "operators": seccomp::OPERATORS,
                "archs": seccomp::architectures(),
                "knownFlags": seccomp::known_flags(),
                "supportedFlags": seccomp::supported_flags(),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": MEMORY_POLICY_MODES, "flags": MEMORY_POLICY_FLAGS },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations":
            [super::checkpoint::CONFIG_ANNOTATION, crate::cgroup::UNIT_PROPERTY_ANNOTATIONS],
    })
}

const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

const MEMORY_POLICY_MODES: [&str; 7] = [
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

const MEMORY_POLICY_FLAGS: [&str; 3] =
    ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// Options of a mount that have a meaning of their own; all others go to the file system.
#[rustfmt::skip]
const MOUNT_OPTIONS: [&str; 64] = [
    "acl", "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap",
    "iversion", "lazytime", "loud", "mand", "noacl", "noatime", "nodev", "nodiratime", "noexec",
    "noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow",
    "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "ridmap",
    "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid",
    "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave",
    "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "silent", "slave",
    "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::mounts::{MountPlan, MountSource};

    #[test]
    fn the_answer_is_what_the_specification_defines() {
        let parsed: oci_spec::runtime::Features = serde_json::from_value(features()).unwrap();

        assert_eq!(parsed.oci_version_max(), SPEC_VERSION);
        let linux = parsed.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 8);
        assert!(linux.seccomp().as_ref().unwrap().archs().as_ref().unwrap().len() > 2);
    }

    #[test]
    fn every_mount_option_is_ours_or_one_that_every_file_system_takes() {
        let of_the_kernel =
            ["async", "dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync"];
        for option in MOUNT_OPTIONS {
            let kind =
                if option.contains("bind") || option.contains("idmap") { "bind" } else { "tmpfs" };
            let mount = serde_json::from_value(json!({
                "destination": "/x", "type": kind, "source": "/y", "options": [option],
            }))
            .unwrap();
            let plan = MountPlan::from_spec(0, &mount, Path::new("/")).unwrap();
            if let MountSource::Filesystem { parameters, .. } = plan.source {
                assert_eq!(!parameters.is_empty(), of_the_kernel.contains(&option), "{option}");
            }
        }
    }

    #[test]
    fn the_lists_are_sorted_and_without_doubles() {
        for list in [&MOUNT_OPTIONS[..], &NAMESPACES, &MEMORY_POLICY_MODES, &MEMORY_POLICY_FLAGS] {
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
        }
    }
}
