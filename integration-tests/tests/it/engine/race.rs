//! Clients that want the same thing at the same time.

use std::fs;
use std::thread;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, Outcome, requires, wait_until};

/// Nothing of any container is left: no mount, no process but the daemon's own.
#[track_caller]
fn assert_nothing_left(daemon: &Daemon) {
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
    wait_until("all processes are gone", PATIENCE, || daemon.pids() == [daemon.pid()]);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let root = daemon.root().display().to_string();
    let left: Vec<_> = mounts.lines().filter(|line| line.contains(&root)).collect();
    assert_eq!(left, [""; 0]);
}

/// It worked, or it was told plainly that another client was first.
#[track_caller]
fn assert_sensible(outcome: &Outcome) {
    if outcome.exit_code == 0 {
        return;
    }
    assert_eq!(outcome.exit_code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("one"), "the container is not named: {outcome:?}");
    for word in ["panicked", "internal", "database", "os error"] {
        assert!(!outcome.stderr.contains(word), "{word}: {outcome:?}");
    }
}

#[test]
fn of_a_hundred_that_want_one_name_one_gets_it_and_the_others_learn_who_has_it() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let outcomes: Vec<_> = thread::scope(|scope| {
        let create = || daemon.keg(["create", "--name", "same", &image, "true"]);
        let threads: Vec<_> = (0..100).map(|_| scope.spawn(create)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    let (won, lost): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.exit_code == 0);
    assert_eq!((won.len(), lost.len()), (1, 99));
    let id = won[0].stdout.trim();
    for outcome in lost {
        let told = &outcome.stderr;
        assert!(told.contains("same") && told.contains("in use"), "{told}");
        assert!(told.contains(&id[..12]), "who has it is not said: {told}");
    }
    let all = daemon.keg(["ps", "-aq", "--no-trunc"]).success().stdout;
    assert_eq!(all.trim(), id);
}

#[test]
fn two_clients_start_and_stop_the_same_container_and_it_stays_whole() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let create = ["create", "--name", "one", &image, "/probe", "pause"];
    let _ = daemon.keg(create).success();

    let rounds = || -> Vec<Outcome> {
        let lines: [&[&str]; 3] =
            [&["start", "one"], &["stop", "-t", "0", "one"], &["restart", "-t", "0", "one"]];
        (0..4).flat_map(|_| lines).map(|line| daemon.keg(line)).collect()
    };
    let outcomes = thread::scope(|scope| {
        let other = scope.spawn(rounds);
        let mut outcomes = rounds();
        outcomes.extend(other.join().unwrap());
        outcomes
    });

    outcomes.iter().for_each(assert_sensible);
    let _ = daemon.keg(["stop", "-t", "0", "one"]).success();
    assert_eq!(daemon.inspect("one")["State"]["Status"], "exited");
    let _ = daemon.keg(["start", "one"]).success();
    assert_eq!(daemon.keg(["exec", "one", "echo", "whole"]).success().stdout, "whole\n");
    let _ = daemon.keg(["rm", "-f", "one"]).success();
    assert_nothing_left(&daemon);
}

#[test]
fn two_clients_create_start_and_remove_the_same_name_and_leave_nothing() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let rounds = || -> Vec<Outcome> {
        let lines: [&[&str]; 3] = [
            &["create", "--name", "one", &image, "/probe", "pause"],
            &["start", "one"],
            &["rm", "-f", "one"],
        ];
        (0..5).flat_map(|_| lines).map(|line| daemon.keg(line)).collect()
    };
    let outcomes = thread::scope(|scope| {
        let other = scope.spawn(rounds);
        let mut outcomes = rounds();
        outcomes.extend(other.join().unwrap());
        outcomes
    });

    outcomes.iter().for_each(assert_sensible);
    let _ = daemon.keg(["rm", "-f", "one"]);
    assert_nothing_left(&daemon);
    // The name is free, and all that it stood for.
    let run = ["run", "--rm", "--name", "one", &image, "echo", "free"];
    assert_eq!(daemon.keg(run).success().stdout, "free\n");
}
