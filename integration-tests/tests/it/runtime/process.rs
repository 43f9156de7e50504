//! The process: user, rights, limits, surroundings – runtime-spec, config.md, "Process".

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use keg_fixtures::scratch::write_program;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Runtime, requires};
use serde_json::json;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn user_groups_and_umask_are_those_asked_for() {
    let host = requires!(root);
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 50], "umask": 0o027});

    let report = host.runtime().report(Bundle::probe().set("/process/user", user));

    assert_eq!(report.identity.uids, [1000; 4]);
    assert_eq!(report.identity.gids, [1001; 4]);
    assert_eq!(report.identity.groups, BTreeSet::from([5, 50]));
    assert_eq!(report.identity.umask, 0o027);
}

#[test]
fn the_umask_is_022_unless_told_otherwise() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    assert_eq!(report.identity.umask, 0o022);
}

#[test]
fn the_hosts_supplementary_groups_are_dropped() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    assert_eq!(report.identity.groups, BTreeSet::new());
}

#[test]
fn all_five_capability_sets_are_those_asked_for() {
    let host = requires!(root);
    let capabilities = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    // An ordinary user: the kernel gives root's programs the whole bounding set.
    let bundle = Bundle::probe()
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/capabilities", capabilities);

    let capabilities = host.runtime().report(bundle).capabilities;

    assert_eq!(capabilities.bounding, set(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]));
    assert_eq!(capabilities.inheritable, set(&["CAP_KILL"]));
    assert_eq!(capabilities.ambient, set(&["CAP_KILL"]));
    // What execve leaves (capabilities(7)): the ambient set.
    assert_eq!(capabilities.permitted, set(&["CAP_KILL"]));
    assert_eq!(capabilities.effective, set(&["CAP_KILL"]));
}

#[test]
fn without_capabilities_there_are_none() {
    let host = requires!(root);
    let bundle = Bundle::probe().edit(|spec| {
        spec["process"].as_object_mut().unwrap().remove("capabilities");
    });

    let capabilities = host.runtime().report(bundle).capabilities;

    assert_eq!(capabilities.effective, set(&[]));
    assert_eq!(capabilities.permitted, set(&[]));
    assert_eq!(capabilities.bounding, set(&[]));
}

#[test]
fn a_capability_that_nobody_knows_is_warned_of_and_left_out() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let bundle = Bundle::probe()
        .set("/process/capabilities/bounding", json!(["CAP_FLY", "CAP_KILL"]))
        .set("/process/capabilities/inheritable", json!([]))
        .set("/process/capabilities/ambient", json!([]));

    let report = runtime.report(bundle);

    assert_eq!(report.capabilities.bounding, set(&["CAP_KILL"]));
    let log = std::fs::read_to_string(runtime.log()).unwrap();
    assert!(log.contains("warning") && log.contains("CAP_FLY"), "{log}");
}

#[test]
fn ambient_capabilities_that_cannot_be_had_are_told_in_the_log_and_not_among_the_output() {
    let host = requires!(root, our_runtime);
    let (runtime, id) = (host.runtime(), Runtime::new_id());
    let bundle = || {
        Bundle::probe()
            .args(["exit", "0"])
            .set("/process/capabilities/inheritable", json!([]))
            .set("/process/capabilities/ambient", json!(["CAP_CHOWN", "CAP_KILL"]))
            .set("/linux/cgroupsPath", json!(format!("/{id}")))
    };

    let logged = runtime.run(bundle()).success();
    let log = fs::read_to_string(runtime.log()).unwrap();
    let bundle = bundle();
    let _guard = runtime.guard(&id);
    let mut bare = Command::new(runtime.program());
    bare.arg("--root").arg(runtime.root()).args(["run", "--bundle"]).arg(bundle.path()).arg(&id);
    let bare = Outcome::of(&mut bare, PATIENCE).success();

    assert_eq!((logged.stderr.as_str(), bare.stderr.as_str()), ("", ""));
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("warning") && log.contains("CAP_CHOWN"), "{log}");
}

#[test]
fn a_capability_that_is_absent_is_not_there_to_use() {
    let host = requires!(root);
    let mut none = Bundle::probe();
    for kind in ["bounding", "permitted", "effective"] {
        none = none.set(&format!("/process/capabilities/{kind}"), json!([]));
    }
    let attempts =
        ["chown:/etc/passwd:1000", "mknod:/node:c:1:3", "mount:tmpfs:/tmp", "raw-socket"];

    let tried = host.runtime().attempts(none, &attempts);

    assert_eq!(tried, ["EPERM"; 4]);
}

#[test]
fn no_new_privileges_is_what_was_asked_for() {
    let host = requires!(root);
    for asked in [true, false] {
        let bundle = Bundle::probe().set("/process/noNewPrivileges", asked);

        let report = host.runtime().report(bundle);

        assert_eq!(report.no_new_privileges, asked);
    }
}

