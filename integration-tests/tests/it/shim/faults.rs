//! What goes wrong around a shim, and must not go wrong in it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use keg_fixtures::scratch::write_program;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Shim, programs, requires, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn socket(shim: &Shim) -> String {
    shim.tree().stdout().strip_prefix("unix://").unwrap().to_owned()
}

#[test]
fn a_client_that_speaks_garbage_disturbs_nobody() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();

    for garbage in [&[0_u8; 10][..], &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 4, 1]] {
        let mut client = UnixStream::connect(socket(&shim)).unwrap();
        let _ = client.write_all(garbage);
    }

    shim.start("");
    shim.wait_for_line("ready");
}

#[test]
fn a_client_that_says_nothing_holds_nobody_up() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("exit 0"));
    let silent: Vec<UnixStream> =
        (0..50).map(|_| UnixStream::connect(socket(&shim)).unwrap()).collect();

    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 0);
    drop(silent);
}

#[test]
fn a_daemon_that_is_gone_costs_the_container_nothing() {
    requires!(root);
    // Nobody listens where the events go.
    let shim = Shim::new(Bundle::busybox().sh("echo on; exit 5"));
    std::fs::remove_file(shim.scratch().join("events.sock")).unwrap();

    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 5);
    assert_eq!(shim.logged("stdout"), "on\n");
}

#[test]
fn a_process_that_closes_its_streams_goes_on() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("echo before; exec >&- 2>&- <&-; exit 6"));
    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 6);
    assert_eq!(shim.logged("stdout"), "before\n");
}

#[test]
fn a_child_that_keeps_the_streams_open_does_not_hide_the_exit() {
    requires!(root);
    let script = "sleep 1000 & echo started; exit 2";
    let shim = Shim::new(Bundle::busybox().sh(script).without_namespace("pid"));
    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 2);
}

#[test]
fn a_frozen_container_is_killed_all_the_same() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("ready");
    let pause = keg_proto::containerd::task::v2::PauseRequest { id: shim.id().to_owned() };
    shim.call::<_, ()>("Pause", &pause).unwrap();

    shim.kill("", 9, true).unwrap();
    let resume = keg_proto::containerd::task::v2::ResumeRequest { id: shim.id().to_owned() };
    let _ = shim.call::<_, ()>("Resume", &resume);

    assert_eq!(shim.wait("").exit_status, 137);
}

#[test]
fn the_container_goes_on_when_every_client_has_gone() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["count", "5", "200"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("200");

    keg_fixtures::wait_until("the exit is recorded", PATIENCE, || shim.exit_file().exists());

    let numbers: Vec<u32> =
        shim.logged("stdout").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=200).collect::<Vec<u32>>());
}

/// How many times something is done: `default`, or what the variable says.
fn repetitions(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn containers_that_end_in_the_same_second_are_each_told_of_once_and_right() {
    requires!(root);
    let count = repetitions("KEG_TEST_EXITS", 40);
    let shims: Vec<(Shim, Pid)> = (0..count)
        .map(|_| {
            let shim = Shim::new(Bundle::probe().args(["pause"]));
            let pid = shim.create();
            shim.start("");
            (shim, Pid::from_raw(pid.cast_signed()))
        })
        .collect();
    for (shim, _) in &shims {
        shim.wait_for_line("ready");
    }

    for (index, (_, pid)) in shims.iter().enumerate() {
        let signal = if index % 2 == 0 { Signal::SIGTERM } else { Signal::SIGKILL };
        kill(*pid, signal).unwrap();
    }

    for (index, (shim, _)) in shims.iter().enumerate() {
        let expected = if index % 2 == 0 { 0 } else { 137 };
        assert_eq!(shim.wait("").exit_status, expected, "container {index}");
        shim.delete("").unwrap();
        let topics = shim.wait_for_topics(4);
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
        let record = fs::read(shim.exit_file()).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["status"], expected, "{record}");
    }
}

#[test]
fn ten_thousand_orphans_are_all_reaped() {
    requires!(root);
    let count = repetitions("KEG_TEST_FORKS", 2_000);
    // Without a PID namespace, orphans become children of the shim.
    let script = format!("for i in $(seq {count}); do (true &); done; echo done; exit 9");
    let shim = Shim::new(Bundle::busybox().sh(&script).without_namespace("pid"));
    shim.create();
    let pid = shim.start("");

    assert_eq!(shim.wait("").exit_status, 9);
    assert_eq!(shim.logged("stdout"), "done\n");
    let gone = || !shim.tree().pids().iter().any(|one| one.as_raw().cast_unsigned() == pid);
    wait_until("no zombie is left", PATIENCE, || {
        gone() && shim.tree().pids().iter().all(|pid| !is_zombie(*pid))
    });
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

#[test]
fn a_container_that_ignores_sigterm_goes_on_until_it_is_killed() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["stubborn"]));
    let pid = shim.create();
    shim.start("");
    shim.wait_for_line("ready");

    shim.kill("", 15, false).unwrap();
    shim.kill("", 15, true).unwrap();
    assert!(!is_zombie(Pid::from_raw(pid.cast_signed())));
    shim.kill("", 9, false).unwrap();

    assert_eq!(shim.wait("").exit_status, 137);
    let again = shim.kill("", 9, false).unwrap_err();
    assert_eq!(again.status().unwrap().code, keg_ttrpc::Code::NotFound, "{again:?}");
}

