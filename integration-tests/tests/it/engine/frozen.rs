//! Containers that are frozen: their processes take no signal until they thaw.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, requires, wait_until};

fn with_frozen() -> Daemon {
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "stubborn"]);
    daemon.wait_for_line("one", "ready");
    let _ = daemon.keg(["pause", "one"]).success();
    assert_eq!(daemon.inspect("one")["State"]["Status"], "paused");
    daemon
}

#[track_caller]
fn assert_killed(daemon: &Daemon) {
    wait_until("it has ended", PATIENCE, || daemon.inspect("one")["State"]["Status"] == "exited");
    let state = daemon.inspect("one")["State"].clone();
    assert_eq!((&state["ExitCode"], &state["Paused"]), (&137.into(), &false.into()), "{state}");
}

#[test]
fn a_frozen_container_can_be_killed_and_runs_again_afterwards() {
    requires!(root);
    let daemon = with_frozen();

    let _ = daemon.keg(["kill", "one"]).success();

    assert_killed(&daemon);
    let _ = daemon.keg(["start", "one"]).success();
    assert_eq!(daemon.keg(["exec", "one", "echo", "thawed"]).success().stdout, "thawed\n");
}

#[test]
fn a_frozen_container_can_be_stopped() {
    requires!(root);
    let daemon = with_frozen();

    let _ = daemon.keg(["stop", "-t", "0", "one"]).success();

    assert_killed(&daemon);
}

#[test]
fn a_frozen_container_is_removed_by_force_and_only_so() {
    requires!(root);
    let daemon = with_frozen();

    let refused = daemon.keg(["rm", "one"]);
    let _ = daemon.keg(["rm", "-f", "one"]).success();

    assert_eq!(refused.exit_code, 1, "{refused:?}");
    assert!(refused.stderr.contains("one") && refused.stderr.contains("-f"), "{refused:?}");
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
    wait_until("all processes are gone", PATIENCE, || daemon.pids() == [daemon.pid()]);
}

#[test]
fn a_frozen_container_stays_so_over_the_daemons_death_and_can_be_removed_then() {
    requires!(root);
    let mut daemon = with_frozen();

    daemon.crash();

    assert_eq!(daemon.inspect("one")["State"]["Status"], "paused");
    let _ = daemon.keg(["rm", "-f", "one"]).success();
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
}
