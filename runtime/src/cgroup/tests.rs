//! The whole of a cgroup's life against the kernel, and what is refused before it.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::*;

fn saved(mount: &str, dir: &str) -> SavedCgroup {
    let group =
        SavedGroup { controllers: vec!["pids".into()], mount: mount.into(), dir: dir.into() };
    SavedCgroup { v1: vec![group], v2: None, explicit: true, unit: None }
}

#[test]
fn paths_are_cleaned_as_if_below_a_root() {
    for (path, expected) in [
        ("/a/b", "a/b"),
        ("a//b/", "a/b"),
        ("../../a", "a"),
        ("/a/../../b", "b"),
        ("./a/./b", "a/b"),
    ] {
        assert_eq!(clean(Path::new(path)).unwrap(), Path::new(expected));
    }
}

#[test]
fn the_root_of_a_hierarchy_is_no_containers_cgroup() {
    for path in ["/", "", ".", "a/..", "/../.."] {
        assert!(clean(Path::new(path)).is_err(), "{path:?}");
    }
}

#[test]
fn a_saved_cgroup_comes_back_as_it_was() {
    let cgroup = Cgroup::resolve(Some(Path::new("/a/b")), "id", Driver::CgroupFs).unwrap();
    let json = serde_json::to_string(&cgroup.saved()).unwrap();

    let restored = Cgroup::from_saved(serde_json::from_str(&json).unwrap()).unwrap();

    assert_eq!(restored.saved(), cgroup.saved());
}

#[test]
fn a_damaged_state_names_no_cgroup_outside_of_its_hierarchy() {
    for (mount, dir) in [
        ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids"),
        ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/../memory/x"),
        ("/sys/fs/cgroup/pids", "/etc"),
        ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/"),
        ("sys", "sys/x"),
        ("", "/x"),
    ] {
        assert!(Cgroup::from_saved(saved(mount, dir)).is_err(), "{mount:?} {dir:?}");
    }
    assert!(Cgroup::from_saved(saved("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/x")).is_ok());
}

#[test]
fn limits_that_v2_does_not_know_are_named_where_no_v1_has_them() {
    let resources: LinuxResources = serde_json::from_value(serde_json::json!({
        "memory": {"limit": 1 << 20, "swappiness": 10, "disableOOMKiller": true},
        "cpu": {"shares": 512, "realtimeRuntime": 5000, "realtimePeriod": 10_000},
    }))
    .unwrap();
    let group = |controllers: &[&str]| SavedGroup {
        controllers: controllers.iter().map(ToString::to_string).collect(),
        mount: "/sys/fs/cgroup/x".into(),
        dir: "/sys/fs/cgroup/x/y".into(),
    };
    let cgroup = |v1: &[&[&str]]| {
        let v1 = v1.iter().map(|controllers| group(controllers)).collect();
        let saved = SavedCgroup { v1, v2: Some(group(&[])), explicit: true, unit: None };
        Cgroup::from_saved(saved).unwrap()
    };
    let memory = ["memory.swappiness", "memory.disableOOMKiller"];
    let cpu = ["cpu.realtimeRuntime", "cpu.realtimePeriod"];

    assert_eq!(cgroup(&[]).without_effect(&resources), [memory, cpu].concat());
    assert_eq!(cgroup(&[&["memory"]]).without_effect(&resources), cpu);
    assert!(cgroup(&[&["memory"], &["cpu", "cpuacct"]]).without_effect(&resources).is_empty());
}

/// A cgroup of the test's own, which is removed at the end whatever happens.
struct Guard(Cgroup);

impl Guard {
    fn new(name: &str) -> Self {
        let path = format!("/keg-test-{}-{name}/container", std::process::id());
        Self(Cgroup::resolve(Some(Path::new(&path)), "unused", Driver::CgroupFs).unwrap())
    }

