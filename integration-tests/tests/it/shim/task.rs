//! The Task service: Create, Start, State, Wait, Kill, Delete, Pids, Connect, Shutdown.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Shim, requires};
use keg_proto::containerd::task::v2 as task;
use keg_proto::containerd::v1::types::Status;
use keg_ttrpc::Code;
use serde_json::Value;

fn exit_record(shim: &Shim) -> Value {
    serde_json::from_slice(&std::fs::read(shim.exit_file()).unwrap()).unwrap()
}

#[test]
fn a_task_is_created_started_waited_for_and_deleted() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("echo out; echo err >&2; exit 7"));

    let pid = shim.create();
    assert_eq!(shim.state("").unwrap().status(), Status::Created);
    assert_eq!(shim.logged("stdout"), "");
    assert_eq!(shim.start(""), pid);
    let ended = shim.wait("");
    let state = shim.state("").unwrap();
    let deleted = shim.delete("").unwrap();

    assert_eq!(ended.exit_status, 7);
    assert!(ended.exited_at.is_some());
    assert_eq!((state.status(), state.pid, state.exit_status), (Status::Stopped, pid, 7));
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert_eq!(
        (shim.logged("stdout").as_str(), shim.logged("stderr").as_str()),
        ("out\n", "err\n")
    );
}

#[test]
fn the_exit_is_on_disk_before_anyone_is_told() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("exit 3"));
    let pid = shim.create();
    shim.start("");

    shim.wait("");
    let record = exit_record(&shim);

    assert_eq!(record["status"], 3, "{record}");
    assert_eq!(record["pid"], pid, "{record}");
    assert_eq!(record["id"], shim.id(), "{record}");
    assert_eq!(record["signal"], Value::Null, "{record}");
    assert_eq!(record["oom_killed"], false, "{record}");
    assert!(record["started_at"].as_str() <= record["exited_at"].as_str(), "{record}");
}

#[test]
fn a_killed_task_has_128_and_the_signal() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["stubborn"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("ready");

    shim.kill("", 9, false).unwrap();
    let ended = shim.wait("");

    assert_eq!(ended.exit_status, 128 + 9);
    let record = exit_record(&shim);
    assert_eq!((&record["status"], &record["signal"]), (&137.into(), &9.into()), "{record}");
}

#[test]
fn a_signal_reaches_the_process() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["signals"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("ready");

    shim.kill("", 10, false).unwrap();
    shim.wait_for_line("SIGUSR1");
    shim.kill("", 15, false).unwrap();

    assert_eq!(shim.wait("").exit_status, 0);
}

#[test]
fn everyone_who_waits_is_told() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("ready");

    let statuses: Vec<u32> = std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| shim.wait("").exit_status)).collect();
        shim.kill("", 15, false).unwrap();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    assert_eq!(statuses, [0; 8]);
    assert_eq!(shim.wait("").exit_status, 0, "and who comes late");
}

#[test]
fn events_come_in_order() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().command(["/bin/true"]));
    shim.create();
    shim.start("");
    shim.wait("");
    shim.delete("").unwrap();

    let topics = shim.wait_for_topics(4);

    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
}

#[test]
fn connect_tells_both_process_ids() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    let pid = shim.create();

    let request = task::ConnectRequest { id: shim.id().to_owned() };
    let answer: task::ConnectResponse = shim.call("Connect", &request).unwrap();

    assert_eq!(answer.task_pid, pid);
    let pids: Vec<u32> =
        shim.tree().pids().iter().map(|pid| pid.as_raw().cast_unsigned()).collect();
    assert!(pids.contains(&answer.shim_pid), "{answer:?}");
    assert_eq!(answer.shim_pid, shim.pid().as_raw().cast_unsigned());
}

/// containerd 1.6 asks this of the shims that it finds when it starts, and would keep one that was
/// never given a container: its name could not be used again.
#[test]
fn connect_finds_nothing_before_there_is_a_container() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    let request = task::ConnectRequest { id: shim.id().to_owned() };

    let asked: Result<task::ConnectResponse, _> = shim.call("Connect", &request);

    assert_eq!(asked.unwrap_err().status().map(|status| status.code), Some(Code::NotFound));
    assert!(shim.create() > 0, "it can still be made");
}