#[test]
fn limits_are_those_asked_for_and_the_others_stay() {
    let host = requires!(root);
    let rlimits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 600},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_FSIZE", "soft": 1_048_576, "hard": 2_097_152},
    ]);

    let report = host.runtime().report(Bundle::probe().set("/process/rlimits", rlimits));

    assert_eq!(report.rlimits["RLIMIT_NOFILE"], (512, 600));
    assert_eq!(report.rlimits["RLIMIT_CORE"], (0, 0));
    assert_eq!(report.rlimits["RLIMIT_FSIZE"], (1_048_576, 2_097_152));
    let ours = fs::read_to_string("/proc/self/limits").unwrap();
    let line = ours.lines().find(|line| line.starts_with("Max processes")).unwrap();
    let hard: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(u64::MAX);
    assert_eq!(report.rlimits["RLIMIT_NPROC"].1, hard);
}

#[test]
fn a_limit_that_does_not_exist_is_refused_by_name() {
    let host = requires!(root);
    let rlimits = json!([{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]);

    let outcome = host.runtime().refused(Bundle::probe().set("/process/rlimits", rlimits));

    assert!(outcome.text().contains("RLIMIT_NOSUCH"), "{outcome:?}");
}

#[test]
fn the_oom_score_is_raised_as_asked() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe().set("/process/oomScoreAdj", 500));

    assert_eq!(report.oom_score_adj, 500);
}

#[test]
fn the_environment_is_the_bundles_and_nothing_of_the_callers() {
    let host = requires!(root);
    let env = json!(["A=1", "B=two words", "EMPTY="]);

    let report = host.runtime().report(Bundle::probe().set("/process/env", env));

    let ours: Vec<&str> =
        report.env.iter().map(String::as_str).filter(|pair| !pair.starts_with("HOME=")).collect();
    assert_eq!(ours, ["A=1", "B=two words", "EMPTY="]);
}

#[test]
fn the_working_directory_is_the_one_asked_for() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe().set("/process/cwd", "/etc"));

    assert_eq!(report.cwd, "/etc");
}

#[test]
fn a_relative_working_directory_is_refused() {
    let host = requires!(root);

    let outcome = host.runtime().refused(Bundle::probe().set("/process/cwd", "etc"));

    assert!(outcome.text().contains("absolute"), "{outcome:?}");
}

#[test]
fn a_working_directory_only_its_user_may_enter_is_entered() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let host = requires!(root);
    let bundle = Bundle::probe()
        .rootfs_edit(|root| {
            let home = root.join("private");
            fs::create_dir(&home).unwrap();
            fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
            chown(&home, Some(1000), Some(1000)).unwrap();
        })
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/cwd", "/private");

    let report = host.runtime().report(bundle);

    assert_eq!(report.cwd, "/private");
}

#[test]
fn a_command_without_slash_is_found_on_the_containers_path() {
    let host = requires!(root);
    let bundle = Bundle::busybox()
        .command(["greet"])
        .rootfs_edit(|root| {
            fs::create_dir_all(root.join("opt/tools")).unwrap();
            write_program(&root.join("opt/tools/greet"), "#!/bin/sh\necho found\n");
        })
        .set("/process/env", json!(["PATH=/bin:/opt/tools"]));

    let outcome = host.runtime().run(bundle).success();

    assert_eq!(outcome.stdout, "found\n");
}

#[test]
fn only_the_three_standard_descriptors_are_open() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    let numbers: Vec<u32> = report.fds.keys().copied().collect();
    assert_eq!(numbers, [0, 1, 2], "{:?}", report.fds);
}

#[test]
fn signals_are_neither_blocked_nor_ignored() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    assert_eq!(report.signals.blocked, 0);
    // Rust's own start-up, in the probe too, ignores SIGPIPE (13).
    assert_eq!(report.signals.ignored & !(1 << 12), 0, "{:x}", report.signals.ignored);
}

#[test]
fn signals_that_the_caller_ignores_have_their_default_action_in_the_container() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let id = Runtime::new_id();
    let bundle = Bundle::probe().set("/linux/cgroupsPath", format!("/{id}"));
    let _guard = runtime.guard(&id);
    let run = runtime.command([
        "run".as_ref(),
        "--bundle".as_ref(),
        bundle.path().as_os_str(),
        id.as_ref(),
    ]);
    // As nohup(1) and a shell's `&` do.
    let mut command = Command::new("sh");
    let _ = command.args(["-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh"]);
    let _ = command.arg(run.get_program()).args(run.get_args());

    let report = Outcome::of(&mut command, PATIENCE).success().report();

    assert_eq!(report.signals.ignored & 0b111, 0, "{:x}", report.signals.ignored);
}

#[test]
fn a_personality_is_set() {
    let host = requires!(root, our_runtime);
    let bundle = Bundle::probe().set("/linux/personality", json!({"domain": "LINUX32"}));

    let report = host.runtime().report(bundle);

    assert_eq!(report.personality & 0xff, 0x08);
}

#[test]
fn scheduling_is_what_was_asked_for() {
    let host = requires!(root, our_runtime);
    let bundle = Bundle::probe()
        .set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))
        .set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));

    let scheduling = host.runtime().report(bundle).scheduling;

    assert_eq!((scheduling.policy, scheduling.nice), (3, 5));
    assert_eq!(scheduling.io_priority, 2 << 13 | 6);
}
