//! create, start, state, kill, delete – runtime-spec, runtime.md, "Lifecycle" and "Operations".

use std::fs;
use std::path::Path;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Runtime, Status, requires};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};

#[test]
fn a_created_container_waits_for_start() {
    let host = requires!(root);

    let container = host.runtime().create(Bundle::probe().args(["both", "out", "err"]));

    let state = container.state();
    assert_eq!(state.status, Status::Created);
    assert_eq!(state.pid, container.init().as_raw());
    assert_eq!(state.id, container.id());
    assert_eq!(state.bundle, container.bundle().path());
    assert_eq!(container.stdout(), "");
}

#[test]
fn the_state_has_the_version_and_the_annotations() {
    let host = requires!(root);
    let bundle = Bundle::probe().set("/annotations/org.example.key", "value");

    let state = host.runtime().create(bundle).state();

    assert_eq!(state.annotations.get("org.example.key").map(String::as_str), Some("value"));
    assert!(state.oci_version.starts_with("1."), "{state:?}");
}

#[test]
fn run_passes_streams_and_exit_code_on() {
    let host = requires!(root);

    let outcome = host.runtime().run(Bundle::busybox().sh("echo out; echo err >&2; exit 7"));

    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(outcome.exit_code, 7);
}

#[test]
fn run_passes_standard_input_on() {
    let host = requires!(root);
    let runtime = host.runtime();
    let bundle = Bundle::probe().args(["echo"]);
    let id = Runtime::new_id();
    let input = bundle.path().join("input");
    fs::write(&input, "typed\n").unwrap();

    let _guard = runtime.guard(&id);
    let mut command = runtime.command(["run", "--bundle"]);
    command.arg(bundle.path()).arg(&id);
    let outcome = Outcome::with_stdin(&mut command, fs::File::open(&input).unwrap(), PATIENCE);

    assert_eq!(outcome.success().stdout, "typed\nend of input\n");
}

#[test]
fn run_returns_128_and_the_signal_that_killed_the_process() {
    let host = requires!(root);
    // PID 1 of a namespace cannot kill itself, so its child does, and it passes the code on.
    let bundle = Bundle::probe().args(["die", "SIGKILL"]).without_namespace("pid");

    let outcome = host.runtime().run(bundle);

    assert_eq!(outcome.exit_code, 128 + 9, "{outcome:?}");
}

#[test]
fn a_started_container_runs_and_ends_stopped() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["pause"]));

    container.start();
    container.wait_for_line("ready");
    assert_eq!(container.state().status, Status::Running);
    let _ = container.kill(Signal::SIGTERM).success();

    assert_eq!(container.wait_exit(PATIENCE), 0);
    container.wait_for(Status::Stopped, PATIENCE);
}

#[test]
fn a_container_that_exits_at_once_is_stopped() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::busybox().command(["/bin/true"]));

    container.start();

    container.wait_for(Status::Stopped, PATIENCE);
    let _ = container.delete(false).success();
}

#[test]
fn start_refuses_a_running_container() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["pause"]));
    container.start();
    container.wait_for_line("ready");

    let outcome = container.try_start();

    assert_ne!(outcome.exit_code, 0);
    assert_eq!(container.state().status, Status::Running);
}

#[test]
fn start_refuses_a_stopped_container() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["exit", "0"]));
    let _ = container.start_and_wait();
    container.wait_for(Status::Stopped, PATIENCE);

    let outcome = container.try_start();

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.error.contains("stopped"), "{outcome:?}");
}

#[test]
fn kill_refuses_a_stopped_container() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["exit", "0"]));
    let _ = container.start_and_wait();
    container.wait_for(Status::Stopped, PATIENCE);

    let outcome = container.kill(Signal::SIGTERM);

    // containerd's shims tell from this text that the process is gone, whoever the runtime is.
    assert_eq!(outcome.exit_code, 1);
    let known = ["container not running", "is stopped", "process already finished"];
    assert!(known.iter().any(|text| outcome.error.contains(text)), "{outcome:?}");
}

#[test]
fn kill_ends_a_container_that_is_only_created() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe());

    let _ = container.kill(Signal::SIGKILL).success();

    assert_eq!(container.wait_exit(PATIENCE), 128 + 9);
    container.wait_for(Status::Stopped, PATIENCE);
}

#[test]
fn kill_takes_names_with_and_without_sig_and_numbers() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["signals"]));
    container.start();
    container.wait_for_line("ready");

    for (signal, shown) in [("HUP", "SIGHUP"), ("SIGUSR1", "SIGUSR1"), ("12", "SIGUSR2")] {
        let _ = container.runtime().call(["kill", container.id(), signal]).success();
        container.wait_for_line(shown);
    }
    let _ = container.runtime().call(["kill", container.id()]).success();
    container.wait_for_line("SIGTERM");
}