#[test]
fn pids_are_those_of_the_cgroup() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("sleep 1000 & echo ready; wait"));
    let pid = shim.create();
    shim.start("");
    shim.wait_for_line("ready");

    let request = task::PidsRequest { id: shim.id().to_owned() };
    let answer: task::PidsResponse = shim.call("Pids", &request).unwrap();

    let pids: Vec<u32> = answer.processes.iter().map(|process| process.pid).collect();
    assert!(pids.contains(&pid) && pids.len() == 2, "{pids:?}");
}

#[test]
fn a_task_that_was_never_created_is_not_found() {
    requires!(root);
    let shim = Shim::new(Bundle::probe());

    for error in [
        shim.try_start("").unwrap_err(),
        shim.state("").unwrap_err(),
        shim.kill("", 9, false).unwrap_err(),
        shim.delete("").unwrap_err(),
    ] {
        assert_eq!(error.status().map(|status| status.code), Some(Code::NotFound), "{error}");
    }
}

#[test]
fn a_second_create_is_refused_and_the_first_goes_on() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();

    let error = shim.create_with(|_| {}).unwrap_err();

    assert_eq!(error.status().map(|status| status.code), Some(Code::AlreadyExists), "{error}");
    assert_eq!(shim.state("").unwrap().status(), Status::Created);
}

#[test]
fn delete_refuses_a_running_task() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("ready");

    let error = shim.delete("").unwrap_err();

    assert_eq!(error.status().map(|status| status.code), Some(Code::FailedPrecondition));
}

#[test]
fn a_call_that_does_not_exist_is_unimplemented() {
    requires!(root);
    let shim = Shim::new(Bundle::probe());

    let error = shim.call::<(), ()>("NoSuch", &()).unwrap_err();

    assert_eq!(error.status().map(|status| status.code), Some(Code::Unimplemented), "{error}");
}

#[test]
fn a_bundle_that_cannot_run_fails_the_create_with_the_runtimes_words() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().mount("/mnt", "bind", "/no/such/source", &["bind"]));

    let error = shim.create_with(|_| {}).unwrap_err();

    let status = error.status().unwrap();
    assert!(status.message.contains("/no/such/source"), "{status:?}");
    assert!(keg_fixtures::runtime::cgroups_of(shim.id()).is_empty());
}

#[test]
fn orphans_are_reaped() {
    requires!(root);
    // Without a PID namespace, orphans become children of the shim; this one says who it is.
    let script = "(sh -c 'echo $$' &); exec sleep 1000";
    let shim = Shim::new(Bundle::busybox().sh(script).without_namespace("pid"));
    shim.create();
    shim.start("");
    keg_fixtures::wait_until("the orphan speaks", PATIENCE, || {
        shim.logged("stdout").ends_with('\n')
    });
    let orphan = shim.logged("stdout").trim().to_owned();

    keg_fixtures::wait_until("no zombie is left", PATIENCE, || {
        !std::path::Path::new("/proc").join(&orphan).exists()
    });

    assert_eq!(shim.state("").unwrap().status(), Status::Running);
}

#[test]
fn shutdown_ends_the_shim_whose_name_is_free_once_that_is_answered() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().command(["/bin/true"]));
    shim.create();
    shim.start("");
    shim.wait("");
    shim.delete("").unwrap();
    let address = shim.tree().stdout();

    let request = task::ShutdownRequest { id: shim.id().to_owned(), now: false };
    let _ = shim.call::<_, ()>("Shutdown", &request);

    assert!(!std::path::Path::new(address.strip_prefix("unix://").unwrap()).exists());
    keg_fixtures::wait_until("the shim has ended", PATIENCE, || shim.tree().pids().is_empty());
}

#[test]
fn an_oom_kill_is_recorded() {
    requires!(root);
    let limit = serde_json::json!({"limit": 32 << 20, "swap": 32 << 20});
    let bundle = Bundle::probe().args(["eat", "64"]).set("/linux/resources/memory", limit);
    let shim = Shim::new(bundle);
    shim.create();
    shim.start("");

    let ended = shim.wait("");

    assert_eq!(ended.exit_status, 137);
    assert_eq!(exit_record(&shim)["oom_killed"], true);
}
