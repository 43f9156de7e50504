//! An unprivileged user – `nobody`, in a mount namespace where `/etc/subuid` is ours.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use keg_fixtures::scratch::write_program;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Report, Runtime, Scratch, requires};
use serde_json::{Value, json};

/// The user `nobody`, whom every machine has.
const NOBODY: u32 = 65_534;
/// The first of the ids that are lent to it.
const FIRST: u32 = 700_000;
const LENGTH: u32 = 65_535;

/// A directory of the user with the runtime's program, its root and the lists of lent ids.
struct Home {
    scratch: Scratch,
    lends_ids: bool,
    delegated: Option<Delegated>,
}

impl Home {
    fn new() -> Self {
        let scratch = Scratch::new();
        let program = scratch.join("keg-runtime");
        write_program(&program, fs::read(Runtime::new().program()).unwrap());
        let root = scratch.directory("root");
        chown(root, Some(NOBODY), Some(NOBODY)).unwrap();
        let lent = format!("nobody:{FIRST}:{LENGTH}\n");
        let _ = scratch.file("lent", lent);
        let _ = scratch.file("none", "");
        Self { scratch, lends_ids: false, delegated: None }
    }

    fn lending_ids() -> Self {
        let mut home = Self::new();
        home.lends_ids = true;
        home
    }

    /// Runs a command of the runtime as the user.
    fn call(&self, args: &[&str]) -> Outcome {
        let list = self.scratch.join(if self.lends_ids { "lent" } else { "none" });
        let enter: String = self
            .delegated
            .iter()
            .flat_map(|delegated| &delegated.directories)
            .map(|directory| format!("echo $$ >{}/cgroup.procs\n", directory.display()))
            .collect();
        let script = format!(
            "set -e\nfor file in /etc/subuid /etc/subgid; do\n\
             [ -e $file ] || touch $file; mount --bind {} $file; done\n{enter}\
             exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups -- \"$0\" \"$@\"",
            list.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        command.arg(self.scratch.join("keg-runtime"));
        command.arg("--root").arg(self.scratch.join("root")).args(args);
        Outcome::of(&mut command, PATIENCE)
    }

    fn run(&self, bundle: &Bundle) -> Outcome {
        let id = Runtime::new_id();
        self.call(&["run", "--bundle", bundle.path().to_str().unwrap(), &id])
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let left = fs::read_dir(self.scratch.join("root")).unwrap().flatten();
            let left: Vec<_> = left.filter(|e| !e.path().ends_with("seccomp~cache")).collect();
            assert!(left.is_empty(), "state left behind: {left:?}");
        }
    }
}

/// A cgroup in every hierarchy that belongs to the user.
struct Delegated {
    name: String,
    directories: Vec<PathBuf>,
}

impl Delegated {
    fn new() -> Self {
        let name = Runtime::new_id();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let directories: Vec<PathBuf> = hierarchies
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .filter(|path| path.join("cgroup.procs").exists())
            .map(|path| path.join(&name))
            .collect();
        for directory in &directories {
            fs::create_dir(directory).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read_to_string(directory.parent().unwrap().join(file)) {
                    fs::write(directory.join(file), all.trim()).unwrap();
                }
            }
            for file in ["", "cgroup.procs", "tasks", "cgroup.subtree_control", "cgroup.threads"] {
                match chown(directory.join(file), Some(NOBODY), Some(NOBODY)) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    result => result.unwrap(),
                }
            }
        }
        Self { name, directories }
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for directory in &self.directories {
            if let Err(error) = fs::remove_dir(directory)
                && !std::thread::panicking()
            {
                panic!("{directory:?} is left: {error}");
            }
        }
    }
}

fn give(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// What `spec --rootless` makes of a bundle, with these ids.
fn unprivileged(bundle: Bundle, map: &Value) -> Bundle {
    bundle
        .without_namespace("network")
        .without_namespace("cgroup")
        .namespace("user", None)
        .rootfs_edit(give)
        .edit(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["type"] != "cgroup" && mount["type"] != "sysfs");
            for mount in mounts {
                if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
                    options.retain(|option| option != "gid=5");
                }
            }
            let linux = spec["linux"].as_object_mut().unwrap();
            linux.remove("resources");
        })
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map.clone())
}

fn own_id() -> Value {
    json!([{"containerID": 0, "hostID": NOBODY, "size": 1}])
}

fn lent_ids() -> Value {
    json!([
        {"containerID": 0, "hostID": NOBODY, "size": 1},
        {"containerID": 1, "hostID": FIRST, "size": LENGTH},
    ])
}

#[test]
fn a_user_without_lent_ids_is_root_of_a_container() {
    requires!(root, user_namespaces, our_runtime);
    let home = Home::new();

    let report: Report = home.run(&unprivileged(Bundle::probe(), &own_id())).success().report();

    assert_eq!(report.identity.uids, [0; 4]);
    assert_eq!(report.uid_map, [[0, NOBODY, 1]]);
    assert_eq!(report.gid_map, [[0, NOBODY, 1]]);
}

