//! Further processes in a running container – keg.v1, `Containers.Exec`.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, requires, wait_until};

fn with_container() -> (Daemon, String) {
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    (daemon, image)
}

#[test]
fn a_process_that_ends_at_once_loses_no_output() {
    requires!(root);
    let (daemon, _) = with_container();

    for _ in 0..20 {
        let outcome = daemon.keg(["exec", "one", "echo", "hi"]).success();

        assert_eq!(outcome.stdout, "hi\n");
    }
}

#[test]
fn exit_codes_and_standard_input_pass_through() {
    requires!(root);
    let (daemon, _) = with_container();

    assert_eq!(daemon.keg(["exec", "one", "sh", "-c", "exit 9"]).exit_code, 9);
    assert_eq!(daemon.keg(["exec", "one", "no-such-command"]).exit_code, 127);
    assert_eq!(daemon.keg(["exec", "one", "/etc/passwd"]).exit_code, 126);
    assert_eq!(daemon.keg(["exec", "-w", "/no/such", "one", "true"]).exit_code, 126);
    let echoed = daemon.keg_with_input("data\n", ["exec", "-i", "one", "cat"]).success();
    assert_eq!(echoed.stdout, "data\n");
}

#[test]
fn environment_user_and_directory_are_the_containers_unless_asked_otherwise() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let run = ["--name", "one", "-e", "A=1", "-e", "B=2", "-w", "/tmp", &image, "/probe", "pause"];
    let _ = daemon.run_detached(run);
    daemon.wait_for_line("one", "ready");
    let script = ["sh", "-c", "echo $A $B $(pwd) $(id -u)"];

    let own = daemon.keg(["exec", "one"].iter().chain(&script)).success();
    let asked = ["exec", "-e", "B=3", "-w", "/", "-u", "1234", "one"];
    let asked = daemon.keg(asked.iter().chain(&script)).success();

    assert_eq!(own.stdout, "1 2 /tmp 0\n");
    assert_eq!(asked.stdout, "1 3 / 1234\n");
}

#[test]
fn a_paused_or_ended_container_takes_no_process() {
    requires!(root);
    let (daemon, _) = with_container();

    let _ = daemon.keg(["pause", "one"]).success();
    let paused = daemon.keg(["exec", "one", "true"]);
    let _ = daemon.keg(["unpause", "one"]).success();
    let _ = daemon.keg(["kill", "one"]).success();
    wait_until("the container has ended", PATIENCE, || {
        daemon.inspect("one")["State"]["Status"] == "exited"
    });
    let ended = daemon.keg(["exec", "one", "true"]);

    assert!(paused.stderr.contains("paused"), "{}", paused.stderr);
    assert!(ended.stderr.contains("not running"), "{}", ended.stderr);
}

#[test]
fn a_detached_process_goes_on_and_is_listed() {
    requires!(root);
    let (daemon, _) = with_container();

    let _ = daemon.keg(["exec", "-d", "one", "sleep", "4321"]).success();

    let listed = daemon.keg(["top", "one"]).success().stdout;
    assert!(listed.contains("sleep 4321"), "{listed}");
}
