//! Exec, Start with an exec id, ResizePty, CloseIO.

use std::fs;

use keg_fixtures::{Bundle, Shim, requires};
use keg_ttrpc::Code;
use serde_json::{Value, json};

fn running() -> Shim {
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("ready");
    shim
}

fn process(args: &[&str]) -> Value {
    json!({
        "args": args,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "terminal": false,
    })
}

fn log_of_exec(shim: &Shim) -> (std::path::PathBuf, String) {
    let log = shim.scratch().join("exec.log");
    let uri = format!("keg://{}?format=raw", log.display());
    (log, uri)
}

#[test]
fn an_exec_has_its_own_output_and_exit_status() {
    requires!(root);
    let shim = running();
    let (log, uri) = log_of_exec(&shim);

    shim.exec("one", &process(&["/bin/sh", "-c", "echo from exec; exit 4"]), &uri).unwrap();
    let pid = shim.start("one");
    let ended = shim.wait("one");
    let deleted = shim.delete("one").unwrap();

    assert_eq!(ended.exit_status, 4);
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 4));
    assert_eq!(fs::read_to_string(log).unwrap(), "from exec\n");
    assert_eq!(shim.state("").unwrap().exit_status, 0);
}

#[test]
fn an_exec_of_a_missing_command_fails_to_start_and_the_task_goes_on() {
    requires!(root);
    let shim = running();

    shim.exec("one", &process(&["/no/such/command"]), "").unwrap();
    let error = shim.try_start("one").unwrap_err();

    assert!(error.status().unwrap().message.contains("/no/such/command"), "{error:?}");
    shim.kill("", 15, false).unwrap();
    assert_eq!(shim.wait("").exit_status, 0);
}

#[test]
fn an_exec_has_a_terminal_when_the_request_wants_one_whatever_the_process_says() {
    requires!(root);
    let shim = running();
    let (log, uri) = log_of_exec(&shim);
    let script = process(&["/bin/sh", "-c", "[ -t 1 ] && echo terminal || echo none"]);
    let mut request = shim.exec_request("one", &script, &uri);
    request.terminal = true;

    let () = shim.call("Exec", &request).unwrap();
    shim.start("one");

    assert_eq!(shim.wait("one").exit_status, 0);
    shim.delete("one").unwrap();
    assert_eq!(fs::read_to_string(log).unwrap(), "terminal\r\n");
}

#[test]
fn an_exec_runs_in_a_container_that_is_not_started_yet() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();

    shim.exec("one", &process(&["/bin/sh", "-c", "exit 4"]), "").unwrap();
    shim.start("one");

    assert_eq!(shim.wait("one").exit_status, 4);
    shim.start("");
    shim.wait_for_line("ready");
}

#[test]
fn an_exec_that_is_added_to_a_container_which_has_ended_fails_to_start() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["exit", "3"]));
    shim.create();
    shim.start("");
    shim.wait("");

    shim.exec("one", &process(&["/bin/true"]), "").unwrap();
    let error = shim.try_start("one").unwrap_err();

    assert!(error.status().unwrap().message.contains("stopped"), "{error:?}");
    assert_eq!(shim.delete("").unwrap().exit_status, 3);
}

#[test]
fn an_exec_id_in_use_is_refused() {
    requires!(root);
    let shim = running();
    shim.exec("one", &process(&["/bin/true"]), "").unwrap();

    let error = shim.exec("one", &process(&["/bin/true"]), "").unwrap_err();

    assert_eq!(error.status().map(|status| status.code), Some(Code::AlreadyExists), "{error}");
}

#[test]
fn an_exec_can_be_killed() {
    requires!(root);
    let shim = running();
    shim.exec("one", &process(&["/bin/sleep", "1000"]), "").unwrap();
    shim.start("one");

    shim.kill("one", 9, false).unwrap();

    assert_eq!(shim.wait("one").exit_status, 137);
}

#[test]
fn many_execs_end_each_with_its_own_status() {
    requires!(root);
    let shim = running();

    for number in 0..10 {
        let id = format!("e{number}");
        let script = format!("exit {number}");
        shim.exec(&id, &process(&["/bin/sh", "-c", &script]), "").unwrap();
        shim.start(&id);
    }

    for number in 0..10 {
        assert_eq!(shim.wait(&format!("e{number}")).exit_status, number);
    }
}
