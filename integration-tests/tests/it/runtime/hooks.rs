//! Hooks – runtime-spec, config.md, "POSIX-platform Hooks", and runtime.md, "Lifecycle".

use std::fs;
use std::path::{Path, PathBuf};

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Scratch, Status, requires};
use nix::errno::Errno;
use nix::sys::signal::kill;
use serde_json::{Value, json};

/// A hook that runs a script of the host's shell.
fn script(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

/// A hook that appends its name to a file of the host.
fn note(name: &str, file: &Path) -> Value {
    script(&format!("echo {name} >> {}", file.display()))
}

fn notes(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A bundle that makes a file of the host visible to the hooks that run inside.
fn with_file() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let file = scratch.file("notes", "");
    (scratch, file)
}

#[test]
fn all_hooks_run_in_their_order() {
    // runc 1.1 runs poststart hooks at the end of create already.
    let host = requires!(root, our_runtime);
    let (scratch, file) = with_file();
    let directory = scratch.path().to_str().unwrap();
    let bundle = Bundle::busybox()
        .sh(&format!("echo process >> {}", file.display()))
        .mount(directory, "bind", directory, &["bind"])
        .set(
            "/hooks",
            json!({
                "prestart": [note("prestart", &file)],
                "createRuntime": [note("createRuntime", &file)],
                "createContainer": [note("createContainer", &file)],
                "startContainer": [note("startContainer", &file)],
                "poststart": [note("poststart-1", &file), note("poststart-2", &file)],
                "poststop": [note("poststop", &file)],
            }),
        );

    let container = host.runtime().create(bundle);
    let before_start = notes(&file);
    let _ = container.start_and_wait();
    container.wait_for(Status::Stopped, PATIENCE);
    let _ = container.delete(false).success();

    assert_eq!(before_start, ["prestart", "createRuntime", "createContainer"]);
    let mut all = notes(&file);
    // The process runs while poststart hooks do: its own note may be anywhere after startContainer.
    let process = all.iter().position(|name| name == "process").unwrap();
    all.remove(process);
    assert!(process >= 4, "{all:?}");
    assert_eq!(all[3..], ["startContainer", "poststart-1", "poststart-2", "poststop"]);
}

#[test]
fn a_hook_gets_the_state_on_its_standard_input() {
    let host = requires!(root);
    let (scratch, file) = with_file();
    let hook = script(&format!("cat > {}", file.display()));
    let bundle = Bundle::probe()
        .set("/annotations/org.example.key", "value")
        .set("/hooks/createRuntime", json!([hook]));

    let container = host.runtime().create(bundle);

    let state: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(state["id"], container.id());
    assert_eq!(state["pid"], container.init().as_raw());
    assert_eq!(state["bundle"], container.bundle().path().to_str().unwrap());
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert!(matches!(state["status"].as_str(), Some("creating" | "created")), "{state}");
    drop(scratch);
}

#[test]
fn a_hook_has_the_environment_of_the_bundle_only() {
    let host = requires!(root);
    let (scratch, file) = with_file();
    let mut hook = script(&format!("/usr/bin/env > {}", file.display()));
    hook["env"] = json!(["ONLY=this"]);

    let _container = host.runtime().create(Bundle::probe().set("/hooks/prestart", json!([hook])));

    let env = notes(&file);
    assert!(env.contains(&"ONLY=this".to_owned()), "{env:?}");
    assert!(!env.iter().any(|pair| pair.starts_with("PATH=/root")), "{env:?}");
    assert!(!env.iter().any(|pair| pair.starts_with("CARGO")), "{env:?}");
    drop(scratch);
}

#[test]
fn create_runtime_hooks_run_outside_and_start_container_hooks_inside() {
    let host = requires!(root);
    let (scratch, file) = with_file();
    let directory = scratch.path().to_str().unwrap();
    let show = |name: &str| {
        script(&format!("echo {name} $(readlink /proc/self/ns/mnt) >> {}", file.display()))
    };
    let bundle = Bundle::busybox()
        .command(["/bin/true"])
        .rootfs_edit(|root| {
            std::os::unix::fs::symlink("busybox", root.join("bin/readlink")).unwrap()
        })
        .mount(directory, "bind", directory, &["bind"])
        .set(
            "/hooks",
            json!({"createRuntime": [show("outside")], "startContainer": [show("inside")]}),
        );

    let _ = host.runtime().create(bundle).start_and_wait();

    let ours = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    let all = notes(&file);
    assert_eq!(all[0], format!("outside {ours}"));
    assert!(all[1].starts_with("inside ") && !all[1].ends_with(&ours), "{all:?}");
}

#[test]
fn a_hook_inside_that_names_no_environment_has_that_of_the_process() {
    let host = requires!(root, our_runtime);
    let (scratch, file) = with_file();
    let directory = scratch.path().to_str().unwrap();
    let show = script(&format!("echo $ONE $HOME > {}", file.display()));
    let bundle = Bundle::busybox()
        .command(["/bin/true"])
        .set("/process/env", json!(["ONE=two", "HOME="]))
        .mount(directory, "bind", directory, &["bind"])
        .set("/hooks/startContainer", json!([show]));

    let _ = host.runtime().create(bundle).start_and_wait();

    assert_eq!(notes(&file), ["two /root"]);
}

#[test]
fn a_hook_that_fails_inside_is_told_with_what_it_said() {
    let host = requires!(root, our_runtime);
    let failing = script("echo no luck >&2; exit 3");
    let bundle = Bundle::busybox()
        .command(["/bin/true"])
        .set("/hooks/startContainer", json!([script("exit 0"), failing]));
    let container = host.runtime().create(bundle);

    let outcome = container.try_start();

    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.error.contains("error running startContainer hook #1: "), "{outcome:?}");
    assert!(outcome.error.ends_with("exit status: 3: no luck"), "{outcome:?}");
}

