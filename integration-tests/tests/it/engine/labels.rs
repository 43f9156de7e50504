//! AppArmor around containers, on hosts that have it.

use keg_fixtures::{Daemon, requires};

/// Which profile confines what runs in a container of `flags`.
fn profile(daemon: &Daemon, image: &str, flags: &[&str]) -> String {
    let rest = [image, "cat", "/proc/self/attr/current"];
    let outcome = daemon.keg(["run", "--rm"].iter().chain(flags).chain(&rest)).success();
    outcome.stdout.trim_end().to_owned()
}

#[test]
fn a_container_is_confined_by_the_default_profile_or_the_one_asked_for() {
    requires!(root, apparmor);
    let (daemon, image) = Daemon::with_busybox();

    assert_eq!(profile(&daemon, &image, &[]), "keg-default (enforce)");
    let unconfined = ["--security-opt", "apparmor=unconfined"];
    assert_eq!(profile(&daemon, &image, &unconfined), "unconfined");
    assert_eq!(profile(&daemon, &image, &["--privileged"]), "unconfined");
    assert!(daemon.keg(["info"]).success().stdout.contains("apparmor"));
}

#[test]
fn an_exec_has_the_profile_of_its_container() {
    requires!(root, apparmor);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);

    let exec = daemon.keg(["exec", "one", "cat", "/proc/self/attr/current"]).success();

    assert_eq!(exec.stdout.trim_end(), "keg-default (enforce)");
}
