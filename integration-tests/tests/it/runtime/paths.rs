//! Masked and read-only paths, and devices – runtime-spec, config-linux.md, "Masked Paths", "Readonly
//! Paths", "Devices", "Default Devices".

use std::fs;
use std::os::unix::fs::symlink;

use keg_fixtures::{Bundle, requires};
use serde_json::json;

#[test]
fn masked_paths_cannot_be_read() {
    let host = requires!(root);
    let bundle = Bundle::probe()
        .rootfs_edit(|root| {
            fs::create_dir(root.join("secret")).unwrap();
            fs::write(root.join("secret/file"), "x").unwrap();
            fs::write(root.join("secret-file"), "x").unwrap();
        })
        .set("/linux/maskedPaths", json!(["/secret", "/secret-file", "/proc/version", "/no/such"]));

    let tried = host.runtime().attempts(
        bundle,
        &["list:/secret", "create:/secret/new", "read:/secret-file", "read:/proc/version"],
    );

    assert_eq!(tried, ["ENOENT", "EROFS", "ENODATA", "ENODATA"]);
}

#[test]
fn read_only_paths_cannot_be_written_to() {
    let host = requires!(root);
    let bundle = Bundle::probe()
        .rootfs_edit(|root| {
            fs::create_dir(root.join("fixed")).unwrap();
            fs::write(root.join("fixed/file"), "x").unwrap();
        })
        .set("/linux/readonlyPaths", json!(["/fixed", "/proc/sys", "/no/such"]));

    let tried = host.runtime().attempts(
        bundle,
        &[
            "read:/fixed/file",
            "write:/fixed/file",
            "create:/fixed/new",
            "write:/proc/sys/kernel/domainname",
        ],
    );

    assert_eq!(tried, ["", "EROFS", "EROFS", "EROFS"]);
}

#[test]
fn read_only_paths_keep_the_options_of_the_mount_below() {
    let host = requires!(root);
    let bundle = Bundle::probe()
        .mount("/area", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec"])
        .set("/linux/readonlyPaths", json!(["/area"]));

    let report = host.runtime().report(bundle);

    let mount = report.mount("/area");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.has(option), "lacks {option}: {mount:?}");
    }
}

#[test]
fn a_masked_path_that_is_a_symlink_masks_nothing_outside_the_root_filesystem() {
    let host = requires!(root);
    let bundle = Bundle::probe()
        .rootfs_edit(|root| symlink("/etc/passwd", root.join("link")).unwrap())
        .set("/linux/maskedPaths", json!(["/link"]));
    let before = fs::read("/etc/passwd").unwrap();

    // Refusing it is as good as masking what it points at inside.
    if let Ok(container) = host.runtime().try_create(bundle) {
        let _ = container.try_start();
    }

    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
}

#[test]
fn the_default_devices_and_links_are_there() {
    let host = requires!(root);

    let devices = host.runtime().report(Bundle::probe()).devices;

    let nodes = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
    for (name, minor) in nodes {
        let device = &devices[name];
        assert_eq!((device.kind.as_str(), device.major, device.minor), ("c", 1, minor), "{name}");
        assert_eq!((device.mode, device.uid, device.gid), (0o666, 0, 0), "{name}");
    }
    assert_eq!((devices["tty"].major, devices["tty"].minor), (5, 0));
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        assert_eq!(devices[name].target.as_deref(), Some(target), "{name}");
    }
}

#[test]
fn nothing_else_is_in_dev() {
    let host = requires!(root);

    let devices = host.runtime().report(Bundle::probe()).devices;

    let known = [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "stdout",
        "stderr", "pts", "shm", "mqueue", "core",
    ];
    let unknown: Vec<&String> =
        devices.keys().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn a_device_of_the_bundle_is_made_and_usable() {
    let host = requires!(root);
    let device = json!({
        "path": "/dev/keg/nothing", "type": "c", "major": 1, "minor": 3,
        "fileMode": 0o646, "uid": 1000, "gid": 50,
    });
    let allow = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"});
    let bundle = || {
        Bundle::probe()
            .set("/linux/devices", json!([device]))
            .set("/linux/resources/devices/-", allow.clone())
    };

    let stat: serde_json::Value =
        host.runtime().run(bundle().args(["stat", "/dev/keg/nothing"])).success().json();
    let tried = host.runtime().attempts(bundle(), &["device:/dev/keg/nothing"]);

    let found = &stat["/dev/keg/nothing"];
    assert_eq!((&found["major"], &found["minor"]), (&1.into(), &3.into()));
    assert_eq!((&found["mode"], &found["uid"]), (&0o646.into(), &1000.into()));
    assert_eq!(tried, [""]);
}

#[test]
fn the_device_cgroup_refuses_what_is_not_allowed() {
    let host = requires!(root);
    // Port 1:4 (/dev/port) is no default device; the node itself can be made, but not opened.
    let device = json!({"path": "/dev/port", "type": "c", "major": 1, "minor": 4});
    let mut bundle = Bundle::probe().set("/linux/devices", json!([device]));
    for kind in ["bounding", "permitted", "effective"] {
        let all = json!(["CAP_MKNOD", "CAP_SYS_RAWIO", "CAP_DAC_OVERRIDE"]);
        bundle = bundle.set(&format!("/process/capabilities/{kind}"), all);
    }

    let tried = host
        .runtime()
        .attempts(bundle, &["device:/dev/null", "device:/dev/port", "mknod:/node:b:8:0"]);

    assert_eq!(tried[0], "");
    assert_eq!(tried[1], "EPERM");
    assert!(tried[2].is_empty() || tried[2] == "EPERM", "{tried:?}");
}

#[test]
fn a_node_made_inside_cannot_reach_the_hosts_disk() {
    let host = requires!(root);
    let mut bundle = Bundle::probe();
    for kind in ["bounding", "permitted", "effective"] {
        bundle = bundle.set(&format!("/process/capabilities/{kind}"), json!(["CAP_MKNOD"]));
    }

    // 254:0 is the first virtio disk, 8:0 the first SCSI disk; either is refused before it is looked up.
    let tried = host.runtime().attempts(
        bundle,
        &["mknod:/tmp/disk:b:254:0", "device:/tmp/disk", "mknod:/tmp/sd:b:8:0", "device:/tmp/sd"],
    );

    assert_ne!(tried[1], "");
    assert_ne!(tried[3], "");
}
