//! The root filesystem that the shim mounts – ARCHITECTURE.md, "The seam between kegd and the shim".

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use keg_fixtures::{Bundle, Scratch, Shim, programs, requires};
use keg_proto::containerd::types::Mount;

/// An overlay on a bundle's rootfs, whose own files are the lowest layer.
struct Layers {
    scratch: Scratch,
    options: Vec<String>,
}

impl Layers {
    fn new(above: &[PathBuf], bundle_rootfs: &Path) -> Self {
        let scratch = Scratch::new();
        for dir in ["upper", "work"] {
            fs::create_dir(scratch.join(dir)).unwrap();
            fs::set_permissions(scratch.join(dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let lower: Vec<String> = above
            .iter()
            .map(PathBuf::as_path)
            .chain([bundle_rootfs])
            .map(|path| path.display().to_string())
            .collect();
        let options = vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", scratch.join("upper").display()),
            format!("workdir={}", scratch.join("work").display()),
        ];
        Self { scratch, options }
    }

    fn mount(&self, more: &[&str]) -> Mount {
        let options = self.options.iter().cloned().chain(more.iter().map(ToString::to_string));
        Mount {
            r#type: "overlay".into(),
            source: "overlay".into(),
            options: options.collect(),
            ..Mount::default()
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.display().to_string();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(path.as_str()))
}

#[test]
fn an_overlay_takes_what_the_container_writes_and_goes_with_the_task() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("echo written > /file"));
    let rootfs = shim.bundle().rootfs();
    let layers = Layers::new(&[], &rootfs);

    shim.create_with(|request| request.rootfs = vec![layers.mount(&[])]).unwrap();
    assert!(is_mounted(&rootfs));
    shim.start("");
    assert_eq!(shim.wait("").exit_status, 0);
    shim.delete("").unwrap();

    assert!(!is_mounted(&rootfs));
    assert_eq!(fs::read_to_string(layers.scratch.join("upper/file")).unwrap(), "written\n");
    assert!(!rootfs.join("file").exists(), "the lower layer is as it was");
}

#[test]
fn a_root_that_only_the_container_has_to_see_is_mounted_nowhere_on_the_host() {
    requires!(root, overlay_descriptors);
    let shim = Shim::new(Bundle::busybox().sh("echo written > /file"));
    let rootfs = shim.bundle().rootfs();
    let empty = shim.scratch().join("empty");
    fs::create_dir(&empty).unwrap();
    let layers = Layers::new(std::slice::from_ref(&rootfs), &empty);

    let mounts = vec![layers.mount(&["x-keg.detached"])];
    let pid = shim.create_with(|request| request.rootfs = mounts).unwrap().pid;
    let inside = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert!(!is_mounted(&rootfs));
    shim.start("");
    assert_eq!(shim.wait("").exit_status, 0, "{}", shim.logged("stderr"));
    shim.delete("").unwrap();

    let upper = layers.scratch.join("upper");
    assert!(inside.contains(&format!("upperdir={}", upper.display())), "{inside}");
    assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), "written\n");
    assert!(!rootfs.join("file").exists(), "the lower layer is as it was");
}

#[test]
fn a_runtime_that_takes_no_root_finds_it_mounted() {
    requires!(root, runc);
    let bundle = Bundle::busybox().sh("echo written > /file");
    let shim = Shim::with_runtime(bundle, programs::installed("runc"));
    let rootfs = shim.bundle().rootfs();
    let layers = Layers::new(&[], &rootfs);

    let mounts = vec![layers.mount(&["x-keg.detached"])];
    shim.create_with(|request| request.rootfs = mounts).unwrap();
    assert!(is_mounted(&rootfs));
    shim.start("");
    assert_eq!(shim.wait("").exit_status, 0, "{}", shim.logged("stderr"));
    shim.delete("").unwrap();

    assert!(!is_mounted(&rootfs));
    assert_eq!(fs::read_to_string(layers.scratch.join("upper/file")).unwrap(), "written\n");
}

