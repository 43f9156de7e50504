//! What cannot be done: one clear error, Docker's exit code, and nothing half-made.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, Outcome, Scratch, programs, registry, requires};

/// One error on standard error, which names `operand`; nothing on standard output.
#[track_caller]
fn assert_error(outcome: &Outcome, exit_code: i32, operand: &str) {
    assert_eq!(outcome.exit_code, exit_code, "{outcome:?}");
    assert!(outcome.stderr.contains(operand), "{operand:?} is not named: {outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
}

#[track_caller]
fn assert_no_containers(daemon: &Daemon) {
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
}

#[test]
fn a_daemon_that_does_not_run_is_named_with_what_to_do() {
    let scratch = Scratch::new();
    let host = format!("unix://{}", scratch.join("nobody.sock").display());
    for (arguments, exit_code) in [(&["ps"][..], 1), (&["run", "--rm", "busybox"], 125)] {
        let mut command = Command::new(programs::ours("keg"));
        command.args(arguments).env("KEG_HOST", &host);

        let outcome = Outcome::of(&mut command, PATIENCE);

        assert_error(&outcome, exit_code, "nobody.sock");
        assert!(outcome.stderr.contains("kegd"), "no remedy: {outcome:?}");
    }
}

#[test]
fn a_user_who_may_not_use_the_socket_is_told_so() {
    requires!(root);
    let daemon = Daemon::new();
    let mut command = daemon.keg_command(["ps"]);
    command.uid(65_534).gid(65_534);

    let outcome = Outcome::of(&mut command, PATIENCE);

    assert_error(&outcome, 1, "kegd.sock");
    assert!(outcome.stderr.to_lowercase().contains("permission"), "{outcome:?}");
}

#[test]
fn an_unreachable_registry_is_named() {
    requires!(root);
    let daemon = Daemon::new();
    let reference = format!("127.0.0.1:{}/nothing:1", registry::free_port());

    let pull = daemon.keg(["pull", &reference]);
    let run = daemon.keg(["run", "--rm", &reference, "true"]);

    assert_ne!(pull.exit_code, 0);
    assert!(pull.stderr.contains("127.0.0.1"), "{pull:?}");
    assert_eq!(run.exit_code, 125, "{run:?}");
    assert_no_containers(&daemon);
}

#[test]
fn a_name_that_is_no_reference_is_refused() {
    requires!(root);
    let daemon = Daemon::new();

    let outcome = daemon.keg(["run", "--rm", "UPPER//case", "true"]);

    assert_error(&outcome, 125, "UPPER//case");
}

#[test]
fn a_command_that_does_not_exist_gives_127_and_no_container() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let outcome = daemon.keg(["run", "--rm", &image, "/no/such/command"]);

    assert_error(&outcome, 127, "/no/such/command");
    assert_no_containers(&daemon);
}

#[test]
fn a_command_that_cannot_be_executed_gives_126_and_no_container() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let outcome = daemon.keg(["run", "--rm", &image, "/etc/passwd"]);

    assert_error(&outcome, 126, "/etc/passwd");
    assert_no_containers(&daemon);
}

#[test]
fn a_name_in_use_is_refused_and_its_container_goes_on() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let id = daemon.run_detached(["--name", "taken", &image, "/probe", "pause"]);

    let outcome = daemon.keg(["run", "--name", "taken", &image, "true"]);

    assert_error(&outcome, 125, "taken");
    assert!(outcome.stderr.contains(&id[..12]), "who has it is not said: {outcome:?}");
    assert_eq!(daemon.inspect("taken")["State"]["Status"], "running");
}

#[test]
fn an_unknown_container_is_named_by_every_command() {
    requires!(root);
    let daemon = Daemon::new();

    for command in ["start", "stop", "kill", "rm", "logs", "attach", "inspect", "wait", "restart"] {
        let outcome = daemon.keg([command, "nobody"]);

        assert_eq!(outcome.exit_code, 1, "{command}: {outcome:?}");
        assert!(outcome.stderr.contains("nobody"), "{command}: {outcome:?}");
    }
}

#[test]
fn an_unknown_image_is_named() {
    requires!(root);
    let daemon = Daemon::new();

    let removed = daemon.keg(["rmi", "nosuch:1"]);
    let run = daemon.keg(["run", "--pull", "never", "nosuch:1", "true"]);

    assert_ne!(removed.exit_code, 0);
    assert!(removed.stderr.contains("nosuch:1"), "{removed:?}");
    assert_error(&run, 125, "nosuch:1");
}

#[test]
fn a_running_container_is_not_removed_without_force() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);

    let outcome = daemon.keg(["rm", "one"]);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.contains("-f"), "no remedy: {outcome:?}");
    assert_eq!(daemon.inspect("one")["State"]["Status"], "running");
}

#[test]
fn an_image_in_use_is_not_removed() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let id = daemon.run_detached(["--name", "user", &image, "/probe", "pause"]);

    let outcome = daemon.keg(["rmi", &image]);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.contains(&id[..12]), "who uses it is not said: {outcome:?}");
    assert_eq!(daemon.keg(["images", "-q"]).success().stdout.lines().count(), 1);
}

#[test]
fn a_bind_mount_whose_source_is_missing_is_refused_where_docker_refuses_it() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let mount = "type=bind,source=/no/such/source,target=/data";

    let outcome = daemon.keg(["run", "--rm", "--mount", mount, &image, "true"]);

    assert_error(&outcome, 125, "/no/such/source");
    assert_no_containers(&daemon);
}

#[test]
fn an_unknown_flag_and_an_unknown_command_are_usage_errors() {
    for (arguments, exit_code) in [(&["run", "--nosuch", "x"][..], 125), (&["nosuch"], 1)] {
        let mut command = Command::new(programs::ours("keg"));

        let outcome = Outcome::of(command.args(arguments), PATIENCE);

        assert_eq!(outcome.exit_code, exit_code, "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains("nosuch"), "{outcome:?}");
    }
}

#[test]
fn what_makes_no_sense_ends_with_1_and_a_flag_that_cannot_be_read_with_125() {
    for (arguments, word, exit_code) in [
        (&["ps", "--filter", "nosuch=1"][..], "nosuch", 1),
        (&["ps", "--format", "{{.ID"], "}}", 1),
        (&["ps", "extra"], "extra", 1),
        (&["cp", "one:/a", "two:/b"], "both", 1),
        (&["cp", "/a", "/b"], "neither", 1),
        (&["update", "one"], "nothing", 1),
        (&["events", "--since", "nosuch"], "nosuch", 1),
        (&["ps", "--nosuch"], "--nosuch", 125),
        (&["ps", "--last", "nosuch"], "nosuch", 125),
        (&["update", "--memory", "nosuch", "one"], "nosuch", 125),
        (&["run", "-a", "stdout", "-d", "busybox"], "exclude", 125),
    ] {
        let mut command = Command::new(programs::ours("keg"));
        command.env("KEG_HOST", "unix:///no/such/socket");

        let outcome = Outcome::of(command.args(arguments), PATIENCE);

        assert_eq!(outcome.exit_code, exit_code, "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains(word), "{arguments:?}: {outcome:?}");
    }
}

#[test]
fn a_user_that_the_image_does_not_know_is_named() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let outcome = daemon.keg(["run", "--rm", "-u", "stranger", &image, "true"]);

    assert_error(&outcome, 125, "stranger");
    assert_no_containers(&daemon);
}
