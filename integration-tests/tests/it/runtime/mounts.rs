//! Mounts and the root filesystem – runtime-spec, config.md, "Mounts" and "Root".

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use keg_fixtures::report::MountEntry;
use keg_fixtures::{Bundle, Scratch, requires};

#[test]
fn the_mounts_are_those_of_the_bundle_with_their_options() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    let table = [
        ("/proc", "proc", ""),
        ("/dev", "tmpfs", "nosuid mode=755 size=65536k"),
        ("/dev/pts", "devpts", "nosuid noexec gid=5 mode=620 ptmxmode=666"),
        ("/dev/shm", "tmpfs", "nosuid nodev noexec size=65536k"),
        ("/dev/mqueue", "mqueue", "nosuid nodev noexec"),
        ("/sys", "sysfs", "ro nosuid nodev noexec"),
    ];
    for (mount_point, fstype, options) in table {
        let mount = report.mount(mount_point);
        assert_eq!(mount.fstype, fstype, "{mount_point}");
        for option in options.split_whitespace() {
            assert!(mount.has(option), "{mount_point} lacks {option}: {mount:?}");
        }
    }
}

#[test]
fn nothing_of_the_host_is_mounted() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    let known = ["/", "/proc", "/dev", "/sys"];
    for mount in &report.mounts {
        let expected = known.contains(&mount.mount_point.as_str())
            || known[1..].iter().any(|k| mount.mount_point.starts_with(&format!("{k}/")));
        assert!(expected, "{mount:?}");
    }
    // On a host whose root is shared, the container's receives events, but sends none.
    let sends =
        |mount: &MountEntry| mount.propagation.iter().any(|word| word.starts_with("shared"));
    assert!(!report.mounts.iter().any(sends), "{:?}", report.mounts);
}

#[test]
fn the_root_directory_is_the_bundles() {
    let host = requires!(root);
    let bundle = Bundle::probe().rootfs_edit(|root| fs::write(root.join("mark"), "").unwrap());

    let report = host.runtime().report(bundle);

    assert!(report.root_entries.contains("mark"));
    assert!(!report.root_entries.contains("home"), "{:?}", report.root_entries);
    assert_eq!(report.root_write_error, None);
}

#[test]
fn a_read_only_root_cannot_be_written_to() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe().set("/root/readonly", true));

    assert_eq!(report.root_write_error.as_deref(), Some("EROFS"));
    assert!(report.mount("/").has("ro"));
}

#[test]
fn a_read_only_bind_mount_cannot_be_written_to() {
    let host = requires!(root);
    let shared = Scratch::new();
    let _ = shared.file("file", "content");
    let source = shared.path().to_str().unwrap();
    let bundle = Bundle::probe().mount("/mnt/ro", "bind", source, &["rbind", "ro"]).mount(
        "/mnt/rw",
        "bind",
        source,
        &["rbind", "rw"],
    );

    let tried = host
        .runtime()
        .attempts(bundle, &["read:/mnt/ro/file", "create:/mnt/ro/new", "create:/mnt/rw/new"]);

    assert_eq!(tried, ["", "EROFS", ""]);
}

#[test]
fn a_single_file_can_be_bind_mounted() {
    let host = requires!(root);
    let shared = Scratch::new();
    let source = shared.file("file", "from the host\n");
    let bundle = Bundle::busybox().sh("cat /etc/some/file").mount(
        "/etc/some/file",
        "bind",
        source.to_str().unwrap(),
        &["bind", "ro"],
    );

    let outcome = host.runtime().run(bundle).success();

    assert_eq!(outcome.stdout, "from the host\n");
}

#[test]
fn a_bind_mount_with_nosuid_nodev_noexec_has_them() {
    let host = requires!(root);
    let shared = Scratch::new();
    let options = ["bind", "nosuid", "nodev", "noexec"];
    let bundle = Bundle::probe().mount("/mnt", "bind", shared.path().to_str().unwrap(), &options);

    let report = host.runtime().report(bundle);

    let mount = report.mount("/mnt");
    assert!(options[1..].iter().all(|option| mount.has(option)), "{mount:?}");
}

