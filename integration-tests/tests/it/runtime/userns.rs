//! User namespaces – runtime-spec, config-linux.md, "User namespace mappings".

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use keg_fixtures::{Bundle, Container, requires};
use serde_json::json;

const FIRST: u32 = 500_000;
const LENGTH: u32 = 65_536;

/// A bundle in a user namespace of its own, its root filesystem owned by the namespace's root.
fn mapped() -> Bundle {
    Bundle::probe().user_namespace(FIRST, LENGTH).rootfs_edit(give_to_range)
}

fn give_to_range(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    std::os::unix::fs::lchown(path, Some(FIRST), Some(FIRST)).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_to_range(&entry.unwrap().path());
        }
    }
}

/// Real user id of the container's init on the host.
fn host_uid(container: &Container) -> u32 {
    fs::metadata(format!("/proc/{}/stat", container.init())).unwrap().uid()
}

#[test]
fn root_inside_is_nobody_outside() {
    let host = requires!(root, user_namespaces);
    let container = host.runtime().create(mapped().args(["pause"]));
    container.start();
    container.wait_for_line("ready");

    let status = fs::read_to_string(format!("/proc/{}/status", container.init())).unwrap();

    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert_eq!(uids.split_whitespace().nth(1), Some(FIRST.to_string().as_str()));
    let _ = host_uid(&container);
}

#[test]
fn the_maps_are_those_asked_for() {
    let host = requires!(root, user_namespaces);
    let bundle = mapped().set(
        "/linux/gidMappings",
        json!([
            {"containerID": 0, "hostID": FIRST, "size": 1000},
            {"containerID": 1000, "hostID": 700_000, "size": 1},
        ]),
    );

    let report = host.runtime().report(bundle);

    assert_eq!(report.uid_map, [[0, FIRST, LENGTH]]);
    assert_eq!(report.gid_map, [[0, FIRST, 1000], [1000, 700_000, 1]]);
}

#[test]
fn the_process_is_the_user_asked_for_inside() {
    let host = requires!(root, user_namespaces);
    let user = json!({"uid": 1000, "gid": 1000, "additionalGids": [50]});

    let report = host.runtime().report(mapped().set("/process/user", user));

    assert_eq!(report.identity.uids, [1000; 4]);
    assert_eq!(report.identity.groups.iter().copied().collect::<Vec<_>>(), [50]);
}

#[test]
fn a_file_of_the_host_belongs_to_nobody_inside_and_cannot_be_written_to() {
    let host = requires!(root, user_namespaces);
    let bundle = mapped().rootfs_edit(|root| {
        fs::write(root.join("of-host"), "x").unwrap();
        chown(root.join("of-host"), Some(0), Some(0)).unwrap();
    });

    let stat: serde_json::Value = {
        let bundle = mapped().args(["stat", "/of-host"]).rootfs_edit(|root| {
            fs::write(root.join("of-host"), "x").unwrap();
        });
        host.runtime().run(bundle).success().json()
    };
    let tried = host.runtime().attempts(bundle, &["write:/of-host", "chown:/of-host:0"]);

    assert_eq!(stat["/of-host"]["uid"], 65_534);
    assert_eq!(tried, ["EACCES", "EPERM"]);
}

#[test]
fn capabilities_inside_are_worth_nothing_outside() {
    let host = requires!(root, user_namespaces);
    let mut bundle = mapped().without_namespace("network").without_namespace("uts").edit(|spec| {
        spec.as_object_mut().unwrap().remove("hostname");
        let mounts = spec["mounts"].as_array_mut().unwrap();
        // sysfs belongs to the network namespace, which is the host's here: bind it instead.
        mounts.retain(|mount| mount["type"] != "sysfs" && mount["type"] != "cgroup");
        spec["linux"]["maskedPaths"] = json!([]);
    });
    for kind in ["bounding", "permitted", "effective"] {
        let all = json!(["CAP_SYS_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_KILL"]);
        bundle = bundle.set(&format!("/process/capabilities/{kind}"), all);
    }

    let tried = host.runtime().attempts(bundle, &["hostname:mine", "raw-socket", "mknod:/n:c:1:3"]);

    assert_eq!(tried, ["EPERM"; 3]);
}

#[test]
fn a_user_namespace_without_maps_is_refused() {
    let host = requires!(root, user_namespaces);

    let outcome = host.runtime().refused(Bundle::probe().namespace("user", None));

    assert!(outcome.text().to_lowercase().contains("map"), "{outcome:?}");
}

#[test]
fn maps_without_user_namespace_are_refused() {
    let host = requires!(root, user_namespaces, our_runtime);
    let map = json!([{"containerID": 0, "hostID": FIRST, "size": LENGTH}]);
    let bundle =
        Bundle::probe().set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().to_lowercase().contains("user"), "{outcome:?}");
}

#[test]
fn the_default_devices_are_there_too() {
    let host = requires!(root, user_namespaces);

    let tried = host.runtime().attempts(mapped(), &["device:/dev/null", "read:/dev/zero"]);

    assert_eq!(tried, ["", ""]);
}

#[test]
fn a_terminal_works_in_a_user_namespace() {
    let host = requires!(root, user_namespaces);
    let bundle = mapped().args(["terminal"]);
    let (container, terminal) = host.runtime().create_on_terminal(bundle);

    container.start();
    terminal.resize(90, 30);

    terminal.expect("size 90x30");
}

#[test]
fn limits_hold_in_a_user_namespace() {
    let host = requires!(root, user_namespaces);
    let bundle = mapped().args(["fork", "20"]).set("/linux/resources/pids", json!({"limit": 5}));

    let outcome = host.runtime().run(bundle).success();

    assert_ne!(outcome.stdout, "forked 20\n");
}

#[test]
fn an_idmapped_mount_shows_owners_shifted() {
    let host = requires!(root, user_namespaces, our_runtime);
    let shared = keg_fixtures::Scratch::new();
    let file = shared.file("file", "x");
    chown(&file, Some(1000), Some(50)).unwrap();
    let map = json!([{"containerID": 0, "hostID": FIRST, "size": LENGTH}]);
    let mount = json!({
        "destination": "/mnt", "type": "bind", "source": shared.path(),
        "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map,
    });
    let bundle = mapped().args(["stat", "/mnt/file"]).set("/mounts/-", mount);

    let stat: serde_json::Value = host.runtime().run(bundle).success().json();

    assert_eq!((&stat["/mnt/file"]["uid"], &stat["/mnt/file"]["gid"]), (&1000.into(), &50.into()));
}