#[test]
fn layers_are_not_limited_by_the_length_of_their_paths() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("cat /layer.0 /layer.119"));
    let long = Scratch::new();
    let above: Vec<PathBuf> = (0..120)
        .map(|number| {
            let dir = long.join(format!("{number}-{}", "x".repeat(100)));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(format!("layer.{number}")), format!("layer {number}\n")).unwrap();
            dir
        })
        .collect();
    let layers = Layers::new(&above, &shim.bundle().rootfs());
    assert!(layers.options[0].len() > 3 * 4096);

    shim.create_with(|request| request.rootfs = vec![layers.mount(&[])]).unwrap();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 0);
    assert_eq!(shim.logged("stdout"), "layer 0\nlayer 119\n");
}

#[test]
fn mapped_layers_belong_to_the_containers_users_and_are_not_changed() {
    const RANGE: u32 = 700_000;
    requires!(root, user_namespaces);
    let script = "ls -ln /bin/busybox; echo x > /file && echo wrote";
    let shim = Shim::new(Bundle::busybox().user_namespace(RANGE, 65_536).sh(script));
    let rootfs = shim.bundle().rootfs();
    let layers = Layers::new(&[], &rootfs);
    for dir in ["upper", "work"] {
        chown(layers.scratch.join(dir), Some(RANGE), Some(RANGE)).unwrap();
    }
    let maps = [format!("uidmap=0:{RANGE}:65536"), format!("gidmap=0:{RANGE}:65536")];
    let maps: Vec<&str> = maps.iter().map(String::as_str).collect();

    shim.create_with(|request| request.rootfs = vec![layers.mount(&maps)]).unwrap();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 0, "{}", shim.logged("stderr"));
    let output = shim.logged("stdout");
    let owner: Vec<&str> = output.split_ascii_whitespace().skip(2).take(2).collect();
    assert_eq!(owner, ["0", "0"], "{output}");
    assert!(output.ends_with("wrote\n"), "{output}");
    assert_eq!(fs::metadata(rootfs.join("bin/busybox")).unwrap().uid(), RANGE, "as mapped");
    assert_eq!(fs::metadata(layers.scratch.join("upper/file")).unwrap().uid(), RANGE);
    shim.delete("").unwrap();
    assert_eq!(fs::metadata(rootfs.join("bin/busybox")).unwrap().uid(), 0, "as it was");
}

#[test]
fn a_failed_create_leaves_no_mount() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().command(["/no/such/program"]));
    let rootfs = shim.bundle().rootfs();
    let layers = Layers::new(&[], &rootfs);

    let error = shim.create_with(|request| request.rootfs = vec![layers.mount(&[])]).unwrap_err();

    assert!(error.status().unwrap().message.contains("/no/such/program"), "{error:?}");
    assert!(!is_mounted(&rootfs));
}

#[test]
fn a_mount_that_the_kernel_refuses_is_named_and_undone() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().command(["true"]));
    let rootfs = shim.bundle().rootfs();
    let layers = Layers::new(&[], &rootfs);
    let bad = Mount { r#type: "nosuchfs".into(), source: "here".into(), ..Mount::default() };

    let mounts = vec![layers.mount(&[]), bad];
    let error = shim.create_with(|request| request.rootfs = mounts).unwrap_err();

    let message = &error.status().unwrap().message;
    assert!(message.contains("nosuchfs") && message.contains("here"), "{message}");
    assert!(!is_mounted(&rootfs));
}

#[test]
fn delete_unmounts_what_a_killed_shim_mounted() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    let rootfs = shim.bundle().rootfs();
    let layers = Layers::new(&[], &rootfs);
    shim.create_with(|request| request.rootfs = vec![layers.mount(&[])]).unwrap();
    shim.start("");
    let pid: i32 =
        fs::read_to_string(shim.bundle().path().join("shim.pid")).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();

    let first = shim.clean_up();
    let second = shim.clean_up();

    assert_eq!((first.exit_code, second.exit_code), (0, 0), "{first:?} {second:?}");
    assert!(!is_mounted(&rootfs));
}