#[test]
fn a_tmpfs_has_size_mode_and_owner() {
    let host = requires!(root);
    let options = ["size=1m", "mode=1750", "uid=1000", "gid=50", "nodev"];
    let bundle =
        Bundle::probe().args(["stat", "/scratch"]).mount("/scratch", "tmpfs", "tmpfs", &options);

    let stat: serde_json::Value = host.runtime().run(bundle).success().json();

    let directory = &stat["/scratch"];
    assert_eq!(directory["mode"], 0o1750, "{stat}");
    assert_eq!((&directory["uid"], &directory["gid"]), (&1000.into(), &50.into()));
}

#[test]
fn a_mount_point_that_does_not_exist_is_made() {
    let host = requires!(root);
    let bundle = Bundle::probe().mount("/a/b/c", "tmpfs", "tmpfs", &[]);

    let report = host.runtime().report(bundle);

    assert_eq!(report.mount("/a/b/c").fstype, "tmpfs");
}

#[test]
fn mounts_are_made_in_the_order_given() {
    let host = requires!(root);
    let bundle = Bundle::probe()
        .mount("/a", "tmpfs", "first", &[])
        .mount("/a/b", "tmpfs", "second", &[])
        .mount("/a", "tmpfs", "third", &[]);

    let report = host.runtime().report(bundle);

    let sources: Vec<&str> = report
        .mounts
        .iter()
        .filter(|mount| mount.mount_point.starts_with("/a"))
        .map(|mount| mount.source.as_str())
        .collect();
    assert_eq!(sources, ["first", "second", "third"]);
}

#[test]
fn the_destination_of_a_mount_stays_in_the_root_filesystem() {
    let host = requires!(root);
    let outside = Scratch::new();
    let target = outside.directory("target");
    let bundle = Bundle::probe().mount("/link/below", "tmpfs", "tmpfs", &[]).rootfs_edit(|root| {
        symlink(&target, root.join("link")).unwrap();
    });

    let report = host.runtime().report(bundle);

    let inside = format!("{}/below", target.display());
    assert_eq!(report.mount(&inside).fstype, "tmpfs");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_destination_with_dots_stays_in_the_root_filesystem() {
    let host = requires!(root);
    let bundle = Bundle::probe().mount("/../../mnt", "tmpfs", "tmpfs", &[]);

    let report = host.runtime().report(bundle);

    assert_eq!(report.mount("/mnt").fstype, "tmpfs");
}

#[test]
fn a_tmpfs_has_the_mode_of_the_directory_that_it_covers() {
    let host = requires!(root, our_runtime);
    let bundle = Bundle::probe()
        .args(["stat", "/covered", "/told", "/new"])
        .rootfs_edit(|root| {
            for name in ["covered", "told"] {
                fs::create_dir(root.join(name)).unwrap();
                fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o710)).unwrap();
            }
        })
        .mount("/covered", "tmpfs", "tmpfs", &[])
        .mount("/told", "tmpfs", "tmpfs", &["mode=1500"])
        .mount("/new", "tmpfs", "tmpfs", &[]);

    let stat: serde_json::Value = host.runtime().run(bundle).success().json();

    let mode = |path: &str| stat[path]["mode"].as_u64().unwrap();
    assert_eq!((mode("/covered"), mode("/told"), mode("/new")), (0o710, 0o1500, 0o1777));
}