#[test]
fn a_failing_prestart_hook_fails_the_create_and_leaves_nothing() {
    let host = requires!(root);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let runtime = host.runtime();
        let (_scratch, file) = with_file();
        let hooks = json!({kind: [script("exit 3"), note("second", &file)]});

        let outcome = runtime.refused(Bundle::probe().set("/hooks", hooks));

        assert_ne!(outcome.exit_code, 0, "{kind}");
        assert!(outcome.text().contains("hook"), "{outcome:?}");
        assert_eq!(notes(&file), [""; 0], "{kind}");
        assert_eq!(fs::read_dir(runtime.root()).unwrap().count(), 0, "{kind}");
    }
}

#[test]
fn a_hook_that_takes_too_long_is_killed_and_fails_the_create() {
    let host = requires!(root);
    let (_scratch, file) = with_file();
    let mut hook = script(&format!("echo $$ > {}; exec sleep 1000", file.display()));
    hook["timeout"] = json!(1);

    let outcome =
        host.runtime().refused(Bundle::probe().set("/hooks/createRuntime", json!([hook])));

    let pid: i32 = notes(&file)[0].parse().unwrap();
    assert_eq!(kill(nix::unistd::Pid::from_raw(pid), None), Err(Errno::ESRCH), "{outcome:?}");
}

#[test]
fn a_failing_poststop_hook_does_not_keep_the_container() {
    let host = requires!(root);
    let bundle =
        Bundle::probe().args(["exit", "0"]).set("/hooks/poststop", json!([script("exit 1")]));
    let container = host.runtime().create(bundle);
    let _ = container.start_and_wait();
    container.wait_for(Status::Stopped, PATIENCE);

    let _ = container.delete(false).success();

    assert_ne!(container.runtime().call(["state", container.id()]).exit_code, 0);
}

#[test]
fn a_hook_whose_program_is_missing_is_refused_by_name() {
    let host = requires!(root);
    let hooks = json!({"createRuntime": [{"path": "/no/such/hook"}]});

    let outcome = host.runtime().refused(Bundle::probe().set("/hooks", hooks));

    assert!(outcome.text().contains("/no/such/hook"), "{outcome:?}");
}

#[test]
fn hooks_find_the_root_where_the_bundle_has_it_and_may_mount_there() {
    let host = requires!(root);
    let bundle = Bundle::busybox().sh("cat /tmp/inside /run/outside");
    let root = bundle.rootfs();
    let root = root.display();
    // As engines' hooks for graphics cards do: one of them inside, one that goes there from outside.
    let inside = format!(
        "test -e {root}/proc/self && mount -t tmpfs hook {root}/tmp && echo inside > {root}/tmp/inside"
    );
    let outside = format!(
        "pid=$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p') && \
         nsenter -t $pid -m sh -c 'mount -t tmpfs hook {root}/run && echo outside > {root}/run/outside'"
    );
    let bundle = bundle.set(
        "/hooks",
        json!({"createRuntime": [script(&outside)], "createContainer": [script(&inside)]}),
    );

    let outcome = host.runtime().run(bundle).success();

    assert_eq!(outcome.stdout, "inside\noutside\n", "{outcome:?}");
}