    fn file(&self, controller: &str, file: &str) -> String {
        let group = self.0.v1_group(controller).or(self.0.saved.v2.as_ref()).unwrap();
        std::fs::read_to_string(group.dir.join(file)).unwrap().trim().to_owned()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill_all(nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.destroy();
        for group in self.0.groups() {
            let _ = std::fs::remove_dir(group.dir.parent().unwrap());
        }
    }
}

fn resources(json: serde_json::Value) -> LinuxResources {
    serde_json::from_value(json).unwrap()
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn limits_are_in_force_before_anyone_enters() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("limits");
    let resources = resources(serde_json::json!({
        "memory": { "limit": 33_554_432, "swap": 67_108_864, "reservation": 16_777_216 },
        "cpu": { "shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0" },
        "pids": { "limit": 1 },
    }));

    guard.0.create(Some(&resources)).unwrap();

    assert_eq!(guard.file("pids", "pids.max"), "1");
    if guard.0.saved.v1.is_empty() {
        assert_eq!(guard.file("memory", "memory.max"), "33554432");
        assert_eq!(guard.file("memory", "memory.swap.max"), "33554432");
        assert_eq!(guard.file("cpu", "cpu.max"), "50000 100000");
        assert_eq!(guard.file("cpu", "cpu.weight"), "100");
    } else {
        assert_eq!(guard.file("memory", "memory.limit_in_bytes"), "33554432");
        assert_eq!(guard.file("memory", "memory.memsw.limit_in_bytes"), "67108864");
        assert_eq!(guard.file("cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(guard.file("cpu", "cpu.shares"), "1024");
    }
    assert_eq!(guard.file("cpuset", "cpuset.cpus"), "0");
}

#[test]
fn a_failed_create_leaves_nothing_behind() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("failed");
    let directories: Vec<_> = guard.0.groups().map(|group| group.dir.clone()).collect();
    let resources = resources(serde_json::json!({ "cpu": { "cpus": "4000-4001" } }));

    let failure = guard.0.create(Some(&resources)).unwrap_err();

    assert!(matches!(failure, CgroupError::Write { .. }), "{failure}");
    for dir in directories {
        assert!(!dir.exists(), "{dir:?}");
    }
}

#[test]
fn what_was_begun_is_discarded_and_what_was_there_stays() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("begun");
    let directories: Vec<_> = guard.0.groups().map(|group| group.dir.clone()).collect();
    std::fs::create_dir_all(&directories[0]).unwrap();
    let resources = resources(serde_json::json!({ "cpu": { "cpus": "4000-4001" } }));
    let left = |guard: &Guard| -> Vec<PathBuf> {
        guard.0.groups().map(|group| group.dir.clone()).filter(|dir| dir.exists()).collect()
    };

    let failed = guard.0.begin(Some(&resources)).and_then(|()| guard.0.finish(Some(&resources)));
    guard.0.discard();
    let after_failure = left(&guard);
    guard.0.begin(None).unwrap();
    guard.0.finish(None).unwrap();
    let whole = left(&guard);
    guard.0.discard();

    assert!(matches!(failed, Err(CgroupError::Write { .. })), "{failed:?}");
    assert_eq!(after_failure, directories[..1]);
    assert_eq!(whole, directories);
    assert!(left(&guard).is_empty());
}

#[test]
fn a_limit_without_its_controller_is_refused_and_named() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("absent");
    if guard.0.v1_group("net_cls").is_some() {
        eprintln!("skipped: this machine has net_cls");
        return;
    }
    let resources = resources(serde_json::json!({ "network": { "classID": 7 } }));

    let failure = guard.0.create(Some(&resources)).unwrap_err();

    assert!(failure.to_string().starts_with("linux.resources.network.classID: "), "{failure}");
}

#[test]
fn processes_enter_freeze_and_die_and_the_cgroup_goes() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("life");
    guard.0.create(None).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    for group in guard.0.groups() {
        std::fs::write(group.dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    }

    let inside = guard.0.pids().unwrap();
    guard.0.freeze().unwrap();
    let frozen = guard.0.freezer_state().unwrap();
    guard.0.kill_all(nix::sys::signal::Signal::SIGKILL).unwrap();
    let status = child.wait().unwrap();
    guard.0.destroy().unwrap();

    assert_eq!(inside, [pid]);
    assert_eq!(frozen, FreezerState::Frozen);
    assert!(!status.success());
    assert!(guard.0.groups().all(|group| !group.dir.exists()));
}

