//! features – runtime-spec, features.md: what is listed works, and what is not listed is refused.
//!
//! Each test takes one list out of what the runtime prints and goes through all of it, so that a name
//! that is added there without an effect fails here, and so does an effect that is not told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keg_fixtures::report::MountEntry;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Host, Outcome, Report, Runtime, Scratch, programs, requires};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

use super::in_namespaces;

fn features(runtime: &Runtime) -> Value {
    runtime.call(["features"]).success().json()
}

/// The names in a list of the answer.
fn listed(features: &Value, pointer: &str) -> BTreeSet<String> {
    let list = features.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing"));
    let names: Vec<String> = serde_json::from_value(list.clone()).unwrap();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "doubles in {pointer}");
    names.into_iter().collect()
}

/// Asserts that a bundle is refused, and that the error tells by `words` why.
#[track_caller]
fn refused(runtime: &Runtime, bundle: Bundle, words: &[&str]) {
    let outcome = runtime.refused(bundle);
    for word in words {
        assert!(outcome.text().contains(word), "{word:?} is not told: {outcome:?}");
    }
}

/// Whether the kernel is of this version or newer.
fn kernel_has(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let mut numbers = uname
        .release()
        .to_str()
        .unwrap()
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// A file system that the options are tried on, with another of the same kind mounted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Base {
    /// Shared, and without any restriction.
    Open,
    /// With every restriction.
    Shut,
}

const SHUT: &str = "ro,nosuid,nodev,noexec,nosymfollow,noatime,nodiratime";

impl Base {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Shut => "shut",
        }
    }

    fn make(self, scratch: &Scratch) {
        let top = scratch.directory(self.name());
        let tmpfs = |on: &Path| {
            mount(Some("tmpfs"), on, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        };
        tmpfs(&top);
        fs::create_dir(top.join("below")).unwrap();
        tmpfs(&top.join("below"));
        fs::write(top.join("file"), "").unwrap();
        fs::write(top.join("below/file"), "").unwrap();
        for place in [top.join("below"), top] {
            match self {
                Self::Open => {
                    mount(None::<&str>, &place, None::<&str>, MsFlags::MS_SHARED, None::<&str>)
                        .unwrap();
                }
                Self::Shut => {
                    let options = format!("remount,bind,{SHUT}");
                    let status = Command::new("mount").args(["-o", &options]).arg(&place).status();
                    assert!(status.unwrap().success());
                }
            }
        }
    }
}