#[test]
fn a_terminal_that_nobody_reads_holds_its_process_and_nobody_else() {
    requires!(root);
    let script = "while :; do echo 0123456789012345678901234567890123456789; done";
    let shim = Shim::new(Bundle::busybox().sh(script).set("/process/terminal", true));
    let fifo = shim.scratch().join("out");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    shim.create_with(|request| {
        request.terminal = true;
        request.stdout = fifo.display().to_string();
        request.stderr = String::new();
    })
    .unwrap();
    shim.start("");
    // The pipe is full once its reader sees as much as it holds.
    let mut reader = fs::File::open(&fifo).unwrap();
    let mut some = vec![0; 100_000];
    reader.read_exact(&mut some).unwrap();

    shim.state("").unwrap();
    shim.kill("", 9, false).unwrap();
    drop(reader);

    assert_eq!(shim.wait("").exit_status, 137);
}

#[test]
fn a_reader_that_leaves_its_fifo_costs_the_container_nothing() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["count", "1", "400"]));
    let fifo = shim.scratch().join("out");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    shim.create_with(|request| {
        request.stdout = fifo.display().to_string();
        request.stderr = String::new();
    })
    .unwrap();
    shim.start("");
    let mut reader = fs::File::open(&fifo).unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();

    drop(reader);

    assert_eq!(shim.wait("").exit_status, 0);
}

#[test]
fn a_runtime_that_is_killed_at_any_moment_leaves_nothing_in_the_way() {
    requires!(root, our_runtime);
    let runtime = programs::ours("keg-runtime");
    for micros in (0..12).map(|step| 500 + step * 1_500) {
        // The first `create` is killed after a while; all later commands are let alone.
        let scratch = keg_fixtures::Scratch::new();
        let flag = scratch.file("kill", "");
        let after = Duration::from_micros(micros).as_secs_f64();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *' create '*)\nif rm {flag} 2>/dev/null; then\n\
             exec /bin/sh -c 'kill_after() {{ sleep {after}; kill -9 $$; }}; kill_after & \
             exec {runtime} \"$@\"' sh \"$@\"\nfi;;\nesac\nexec {runtime} \"$@\"\n",
            flag = flag.display(),
            runtime = runtime.display(),
        );
        let wrapper = scratch.join("runtime");
        write_program(&wrapper, script);
        let shim = Shim::with_runtime(Bundle::busybox().sh("exit 8"), Some(wrapper));

        // It may have been quick enough.
        if let Err(error) = shim.create_with(|_| {}) {
            let words = error.status().unwrap().message.clone();
            assert!(words.contains("killed by signal 9"), "after {micros} µs: {words}");
            shim.create();
        }
        shim.start("");

        assert_eq!(shim.wait("").exit_status, 8, "after {micros} µs");
    }
}

#[test]
fn a_shim_that_is_killed_at_any_moment_is_cleaned_up_after() {
    requires!(root);
    for step in ["start", "create", "run", "exit"] {
        let shim = Shim::new(Bundle::probe().args(["pause"]));
        let mut init = None;
        if step != "start" {
            init = Some(Pid::from_raw(shim.create().cast_signed()));
        }
        if matches!(step, "run" | "exit") {
            shim.start("");
            shim.wait_for_line("ready");
        }
        if step == "exit" {
            shim.kill("", 15, false).unwrap();
            shim.wait("");
        }

        kill(shim.pid(), Signal::SIGKILL).unwrap();
        let first = shim.clean_up();
        let second = shim.clean_up();

        assert_eq!((first.exit_code, second.exit_code), (0, 0), "{step}: {first:?} {second:?}");
        if let Some(init) = init {
            wait_until("its process is gone", PATIENCE, || {
                kill(init, None).is_err() || is_zombie(init)
            });
        }
    }
}

/// The runtime that has made the container and waits to start it; the container's process looks like it
/// until then.
fn waiting_runtime(shim: &Shim, init: u32) -> Option<Pid> {
    let mut others =
        shim.tree().pids().into_iter().filter(|pid| pid.as_raw().unsigned_abs() != init);
    others.find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|octet| *octet == 0).any(|word| word == b"--log-format")
    })
}

#[test]
fn a_container_that_dies_before_its_start_is_reported_and_no_runtime_waits_on() {
    requires!(root, our_runtime);
    let shim = Shim::new(Bundle::busybox().sh("exit 0"));
    let init = shim.create();
    assert!(waiting_runtime(&shim, init).is_some());

    kill(Pid::from_raw(i32::try_from(init).unwrap()), Signal::SIGKILL).unwrap();

    assert_eq!(shim.wait("").exit_status, 137);
    assert!(shim.try_start("").is_err());
    wait_until("no runtime waits", PATIENCE, || waiting_runtime(&shim, init).is_none());
}

#[test]
fn a_container_whose_waiting_runtime_is_killed_is_started_all_the_same() {
    requires!(root, our_runtime);
    let shim = Shim::new(Bundle::busybox().sh("exit 4"));
    let init = shim.create();

    kill(waiting_runtime(&shim, init).unwrap(), Signal::SIGKILL).unwrap();
    wait_until("it is gone", PATIENCE, || waiting_runtime(&shim, init).is_none());
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 4);
}

#[test]
fn a_container_that_is_never_started_can_be_deleted_and_leaves_no_runtime() {
    requires!(root, our_runtime);
    let shim = Shim::new(Bundle::busybox().sh("exit 0"));
    let init = shim.create();

    shim.kill("", 9, true).unwrap();
    shim.wait("");
    shim.delete("").unwrap();

    assert_eq!(waiting_runtime(&shim, init), None);
    assert_eq!(keg_fixtures::runtime::cgroups_of(shim.id()), Vec::<std::path::PathBuf>::new());
}
