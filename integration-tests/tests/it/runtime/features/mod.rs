//! features – runtime-spec, features.md: what is listed works, and what is not listed is refused.
//!
//! Each test takes one list out of what the runtime prints and goes through all of it, so that a name
//! that is added there without an effect fails here, and so does an effect that is not told.

mod kernel;
mod mounts;
mod seccomp;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Report, Runtime, Scratch, programs, requires};
use serde_json::{Value, json};

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