/// An option of a bind mount: on what, with which others before it, and what the mount table says then of
/// the mount and of the one below ("!" for what is not there).
type BindRow = (&'static str, Base, &'static [&'static str], &'static str, Option<&'static str>);

#[rustfmt::skip]
const BIND_OPTIONS: &[BindRow] = {
    use Base::{Open, Shut};
    &[
        ("bind", Open, &[], "relatime", None),
        ("rbind", Open, &[], "relatime", Some("relatime")),
        ("ro", Open, &["rbind"], "ro", Some("!ro")),
        ("rw", Shut, &["rbind"], "!ro", Some("ro")),
        ("nosuid", Open, &["rbind"], "nosuid", Some("!nosuid")),
        ("suid", Shut, &["rbind"], "!nosuid", Some("nosuid")),
        ("nodev", Open, &["rbind"], "nodev", Some("!nodev")),
        ("dev", Shut, &["rbind"], "!nodev", Some("nodev")),
        ("noexec", Open, &["rbind"], "noexec", Some("!noexec")),
        ("exec", Shut, &["rbind"], "!noexec", Some("noexec")),
        ("nosymfollow", Open, &["rbind"], "nosymfollow", Some("!nosymfollow")),
        ("symfollow", Shut, &["rbind"], "!nosymfollow", Some("nosymfollow")),
        ("nodiratime", Open, &["rbind"], "nodiratime", Some("!nodiratime")),
        ("diratime", Shut, &["rbind"], "!nodiratime", Some("nodiratime")),
        ("noatime", Open, &["rbind"], "noatime", Some("!noatime")),
        ("atime", Shut, &["rbind"], "!noatime", Some("noatime")),
        ("relatime", Shut, &["rbind"], "relatime", Some("noatime")),
        ("norelatime", Shut, &["rbind"], "!noatime", Some("noatime")),
        ("strictatime", Open, &["rbind"], "!relatime", Some("relatime")),
        ("nostrictatime", Open, &["rbind", "strictatime"], "relatime", Some("relatime")),
        ("rro", Open, &["rbind"], "ro", Some("ro")),
        ("rrw", Shut, &["rbind"], "!ro", Some("!ro")),
        ("rnosuid", Open, &["rbind"], "nosuid", Some("nosuid")),
        ("rsuid", Shut, &["rbind"], "!nosuid", Some("!nosuid")),
        ("rnodev", Open, &["rbind"], "nodev", Some("nodev")),
        ("rdev", Shut, &["rbind"], "!nodev", Some("!nodev")),
        ("rnoexec", Open, &["rbind"], "noexec", Some("noexec")),
        ("rexec", Shut, &["rbind"], "!noexec", Some("!noexec")),
        ("rnosymfollow", Open, &["rbind"], "nosymfollow", Some("nosymfollow")),
        ("rsymfollow", Shut, &["rbind"], "!nosymfollow", Some("!nosymfollow")),
        ("rnodiratime", Open, &["rbind"], "nodiratime", Some("nodiratime")),
        ("rdiratime", Shut, &["rbind"], "!nodiratime", Some("!nodiratime")),
        ("rnoatime", Open, &["rbind"], "noatime", Some("noatime")),
        ("ratime", Shut, &["rbind"], "!noatime", Some("!noatime")),
        ("rrelatime", Shut, &["rbind"], "relatime", Some("relatime")),
        ("rnorelatime", Shut, &["rbind"], "!noatime", Some("!noatime")),
        ("rstrictatime", Open, &["rbind"], "!relatime", Some("!relatime")),
        ("rnostrictatime", Open, &["rbind", "rstrictatime"], "relatime", Some("relatime")),
        ("shared", Open, &["rbind", "rprivate"], "shared:", Some("!shared:")),
        ("rshared", Open, &["rbind", "rprivate"], "shared:", Some("shared:")),
        ("slave", Open, &["rbind", "rshared"], "!shared:", Some("shared:")),
        ("rslave", Open, &["rbind", "rshared"], "!shared:", Some("!shared:")),
        ("private", Open, &["rbind", "rshared"], "!shared:", Some("shared:")),
        ("rprivate", Open, &["rbind", "rshared"], "!shared:", Some("!shared:")),
        ("unbindable", Open, &["rbind"], "unbindable", Some("!unbindable")),
        ("runbindable", Open, &["rbind"], "unbindable", Some("unbindable")),
    ]
};

/// An option of a tmpfs, with others before it, and what its line says then.
#[rustfmt::skip]
const FILESYSTEM_OPTIONS: &[(&str, &[&str], &str)] = &[
    ("defaults", &["size=64k"], "size=64k"),
    ("sync", &[], "sync"),
    ("async", &["sync"], "!sync"),
    ("dirsync", &[], "dirsync"),
    ("lazytime", &[], "lazytime"),
    ("nolazytime", &["lazytime"], "!lazytime"),
    ("nomand", &["mand"], "!mand"),
    // Without a trace in the table: Linux has mandatory locks no more, and the others are switches of
    // the call, or of file systems that have them switched on always.
    ("mand", &[], ""),
    ("silent", &[], ""),
    ("loud", &["silent"], ""),
    ("acl", &[], ""),
    ("noacl", &["acl"], ""),
    ("iversion", &[], ""),
    ("noiversion", &["iversion"], ""),
];

/// Options that are looked at in tests of their own, by what files there are and whose.
const OTHER_OPTIONS: [&str; 4] = ["idmap", "remount", "ridmap", "tmpcopyup"];

#[track_caller]
fn assert_shows(option: &str, entry: &MountEntry, expected: &str) {
    let shows =
        |word: &str| entry.has(word) || entry.propagation.iter().any(|tag| tag.starts_with(word));
    match expected.strip_prefix('!') {
        Some(word) => assert!(!shows(word), "{option}: {word} is there: {entry:?}"),
        None => {
            assert!(shows(expected) || expected.is_empty(), "{option}: no {expected}: {entry:?}")
        }
    }
}

/// Makes the two trees in a mount namespace of its own, and does something there.
fn with_trees(act: impl FnOnce(&Scratch) + Send) {
    let scratch = Scratch::new();
    in_namespaces(CloneFlags::CLONE_NEWNS, || {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        Base::Open.make(&scratch);
        Base::Shut.make(&scratch);
        act(&scratch);
    });
}

#[test]
fn every_mount_option_that_is_listed_is_tried_here() {
    let host = requires!(our_runtime);

    let listed = listed(&features(&host.runtime()), "/mountOptions");

    let tried =
        BIND_OPTIONS.iter().map(|row| row.0).chain(FILESYSTEM_OPTIONS.iter().map(|row| row.0));
    let tried: BTreeSet<String> = tried.chain(OTHER_OPTIONS).map(str::to_owned).collect();
    assert_eq!(listed, tried);
}

#[test]
fn options_of_mounts_show_in_the_mount_table() {
    let host = requires!(root, our_runtime);
    with_trees(|scratch| {
        let mut bundle = Bundle::probe();
        for (option, base, before, ..) in BIND_OPTIONS {
            let source = scratch.join(base.name());
            let options: Vec<&str> = before.iter().copied().chain([*option]).collect();
            let destination = format!("/mnt/{option}");
            bundle = bundle.mount(&destination, "bind", source.to_str().unwrap(), &options);
        }
        for (option, before, _) in FILESYSTEM_OPTIONS {
            let options: Vec<&str> = before.iter().copied().chain([*option]).collect();
            bundle = bundle.mount(&format!("/fs/{option}"), "tmpfs", "tmpfs", &options);
        }
        let again = json!({"destination": "/fs/remount", "options": ["remount", "ro"]});
        bundle = bundle
            .mount("/fs/remount", "tmpfs", "tmpfs", &[])
            .set("/mounts/-", again)
            .mount("/fs/other", "tmpfs", "tmpfs", &["size=64k"])
            .mount("/fs/other", "tmpfs", "tmpfs", &["remount", "size=128k", "nosuid"]);

        let report = host.runtime().report(bundle);

        for (option, _, _, top, below) in BIND_OPTIONS {
            assert_shows(option, report.mount(&format!("/mnt/{option}")), top);
            let found = report.find_mount(&format!("/mnt/{option}/below"));
            assert_eq!(found.is_some(), below.is_some(), "{option}: the mount below");
            if let (Some(entry), Some(expected)) = (found, below) {
                assert_shows(option, entry, expected);
            }
        }
        for (option, _, expected) in FILESYSTEM_OPTIONS {
            assert_shows(option, report.mount(&format!("/fs/{option}")), expected);
        }
        let same = report.mounts.iter().filter(|mount| mount.mount_point == "/fs/remount");
        assert_eq!(same.count(), 1, "a remount covers nothing");
        assert_shows("remount", report.mount("/fs/remount"), "ro");
        assert_shows("remount", report.mount("/fs/other"), "size=128k");
        assert_shows("remount", report.mount("/fs/other"), "nosuid");
    });
}

#[test]
fn id_maps_and_copies_show_in_the_files() {
    let host = requires!(root, user_namespaces, our_runtime);
    with_trees(|scratch| {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        let mapped = |destination: &str, options: &[&str]| {
            json!({
                "destination": destination, "type": "bind", "source": scratch.join("open"),
                "options": options, "uidMappings": map, "gidMappings": map,
            })
        };
        if !kernel_has(6, 3) {
            // A tmpfs takes no id map: that is told.
            let bundle = Bundle::probe().set("/mounts/-", mapped("/one", &["rbind", "idmap"]));
            return refused(&host.runtime(), bundle, &["mounts"]);
        }
        let bundle = Bundle::probe()
            .set("/mounts/-", mapped("/one", &["rbind", "idmap"]))
            .set("/mounts/-", mapped("/all", &["rbind", "ridmap"]))
            .mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup"])
            .args([
                "stat",
                "/one/file",
                "/one/below/file",
                "/all/file",
                "/all/below/file",
                "/etc/passwd",
            ]);

        let files: Value = host.runtime().run(bundle).success().json();

        let owner = |path: &str| files[path]["uid"].clone();
        assert_eq!((owner("/one/file"), owner("/one/below/file")), (json!(1000), json!(0)));
        assert_eq!((owner("/all/file"), owner("/all/below/file")), (json!(1000), json!(1000)));
        assert!(!files["/etc/passwd"].is_null(), "tmpcopyup has copied nothing");
    });
}

#[test]
fn options_that_are_not_listed_go_to_the_file_system_which_refuses_them() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let listed = listed(&features(&runtime), "/mountOptions");

    for option in ["nosuch", "NOEXEC", "rnosuch", "rremount", "rbindable", "rdefaults", "ro "] {
        assert!(!listed.contains(option));
        refused(
            &runtime,
            Bundle::probe().mount("/mnt", "tmpfs", "tmpfs", &[option]),
            &["/mnt", option],
        );
    }
}

#[test]
fn hooks_of_every_listed_kind_run() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let listed = listed(&features(&runtime), "/hooks");
    let scratch = Scratch::new();
    let directory = scratch.path().to_str().unwrap();
    let mut bundle =
        Bundle::probe().args(["exit", "0"]).mount(directory, "bind", directory, &["bind"]);
    // Found in the container's files, too, where hooks of one kind are executed.
    let sh = "/bin/sh";
    for kind in listed.iter().map(String::as_str).chain(["nosuch"]) {
        let script = format!(": > {directory}/{kind}");
        bundle = bundle
            .set(&format!("/hooks/{kind}/-"), json!({"path": sh, "args": [sh, "-c", script]}));
    }

    let _ = runtime.run(bundle).success();

    let ran = fs::read_dir(scratch.path()).unwrap();
    let ran: BTreeSet<String> =
        ran.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(ran, listed);
}

