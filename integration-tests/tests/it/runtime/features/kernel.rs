//! features – what takes a kernel that has it: memory policies, network devices, security modules, cgroups.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keg_fixtures::report::MountEntry;
use keg_fixtures::{Bundle, Host, requires};
use nix::sched::CloneFlags;
use serde_json::json;

use super::{features, kernel_has, listed, refused};
use crate::runtime::in_namespaces;

/// Modes of a memory policy, the nodes that each is tried with, and what `numa_maps` calls it.
const POLICIES: [(&str, &str, &str); 7] = [
    ("MPOL_DEFAULT", "", "default"),
    ("MPOL_BIND", "0", "bind"),
    ("MPOL_INTERLEAVE", "0", "interleave"),
    ("MPOL_LOCAL", "", "local"),
    ("MPOL_PREFERRED", "0", "prefer:0"),
    ("MPOL_PREFERRED_MANY", "0", "prefer (many):0"),
    ("MPOL_WEIGHTED_INTERLEAVE", "0", "weighted interleave:0"),
];

const POLICY_FLAGS: [(&str, &str); 3] = [
    ("MPOL_F_NUMA_BALANCING", "bind"),
    ("MPOL_F_RELATIVE_NODES", "bind=relative"),
    ("MPOL_F_STATIC_NODES", "bind=static"),
];

#[test]
fn listed_memory_policies_are_in_force_inside() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let features = features(&runtime);
    assert_eq!(
        listed(&features, "/linux/memoryPolicy/modes"),
        POLICIES.iter().map(|row| row.0.to_owned()).collect()
    );
    assert_eq!(
        listed(&features, "/linux/memoryPolicy/flags"),
        POLICY_FLAGS.iter().map(|row| row.0.to_owned()).collect()
    );
    let with = |mode: &str, nodes: &str, flags: &[&str]| {
        Bundle::busybox()
            .command(["/bin/busybox", "head", "-n1", "/proc/self/numa_maps"])
            .set("/linux/memoryPolicy", json!({"mode": mode, "nodes": nodes, "flags": flags}))
    };
    let tried = |bundle: Bundle, what: &str, expected: &str| {
        if !Path::new("/proc/self/numa_maps").exists() {
            return refused(&runtime, bundle, &["memoryPolicy"]);
        }
        let outcome = runtime.run(bundle).success();
        let policy = outcome.stdout.split_once(' ').unwrap_or_default().1;
        assert!(policy.starts_with(expected), "{what}: {policy}");
    };

    for (mode, nodes, shown) in POLICIES {
        if mode == "MPOL_WEIGHTED_INTERLEAVE" && !kernel_has(6, 9) {
            refused(&runtime, with(mode, nodes, &[]), &["memoryPolicy"]);
            continue;
        }
        tried(with(mode, nodes, &[]), mode, shown);
    }
    for (flag, shown) in POLICY_FLAGS {
        tried(with("MPOL_BIND", "0", &[flag]), flag, shown);
    }
    refused(&runtime, with("MPOL_NOSUCH", "0", &[]), &["MPOL_NOSUCH"]);
    refused(&runtime, with("MPOL_BIND", "0", &["MPOL_F_NOSUCH"]), &["MPOL_F_NOSUCH"]);
}

#[test]
fn network_devices_are_moved_in_as_the_features_say() {
    let host = requires!(root, our_runtime);
    in_namespaces(CloneFlags::CLONE_NEWNET, || {
        let runtime = host.runtime();
        assert_eq!(features(&runtime)["linux"]["netDevices"]["enabled"], true);
        let words = ["link", "add", "keg-f0", "type", "veth", "peer", "name", "keg-f1"];
        assert!(Command::new("ip").args(words).status().unwrap().success());
        let with = |device: &str| {
            Bundle::probe().set("/linux/netDevices", json!({device: {"name": "eth7"}}))
        };

        let report = runtime.report(with("keg-f0"));

        assert!(report.interfaces.contains_key("eth7"), "{:?}", report.interfaces);
        refused(&runtime, with("keg-nosuch"), &["keg-nosuch"]);
    });
}

/// What is listed as implemented and a machine may lack: what is asked for, the file without which the
/// kernel cannot do it, and the words of the refusal.
#[rustfmt::skip]
const OF_THE_KERNEL: &[(&str, &str, &str, &str)] = &[
    ("/linux/apparmor/enabled", "/process/apparmorProfile", "/sys/module/apparmor/parameters/enabled", "AppArmor"),
    ("/linux/selinux/enabled", "/process/selinuxLabel", "/sys/fs/selinux/enforce", "SELinux"),
    ("/linux/intelRdt/enabled", "/linux/intelRdt/closID", "/sys/fs/resctrl/schemata", "intelRdt"),
];

#[test]
fn what_the_kernel_lacks_is_refused_by_name_though_the_runtime_has_it() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let features = features(&runtime);
    for (feature, field, file, word) in OF_THE_KERNEL {
        assert_eq!(features.pointer(feature), Some(&json!(true)), "{feature}");
        if !Path::new(file).exists() {
            refused(&runtime, Bundle::probe().set(field, "keg-nosuch"), &[word]);
        }
    }
    for detail in ["schemata", "monitoring"] {
        assert_eq!(features["linux"]["intelRdt"][detail], true, "{detail}");
    }
    let rdt = json!({"schemata": ["L3:0=f"], "enableMonitoring": true});
    if !Path::new("/sys/fs/resctrl/schemata").exists() {
        refused(&runtime, Bundle::probe().set("/linux/intelRdt", rdt), &["intelRdt"]);
    }
}

/// The controllers that have a hierarchy of v1.
fn in_v1() -> BTreeMap<String, PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts =
        table.lines().filter_map(MountEntry::parse).filter(|mount| mount.fstype == "cgroup");
    let pairs = mounts.flat_map(|mount| {
        let path = PathBuf::from(mount.mount_point);
        mount.super_options.into_iter().map(move |name| (name, path.clone()))
    });
    pairs.collect()
}

#[test]
fn cgroups_are_as_the_features_say() {
    let host: Host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let features = features(&runtime);
    let cgroup = &features["linux"]["cgroup"];
    assert_eq!(
        *cgroup,
        json!({"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true})
    );

    let container = runtime.create(Bundle::probe().args(["pause"]));
    let own = fs::read_to_string(format!("/proc/{}/cgroup", container.init())).unwrap();
    for line in own.lines().filter(|line| !line.contains("name=")) {
        let v2 = line.starts_with("0::");
        assert!(
            line.contains(container.id()) || (v2 && !in_v1().is_empty()),
            "not attached: {line}"
        );
    }

    let devices = json!({"keg0": {"hcaHandles": 1}});
    let has_rdma = in_v1().contains_key("rdma")
        || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|all| all.contains("rdma"));
    if !has_rdma {
        refused(&runtime, Bundle::probe().set("/linux/resources/rdma", devices), &["rdma"]);
    }
    if !Path::new("/run/systemd/system").exists() {
        let bundle = Bundle::probe().set("/linux/cgroupsPath", "system.slice:keg:none");
        let path = bundle.path().to_str().unwrap();
        let outcome = runtime.call(["--systemd-cgroup", "create", "--bundle", path, "keg-none"]);
        assert_ne!(outcome.exit_code, 0);
        assert!(outcome.text().contains("systemd"), "{outcome:?}");
    }
}