#[test]
fn the_source_of_a_mount_may_be_what_an_earlier_one_brought() {
    let host = requires!(root, our_runtime);
    let shared = Scratch::new();
    let _ = shared.directory("below");
    let _ = shared.file("below/file", "content");
    let bundle = Bundle::probe().args(["try", "read:/again/file"]);
    let inside = bundle.rootfs().join("first/below");
    let bundle = bundle.mount("/first", "bind", shared.path().to_str().unwrap(), &["rbind"]).mount(
        "/again",
        "bind",
        inside.to_str().unwrap(),
        &["rbind"],
    );

    let outcome = host.runtime().run(bundle).success();

    assert!(outcome.stdout.contains("\"errno\":null"), "{outcome:?}");
}

#[test]
fn the_mount_table_has_the_order_of_the_bundle() {
    let host = requires!(root, our_runtime);
    let bundle = Bundle::probe()
        .mount("/one", "tmpfs", "tmpfs", &[])
        .mount("/two", "bind", "/etc", &["bind"])
        .mount("/three", "tmpfs", "tmpfs", &[]);

    let report = host.runtime().report(bundle);

    let own = ["/one", "/two", "/three"];
    let order: Vec<&str> = report
        .mounts
        .iter()
        .map(|mount| mount.mount_point.as_str())
        .filter(|destination| own.contains(destination))
        .collect();
    assert_eq!(order, own);
}

#[test]
fn tmpcopyup_fills_a_tmpfs_with_what_it_covers() {
    let host = requires!(root);
    let bundle = Bundle::busybox()
        .sh("cat /data/file /data/link && touch /data/new")
        .rootfs_edit(|root| {
            fs::create_dir(root.join("data")).unwrap();
            fs::write(root.join("data/file"), "kept\n").unwrap();
            symlink("file", root.join("data/link")).unwrap();
        })
        .mount("/data", "tmpfs", "tmpfs", &["tmpcopyup"]);
    let rootfs = bundle.rootfs();

    let container = host.runtime().create(bundle);
    let outcome = container.start_and_wait().success();

    assert_eq!(outcome.stdout, "kept\nkept\n");
    assert!(!rootfs.join("data/new").exists());
}

#[test]
fn propagation_is_what_the_mount_asks_for() {
    let host = requires!(root);
    let shared = Scratch::new();
    let source = shared.path().to_str().unwrap();
    for (option, expected) in [("rprivate", ""), ("rshared", "shared:"), ("unbindable", "unbind")] {
        let bundle = Bundle::probe().mount("/mnt", "bind", source, &["bind", option]);

        let report = host.runtime().report(bundle);

        let propagation = report.mount("/mnt").propagation.join(" ");
        assert!(propagation.starts_with(expected), "{option}: {propagation:?}");
        assert_eq!(propagation.is_empty(), expected.is_empty(), "{option}: {propagation:?}");
    }
}

#[test]
fn rro_makes_every_mount_below_read_only_too() {
    let host = requires!(root, our_runtime);
    let bundle = Bundle::probe().mount("/mnt/below", "tmpfs", "tmpfs", &[]).mount(
        "/copy",
        "bind",
        "/dev",
        &["rbind", "rro"],
    );

    let report = host.runtime().report(bundle);

    let below: Vec<_> =
        report.mounts.iter().filter(|mount| mount.mount_point.starts_with("/copy")).collect();
    assert!(!below.is_empty());
    assert!(below.iter().all(|mount| mount.has("ro")), "{below:?}");
}

#[test]
fn a_bind_mount_whose_source_is_missing_is_refused_by_name() {
    let host = requires!(root);
    let bundle = Bundle::probe().mount("/mnt", "bind", "/no/such/source", &["bind"]);

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().contains("/no/such/source"), "{outcome:?}");
}

#[test]
fn a_mount_over_the_root_is_refused_or_harmless() {
    let host = requires!(root);
    let bundle = Bundle::probe().mount("/dev/../", "tmpfs", "tmpfs", &[]);

    // The program is hidden then: whatever the runtime does, it must not hang nor leave anything.
    if let Ok(container) = host.runtime().try_create(bundle) {
        let _ = container.try_start();
    }
}