#[test]
fn namespaces_of_every_listed_kind_are_made() {
    let host = requires!(root, user_namespaces, time_namespaces, our_runtime);
    let runtime = host.runtime();
    let listed = listed(&features(&runtime), "/linux/namespaces");
    let mut bundle = Bundle::probe().user_namespace(700_000, 65_536);
    for kind in listed.iter().filter(|kind| *kind != "user") {
        bundle = bundle.namespace(kind, None);
    }

    let report = runtime.report(bundle);

    for kind in &listed {
        let file = match kind.as_str() {
            "mount" => "mnt",
            "network" => "net",
            other => other,
        };
        let of_host = fs::read_link(format!("/proc/self/ns/{file}")).unwrap();
        assert_ne!(Path::new(&report.namespaces[file]), of_host, "{kind}");
    }
    let all: Vec<String> = fs::read_dir("/proc/self/ns")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with("_for_children"))
        .collect();
    assert_eq!(all.len(), listed.len(), "the kernel has {all:?}");
    refused(&runtime, Bundle::probe().namespace("nosuch", None), &["nosuch"]);
}

/// What the probe sees outside of any container.
fn report_of_host() -> Report {
    let mut probe = Command::new(programs::ours("keg-probe"));
    Outcome::of(probe.arg("report"), PATIENCE).success().report()
}

