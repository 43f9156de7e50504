//! features – `linux.seccomp`: actions, operators, architectures and flags.

use keg_fixtures::{Bundle, requires};
use serde_json::{Value, json};

use super::{features, listed, refused};

/// What becomes of the call that a rule is about.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Works,
    Fails(&'static str),
    Killed,
    /// The profile is refused, with this word.
    Refused(&'static str),
}

const ACTIONS: [(&str, Fate); 9] = [
    ("SCMP_ACT_ALLOW", Fate::Works),
    ("SCMP_ACT_LOG", Fate::Works),
    ("SCMP_ACT_ERRNO", Fate::Fails("EPERM")),
    // Nobody traces.
    ("SCMP_ACT_TRACE", Fate::Fails("ENOSYS")),
    ("SCMP_ACT_TRAP", Fate::Killed),
    ("SCMP_ACT_KILL", Fate::Killed),
    ("SCMP_ACT_KILL_THREAD", Fate::Killed),
    ("SCMP_ACT_KILL_PROCESS", Fate::Killed),
    // With a listener: `seccomp_agent`.
    ("SCMP_ACT_NOTIFY", Fate::Refused("listenerPath")),
];

/// getpriority(2) of a process, a group, a user: none of them fails of its own.
const CALLS: [u64; 3] = [0, 1, 2];

fn call(which: u64) -> String {
    format!("syscall:{}:{which}:0", libc::SYS_getpriority)
}

fn with_rule(rule: &Value) -> Bundle {
    Bundle::probe().set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [rule],
        }),
    )
}

#[test]
fn every_listed_action_of_seccomp_does_what_it_says() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let listed = listed(&features(&runtime), "/linux/seccomp/actions");
    assert_eq!(listed, ACTIONS.iter().map(|row| row.0.to_owned()).collect());

    for (action, fate) in ACTIONS {
        let bundle = with_rule(&json!({"names": ["getpriority"], "action": action}));
        match fate {
            Fate::Works => assert_eq!(runtime.attempts(bundle, &[&call(0)]), [""], "{action}"),
            Fate::Fails(errno) => {
                assert_eq!(runtime.attempts(bundle, &[&call(0)]), [errno], "{action}");
            }
            Fate::Killed => {
                let outcome = runtime.run(bundle.args(["try", &call(0)]));
                assert_eq!(outcome.exit_code, 128 + libc::SIGSYS, "{action}: {outcome:?}");
            }
            Fate::Refused(word) => refused(&runtime, bundle, &[word]),
        }
    }
    let unknown = json!({"names": ["getpriority"], "action": "SCMP_ACT_NOSUCH"});
    refused(&runtime, with_rule(&unknown), &["SCMP_ACT_NOSUCH"]);
}

/// What of [`CALLS`] a comparison with 1 (masked: of bit 1 with 2) meets.
const OPERATORS: [(&str, [bool; 3]); 7] = [
    ("SCMP_CMP_EQ", [false, true, false]),
    ("SCMP_CMP_NE", [true, false, true]),
    ("SCMP_CMP_LT", [true, false, false]),
    ("SCMP_CMP_LE", [true, true, false]),
    ("SCMP_CMP_GT", [false, false, true]),
    ("SCMP_CMP_GE", [false, true, true]),
    ("SCMP_CMP_MASKED_EQ", [false, false, true]),
];

#[test]
fn every_listed_operator_of_seccomp_compares() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let listed = listed(&features(&runtime), "/linux/seccomp/operators");
    assert_eq!(listed, OPERATORS.iter().map(|row| row.0.to_owned()).collect());
    let with_operator = |operator: &str| {
        let value = if operator == "SCMP_CMP_MASKED_EQ" { 2 } else { 1 };
        with_rule(&json!({
            "names": ["getpriority"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": value, "valueTwo": 2, "op": operator}],
        }))
    };

    for (operator, met) in OPERATORS {
        let calls = CALLS.map(call);
        let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
        let tried = runtime.attempts(with_operator(operator), &calls);
        let expected = met.map(|met| if met { "EPERM" } else { "" });
        assert_eq!(tried, expected, "{operator}");
    }
    refused(&runtime, with_operator("SCMP_CMP_NOSUCH"), &["SCMP_CMP_NOSUCH"]);
}

/// The architectures of the specification.
const ARCHITECTURES: [&str; 21] = [
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
];

#[test]
fn listed_architectures_and_flags_are_taken_and_no_others() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let features = features(&runtime);
    let architectures = listed(&features, "/linux/seccomp/archs");
    let (known, supported) = (
        listed(&features, "/linux/seccomp/knownFlags"),
        listed(&features, "/linux/seccomp/supportedFlags"),
    );
    let with = |field: &str, name: &str| {
        with_rule(&json!({"names": ["acct"], "action": "SCMP_ACT_ERRNO"}))
            .args(["try", &format!("syscall:{}:0", libc::SYS_acct)])
            .set(&format!("/linux/seccomp/{field}"), json!([name]))
    };

    for name in &architectures {
        let outcome = runtime.run(with("architectures", name)).success();
        assert!(outcome.stdout.contains("EPERM"), "{name}: the machine's own is not filtered");
    }
    let others = ARCHITECTURES.into_iter().filter(|name| !architectures.contains(*name));
    for name in others.chain(["SCMP_ARCH_NOSUCH"]) {
        refused(&runtime, with("architectures", name), &[name]);
    }
    assert!(supported.is_subset(&known), "{supported:?}");
    for name in &supported {
        let outcome = runtime.run(with("flags", name)).success();
        assert!(outcome.stdout.contains("EPERM"), "{name}");
    }
    let others = known.difference(&supported).map(String::as_str);
    for name in others.chain(["SECCOMP_FILTER_FLAG_NOSUCH"]) {
        refused(&runtime, with("flags", name), &[name]);
    }
}
