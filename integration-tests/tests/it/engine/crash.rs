//! The daemon is disposable – ARCHITECTURE.md, "Invariants", 1.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, requires, wait_until};
use nix::sys::signal::{Signal, kill};

fn numbers(daemon: &Daemon, container: &str) -> Vec<u64> {
    let log = daemon.keg(["logs", container]).success().stdout;
    log.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?} in the log"))).collect()
}

#[test]
fn a_container_that_counts_survives_the_daemon_with_every_number() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "counter", &image, "/probe", "count", "2"]);
    daemon.wait_for_line("counter", "50");
    let pid = daemon.pid_of("counter");

    for _ in 0..3 {
        daemon.kill9();
        let before = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert!(before.contains("probe"), "{before}");
        daemon.start();

        assert_eq!(daemon.pid_of("counter"), pid);
        let last = *numbers(&daemon, "counter").last().unwrap();
        daemon.wait_for_line("counter", &(last + 50).to_string());
    }

    let listed = daemon.keg(["ps"]).success().stdout;
    assert!(listed.contains("counter") && listed.contains("Up "), "{listed}");
    let _ = daemon.keg(["stop", "-t", "1", "counter"]).success();
    let all = numbers(&daemon, "counter");
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<u64>>());
    // SIGTERM has no handler in it, and PID 1 is immune then: SIGKILL ends it.
    assert_eq!(daemon.inspect("counter")["State"]["ExitCode"], 137);
}

#[test]
fn an_exit_while_no_daemon_runs_is_known_afterwards() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let script = "trap 'echo bye; exit 23' TERM; echo ready; while :; do sleep 1; done";
    let _ = daemon.run_detached(["--name", "one", &image, "sh", "-c", script]);
    daemon.wait_for_line("one", "ready");
    let pid = daemon.pid_of("one");

    daemon.kill9();
    kill(pid, Signal::SIGTERM).unwrap();
    wait_until("the process is gone", PATIENCE, || kill(pid, None).is_err());
    daemon.start();

    wait_until("the exit is known", PATIENCE, || {
        daemon.inspect("one")["State"]["Status"] == "exited"
    });
    assert_eq!(daemon.inspect("one")["State"]["ExitCode"], 23);
    assert!(daemon.keg(["logs", "one"]).success().stdout.ends_with("bye\n"));
}

#[test]
fn a_container_whose_shim_died_too_is_found_ended() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let pid = daemon.pid_of("one");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let shim: i32 =
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();

    daemon.kill9();
    kill(nix::unistd::Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    daemon.start();

    wait_until("the container is known to have ended", PATIENCE, || {
        daemon.inspect("one")["State"]["Status"] == "exited"
    });
    wait_until("its process is gone", PATIENCE, || kill(pid, None).is_err());
    let _ = daemon.keg(["rm", "one"]).success();
}

#[test]
fn images_and_ended_containers_are_there_after_a_crash() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let _ = daemon.keg(["run", "--name", "one", &image, "sh", "-c", "echo kept > /file; exit 4"]);
    let images = daemon.keg(["images", "--no-trunc"]).success().stdout;

    daemon.crash();

    assert_eq!(daemon.keg(["images", "--no-trunc"]).success().stdout, images);
    assert_eq!(daemon.inspect("one")["State"]["ExitCode"], 4);
    let _ = daemon.keg(["start", "-a", "one"]);
    let _ = daemon.keg(["rm", "one"]).success();
    let _ = daemon.keg(["rmi", &image]).success();
}

#[test]
fn a_container_to_be_removed_at_its_end_is_removed_though_the_daemon_died() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--rm", "--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let pid = daemon.pid_of("one");

    daemon.kill9();
    kill(pid, Signal::SIGTERM).unwrap();
    wait_until("the process is gone", PATIENCE, || kill(pid, None).is_err());
    daemon.start();

    wait_until("the container is removed", PATIENCE, || {
        daemon.keg(["ps", "-aq"]).success().stdout.is_empty()
    });
}

#[test]
fn containers_go_on_over_an_orderly_restart() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let pid = daemon.pid_of("one");

    assert_eq!(daemon.stop(), 0);
    assert!(kill(pid, None).is_ok());
    daemon.start();

    assert_eq!(daemon.pid_of("one"), pid);
    let _ = daemon.keg(["stop", "one"]).success();
    assert_eq!(daemon.inspect("one")["State"]["ExitCode"], 0);
}

#[test]
fn a_second_daemon_on_the_same_root_is_refused() {
    requires!(root);
    let daemon = Daemon::new();
    let mut second = std::process::Command::new(keg_fixtures::programs::ours("kegd"));
    second.arg("--root").arg(daemon.root()).arg("--state").arg(daemon.state());
    second.arg("--listen").arg(format!("unix://{}", daemon.scratch().join("other.sock").display()));

    let outcome = keg_fixtures::Outcome::of(&mut second, PATIENCE);

    assert_ne!(outcome.exit_code, 0);
    let named = [daemon.root(), daemon.state()].map(|path| path.display().to_string());
    assert!(named.iter().any(|path| outcome.stderr.contains(path)), "{outcome:?}");
    let _ = daemon.keg(["ps"]).success();
}
