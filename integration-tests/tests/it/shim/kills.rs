//! The shim or the runtime is killed at a moment that nobody chose: `delete` takes away what is left.
//!
//! A life is measured once, undisturbed; then it is begun again and again, and ended a little later
//! each time.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use keg_fixtures::wait::{PATIENCE, let_pass, moments};
use keg_fixtures::{Bundle, Shim, requires, wait_until};
use keg_proto::containerd::task::v2 as task;
use keg_proto::containerd::types::Mount;
use keg_ttrpc::CallError;
use nix::sys::signal::{Signal, kill};
use serde_json::json;

/// How many moments are tried; `KEG_TEST_KILLS` says otherwise.
fn count() -> u32 {
    std::env::var("KEG_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(16)
}

fn shim() -> Shim {
    Shim::new(Bundle::busybox().command(["/bin/sleep", "1000"]))
}

/// All that happens to a container, one after the other, with a mounted root filesystem.
fn live(shim: &Shim) -> Result<(), CallError> {
    let process = json!({"args": ["/bin/sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let wait = |exec_id: &str| {
        let (id, exec_id) = (shim.id().to_owned(), exec_id.to_owned());
        shim.call::<_, task::WaitResponse>("Wait", &task::WaitRequest { id, exec_id }).map(drop)
    };
    let rootfs = shim.bundle().rootfs().display().to_string();
    let options = vec!["rbind".to_owned()];
    let mount = Mount { r#type: "bind".into(), source: rootfs, options, ..Mount::default() };
    shim.create_with(|request| request.rootfs = vec![mount])?;
    shim.try_start("")?;
    shim.exec("e", &process, "")?;
    shim.try_start("e")?;
    shim.kill("e", 9, false)?;
    wait("e")?;
    shim.delete("e")?;
    shim.kill("", 9, true)?;
    wait("")?;
    shim.delete("").map(drop)
}

fn undisturbed() -> Duration {
    let shim = shim();
    let begin = Instant::now();
    live(&shim).unwrap();
    begin.elapsed()
}

fn is_mounted(path: &Path) -> bool {
    let path = path.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(path.as_str()))
}

/// Nothing is there that was not there before the shim was started.
fn assert_nothing_left(shim: &Shim, when: Duration) {
    wait_until(&format!("no process is left of a kill after {when:?}"), PATIENCE, || {
        shim.tree().pids().is_empty()
    });
    let cgroups = keg_fixtures::runtime::cgroups_of(shim.id());
    assert!(cgroups.is_empty(), "a kill after {when:?} leaves {cgroups:?}");
    assert!(!is_mounted(&shim.bundle().rootfs()), "a kill after {when:?} leaves a mount");
    let state = shim.scratch().join("runtime/it").join(shim.id());
    assert!(!state.exists(), "a kill after {when:?} leaves {state:?}");
    let address = shim.tree().stdout();
    let socket = address.strip_prefix("unix://").unwrap();
    for socket in [socket.to_owned(), format!("{socket}.io")] {
        assert!(!Path::new(&socket).exists(), "a kill after {when:?} leaves {socket}");
    }
}

#[test]
fn a_shim_that_is_killed_at_no_chosen_moment_leaves_what_delete_finds() {
    requires!(root, our_runtime);
    for when in moments(count(), undisturbed()) {
        let shim = shim();
        let pid = shim.pid();

        thread::scope(|scope| {
            let life = scope.spawn(|| live(&shim));
            let_pass(when);
            kill(pid, Signal::SIGKILL).unwrap();
            // At once, as a daemon does that sees the connection end.
            let _ = life.join().unwrap();
        });
        let (first, second) = (shim.clean_up(), shim.clean_up());

        assert_eq!((first.exit_code, second.exit_code), (0, 0), "{when:?}: {first:?} {second:?}");
        assert_nothing_left(&shim, when);
    }
}

/// Kills the runtime that the shim runs right now, if it runs one.
fn kill_runtime(shim: &Shim) {
    for pid in shim.tree().pids() {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if words.split(|octet| *octet == 0).any(|word| word == b"--log-format") {
            // It may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

#[test]
fn a_runtime_that_is_killed_at_no_chosen_moment_is_an_error_and_leaves_a_task_that_can_be_deleted()
{
    requires!(root, our_runtime);
    for when in moments(count(), undisturbed()) {
        let shim = shim();

        thread::scope(|scope| {
            let life = scope.spawn(|| live(&shim));
            let_pass(when);
            kill_runtime(&shim);
            // What was not begun is not done: the calls behind it fail too, or succeed.
            let _ = life.join().unwrap();
        });
        if shim.state("").is_ok() {
            let _ = shim.kill("", 9, true);
            shim.wait("");
            shim.delete("").unwrap_or_else(|error| panic!("after {when:?}: {error:?}"));
        }
        let request = task::ShutdownRequest { id: shim.id().to_owned(), now: true };
        let _: Result<(), _> = shim.call("Shutdown", &request);

        assert_nothing_left(&shim, when);
    }
}