#[test]
fn an_occupied_cgroup_is_refused() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("occupied");
    guard.0.create(None).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let group = guard.0.groups().next().unwrap();
    std::fs::write(group.dir.join("cgroup.procs"), child.id().to_string()).unwrap();

    let refused = guard.0.create(None).unwrap_err();

    let pid = i32::try_from(child.id()).unwrap();
    assert!(
        matches!(&refused, CgroupError::Occupied { process, .. } if *process == pid),
        "{refused}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn cgroups_that_the_container_made_are_removed_with_it() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("nested");
    guard.0.create(None).unwrap();
    for group in guard.0.groups() {
        std::fs::create_dir_all(group.dir.join("a/b")).unwrap();
        std::fs::create_dir_all(group.dir.join("c")).unwrap();
    }

    guard.0.destroy().unwrap();

    assert!(guard.0.groups().all(|group| !group.dir.exists()));
}

/// A command in the cgroup: it stops itself until it is inside.
fn spawn_inside(guard: &Guard, script: &str) -> std::process::Child {
    let script = format!("kill -STOP $$; {script}");
    let child = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
    for group in guard.0.groups() {
        std::fs::write(group.dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    let stopped = Some(nix::sys::wait::WaitPidFlag::WUNTRACED);
    nix::sys::wait::waitpid(pid, stopped).unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    child
}

#[test]
fn what_a_container_uses_is_counted() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("stats");
    let resources = resources(serde_json::json!({
        "memory": { "limit": 67_108_864 },
        "pids": { "limit": 50 },
        "cpu": { "cpus": "0" },
    }));
    guard.0.create(Some(&resources)).unwrap();
    let script = "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; exec sleep 1000";
    let mut child = spawn_inside(&guard, script);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut stats = guard.0.stats().unwrap();
    while stats.cpu.usage.total == 0 || stats.memory.usage.usage == 0 {
        assert!(std::time::Instant::now() < deadline, "{stats:?}");
        stats = guard.0.stats().unwrap();
    }

    assert_eq!(stats.pids, stats::Pids { current: 1, limit: 50 });
    assert_eq!(stats.memory.usage.limit, 67_108_864);
    assert_eq!(stats.cpuset.cpus, [0]);
    assert!(stats.memory.raw.len() > 5, "{stats:?}");
    let json = serde_json::to_value(&stats).unwrap();
    assert_eq!(json["pids"], serde_json::json!({ "current": 1, "limit": 50 }));
    assert_eq!(json["memory"]["usage"]["limit"], 67_108_864);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn running_out_of_memory_is_noticed_and_so_is_the_end() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("oom");
    let resources = resources(serde_json::json!({
        "memory": { "limit": 8_388_608, "swap": 8_388_608 },
    }));
    guard.0.create(Some(&resources)).unwrap();
    let mut watch = guard.0.watch_oom().unwrap();
    let before = watch.wait(std::time::Duration::ZERO).unwrap();
    let mut child = spawn_inside(&guard, "x=aaaaaaaa; while :; do x=$x$x; done");

    let deadline = std::time::Duration::from_secs(30);
    let during = watch.wait(deadline).unwrap();
    let status = child.wait().unwrap();
    guard.0.destroy().unwrap();
    let mut after = watch.wait(deadline).unwrap();
    while after == OomNotice::OutOfMemory {
        after = watch.wait(deadline).unwrap();
    }

    assert_eq!(before, OomNotice::Nothing);
    assert_eq!(during, OomNotice::OutOfMemory);
    assert!(!status.success());
    assert_eq!(after, OomNotice::Gone);
}

#[test]
fn limits_are_changed_in_an_order_that_the_kernel_takes() {
    if !is_root() {
        return;
    }
    let mut guard = Guard::new("update");
    guard.0.create(None).unwrap();
    for (limit, swap) in [(100, 200), (300, 400), (50, 60), (1000, -1), (20, 20)] {
        let mebibytes = |number: i64| if number < 0 { number } else { number << 20 };
        let (limit, swap) = (mebibytes(limit), mebibytes(swap));
        let quota = 10_000 + limit / 50_000;
        let resources = resources(serde_json::json!({
            "memory": { "limit": limit, "swap": swap },
            "cpu": { "quota": quota, "period": 2 * quota, "burst": quota / 2 },
        }));

        guard.0.update(&resources).unwrap();

        let stats = guard.0.stats().unwrap();
        assert_eq!(i64::try_from(stats.memory.usage.limit), Ok(limit), "{limit} {swap}");
    }
}
