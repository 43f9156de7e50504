//! System call filters – runtime-spec, config-linux.md, "Seccomp".

use std::fs;

use keg_fixtures::wait::{PATIENCE, wait_until};
use keg_fixtures::{Bundle, requires};
use serde_json::{Value, json};

/// Everything but getcwd works; `rule` decides about that.
fn allow_all_but(rule: &Value) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [rule],
    })
}

#[test]
fn a_filter_is_in_force_only_if_there_is_one() {
    let host = requires!(root);
    let rule = json!({"names": ["acct"], "action": "SCMP_ACT_ERRNO"});

    let with = host.runtime().report(Bundle::probe().set("/linux/seccomp", allow_all_but(&rule)));
    let without = host.runtime().report(Bundle::probe());

    assert_eq!((with.seccomp_mode, without.seccomp_mode), (2, 0));
}

#[test]
fn a_refused_call_fails_with_the_errno_of_the_rule() {
    let host = requires!(root);
    let rule = json!({"names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95});
    let bundle = Bundle::probe().set("/linux/seccomp", allow_all_but(&rule));

    let tried = host.runtime().attempts(bundle, &[&format!("syscall:{}:0", libc::SYS_acct)]);

    assert_eq!(tried, ["EOPNOTSUPP"]);
}

#[test]
fn the_errno_is_eperm_unless_told_otherwise() {
    let host = requires!(root);
    // getsid of oneself never fails of its own.
    let rule = json!({"names": ["getsid"], "action": "SCMP_ACT_ERRNO"});
    let bundle = Bundle::probe().set("/linux/seccomp", allow_all_but(&rule));

    let tried = host.runtime().attempts(bundle, &[&format!("syscall:{}:0", libc::SYS_getsid)]);

    assert_eq!(tried, ["EPERM"]);
}

#[test]
fn a_rule_on_arguments_refuses_only_those() {
    let host = requires!(root);
    let rule = json!({
        "names": ["getpriority"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 5,
        "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}],
    });
    let bundle = Bundle::probe().set("/linux/seccomp", allow_all_but(&rule));
    let call = |which: u32| format!("syscall:{}:{which}:0", libc::SYS_getpriority);

    let tried = host.runtime().attempts(bundle, &[&call(0), &call(2)]);

    assert_eq!(tried, ["", "EIO"]);
}

#[test]
fn a_masked_comparison_looks_at_the_masked_bits_only() {
    let host = requires!(root);
    let rule = json!({
        "names": ["umask"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": 0o070, "valueTwo": 0o020, "op": "SCMP_CMP_MASKED_EQ"}],
    });
    let bundle = Bundle::probe().set("/linux/seccomp", allow_all_but(&rule));
    let call = |mask: u32| format!("syscall:{}:{mask}", libc::SYS_umask);

    let tried = host.runtime().attempts(bundle, &[&call(0o022), &call(0o002), &call(0o030)]);

    assert_eq!(tried, ["EPERM", "", ""]);
}

#[test]
fn rules_architectures_and_flags_apply_together() {
    let host = requires!(root, our_runtime);
    let rule = json!({"names": ["acct", "swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38});
    let log = json!({"names": ["chroot"], "action": "SCMP_ACT_LOG"});
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [rule, log],
    });
    let bundle = Bundle::probe().set("/linux/seccomp", filter);
    let call = |number: i64| format!("syscall:{number}:0");

    let tried = host.runtime().attempts(bundle, &[&call(libc::SYS_acct), &call(libc::SYS_swapon)]);

    assert_eq!(tried, ["ENOSYS", "ENOSYS"]);
}

#[test]
fn a_killing_rule_kills_the_process() {
    let host = requires!(root);
    let rule = json!({"names": ["acct"], "action": "SCMP_ACT_KILL_PROCESS"});
    let bundle = Bundle::probe()
        .set("/linux/seccomp", allow_all_but(&rule))
        .args(["try", &format!("syscall:{}:0", libc::SYS_acct)]);

    let outcome = host.runtime().run(bundle);

    assert_eq!(outcome.exit_code, 128 + libc::SIGSYS, "{outcome:?}");
}

#[test]
fn a_filter_does_not_stop_the_runtime_from_starting_the_process() {
    let host = requires!(root);
    // What the runtime itself needs before execve, and the process does not.
    let names =
        ["mount", "umount2", "pivot_root", "setns", "unshare", "sethostname", "chroot", "mknod"];
    let rule = json!({"names": names, "action": "SCMP_ACT_ERRNO"});
    for no_new_privileges in [true, false] {
        let bundle = Bundle::probe()
            .set("/linux/seccomp", allow_all_but(&rule))
            .set("/process/noNewPrivileges", no_new_privileges);

        let report = host.runtime().report(bundle);

        assert_eq!(report.seccomp_mode, 2);
    }
}

#[test]
fn an_action_that_does_not_exist_is_refused_by_name() {
    let host = requires!(root);
    let rule = json!({"names": ["acct"], "action": "SCMP_ACT_NOSUCH"});
    let bundle = Bundle::probe().set("/linux/seccomp", allow_all_but(&rule));

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().contains("SCMP_ACT_NOSUCH"), "{outcome:?}");
}

#[test]
fn a_call_that_this_machine_does_not_know_is_skipped() {
    let host = requires!(root);
    let rule = json!({"names": ["not_a_system_call", "acct"], "action": "SCMP_ACT_ERRNO"});
    let bundle = Bundle::probe().set("/linux/seccomp", allow_all_but(&rule));

    let report = host.runtime().report(bundle);

    assert_eq!(report.seccomp_mode, 2);
}

#[test]
fn a_created_container_waits_without_privileges_unless_its_filter_refuses_the_waiting() {
    let host = requires!(root, our_runtime);
    for (refused, wanted) in
        [("acct", ("1000", "2")), ("accept4", ("0", "0")), ("recvmsg", ("0", "0"))]
    {
        let rule = json!({"names": [refused], "action": "SCMP_ACT_ERRNO"});
        let bundle = Bundle::probe()
            .set("/linux/seccomp", allow_all_but(&rule))
            .set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let container = host.runtime().create(bundle);

        wait_until(&format!("user and filter {wanted:?}"), PATIENCE, || {
            let path = format!("/proc/{}/status", container.init());
            let status = fs::read_to_string(path).unwrap();
            let first_of = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.split_whitespace().next().unwrap()
            };
            (first_of("Uid:"), first_of("Seccomp:")) == wanted
        });

        assert_eq!(container.start_and_wait().exit_code, 0, "{refused}");
    }
}
