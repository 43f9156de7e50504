//! pause, resume, ps, update, events, and mistakes in the command line – as runc has them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Container, Outcome, Status, requires};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn call(container: &Container, command: &[&str]) -> Outcome {
    container.runtime().call([command, &[container.id()]].concat())
}

fn started(bundle: Bundle, host: keg_fixtures::Host) -> Container {
    let container = host.runtime().create(bundle);
    container.start();
    container.wait_for(Status::Running, PATIENCE);
    container
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let host = requires!(root);
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
    let container = started(Bundle::busybox().sh(script), host);
    container.wait_for_line("3");

    call(&container, &["pause"]).success();
    let paused = container.state().status;
    let (at_pause, later) = (container.stdout(), {
        // A running loop would have written several lines in this time.
        let exec = container.exec(&["/bin/true"]);
        assert_eq!(exec.exit_code, 255, "{exec:?}");
        container.stdout()
    });
    call(&container, &["resume"]).success();
    let next = at_pause.lines().count() + 5;
    container.wait_for_line(&next.to_string());

    assert_eq!(paused, Status::Paused);
    assert_eq!(at_pause, later);
    assert_eq!(container.state().status, Status::Running);
}

#[test]
fn what_is_not_paused_cannot_be_resumed_and_what_is_stopped_cannot_be_paused() {
    let host = requires!(root);
    let container = started(Bundle::probe().args(["pause"]), host);

    let resumed = call(&container, &["resume"]);
    let _ = container.kill(Signal::SIGKILL);
    container.wait_for(Status::Stopped, PATIENCE);
    let paused = call(&container, &["pause"]);

    assert_eq!(resumed.exit_code, 1, "{resumed:?}");
    assert!(resumed.stderr.contains("container not paused"), "{resumed:?}");
    assert_eq!(paused.exit_code, 1, "{paused:?}");
    assert!(paused.stderr.contains("container not running or created: stopped"), "{paused:?}");
}

#[test]
fn a_paused_container_can_be_killed() {
    let host = requires!(root);
    let container = started(Bundle::probe().args(["pause"]), host);
    call(&container, &["pause"]).success();

    let killed = container.runtime().call(["kill", "--all", container.id(), "KILL"]);

    killed.success();
    container.wait_for(Status::Stopped, PATIENCE);
}

#[test]
fn ps_lists_the_processes_of_the_container_and_no_others() {
    let host = requires!(root);
    let container = started(Bundle::busybox().sh("sleep 1000 & echo up; wait"), host);
    container.wait_for_line("up");

    let pids: Vec<i32> = call(&container, &["ps", "--format", "json"]).success().json();
    let table = call(&container, &["ps"]).success().stdout;

    assert_eq!(pids.len(), 2, "{pids:?}");
    assert!(pids.contains(&container.init().as_raw()), "{pids:?}");
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.lines().any(|line| line.ends_with("sleep 1000")), "{table}");
}

#[test]
fn update_changes_the_limit_of_processes_under_which_the_container_runs() {
    let host = requires!(root);
    let script = "read x < /gate; sleep 1 & sleep 1 & sleep 1 & echo forked";
    let bundle = Bundle::busybox()
        .sh(script)
        .rootfs_edit(|root| {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&root.join("gate"), mode).unwrap();
        })
        .set("/linux/resources/pids", json!({ "limit": 50 }));
    let container = started(bundle, host);

    call(&container, &["update", "--pids-limit", "2"]).success();
    std::fs::write(container.bundle().rootfs().join("gate"), "\n").unwrap();
    let outcome = container.wait_exit(PATIENCE);

    assert_ne!(outcome, 0);
    assert!(container.stderr().contains("can't fork"), "{}", container.stderr());
}

#[test]
fn update_reads_resources_from_standard_input() {
    let host = requires!(root);
    let container = started(Bundle::probe().args(["pause"]), host);
    let mut command = container.runtime().command(["update", "--resources", "-", container.id()]);
    let file = container.bundle().path().join("resources.json");
    std::fs::write(&file, json!({ "memory": { "limit": 48 << 20 } }).to_string()).unwrap();

    let input = std::fs::File::open(&file).unwrap();
    Outcome::with_stdin(&mut command, input, PATIENCE).success();
    let event: Value = call(&container, &["events", "--stats"]).success().json();

    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], container.id());
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 48 << 20);
}