#[test]
fn a_user_with_lent_ids_has_other_users_in_a_container() {
    requires!(root, user_namespaces, uidmap, our_runtime);
    let home = Home::lending_ids();
    let user = json!({"uid": 1000, "gid": 1000, "additionalGids": [50]});
    let bundle = unprivileged(Bundle::probe(), &lent_ids()).set("/process/user", user);

    let report: Report = home.run(&bundle).success().report();

    assert_eq!(report.identity.uids, [1000; 4]);
    assert_eq!(report.identity.groups.iter().copied().collect::<Vec<_>>(), [50]);
    assert_eq!(report.uid_map, [[0, NOBODY, 1], [1, FIRST, LENGTH]]);
}

#[test]
fn groups_cannot_be_dropped_where_the_users_own_is_the_only_one() {
    requires!(root, user_namespaces, our_runtime);
    let home = Home::new();
    let bundle = unprivileged(Bundle::busybox().sh("cat /proc/self/setgroups"), &own_id());

    assert_eq!(home.run(&bundle).success().stdout, "deny\n");
}

#[test]
fn ids_that_nobody_lends_are_refused_with_the_list_to_look_at() {
    requires!(root, user_namespaces, uidmap, our_runtime);
    let home = Home::new();

    let outcome = home.run(&unprivileged(Bundle::probe(), &lent_ids()));

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.contains("/etc/sub"), "{outcome:?}");
}

#[test]
fn an_unprivileged_container_lives_through_create_start_exec_kill_and_delete() {
    requires!(root, user_namespaces, our_runtime);
    let home = Home::new();
    let bundle = unprivileged(Bundle::busybox().sh("exec sleep 1000"), &own_id());
    let id = Runtime::new_id();

    let _ = home.call(&["create", "--bundle", bundle.path().to_str().unwrap(), &id]).success();
    let _ = home.call(&["start", &id]).success();
    let exec = home.call(&["exec", &id, "sh", "-c", "echo inside; exit 4"]);
    let _ = home.call(&["kill", &id, "KILL"]).success();
    let deleted = home.call(&["delete", "--force", &id]);

    assert_eq!((exec.stdout.as_str(), exec.exit_code), ("inside\n", 4), "{exec:?}");
    let _ = deleted.success();
}

#[test]
fn what_the_user_may_not_read_the_container_may_not_either() {
    requires!(root, user_namespaces, our_runtime);
    let home = Home::new();
    let secret = home.scratch.file("secret", "of root");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let bundle = unprivileged(Bundle::probe().args(["try", "read:/secret"]), &own_id()).mount(
        "/secret",
        "bind",
        secret.to_str().unwrap(),
        &["bind"],
    );

    let outcome = home.run(&bundle).success();

    assert!(outcome.stdout.contains("EACCES"), "{outcome:?}");
}

#[test]
fn a_container_without_a_cgroup_of_its_own_is_shown_the_users() {
    requires!(root, user_namespaces, our_runtime);
    let home = Home::new();
    let script = "ls /sys/fs/cgroup /sys/fs/cgroup/*; mkdir /sys/fs/cgroup/x || echo read-only";
    let bundle = unprivileged(Bundle::busybox().sh(script), &own_id()).mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "ro"],
    );

    let outcome = home.run(&bundle).success();

    assert!(outcome.stdout.contains("\ncgroup.procs\n"), "{outcome:?}");
    assert!(outcome.stdout.ends_with("read-only\n"), "{outcome:?}");
}

#[test]
fn a_limit_without_a_cgroup_of_the_users_is_refused() {
    requires!(root, user_namespaces, our_runtime, cgroup_v1);
    let home = Home::new();
    let bundle = unprivileged(Bundle::probe(), &own_id())
        .set("/linux/resources", json!({ "pids": { "limit": 5 } }));

    let outcome = home.run(&bundle);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.contains("pids") || outcome.stderr.contains("cgroup"), "{outcome:?}");
}

#[test]
fn a_limit_holds_in_a_cgroup_that_is_delegated_to_the_user() {
    requires!(root, user_namespaces, our_runtime, cgroup_v1);
    let delegated = Delegated::new();
    let path = format!("/{}/container", delegated.name);
    let mut home = Home::new();
    home.delegated = Some(delegated);
    let bundle = unprivileged(Bundle::probe().args(["fork", "20"]), &own_id())
        .set("/linux/resources", json!({ "pids": { "limit": 5 } }))
        .set("/linux/cgroupsPath", path);

    let outcome = home.run(&bundle).success();

    assert_eq!(outcome.stdout, "forked 4\n");
}
