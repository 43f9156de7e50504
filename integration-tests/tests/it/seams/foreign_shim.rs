//! containerd's own shim, Debian's, in the place of ours under kegd: by its published protocol only.

use std::path::Path;

use keg_fixtures::scratch::write_program;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{BadRegistry, Daemon, Image, Outcome, programs, requires, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const RUNTIME: &str = "--runtime=io.containerd.runc.v2";

/// A command that says its lines' numbers, from 0 to the last one.
fn counting(last: u32, pause: &str) -> String {
    format!("i=0; while [ $i -le {last} ]; do echo $i; i=$((i+1)); {pause}; done")
}

fn numbers(last: u32) -> String {
    (0..=last).map(|number| format!("{number}\n")).collect()
}

/// The process of the daemon whose arguments have all of `words`.
#[track_caller]
fn process_with(daemon: &Daemon, words: &[&str]) -> Pid {
    let has_all = |pid: &Pid| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<_> =
            arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.iter().all(|word| arguments.iter().any(|argument| argument.ends_with(word)))
    };
    daemon.pids().into_iter().find(has_all).unwrap_or_else(|| panic!("no process has {words:?}"))
}

fn foreign_shim(daemon: &Daemon, id: &str) -> Pid {
    process_with(daemon, &["containerd-shim-runc-v2", id])
}

fn relay(daemon: &Daemon, id: &str) -> Pid {
    process_with(daemon, &["containerd-shim-keg-v2", id, "relay"])
}

#[track_caller]
fn wait_for_exit(daemon: &Daemon, container: &str, code: &str) {
    let wait = daemon.keg(["wait", container]).success();
    assert_eq!(wait.stdout.trim(), code, "{wait:?}");
}

/// Waits until no bundle is left: they are removed while clients are told already.
#[track_caller]
fn wait_for_no_bundle(daemon: &Daemon) {
    let tasks = daemon.state().join("tasks/keg");
    wait_until("no bundle is left", PATIENCE, || {
        std::fs::read_dir(&tasks).is_ok_and(|mut bundles| bundles.next().is_none())
    });
}

#[test]
fn streams_and_exit_code_come_through_with_and_without_a_user_namespace() {
    requires!(root, runc, containerd);
    let (daemon, image) = Daemon::with_busybox();

    for namespace in ["--userns=host", "--userns=private"] {
        let run = ["run", "--rm", "-i", RUNTIME, namespace, &image, "sh", "-c"];
        let script = "cat; echo oh >&2; touch /new; exit 3";
        let outcome = daemon.keg_with_input("hello\n", run.iter().chain(&[script]));

        assert_eq!(outcome.stdout, "hello\n", "{outcome:?}");
        assert_eq!(outcome.stderr, "oh\n", "{outcome:?}");
        assert_eq!(outcome.exit_code, 3);
    }
    wait_for_no_bundle(&daemon);
}

#[test]
fn much_input_and_output_pass_whole() {
    requires!(root, runc, containerd);
    let (daemon, image) = Daemon::with_busybox();
    let text = numbers(100_000);

    let outcome = daemon.keg_with_input(&text, ["run", "--rm", "-i", RUNTIME, &image, "cat"]);

    assert_eq!(outcome.stdout.len(), text.len());
    assert!(outcome.stdout == text, "the same bytes in the same order");
}

#[test]
fn a_command_that_is_not_there_is_told_as_ever() {
    requires!(root, runc, containerd);
    let (daemon, image) = Daemon::with_busybox();

    let outcome = daemon.keg(["run", "--rm", RUNTIME, &image, "no-such-command"]);

    assert_eq!(outcome.exit_code, 127, "{outcome:?}");
    assert!(outcome.stderr.contains("no-such-command"), "{outcome:?}");
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
}