#[test]
fn kill_refuses_a_signal_that_does_not_exist() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe());

    let outcome = container.runtime().call(["kill", container.id(), "NOSUCH"]);

    assert_ne!(outcome.exit_code, 0);
    assert_eq!(container.state().status, Status::Created);
}

#[test]
fn kill_of_an_unknown_container_fails_and_names_it() {
    let host = requires!(root);

    let outcome = host.runtime().call(["kill", "nobody", "TERM"]);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.error.contains("does not exist"), "{outcome:?}");
}

#[test]
fn delete_refuses_a_running_container() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["pause"]));
    container.start();
    container.wait_for_line("ready");

    let outcome = container.delete(false);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.error.contains("running"), "{outcome:?}");
    assert_eq!(container.state().status, Status::Running);
}

#[test]
fn delete_with_force_kills_whatever_runs() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["stubborn"]));
    container.start();
    container.wait_for_line("ready");

    let _ = container.delete(true).success();

    assert_eq!(container.wait_exit(PATIENCE), 128 + 9);
    assert_eq!(kill(container.init(), None), Err(Errno::ESRCH));
    assert!(container.runtime().call(["state", container.id()]).exit_code != 0);
    assert!(container.cgroups().is_empty(), "{:?}", container.cgroups());
}

#[test]
fn delete_with_force_ends_a_container_that_somebody_has_put_on_ice() {
    let host = requires!(root, our_runtime, cgroup_v1);
    let container = host.runtime().create(Bundle::probe().args(["pause"]));
    container.start();
    let ice = Path::new("/sys/fs/cgroup/freezer").join(format!("{}-ice", container.id()));
    fs::create_dir(&ice).unwrap();
    fs::write(ice.join("cgroup.procs"), container.init().to_string()).unwrap();
    fs::write(ice.join("freezer.state"), "FROZEN").unwrap();

    let outcome = container.delete(true);

    let ended = container.wait_exit(PATIENCE);
    fs::remove_dir(&ice).unwrap();
    assert_eq!((outcome.exit_code, ended), (0, 137), "{outcome:?}");
}

#[test]
fn a_container_without_a_cgroup_of_its_own_stays_in_the_callers() {
    let host = requires!(root, our_runtime);
    let (runtime, id) = (host.runtime(), Runtime::new_id());
    let bundle = Bundle::busybox().sh("cat /proc/self/cgroup").without_namespace("cgroup");
    let bundle = bundle.set("/linux/cgroupsPath", format!("/{id}"));
    let _guard = runtime.guard(&id);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();

    let path = bundle.path().to_str().unwrap();
    let manager = ["--cgroup-manager", "disabled", "run", "--bundle", path, &id];
    let outcome = runtime.call(manager).success();

    assert_eq!(outcome.stdout, own);
}

#[test]
fn delete_with_force_ends_every_process_of_a_shared_pid_namespace() {
    let host = requires!(root);
    let script = "sleep 1000 & echo ready; sleep 1000";
    let bundle = Bundle::busybox().sh(script).without_namespace("pid");
    let container = host.runtime().create(bundle);
    container.start();
    container.wait_for_line("ready");

    let _ = container.delete(true).success();

    assert!(container.cgroups().is_empty(), "{:?}", container.cgroups());
}

#[test]
fn killing_ends_every_process_of_a_shared_pid_namespace() {
    let host = requires!(root, our_runtime);
    let script = "sleep 1000 & sleep 1000 & echo ready; wait";
    let bundle = Bundle::busybox().sh(script).without_namespace("pid");
    let container = host.runtime().create(bundle);
    container.start();
    container.wait_for_line("ready");

    let _ = container.kill(Signal::SIGKILL).success();

    let ps = ["ps", "--format", "json", container.id()];
    keg_fixtures::wait_until("nobody is left", PATIENCE, || {
        container.runtime().call(ps).success().stdout == "[]\n"
    });
}

#[test]
fn asking_for_a_signal_of_all_is_no_error_when_nobody_is_left() {
    let host = requires!(root, our_runtime);
    let container = host.runtime().create(Bundle::probe().args(["exit", "0"]));
    container.start();
    container.wait_for(Status::Stopped, PATIENCE);

    for signal in ["0", "TERM", "KILL"] {
        let _ = container.runtime().call(["kill", "--all", container.id(), signal]).success();
    }
}

