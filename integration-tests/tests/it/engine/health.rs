//! Health checks: what they find, what they change, what they survive.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, requires, wait_until};

fn health(daemon: &Daemon, container: &str) -> String {
    let format = "{{.State.Health.Status}}";
    daemon.keg(["inspect", "-f", format, container]).success().stdout.trim().to_owned()
}

fn becomes(daemon: &Daemon, container: &str, status: &str) {
    wait_until(status, PATIENCE, || health(daemon, container) == status);
}

/// A container that is healthy while it has a file.
fn run_checked(daemon: &Daemon, image: &str, more: &[&str]) {
    let flags = [
        "--name",
        "one",
        "--health-cmd",
        "echo looked; test -e /tmp/fine",
        "--health-interval",
        "50ms",
        "--health-retries",
        "2",
    ];
    let command = [image, "/probe", "pause"];
    let _ = daemon.run_detached(flags.iter().chain(more).chain(&command));
}

#[test]
fn a_container_is_what_its_check_says_and_the_daemon_may_die_meanwhile() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    run_checked(&daemon, &image, &[]);

    becomes(&daemon, "one", "unhealthy");
    let _ = daemon.keg(["exec", "one", "touch", "/tmp/fine"]).success();
    becomes(&daemon, "one", "healthy");
    assert!(daemon.keg(["ps"]).success().stdout.contains("(healthy)"));
    daemon.crash();
    assert_eq!(health(&daemon, "one"), "healthy");
    let _ = daemon.keg(["exec", "one", "rm", "/tmp/fine"]).success();
    becomes(&daemon, "one", "unhealthy");

    let found = daemon.inspect("one")["State"]["Health"].clone();
    let log = found["Log"].as_array().unwrap();
    assert!(!log.is_empty() && log.len() <= 5, "{log:?}");
    let last = log.last().unwrap();
    assert_eq!((&last["ExitCode"], &last["Output"]), (&1.into(), &"looked\n".into()));
    assert!(found["FailingStreak"].as_u64().unwrap() >= 2);
    let told = ["events", "--since", "1m", "--until", "0s", "-f", "container=one"];
    let told = daemon.keg(told.iter().chain(&["--format", "{{.Action}}"])).success().stdout;
    assert!(told.contains("health_status: unhealthy"), "{told}");
}

#[test]
fn a_check_that_hangs_is_killed_and_counts_as_failed() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let flags = ["--name", "one", "--health-cmd", "exec sleep 1000", "--health-interval", "50ms"];
    let more = ["--health-timeout", "100ms", "--health-retries", "1", &image, "/probe", "pause"];
    let _ = daemon.run_detached(flags.iter().chain(&more));

    becomes(&daemon, "one", "unhealthy");

    let log = daemon.inspect("one")["State"]["Health"]["Log"].clone();
    assert_eq!(log[0]["ExitCode"], -1);
    assert!(log[0]["Output"].as_str().unwrap().contains("exceeded timeout"), "{log}");
    wait_until("the killed ones are gone", PATIENCE, || {
        let listed = daemon.keg(["top", "one"]).success().stdout;
        listed.matches("sleep 1000").count() <= 1
    });
}

#[test]
fn an_unhealthy_container_is_restarted_if_that_is_asked_for() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    run_checked(&daemon, &image, &["--health-on-failure", "restart"]);
    let before = daemon.pid_of("one");

    wait_until("another process runs", PATIENCE, || {
        let state = &daemon.inspect("one")["State"];
        state["Running"] == true && state["Pid"] != before.as_raw()
    });
}

#[test]
fn without_a_check_there_is_no_health() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);

    assert!(daemon.inspect("one")["State"].get("Health").is_none());
    let flags = ["run", "--no-healthcheck", "--health-cmd", "true", &image];
    let refused = daemon.keg(flags);
    assert_eq!(refused.exit_code, 125);
    assert!(refused.stderr.contains("--no-healthcheck"), "{}", refused.stderr);
}