#[test]
fn a_refused_update_names_the_limit() {
    let host = requires!(root, cgroup_v1);
    let container = started(Bundle::probe().args(["pause"]), host);

    let refused = call(&container, &["update", "--cpu-share", "1"]);

    assert_eq!(refused.exit_code, 1, "{refused:?}");
    assert!(refused.stderr.contains("linux.resources.cpu.shares"), "{refused:?}");
}

#[test]
fn an_amount_that_makes_no_sense_is_refused_by_its_option() {
    let host = requires!(root);
    let container = started(Bundle::probe().args(["pause"]), host);

    let malformed = call(&container, &["update", "--memory", "much"]);

    assert_eq!(malformed.exit_code, 1, "{malformed:?}");
    assert!(malformed.stderr.contains("--memory: \"much\""), "{malformed:?}");
}

#[test]
fn events_tell_of_a_lack_of_memory_and_end_with_the_container() {
    let host = requires!(root);
    let limit = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    let script = "(read x < /gate; y=aaaaaaaa; while :; do y=$y$y; done) & wait; sleep 1000";
    let bundle = Bundle::busybox()
        .sh(script)
        .rootfs_edit(|root| {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&root.join("gate"), mode).unwrap();
        })
        .set("/linux/resources/memory", limit);
    let container = started(bundle, host);
    let mut events = container
        .runtime()
        .command(["events", "--interval", "100ms", container.id()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();

    // The first line tells that the watch is set.
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    std::fs::write(container.bundle().rootfs().join("gate"), "\n").unwrap();
    let oom = lines.by_ref().map(Result::unwrap).any(|line| line.contains(r#""type":"oom""#));
    let _ = container.kill(Signal::SIGKILL);
    container.wait_for(Status::Stopped, PATIENCE);
    container.delete(false).success();
    let ended = keg_fixtures::outcome::wait_for_exit(&mut events, PATIENCE);

    assert_eq!(first["type"], "stats");
    assert!(oom);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[test]
fn a_stopped_container_has_neither_processes_nor_figures() {
    let host = requires!(root);
    let container = started(Bundle::probe().args(["pause"]), host);
    let _ = container.kill(Signal::SIGKILL);
    container.wait_for(Status::Stopped, PATIENCE);

    assert_eq!(call(&container, &["ps", "--format", "json"]).success().stdout, "[]\n");
    for command in [&["events", "--stats"][..], &["update", "--pids-limit", "5"]] {
        let refused = call(&container, command);
        assert_eq!(refused.exit_code, 1, "{command:?} {refused:?}");
        assert!(refused.stderr.contains("container not running"), "{command:?} {refused:?}");
    }
}

#[test]
fn a_limit_of_no_process_is_a_limit() {
    let host = requires!(root, our_runtime);
    let bundle = Bundle::probe().args(["fork", "2"]).set("/ociVersion", "1.3.0");
    let limit = json!({ "limit": 0 });

    let outcome = host.runtime().run(bundle.set("/linux/resources/pids", limit)).success();

    assert_eq!(outcome.stdout, "forked 0\n");
}

#[test]
fn a_mistake_in_the_command_line_ends_as_runcs_and_is_in_the_log() {
    let host = requires!(our_runtime);
    let runtime = host.runtime();

    for (args, word, exit_code) in [
        (&["list", "--format", "yaml"][..], "yaml", 1),
        (&["create"], "<ID>", 1),
        (&["update", "--pids-limit", "x", "id"], "--pids-limit", 1),
        (&["exec", "--nosuch", "id"], "--nosuch", 1),
        (&["--nosuch", "run", "id"], "--nosuch", 1),
        (&["nosuch"], "nosuch", 3),
    ] {
        let outcome = runtime.call(args);

        assert_eq!(outcome.exit_code, exit_code, "{args:?}: {outcome:?}");
        assert!(outcome.error.contains(word), "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains("--help"), "{args:?}: {outcome:?}");
    }
}
