//! Images and moments that are against the runtime: false devices, privileges regained, a death in the
//! middle of a create.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use keg_fixtures::terminal::ConsoleSocket;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Runtime, requires};
use serde_json::{Value, json};

/// Leaves the bundle's mounts below `/dev` out, so that the image's own directory shows.
fn without_dev(bundle: Bundle) -> Bundle {
    bundle.edit(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    })
}

#[test]
fn a_false_ptmx_of_the_image_gives_no_terminal() {
    let host = requires!(root, our_runtime);
    let makers: [fn(&Path); 2] = [
        |ptmx| fs::write(ptmx, "no terminal").unwrap(),
        |ptmx| symlink("/proc/self/fd/0", ptmx).unwrap(),
    ];
    for make in makers {
        let socket = ConsoleSocket::new();
        let bundle = without_dev(Bundle::probe())
            .rootfs_edit(|root| {
                fs::create_dir_all(root.join("dev/pts")).unwrap();
                make(&root.join("dev/pts/ptmx"));
            })
            .set("/process/terminal", true);
        let flags = ["--console-socket".as_ref(), socket.path().as_os_str()];

        let outcome = host.runtime().create_with(bundle, &flags).err();

        let outcome = outcome.expect("it has no terminal to give");
        assert!(outcome.error.contains("/dev"), "{outcome:?}");
    }
}

#[test]
fn with_no_pivot_a_user_namespace_inside_mounts_no_fresh_proc() {
    let host = requires!(root, user_namespaces, our_runtime);
    let script =
        "exec /bin/busybox unshare -mrpf /bin/sh -c 'mount -t proc none /proc && echo bare'";
    let mut bundle = Bundle::busybox().sh(script);
    for kind in ["bounding", "permitted", "effective"] {
        let pointer = format!("/process/capabilities/{kind}");
        bundle = bundle.set(&pointer, json!(["CAP_SETFCAP", "CAP_SYS_ADMIN"]));
    }
    let (runtime, id) = (host.runtime(), Runtime::new_id());
    let bundle = bundle.set("/linux/cgroupsPath", format!("/{id}"));
    let _guard = runtime.guard(&id);

    let path = bundle.path().to_str().unwrap();
    let outcome = runtime.call(["run", "--no-pivot", "--bundle", path, &id]);

    assert!(!outcome.stdout.contains("bare"), "{outcome:?}");
    assert!(outcome.stderr.contains("mount: permission denied"), "{outcome:?}");
}

#[test]
fn a_supervisor_hears_of_its_container_when_that_is_created() {
    let host = requires!(root, our_runtime);
    let scratch = keg_fixtures::Scratch::new();
    let path = scratch.join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "told",
        "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"}],
    });

    let container = host.runtime().create(Bundle::probe().set("/linux/seccomp", profile));

    let (mut agent, _) = listener.accept().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut agent, &mut text).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(state["metadata"], "told");
    assert_eq!(state["pid"], container.init().as_raw());
    assert_eq!(state["state"]["id"], container.id());
}

/// What `create` makes one after the other, as far as it can be seen from outside.
fn steps(runtime: &Runtime, id: &str) -> [PathBuf; 5] {
    let directory = runtime.root().join(id);
    let files = ["", "config.json", "state.json", "start.sock"].map(|name| directory.join(name));
    let [made, config, state, gate] = files;
    let cgroup = PathBuf::from("/sys/fs/cgroup").join("pids").join(id);
    [made, config, state, cgroup, gate]
}

#[test]
fn a_create_that_is_killed_at_any_step_leaves_nothing_that_force_does_not_remove() {
    let host = requires!(root, our_runtime, cgroup_v1);
    for step in 0..5 {
        let (runtime, id) = (host.runtime(), Runtime::new_id());
        let bundle = Bundle::probe().args(["pause"]).set("/linux/cgroupsPath", format!("/{id}"));
        let awaited = steps(&runtime, &id)[step].clone();
        let mut command = runtime.command(["create", "--bundle"]);
        command.arg(bundle.path()).arg(&id).stdout(Stdio::null()).stderr(Stdio::null());
        let mut create = command.stdin(Stdio::null()).spawn().unwrap();
        let began = Instant::now();

        // In a circle: the step may be over a moment later.
        while !awaited.exists() && create.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "{awaited:?} does not come");
        }
        let _ = create.kill();
        let _ = create.wait().unwrap();

        // The guard fails if a process or a cgroup stays.
        let guard = runtime.guard(&id);
        let _ = runtime.call(["delete", "--force", &id]).success();
        drop(guard);
        assert!(!runtime.root().join(&id).exists(), "step {step}");
    }
}