#[test]
fn every_listed_capability_is_given_if_the_host_has_it() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let listed = listed(&features(&runtime), "/linux/capabilities");
    let all: Vec<&String> = listed.iter().collect();
    let sets = json!({"bounding": all, "permitted": all, "effective": all});

    let inside = runtime.report(Bundle::probe().set("/process/capabilities", sets)).capabilities;

    let outside = report_of_host().capabilities;
    assert!(outside.bounding.is_subset(&listed), "{:?} are not listed", outside.bounding);
    assert_eq!(inside.bounding, outside.bounding);
    assert_eq!(inside.effective, outside.effective);
}

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

/// Modes of a memory policy, the nodes that each is tried with, and what `numa_maps` calls it.
const POLICIES: [(&str, &str, &str); 7] = [
    ("MPOL_DEFAULT", "", "default"),
    ("MPOL_BIND", "0", "bind"),
    ("MPOL_INTERLEAVE", "0", "interleave"),
    ("MPOL_LOCAL", "", "local"),
    ("MPOL_PREFERRED", "0", "prefer:0"),
    ("MPOL_PREFERRED_MANY", "0", "prefer (many):0"),
    ("MPOL_WEIGHTED_INTERLEAVE", "0", "weighted interleave:0"),
];

const POLICY_FLAGS: [(&str, &str); 3] = [
    ("MPOL_F_NUMA_BALANCING", "bind"),
    ("MPOL_F_RELATIVE_NODES", "bind=relative"),
    ("MPOL_F_STATIC_NODES", "bind=static"),
];

