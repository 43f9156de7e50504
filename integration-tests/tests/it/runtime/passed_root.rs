//! A root that the caller passes as a mount that is nowhere: what KEG_ROOTFS_FD promises to supervisors.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Runtime, requires};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use serde_json::json;

/// Runs `bundle` with `root` passed as descriptor 7.
fn run_on(runtime: &Runtime, root: OwnedFd, bundle: &Bundle, id: &str) -> Ended {
    let mut run = runtime.command(["run", "--bundle"]);
    run.arg(bundle.path()).arg(id);
    let mut shell = Command::new("sh");
    let script = r#"exec 7<&0 </dev/null; KEG_ROOTFS_FD=7 exec "$@""#;
    shell.args(["-c", script, "sh"]).arg(run.get_program()).args(run.get_args()).stdin(root);
    let ended = shell.output().unwrap();
    Ended {
        exit_code: ended.status.code(),
        stdout: String::from_utf8(ended.stdout).unwrap(),
        stderr: String::from_utf8(ended.stderr).unwrap(),
    }
}

/// What came of a run.
#[derive(Debug)]
struct Ended {
    exit_code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn detached(directory: &Path) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, directory, flags).unwrap()
}

/// A bundle whose own root is empty, and where the files are that it would have.
fn elsewhere(bundle: &Bundle) -> std::path::PathBuf {
    let moved = bundle.path().join("elsewhere");
    fs::rename(bundle.rootfs(), &moved).unwrap();
    fs::create_dir(bundle.rootfs()).unwrap();
    moved
}

#[test]
fn the_container_runs_on_what_is_passed_and_the_host_sees_no_mount() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let script =
        "ls /proc/self/fd | grep -c 7; grep -c ' / / ' /proc/self/mountinfo; echo x > /file";
    let bundle = Bundle::busybox().sh(script);
    let moved = elsewhere(&bundle);
    let id = Runtime::new_id();
    let _guard = runtime.guard(&id);

    let outcome = run_on(&runtime, detached(&moved), &bundle, &id);

    assert_eq!(outcome.exit_code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.starts_with("0\n"), "the descriptor is not inherited: {outcome:?}");
    assert_eq!(fs::read_to_string(moved.join("file")).unwrap(), "x\n");
    assert_eq!(fs::read_dir(bundle.rootfs()).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*bundle.path().to_string_lossy()), "{mounts}");
}

#[test]
fn hooks_in_the_containers_mount_namespace_find_it_at_the_path_of_the_bundle() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let bundle = Bundle::busybox().sh("cat /from-hook");
    let moved = elsewhere(&bundle);
    let place = bundle.rootfs().join("from-hook");
    let write = format!("echo hooked > {}", place.display());
    let bundle = bundle.set(
        "/hooks",
        json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", write]}]}),
    );
    let id = Runtime::new_id();
    let _guard = runtime.guard(&id);

    let outcome = run_on(&runtime, detached(&moved), &bundle, &id);

    assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (Some(0), "hooked\n"), "{outcome:?}");
    assert!(!place.exists());
}

#[test]
fn what_is_no_such_mount_is_refused_by_its_name() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let id = Runtime::new_id();
    let bundle = Bundle::busybox().sh("exit 0");
    let _guard = runtime.guard(&id);
    for told in ["7", "1", "-1", "root"] {
        let mut run = runtime.command(["run", "--bundle"]);
        run.arg(bundle.path()).arg(&id).env("KEG_ROOTFS_FD", told);

        let refused = Outcome::of(&mut run, PATIENCE);

        assert_eq!(refused.exit_code, 1);
        assert!(refused.stderr.contains("KEG_ROOTFS_FD"), "{told}: {refused:?}");
    }
    let file = File::open("/etc/passwd").unwrap();
    let refused = run_on(&runtime, file.into(), &bundle, &id);
    assert_eq!(refused.exit_code, Some(1));
    assert!(refused.stderr.contains("KEG_ROOTFS_FD"), "{refused:?}");
    // A directory that is mounted already is not moved away from there.
    let directory = File::open(bundle.rootfs()).unwrap();
    let refused = run_on(&runtime, directory.into(), &bundle, &id);
    assert_eq!(refused.exit_code, Some(1), "{refused:?}");
    let shared = Bundle::busybox().without_namespace("mount").sh("exit 0").edit(|spec| {
        spec["mounts"] = json!([]);
        for paths in ["maskedPaths", "readonlyPaths"] {
            spec["linux"][paths] = json!([]);
        }
    });
    let refused = run_on(&runtime, detached(&bundle.rootfs()), &shared, &id);
    assert_eq!(refused.exit_code, Some(1));
    assert!(refused.stderr.contains("KEG_ROOTFS_FD"), "{refused:?}");
}
