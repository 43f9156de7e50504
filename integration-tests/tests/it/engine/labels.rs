//! AppArmor around containers, on hosts that have it.

use keg_fixtures::{Daemon, requires};

/// Which profile confines the shell that runs in a container of `flags`, and whether it may write.
fn confinement(daemon: &Daemon, image: &str, flags: &[&str]) -> String {
    let script = "cat /proc/self/attr/current; echo x 2>&1 >/proc/sysrq-trigger | grep -o denied";
    let rest = [image, "sh", "-c", script];
    daemon.keg(["run", "--rm"].iter().chain(flags).chain(&rest)).stdout
}

#[test]
fn a_container_is_confined_by_the_default_profile_or_the_one_asked_for() {
    requires!(root, apparmor);
    let (daemon, image) = Daemon::with_busybox();

    let default = confinement(&daemon, &image, &[]);
    let none = confinement(&daemon, &image, &["--security-opt", "apparmor=unconfined"]);
    let privileged = confinement(&daemon, &image, &["--privileged"]);

    assert!(default.starts_with("keg-default (enforce)\n"), "{default}");
    assert!(default.ends_with("denied\n"), "{default}");
    assert!(none.starts_with("unconfined\n"), "{none}");
    assert!(privileged.starts_with("unconfined\n"), "{privileged}");
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
