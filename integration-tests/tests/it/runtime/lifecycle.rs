//! create, start, state, kill, delete – runtime-spec, runtime.md, "Lifecycle" and "Operations".

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Status, requires};
use nix::sys::signal::Signal;

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
fn run_passes_streams_and_exit_code_on() {
    let host = requires!(root);

    let outcome = host.runtime().run(Bundle::busybox().sh("echo out; echo err >&2; exit 7"));

    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(outcome.exit_code, 7);
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
fn the_probe_reports() {
    let host = requires!(root);

    let report = host.runtime().report(Bundle::probe());

    assert_eq!(report.process.pid, 1);
    assert_eq!(report.hostname, "keg");
}