#[test]
fn listed_memory_policies_are_in_force_inside() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let features = features(&runtime);
    assert_eq!(
        listed(&features, "/linux/memoryPolicy/modes"),
        POLICIES.iter().map(|row| row.0.to_owned()).collect()
    );
    assert_eq!(
        listed(&features, "/linux/memoryPolicy/flags"),
        POLICY_FLAGS.iter().map(|row| row.0.to_owned()).collect()
    );
    let with = |mode: &str, nodes: &str, flags: &[&str]| {
        Bundle::busybox()
            .command(["/bin/busybox", "head", "-n1", "/proc/self/numa_maps"])
            .set("/linux/memoryPolicy", json!({"mode": mode, "nodes": nodes, "flags": flags}))
    };
    let tried = |bundle: Bundle, what: &str, expected: &str| {
        if !Path::new("/proc/self/numa_maps").exists() {
            return refused(&runtime, bundle, &["memoryPolicy"]);
        }
        let outcome = runtime.run(bundle).success();
        let policy = outcome.stdout.split_once(' ').unwrap_or_default().1;
        assert!(policy.starts_with(expected), "{what}: {policy}");
    };

    for (mode, nodes, shown) in POLICIES {
        if mode == "MPOL_WEIGHTED_INTERLEAVE" && !kernel_has(6, 9) {
            refused(&runtime, with(mode, nodes, &[]), &["memoryPolicy"]);
            continue;
        }
        tried(with(mode, nodes, &[]), mode, shown);
    }
    for (flag, shown) in POLICY_FLAGS {
        tried(with("MPOL_BIND", "0", &[flag]), flag, shown);
    }
    refused(&runtime, with("MPOL_NOSUCH", "0", &[]), &["MPOL_NOSUCH"]);
    refused(&runtime, with("MPOL_BIND", "0", &["MPOL_F_NOSUCH"]), &["MPOL_F_NOSUCH"]);
}

#[test]
fn network_devices_are_moved_in_as_the_features_say() {
    let host = requires!(root, our_runtime);
    in_namespaces(CloneFlags::CLONE_NEWNET, || {
        let runtime = host.runtime();
        assert_eq!(features(&runtime)["linux"]["netDevices"]["enabled"], true);
        let words = ["link", "add", "keg-f0", "type", "veth", "peer", "name", "keg-f1"];
        assert!(Command::new("ip").args(words).status().unwrap().success());
        let with = |device: &str| {
            Bundle::probe().set("/linux/netDevices", json!({device: {"name": "eth7"}}))
        };

        let report = runtime.report(with("keg-f0"));

        assert!(report.interfaces.contains_key("eth7"), "{:?}", report.interfaces);
        refused(&runtime, with("keg-nosuch"), &["keg-nosuch"]);
    });
}

/// What is listed as implemented and a machine may lack: what is asked for, the file without which the
/// kernel cannot do it, and the words of the refusal.
#[rustfmt::skip]
const OF_THE_KERNEL: &[(&str, &str, &str, &str)] = &[
    ("/linux/apparmor/enabled", "/process/apparmorProfile", "/sys/module/apparmor/parameters/enabled", "AppArmor"),
    ("/linux/selinux/enabled", "/process/selinuxLabel", "/sys/fs/selinux/enforce", "SELinux"),
    ("/linux/intelRdt/enabled", "/linux/intelRdt/closID", "/sys/fs/resctrl/schemata", "intelRdt"),
];

