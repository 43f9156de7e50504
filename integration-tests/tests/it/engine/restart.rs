//! Containers that are started anew – keg.v1, `RestartPolicy` and `Containers.Restart`.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, requires, wait_until};

fn restarts(daemon: &Daemon, container: &str) -> u64 {
    daemon.inspect(container)["RestartCount"].as_u64().unwrap()
}

#[test]
fn a_failing_container_is_tried_as_often_as_its_policy_says() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let policy = ["--name", "one", "--restart", "on-failure:2", &image];
    let _ = daemon.run_detached(policy.iter().chain(&["sh", "-c", "echo up; exit 3"]));

    // All of one look: the last run may have spoken before it is shown as running.
    wait_until("both retries are used up", PATIENCE, || {
        let one = daemon.inspect("one");
        one["State"]["Status"] == "exited"
            && one["State"]["ExitCode"] == 3
            && daemon.keg(["logs", "one"]).success().stdout == "up\nup\nup\n"
    });
    assert_eq!(restarts(&daemon, "one"), 2);
}

#[test]
fn a_container_that_was_stopped_stays_so_until_the_daemon_starts_anew() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    for (name, policy) in [("always", "always"), ("unless", "unless-stopped")] {
        let run = ["--name", name, "--restart", policy, &image, "/probe", "pause"];
        let _ = daemon.run_detached(run);
        daemon.wait_for_line(name, "ready");
        let _ = daemon.keg(["stop", "-t", "0", name]).success();
    }

    daemon.crash();

    wait_until("the one that always runs does", PATIENCE, || {
        daemon.inspect("always")["State"]["Status"] == "running"
    });
    assert_eq!(daemon.inspect("unless")["State"]["Status"], "exited");
}

#[test]
fn a_container_that_dies_while_no_daemon_runs_is_started_anew() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let run = ["--name", "one", "--restart", "unless-stopped", &image, "/probe", "pause"];
    let _ = daemon.run_detached(run);
    daemon.wait_for_line("one", "ready");
    let before = daemon.pid_of("one");

    daemon.kill9();
    nix::sys::signal::kill(before, nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.start();

    wait_until("another process runs", PATIENCE, || {
        let state = &daemon.inspect("one")["State"];
        state["Status"] == "running" && state["Pid"] != before.as_raw()
    });
}

#[test]
fn a_restart_by_hand_is_a_new_process_of_the_same_container() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let before = daemon.pid_of("one");

    let _ = daemon.keg(["restart", "-t", "0", "one"]).success();

    assert_ne!(daemon.pid_of("one"), before);
    assert_eq!(restarts(&daemon, "one"), 0);
}