#[test]
fn volumes_whose_owners_the_runtime_cannot_map_are_refused_and_work_without_a_user_namespace() {
    requires!(root, runc, containerd);
    let (daemon, image) = Daemon::with_busybox();
    // As runc before 1.2 answers; a newer one is asked by this script's way.
    let old = daemon.scratch().join("old-runtime");
    write_program(&old, "#!/bin/sh\necho '{\"linux\":{}}'\n");
    let old = format!("--runtime={}", old.display());
    let run = ["run", "--rm", "-v", "data:/data"];

    let refused = daemon.keg(run.iter().chain(&[old.as_str(), image.as_str(), "true"]));
    assert_eq!(refused.exit_code, 125, "{refused:?}");
    assert!(refused.stderr.contains("--userns=host"), "{refused:?}");
    let words = ["--userns=host", RUNTIME, &image, "sh", "-c", "echo kept > /data/f; cat /data/f"];
    let kept = daemon.keg(run.iter().chain(&words));
    assert_eq!(kept.stdout, "kept\n", "{kept:?}");
}

#[test]
fn a_terminal_is_left_and_come_back_to() {
    requires!(root, runc, containerd);
    let (daemon, image) = Daemon::with_busybox();

    let mut first = daemon.keg_on_terminal(["run", "-it", "--name", "one", RUNTIME, &image, "sh"]);
    first.expect("#");
    first.type_text("\x10\x11");
    assert_eq!(first.wait_exit(PATIENCE), 0);

    let mut second = daemon.keg_on_terminal(["attach", "one"]);
    second.type_text("test -t 0 && echo $((40+2)); exit 6\r");
    second.expect("42");
    assert_eq!(second.wait_exit(PATIENCE), 6);
}