#[test]
fn a_root_that_is_named_and_missing_is_no_empty_list() {
    let host = requires!(root, our_runtime);
    let mut command = std::process::Command::new(host.runtime().program());

    let outcome = Outcome::of(command.args(["--root", "/no/such/root", "list"]), PATIENCE);

    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.stderr.contains("/no/such/root"), "{outcome:?}");
}

#[test]
fn delete_takes_state_and_cgroups_away() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["exit", "0"]));
    assert!(!container.cgroups().is_empty());
    let _ = container.start_and_wait();
    container.wait_for(Status::Stopped, PATIENCE);

    let _ = container.delete(false).success();

    assert!(container.cgroups().is_empty(), "{:?}", container.cgroups());
    assert!(!container.runtime().root().join(container.id()).exists());
}

#[test]
fn delete_of_an_unknown_container_fails_unless_forced() {
    let host = requires!(root);
    let runtime = host.runtime();

    let plain = runtime.call(["delete", "nobody"]);
    let forced = runtime.call(["delete", "--force", "nobody"]);

    assert_ne!(plain.exit_code, 0);
    assert!(plain.error.contains("does not exist"), "{plain:?}");
    assert_eq!(forced.exit_code, 0, "{forced:?}");
}

#[test]
fn state_of_an_unknown_container_fails_and_says_so() {
    let host = requires!(root);

    let outcome = host.runtime().call(["state", "nobody"]);

    // containerd's shims look for this text.
    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.error.contains("does not exist"), "{outcome:?}");
}

#[test]
fn an_id_in_use_is_refused_and_its_container_goes_on() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["pause"]));
    container.start();
    container.wait_for_line("ready");
    let other = Bundle::probe();

    let mut command = container.runtime().command(["create", "--bundle"]);
    let outcome = Outcome::of(command.arg(other.path()).arg(container.id()), PATIENCE);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.text().contains("exist"), "{outcome:?}");
    assert_eq!(container.state().status, Status::Running);
}

#[test]
fn list_shows_every_container_once() {
    let host = requires!(root);
    let runtime = host.runtime();
    let created = runtime.create(Bundle::probe());
    let running = runtime.create(Bundle::probe().args(["pause"]));
    running.start();

    let table = runtime.call(["list"]).success().stdout;
    let quiet = runtime.call(["list", "--quiet"]).success().stdout;
    let json: serde_json::Value = runtime.call(["list", "--format", "json"]).success().json();

    let line = |id: &str| table.lines().find(|line| line.contains(id)).unwrap_or_default();
    assert!(table.starts_with("ID"), "{table}");
    assert!(line(created.id()).contains("created"), "{table}");
    assert!(line(running.id()).contains("running"), "{table}");
    let mut ids: Vec<&str> = quiet.lines().collect();
    ids.sort_unstable();
    let mut expected = [created.id(), running.id()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    assert_eq!(json.as_array().map(Vec::len), Some(2), "{json}");
}

#[test]
fn list_of_an_empty_root_is_empty() {
    let host = requires!(root);

    let outcome = host.runtime().call(["list", "--quiet"]).success();

    assert_eq!(outcome.stdout, "");
}

#[test]
fn run_detached_returns_while_the_container_runs() {
    let host = requires!(root);
    let runtime = host.runtime();
    let bundle = Bundle::probe().args(["pause"]);
    let container = Detached::run(&runtime, &bundle);

    let state = runtime.call(["state", &container.id]).success().json::<serde_json::Value>();

    assert_eq!(state["status"], "running");
    let pid_file = fs::read_to_string(bundle.path().join("pid")).unwrap();
    assert_eq!(
        Some(pid_file.as_str()),
        state["pid"].as_i64().map(|pid| pid.to_string()).as_deref()
    );
}

/// A container of `run --detach`, below a supervisor that adopts its init.
struct Detached<'r> {
    runtime: &'r Runtime,
    id: String,
    _tree: keg_fixtures::Tree,
}

impl<'r> Detached<'r> {
    fn run(runtime: &'r Runtime, bundle: &Bundle) -> Self {
        let id = Runtime::new_id();
        let mut command = runtime.command(["run", "--detach", "--bundle"]);
        command.arg(bundle.path()).arg("--pid-file").arg(bundle.path().join("pid")).arg(&id);
        let tree = keg_fixtures::Tree::spawn(&command);
        assert_eq!(tree.wait_exit(tree.main_pid(), PATIENCE), 0, "{}", tree.stderr());
        Self { runtime, id, _tree: tree }
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let _ = self.runtime.call(["delete", "--force", &self.id]);
    }
}