#[test]
fn what_the_kernel_lacks_is_refused_by_name_though_the_runtime_has_it() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let features = features(&runtime);
    for (feature, field, file, word) in OF_THE_KERNEL {
        assert_eq!(features.pointer(feature), Some(&json!(true)), "{feature}");
        if !Path::new(file).exists() {
            refused(&runtime, Bundle::probe().set(field, "keg-nosuch"), &[word]);
        }
    }
    for detail in ["schemata", "monitoring"] {
        assert_eq!(features["linux"]["intelRdt"][detail], true, "{detail}");
    }
    let rdt = json!({"schemata": ["L3:0=f"], "enableMonitoring": true});
    if !Path::new("/sys/fs/resctrl/schemata").exists() {
        refused(&runtime, Bundle::probe().set("/linux/intelRdt", rdt), &["intelRdt"]);
    }
}

/// The controllers that have a hierarchy of v1.
fn in_v1() -> BTreeMap<String, PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts =
        table.lines().filter_map(MountEntry::parse).filter(|mount| mount.fstype == "cgroup");
    let pairs = mounts.flat_map(|mount| {
        let path = PathBuf::from(mount.mount_point);
        mount.super_options.into_iter().map(move |name| (name, path.clone()))
    });
    pairs.collect()
}

#[test]
fn cgroups_are_as_the_features_say() {
    let host: Host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let features = features(&runtime);
    let cgroup = &features["linux"]["cgroup"];
    assert_eq!(
        *cgroup,
        json!({"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true})
    );

    let container = runtime.create(Bundle::probe().args(["pause"]));
    let own = fs::read_to_string(format!("/proc/{}/cgroup", container.init())).unwrap();
    for line in own.lines().filter(|line| !line.contains("name=")) {
        let v2 = line.starts_with("0::");
        assert!(
            line.contains(container.id()) || (v2 && !in_v1().is_empty()),
            "not attached: {line}"
        );
    }

    let devices = json!({"keg0": {"hcaHandles": 1}});
    let has_rdma = in_v1().contains_key("rdma")
        || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|all| all.contains("rdma"));
    if !has_rdma {
        refused(&runtime, Bundle::probe().set("/linux/resources/rdma", devices), &["rdma"]);
    }
    if !Path::new("/run/systemd/system").exists() {
        let bundle = Bundle::probe().set("/linux/cgroupsPath", "system.slice:keg:none");
        let path = bundle.path().to_str().unwrap();
        let outcome = runtime.call(["--systemd-cgroup", "create", "--bundle", path, "keg-none"]);
        assert_ne!(outcome.exit_code, 0);
        assert!(outcome.text().contains("systemd"), "{outcome:?}");
    }
}

#[test]
fn versions_of_the_specification_are_taken_from_the_first_to_the_last_that_is_told() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let features = features(&runtime);

    assert_eq!(features["ociVersionMax"], "1.3.0");
    for bound in ["ociVersionMin", "ociVersionMax"] {
        let version = features[bound].as_str().unwrap();
        let bundle = Bundle::probe().args(["exit", "0"]).set("/ociVersion", version);
        assert_eq!(runtime.run(bundle).exit_code, 0, "{version}");
    }
    for version in ["0.9.0", "2.0.0", "nosuch"] {
        refused(&runtime, Bundle::probe().set("/ociVersion", version), &[version]);
    }
}

#[test]
fn annotations_that_change_what_the_runtime_does_are_told_as_unsafe() {
    let host = requires!(root, criu, our_runtime);
    let runtime = host.runtime();
    let listed = listed(&features(&runtime), "/potentiallyUnsafeConfigAnnotations");
    assert_eq!(listed, ["org.criu.config", "org.systemd.property."].map(str::to_owned).into());
    let scratch = Scratch::new();
    // An option that CRIU has not: so it has read the file.
    let config = scratch.file("criu.conf", "no-such-option-of-criu\n");
    let bundle = Bundle::probe().args(["pause"]).set("/annotations/org.criu.config", json!(config));
    let container = runtime.create(bundle);
    container.start();

    let images = scratch.join("images");
    let images = images.to_str().unwrap();
    let outcome = runtime.call(["checkpoint", "--image-path", images, container.id()]);

    assert_ne!(outcome.exit_code, 0, "{outcome:?}");
    // The other is read for its driver alone (its values: `runtime`'s own tests).
    let bundle =
        Bundle::probe().args(["exit", "0"]).set("/annotations/org.systemd.property.No", "?");
    assert_eq!(runtime.run(bundle).exit_code, 0);
}