#[test]
fn every_verb_reaches_a_container_of_the_other_shim() {
    requires!(root, runc, containerd);
    let (daemon, image) = Daemon::with_busybox();
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let _ = daemon.run_detached(["--name", "one", RUNTIME, &image, "sh", "-c", script]);
    daemon.wait_for_line("one", "ready");

    let exec = daemon.keg_with_input("in\n", ["exec", "-i", "one", "sh", "-c", "cat; exit 7"]);
    assert_eq!((exec.stdout.as_str(), exec.exit_code), ("in\n", 7), "{exec:?}");
    let absent = daemon.keg(["exec", "one", "no-such-command"]);
    assert_eq!(absent.exit_code, 127, "{absent:?}");
    let _ = daemon.keg(["exec", "-d", "one", "touch", "/made"]).success();
    wait_until("a detached process did its work", PATIENCE, || {
        daemon.keg(["exec", "one", "ls", "/made"]).exit_code == 0
    });

    let top = daemon.keg(["top", "one"]).success().stdout;
    assert!(top.contains("while :;"), "{top}");
    let stats = ["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "one"];
    let stats = daemon.keg(stats).success().stdout;
    assert!(!stats.starts_with('0') && stats.contains("iB"), "{stats}");
    let _ = daemon.keg(["update", "--memory", "64m", "one"]).success();
    let stats = daemon.keg(["stats", "--no-stream", "--format", "{{.MemUsage}}", "one"]);
    assert!(stats.stdout.contains("/ 64MiB"), "{stats:?}");
    let _ = daemon.keg(["pause", "one"]).success();
    assert_eq!(daemon.inspect("one")["State"]["Status"], "paused");
    let _ = daemon.keg(["unpause", "one"]).success();
    let copy = daemon.scratch().join("copy");
    let copy = copy.to_str().unwrap();
    let _ = daemon.keg(["cp", "one:/made", copy]).success();

    let _ = daemon.keg(["restart", "one"]).success();
    wait_until("it says so again", PATIENCE, || {
        daemon.keg(["logs", "one"]).stdout.matches("ready").count() == 2
    });
    let _ = daemon.keg(["stop", "one"]).success();
    assert_eq!(daemon.inspect("one")["State"]["ExitCode"], 5);
    assert!(daemon.keg(["logs", "one"]).stdout.ends_with("bye\n"));
    // What does not run is looked into too.
    let _ = daemon.keg(["cp", "one:/made", copy]).success();
    wait_for_no_bundle(&daemon);

    let _ = daemon.keg(["start", "one"]).success();
    let _ = daemon.keg(["rm", "-f", "one"]).success();
}

#[test]
fn a_daemon_that_was_killed_has_lost_nothing() {
    requires!(root, runc, containerd);
    let (mut daemon, image) = Daemon::with_busybox();
    let run = |name: &str, words: &[&str]| {
        let fixed = ["--name", name, RUNTIME];
        daemon.run_detached(fixed.iter().chain(words))
    };
    let _ = run("talks", &[&image, "sh", "-c", &counting(100, "sleep 0.03")]);
    let script = "trap 'echo over; exit 6' TERM; echo ready; while :; do sleep 0.1; done";
    let _ = run("ends", &[&image, "sh", "-c", script]);
    let _ = run("listens", &["-i", &image, "cat"]);
    daemon.wait_for_line("talks", "3");
    daemon.wait_for_line("ends", "ready");
    let ends = daemon.pid_of("ends");
    daemon.kill9();
    kill(ends, Signal::SIGTERM).unwrap();
    wait_until("it has ended while nobody was there", PATIENCE, || {
        !Path::new(&format!("/proc/{ends}/fd/1")).exists()
    });
    daemon.start();

    wait_for_exit(&daemon, "ends", "6");
    assert_eq!(daemon.keg(["logs", "ends"]).stdout, "ready\nover\n");
    let typed = daemon.keg_with_input("typed\n", ["attach", "listens"]);
    assert_eq!(typed.stdout, "typed\n", "{typed:?}");
    wait_for_exit(&daemon, "listens", "0");
    assert_eq!(daemon.keg(["logs", "listens"]).stdout, "typed\n");
    wait_for_exit(&daemon, "talks", "0");
    assert_eq!(daemon.keg(["logs", "talks"]).stdout, numbers(100));
    wait_for_no_bundle(&daemon);
}

#[test]
fn a_shim_that_was_killed_takes_its_container_with_it_whoever_sees_that() {
    requires!(root, runc, containerd);
    let (mut daemon, image) = Daemon::with_busybox();
    let sleep = [RUNTIME, &image, "sleep", "1000"];

    let seen = daemon.run_detached(sleep);
    let process = daemon.pid_of(&seen);
    kill(foreign_shim(&daemon, &seen), Signal::SIGKILL).unwrap();
    wait_for_exit(&daemon, &seen, "137");
    assert!(!Path::new(&format!("/proc/{process}/fd/1")).exists(), "its process runs on");

    let unseen = daemon.run_detached(sleep);
    let process = daemon.pid_of(&unseen);
    let shim = foreign_shim(&daemon, &unseen);
    daemon.kill9();
    kill(shim, Signal::SIGKILL).unwrap();
    wait_until("the shim has gone", PATIENCE, || {
        !Path::new(&format!("/proc/{shim}/fd/1")).exists()
    });
    daemon.start();
    wait_for_exit(&daemon, &unseen, "137");
    assert!(!Path::new(&format!("/proc/{process}/fd/1")).exists(), "its process runs on");

    wait_for_no_bundle(&daemon);
}

#[test]
fn a_shim_that_hangs_keeps_the_exit_for_a_while_and_is_killed() {
    requires!(root, runc, containerd);
    let runc = programs::installed("runc").unwrap();
    let mut daemon = Daemon::with_config("");
    let hangs = daemon.scratch().join("hangs");
    // Hangs where the shim deletes what has ended, and not where its `delete` cleans up by force.
    let script = format!(
        "#!/bin/sh\nforce=\nfor word; do\n  case $word in --force) force=1;; delete) delete=1;; esac\n\
         done\n[ -z \"$delete\" ] || [ -n \"$force\" ] || exec sleep 1000\nexec {} \"$@\"\n",
        runc.display()
    );
    write_program(&hangs, &script);
    let config = format!(
        "default_network = \"none\"\n[runtimes.hangs]\ntype = \"io.containerd.runc.v2\"\n\
         options = {{ BinaryName = {hangs:?} }}\n"
    );
    daemon.kill9();
    std::fs::write(daemon.scratch().join("kegd.toml"), config).unwrap();
    daemon.start();
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let image = format!("{}/busybox:latest", registry.address());
    daemon.pull(&image);
    let run = |name: &str, words: &[&str]| {
        let fixed = ["--name", name, "--runtime=hangs", &image];
        daemon.run_detached(fixed.iter().chain(words))
    };
    let ends = run("ends", &["sh", "-c", "echo last words; exit 4"]);
    let sleeps = run("sleeps", &["sleep", "1000"]);
    let shim = foreign_shim(&daemon, &sleeps);

    // Both hang at the same time.
    let _ = Outcome::of(&mut daemon.keg_command(["rm", "-f", "sleeps"]), 2 * PATIENCE).success();
    wait_for_exit(&daemon, "ends", "4");

    assert_eq!(daemon.keg(["logs", "ends"]).stdout, "last words\n");
    let _ = daemon.keg(["rm", "ends"]).success();
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
    assert!(!Path::new(&format!("/proc/{shim}/fd/1")).exists(), "the shim of {sleeps} runs on");
    wait_for_no_bundle(&daemon);
    assert!(daemon.log().contains(&format!("container={ends}")), "nothing is told of {ends}");
}

#[test]
fn a_relay_that_was_killed_is_followed_by_one_that_goes_on() {
    requires!(root, runc, containerd);
    let (daemon, image) = Daemon::with_busybox();
    let script = format!("{}; echo half; read line; echo got $line", counting(50, "sleep 0.02"));
    let id = daemon.run_detached(["-i", "--name", "one", RUNTIME, &image, "sh", "-c", &script]);
    daemon.wait_for_line("one", "0");

    let killed = relay(&daemon, &id);
    kill(killed, Signal::SIGKILL).unwrap();

    daemon.wait_for_line("one", "half");
    assert_ne!(relay(&daemon, &id), killed);
    let attached = daemon.keg_with_input("it\n", ["attach", "one"]);
    assert_eq!(attached.stdout, "got it\n", "{attached:?}");
    wait_for_exit(&daemon, "one", "0");
    let logged = daemon.keg(["logs", "one"]).stdout;
    let expected: Vec<String> = (0..=50).map(|number| number.to_string()).collect();
    // The killed relay may have taken a line out of the pipe that it had not written yet.
    let missing = expected.iter().filter(|line| !logged.lines().any(|l| l == *line)).count();
    assert!(missing <= 1, "{logged}");
}

#[test]
fn a_configured_shim_gets_its_options_and_an_unknown_one_is_named() {
    requires!(root, runc, containerd);
    let runc = programs::installed("runc").unwrap();
    let shim = programs::installed("containerd-shim-runc-v2").unwrap();
    let mut daemon = Daemon::with_config(&format!(
        "[runtimes.named]\ntype = {shim:?}\noptions = {{ BinaryName = {runc:?} }}\n\
         [runtimes.broken]\ntype = \"io.containerd.runc.v2\"\n\
         options = {{ BinaryName = \"/no/such/runtime\" }}\n"
    ));
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let image = format!("{}/busybox:latest", registry.address());
    let image = image.as_str();
    daemon.pull(image);

    let named = daemon.keg(["run", "--rm", "--runtime=named", image, "echo", "here"]);
    assert_eq!(named.stdout, "here\n", "{named:?}");
    let by_path = format!("--runtime={}", shim.display());
    let by_path = daemon.keg(["run", "--rm", &by_path, image, "echo", "here"]);
    assert_eq!(by_path.stdout, "here\n", "{by_path:?}");

    let broken = daemon.keg(["run", "--rm", "--runtime=broken", image, "true"]);
    assert_eq!(broken.exit_code, 125, "{broken:?}");
    assert!(broken.stderr.contains("/no/such/runtime"), "{broken:?}");
    let absent = daemon.keg(["run", "--rm", "--runtime=io.example.none.v7", image, "true"]);
    assert_eq!(absent.exit_code, 125, "{absent:?}");
    assert!(absent.stderr.contains("containerd-shim-none-v7"), "{absent:?}");
    let unknown = daemon.keg(["run", "--rm", "--runtime=nothing", image, "true"]);
    assert!(unknown.stderr.contains("neither a configured runtime"), "{unknown:?}");

    // A daemon that does not know the name any more finds the shim in the bundle.
    let id = daemon.run_detached(["--name", "one", "--runtime=named", image, "sleep", "1000"]);
    daemon.kill9();
    std::fs::write(daemon.scratch().join("kegd.toml"), "default_network = \"none\"\n").unwrap();
    daemon.start();
    assert_eq!(daemon.inspect("one")["State"]["Status"], "running");
    let _ = daemon.keg(["stop", "-t", "0", &id]).success();
    let refused = daemon.keg(["start", "one"]);
    assert!(refused.stderr.contains("\"named\""), "{refused:?}");
}
