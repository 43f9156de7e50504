//! Namespaces, new, shared and joined – runtime-spec, config-linux.md, "Namespaces".

use std::fs;
use std::path::Path;

use keg_fixtures::{Bundle, requires};

/// Namespace type of the specification, and its name in `/proc/PID/ns`.
const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

fn of_host(name: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string()
}

#[test]
fn every_namespace_asked_for_is_new() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    for (_, name) in KINDS {
        assert_ne!(report.namespaces[name], of_host(name), "{name}");
    }
    assert_eq!(report.namespaces["user"], of_host("user"));
}

#[test]
fn a_namespace_not_asked_for_is_the_hosts() {
    let host = requires!(root);
    // A mount namespace is needed for a root filesystem; sysfs and the others need what they show.
    for (kind, name) in KINDS.iter().filter(|(kind, _)| *kind != "mount") {
        let bundle = Bundle::probe().without_namespace(kind).edit(|spec| {
            if *kind == "uts" {
                spec.as_object_mut().unwrap().remove("hostname");
            }
        });

        let report = host.runtime().report(bundle);

        assert_eq!(report.namespaces[*name], of_host(name), "{kind}");
    }
}

#[test]
fn a_namespace_with_a_path_is_joined() {
    let host = requires!(root);
    let runtime = host.runtime();
    let first = runtime.create(Bundle::probe().args(["pause"]));

    for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        let path = format!("/proc/{}/ns/{name}", first.init());
        let bundle = Bundle::probe().namespace(kind, Some(Path::new(&path))).edit(|spec| {
            spec.as_object_mut().unwrap().remove("hostname");
        });

        let report = runtime.report(bundle);

        let joined = fs::read_link(&path).unwrap().display().to_string();
        assert_eq!(report.namespaces[name], joined, "{kind}");
    }
}

#[test]
fn a_joined_pid_namespace_shows_the_processes_of_both() {
    let host = requires!(root);
    let runtime = host.runtime();
    let first = runtime.create(Bundle::probe().args(["pause"]));
    let path = format!("/proc/{}/ns/pid", first.init());
    let bundle = Bundle::probe().namespace("pid", Some(Path::new(&path)));

    let report = runtime.report(bundle);

    assert!(report.process.pid > 1, "{:?}", report.process);
}

#[test]
fn a_path_of_another_kind_of_namespace_is_refused() {
    let host = requires!(root);
    let bundle = Bundle::probe().namespace("network", Some(Path::new("/proc/self/ns/uts")));

    let outcome = host.runtime().refused(bundle);

    assert_ne!(outcome.exit_code, 0);
}

#[test]
fn a_path_that_does_not_exist_is_refused_by_name() {
    let host = requires!(root);
    let bundle = Bundle::probe().namespace("network", Some(Path::new("/run/no/such/ns")));

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().contains("/run/no/such/ns"), "{outcome:?}");
}

#[test]
fn a_namespace_listed_twice_is_refused() {
    let host = requires!(root);
    let again = serde_json::json!({"type": "uts"});
    let bundle = Bundle::probe().set("/linux/namespaces/-", again);

    assert!(host.runtime().try_create(bundle).is_err());
}

#[test]
fn the_process_is_the_first_of_its_pid_namespace() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    assert_eq!((report.process.pid, report.process.ppid, report.process.sid), (1, 0, 1));
}

#[test]
fn host_name_and_domain_name_are_set_in_a_new_uts_namespace() {
    let host = requires!(root, our_runtime);
    let bundle = Bundle::probe().set("/hostname", "inside").set("/domainname", "example.org");
    let before = rustix::system::uname().nodename().to_owned();

    let report = host.runtime().report(bundle);

    assert_eq!(report.hostname, "inside");
    assert_eq!(report.domainname, "example.org");
    assert_eq!(rustix::system::uname().nodename(), before.as_c_str());
}

#[test]
fn a_host_name_without_uts_namespace_is_refused() {
    let host = requires!(root);
    let bundle = Bundle::probe().without_namespace("uts");

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().to_lowercase().contains("uts"), "{outcome:?}");
}

#[test]
fn a_new_network_namespace_has_a_loopback_device_and_nothing_else() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    let names: Vec<&str> = report.interfaces.keys().map(String::as_str).collect();
    assert_eq!(names, ["lo"]);
    assert!(report.interfaces["lo"], "runtimes bring it up, as people expect");
}

#[test]
fn a_cgroup_namespace_shows_its_own_cgroup_as_the_root() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    assert!(report.cgroups.values().all(|path| path == "/"), "{:?}", report.cgroups);
}

#[test]
fn without_cgroup_namespace_the_full_path_shows() {
    let host = requires!(root, cgroup_v1);
    let runtime = host.runtime();

    let report = runtime.report(Bundle::probe().without_namespace("cgroup"));

    let memory = report.cgroup("memory").unwrap();
    assert!(memory.contains("keg-it-"), "{memory}");
}

#[test]
fn time_offsets_are_set_before_the_process_starts() {
    let host = requires!(root, time_namespaces, our_runtime);
    let offsets = serde_json::json!({
        "monotonic": {"secs": 172_800, "nanosecs": 0},
        "boottime": {"secs": 604_800, "nanosecs": 0},
    });
    let bundle = Bundle::probe().namespace("time", None).set("/linux/timeOffsets", offsets);

    let report = host.runtime().report(bundle);

    assert_ne!(report.namespaces["time"], of_host("time"));
    assert_eq!(report.time_offsets_secs["monotonic"], 172_800);
    assert_eq!(report.time_offsets_secs["boottime"], 604_800);
}
