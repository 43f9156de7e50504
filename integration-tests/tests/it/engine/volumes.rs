//! Volumes: what is in them, how long they live, who sees them as whose.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use keg_fixtures::{BadRegistry, Daemon, Image, Layer, requires};
use serde_json::{Value, json};
use tar::EntryType;

/// A daemon with an image that has a volume at `/data` with content of user 999.
fn with_volume_image() -> (Daemon, String) {
    let mut layers = Image::busybox_layers();
    let owner = (999, 998);
    layers.push(
        Layer::new()
            .entry("data/", EntryType::Directory, 0o750, owner, None, b"")
            .owned_file("data/of-image", 0o640, owner, "of the image\n")
            .owned_file("data/gone", 0o640, owner, ""),
    );
    layers.push(Layer::new().whiteout("data/gone"));
    let mut config = Image::busybox_config();
    config["Volumes"] = json!({"/data": {}});
    let registry = BadRegistry::new(Image::new(layers, &config), |_, right| right);
    let daemon = Daemon::new();
    let image = format!("{}/volumes:latest", registry.address());
    daemon.pull(&image);
    (daemon, image)
}

fn volumes(daemon: &Daemon) -> Vec<String> {
    let listed = daemon.keg(["volume", "ls", "-q"]).success().stdout;
    listed.lines().map(str::to_owned).collect()
}

fn volume(daemon: &Daemon, name: &str) -> Value {
    let list: Value = daemon.keg(["volume", "inspect", name]).success().json();
    list[0].clone()
}

fn sh(daemon: &Daemon, flags: &[&str], image: &str, script: &str) -> String {
    let command = [image, "sh", "-c", script];
    daemon.keg(["run", "--rm"].iter().chain(flags).chain(&command)).success().stdout
}

#[test]
fn an_empty_volume_gets_what_the_image_has_and_keeps_what_is_written() {
    requires!(root, user_namespaces);
    let (daemon, image) = with_volume_image();

    let first = sh(&daemon, &["-v", "kept:/data"], &image, "ls /data; echo mine > /data/own");
    let second =
        sh(&daemon, &["-v", "kept:/data"], &image, "ls /data; busybox stat -c %u:%g:%a /data");
    let empty = sh(&daemon, &["-v", "bare:/data:nocopy"], &image, "ls /data");

    assert_eq!((first.as_str(), empty.as_str()), ("of-image\n", ""));
    assert_eq!(second, "of-image\nown\n999:998:750\n");
    let data = PathBuf::from(volume(&daemon, "kept")["Mountpoint"].as_str().unwrap());
    let owner = |name: &str| fs::metadata(data.join(name)).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!((owner("of-image"), owner("own")), ((999, 998), (0, 0)));
}

#[test]
fn what_nobody_named_goes_with_its_container_if_asked_and_not_otherwise() {
    requires!(root);
    let (daemon, image) = with_volume_image();

    let _ = daemon.keg(["run", "--rm", &image, "true"]).success();
    assert!(volumes(&daemon).is_empty());
    for name in ["one", "two"] {
        let _ = daemon.keg(["create", "--name", name, "-v", "named:/n", &image]).success();
    }
    assert_eq!(volumes(&daemon).len(), 3);
    let _ = daemon.keg(["rm", "-v", "one"]).success();
    let _ = daemon.keg(["rm", "two"]).success();

    let left = volumes(&daemon);
    assert_eq!(left.len(), 2, "{left:?}");
    let pruned = daemon.keg(["volume", "prune", "-f"]).success().stdout;
    assert!(pruned.starts_with("Deleted Volumes:\n") && pruned.contains("reclaimed space: 13B"));
    assert_eq!(volumes(&daemon), ["named"]);
}

#[test]
fn a_volume_in_use_is_not_removed_and_the_error_names_who_uses_it() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.keg(["create", "--name", "user", "-v", "data:/d", &image]).success();

    let refused = daemon.keg(["volume", "rm", "data"]);

    assert_eq!(refused.exit_code, 1);
    assert!(refused.stderr.contains("volume data is used by user"), "{}", refused.stderr);
    assert!(refused.stderr.contains("keg rm"), "{}", refused.stderr);
    let _ = daemon.keg(["rm", "user"]).success();
    assert_eq!(daemon.keg(["volume", "rm", "data"]).success().stdout, "data\n");
    let missing = daemon.keg(["volume", "rm", "data"]);
    assert!(missing.stderr.contains("no such volume: data"), "{}", missing.stderr);
    let _ = daemon.keg(["volume", "rm", "-f", "data"]).success();
}

#[test]
fn mounts_of_another_container_are_inherited_also_when_it_is_gone() {
    requires!(root);
    let (daemon, image) = with_volume_image();
    let bind = format!("{}:/b", daemon.scratch().directory("shared").display());
    let _ = daemon.keg(["create", "--name", "keeper", "-v", &bind, &image]).success();

    let write = "echo one > /data/x; echo two > /b/y";
    let _ = sh(&daemon, &["--volumes-from", "keeper"], &image, write);
    let _ = daemon.keg(["create", "--name", "heir", "--volumes-from", "keeper", &image]).success();
    let _ = daemon.keg(["rm", "-v", "keeper"]).success();
    let seen = sh(
        &daemon,
        &["--volumes-from", "heir:ro"],
        &image,
        "cat /data/x /b/y; touch /data/z || echo ro",
    );

    assert_eq!(seen, "one\ntwo\nro\n");
    assert_eq!(volumes(&daemon).len(), 1);
}

#[test]
fn a_device_is_mounted_while_a_container_needs_it_and_no_longer() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let options = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=64k"];
    let create = ["volume", "create"].iter().chain(&options).chain(&["memory"]);
    let _ = daemon.keg(create).success();
    let data = volume(&daemon, "memory")["Mountpoint"].as_str().unwrap().to_owned();
    let mounted = || fs::read_to_string("/proc/self/mounts").unwrap().contains(&data);

    assert!(!mounted());
    let _ = daemon.run_detached(["--name", "one", "-v", "memory:/m", &image, "/probe", "pause"]);
    assert!(mounted());
    let full = daemon.keg(["exec", "one", "sh", "-c", "head -c 100000 /dev/zero > /m/f"]);
    assert_ne!(full.exit_code, 0, "more than its 64 KiB: {full:?}");
    daemon.crash();
    assert!(mounted());
    let _ = daemon.keg(["rm", "-f", "one"]).success();

    assert!(!mounted());
    let bad = daemon.keg(["volume", "create", "--opt", "size=1g", "x2"]);
    assert!(bad.stderr.contains("o=size="), "{}", bad.stderr);
}

#[test]
fn a_subpath_is_mounted_alone_and_cannot_lead_out() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = sh(
        &daemon,
        &["-v", "tree:/t"],
        &image,
        "mkdir -p /t/a/b; echo in > /t/a/b/f; ln -s / /t/link",
    );
    let at = |subpath: &str| {
        let mount = format!("type=volume,src=tree,dst=/s,volume-subpath={subpath}");
        daemon.keg(["run", "--rm", "--mount", &mount, &image, "cat", "/s/f"])
    };

    assert_eq!(at("a/b").success().stdout, "in\n");
    for subpath in ["../../..", "link/etc", "none"] {
        let refused = at(subpath);
        assert_eq!(refused.exit_code, 125);
        assert!(refused.stderr.contains("subpath"), "{}", refused.stderr);
    }
}

#[test]
fn inspect_and_events_tell_of_volumes_in_dockers_words() {
    requires!(root);
    let (daemon, image) = with_volume_image();
    let tmpfs = "type=tmpfs,dst=/t";
    let flags = ["--name", "one", "-v", "kept:/k:ro", "--mount", tmpfs, &image, "true"];
    let _ = daemon.keg(["run"].iter().chain(&flags)).success();

    let mounts = daemon.inspect("one")["Mounts"].clone();
    let mount = |target: &str| {
        let list = mounts.as_array().unwrap();
        list.iter().find(|mount| mount["Destination"] == target).unwrap().clone()
    };
    assert_eq!(mounts.as_array().unwrap().len(), 3);
    assert_eq!((&mount("/k")["Name"], &mount("/k")["RW"]), (&json!("kept"), &json!(false)));
    assert_eq!(mount("/k")["Driver"], "local");
    assert_eq!(mount("/data")["Name"].as_str().unwrap().len(), 64);
    assert_eq!(mount("/t")["Type"], "tmpfs");
    let listed = daemon.keg(["ps", "-a", "--format", "{{.LocalVolumes}}"]).success().stdout;
    assert_eq!(listed, "2\n");
    let _ = daemon.keg(["rm", "-v", "one"]).success();
    let _ = daemon.keg(["volume", "rm", "kept"]).success();
    let events = ["events", "--since", "10m", "--until", "0s", "-f", "type=volume"];
    let format = ["--format", "{{.Action}}"];
    let told = daemon.keg(events.iter().chain(&format)).success().stdout;
    let expected = "create create mount mount unmount unmount destroy destroy";
    assert_eq!(told.split_whitespace().collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn what_a_crash_leaves_of_volumes_is_removed_or_becomes_one_again() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let _ = sh(&daemon, &["-v", "kept:/k"], &image, "echo x > /k/f");
    daemon.kill9();
    let dir = daemon.root().join("volumes");
    // A create that was cut short, a removal that was, and one of which the row alone is gone.
    fs::create_dir_all(dir.join("begun/_data")).unwrap();
    fs::create_dir_all(dir.join(".gone-1/_data/sub")).unwrap();
    fs::create_dir_all(dir.join("kept/_fill")).unwrap();
    fs::create_dir_all(dir.join("back/_data")).unwrap();
    fs::write(dir.join("back/_data/f"), "y").unwrap();

    daemon.start();

    assert_eq!(volumes(&daemon), ["back", "kept"]);
    assert!(!dir.join("begun").exists() && !dir.join(".gone-1").exists());
    assert!(!dir.join("kept/_fill").exists());
    assert_eq!(sh(&daemon, &["-v", "back:/b", "-v", "kept:/k"], &image, "cat /b/f /k/f"), "yx\n");
}
