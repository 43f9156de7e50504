//! exec: a second process in a running container – runc's command line (runc-exec(8)).

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Container, Outcome, Report, Runtime, Status, Terminal, requires};
use serde_json::json;

fn running(runtime: &Runtime, bundle: Bundle) -> Container {
    let container = runtime.create(bundle.args(["pause"]));
    container.start();
    container.wait_for_line("ready");
    container
}

fn report_of_exec(container: &Container, flags: &[&str]) -> Report {
    let command = [container.id(), "/probe", "report"];
    let arguments = ["exec"].iter().chain(flags).chain(&command);
    container.runtime().call(arguments).success().report()
}

#[test]
fn exec_passes_streams_and_exit_code_on() {
    let host = requires!(root);
    let container = running(&host.runtime(), Bundle::probe());

    let outcome = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 9"]);

    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(outcome.exit_code, 9);
}

#[test]
fn exec_joins_every_namespace_and_the_cgroup() {
    let host = requires!(root);
    let container = running(&host.runtime(), Bundle::probe());

    let report = report_of_exec(&container, &[]);

    for (name, seen) in &report.namespaces {
        if name.ends_with("_for_children") {
            continue;
        }
        let path = format!("/proc/{}/ns/{name}", container.init());
        assert_eq!(*seen, fs::read_link(path).unwrap().display().to_string(), "{name}");
    }
    assert!(report.cgroups.values().all(|path| path == "/"), "{:?}", report.cgroups);
    assert_ne!(report.process.pid, 1);
}

#[test]
fn exec_has_the_rights_of_the_containers_process() {
    let host = requires!(root);
    let rule = json!({"names": ["acct"], "action": "SCMP_ACT_ERRNO"});
    let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let container = running(&host.runtime(), Bundle::probe().set("/linux/seccomp", filter));

    let report = report_of_exec(&container, &[]);

    let expected = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    assert_eq!(report.capabilities.bounding.iter().collect::<Vec<_>>(), expected);
    assert_eq!(report.capabilities.effective.iter().collect::<Vec<_>>(), expected);
    assert!(report.no_new_privileges);
    assert_eq!(report.seccomp_mode, 2);
    assert_eq!(report.rlimits["RLIMIT_NOFILE"], (1024, 1024));
    let numbers: Vec<u32> = report.fds.keys().copied().collect();
    assert_eq!(numbers, [0, 1, 2], "{:?}", report.fds);
}

#[test]
fn exec_takes_environment_directory_and_user() {
    let host = requires!(root);
    let container = running(&host.runtime(), Bundle::probe());
    let flags = ["--env", "X=1", "--env", "Y=2", "--cwd", "/etc", "--user", "1000:50"];

    let report = report_of_exec(&container, &flags);

    assert_eq!((report.env_value("X"), report.env_value("Y")), (Some("1"), Some("2")));
    assert!(report.env_value("PATH").is_some());
    assert_eq!(report.cwd, "/etc");
    assert_eq!((report.identity.uids, report.identity.gids), ([1000; 4], [50; 4]));
}

#[test]
fn exec_takes_a_process_file() {
    let host = requires!(root);
    let container = running(&host.runtime(), Bundle::probe());
    let process = json!({
        "args": ["/probe", "report"],
        "cwd": "/tmp",
        "env": ["FROM=file"],
        "user": {"uid": 7, "gid": 8},
    });
    let file = container.bundle().path().join("process.json");
    fs::write(&file, process.to_string()).unwrap();

    let arguments = ["exec", "--process", file.to_str().unwrap(), container.id()];
    let report = container.runtime().call(arguments).success().report();

    assert_eq!((report.cwd.as_str(), report.env_value("FROM")), ("/tmp", Some("file")));
    assert_eq!((report.identity.uids, report.identity.gids), ([7; 4], [8; 4]));
}

#[test]
fn exec_on_a_terminal_has_one() {
    let host = requires!(root);
    let container = running(&host.runtime(), Bundle::probe());
    let command =
        container.runtime().command(["exec", "--tty", container.id(), "sh", "-c", "tty; exit 3"]);

    let mut terminal = Terminal::spawn(&command);

    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.wait_exit(PATIENCE), 3);
}

#[test]
fn exec_in_a_container_that_does_not_run_is_refused() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::probe().args(["exit", "0"]));
    let _ = container.start_and_wait();
    container.wait_for(Status::Stopped, PATIENCE);

    let stopped = container.exec(&["true"]);
    let unknown = container.runtime().call(["exec", "nobody", "true"]);

    assert!(stopped.exit_code != 0 && stopped.error.contains("stopped"), "{stopped:?}");
    assert!(unknown.exit_code != 0 && unknown.error.contains("does not exist"), "{unknown:?}");
}

#[test]
fn exec_of_a_command_that_does_not_exist_is_named() {
    let host = requires!(root);
    let container = running(&host.runtime(), Bundle::probe());

    let outcome = container.exec(&["/no/such/command"]);

    assert!(outcome.text().contains("/no/such/command"), "{outcome:?}");
    assert_ne!(outcome.exit_code, 0);
}

#[test]
fn exec_in_a_user_namespace_is_mapped() {
    let host = requires!(root, user_namespaces);
    let bundle = Bundle::probe().user_namespace(600_000, 65_536);
    let container = running(&host.runtime(), bundle);

    let report = report_of_exec(&container, &[]);

    assert_eq!(report.uid_map, [[0, 600_000, 65_536]]);
    assert_eq!(report.identity.uids, [0; 4]);
}

#[test]
fn exec_in_a_paused_container_is_refused_and_does_not_hang() {
    let host = requires!(root);
    let container = running(&host.runtime(), Bundle::probe());
    let _ = container.runtime().call(["pause", container.id()]).success();
    assert_eq!(container.state().status, Status::Paused);

    let outcome = container.exec(&["true"]);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.error.contains("paused"), "{outcome:?}");
    let _ = container.runtime().call(["resume", container.id()]).success();
    assert_eq!(container.state().status, Status::Running);
}

#[test]
fn the_containers_passwd_does_not_lead_exec_out() {
    let host = requires!(root);
    let bundle = Bundle::probe().rootfs_edit(|root| {
        fs::remove_file(root.join("etc/passwd")).unwrap();
        symlink("/proc/1/root/etc/passwd", root.join("etc/passwd")).unwrap();
    });
    let container = running(&host.runtime(), bundle);

    let report = report_of_exec(&container, &[]);

    assert_eq!(report.identity.uids, [0; 4]);
}

#[test]
fn what_the_container_would_preload_is_not_loaded_into_the_runtime() {
    let host = requires!(root);
    let bundle = Bundle::probe()
        .args(["pause"])
        .rootfs_edit(|root| {
            fs::write(root.join("evil.so"), "not even a library").unwrap();
            fs::write(root.join("etc/ld.so.preload"), "/evil.so\n").unwrap();
        })
        .set("/process/env/-", "LD_PRELOAD=/evil.so")
        .set("/process/env/-", "LD_AUDIT=/evil.so")
        .set("/process/env/-", "LD_LIBRARY_PATH=/");
    let runtime = host.runtime();
    let container = running(&runtime, bundle);

    // A dynamic linker that runs inside complains of what it cannot load; busybox has none.
    let outcome = container.exec(&["/bin/echo", "well"]).success();

    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("well\n", ""), "{outcome:?}");
}

/// Runs a command of the runtime for which the numbers from 3 to 9 are free.
fn with_free_descriptors(runtime: &Runtime, args: &[&str]) -> Outcome {
    const CLOSE: &str = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; exec \"$@\"";
    let command = runtime.command(args);
    let mut closing = Command::new("/bin/sh");
    closing.args(["-c", CLOSE, "sh"]).arg(command.get_program()).args(command.get_args());
    Outcome::of(&mut closing, PATIENCE)
}

#[test]
fn descriptors_of_the_runtime_itself_are_not_preserved() {
    // runc takes no number that is not open.
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let container = running(&runtime, Bundle::probe().args(["pause"]));
    let descriptors = ["/bin/ls", "/proc/self/fd"];

    // None of them is open but those that the runtime opens for itself: its log, its state.
    let exec = ["exec", "--preserve-fds", "7", container.id()];
    let executed = with_free_descriptors(&runtime, &[&exec[..], &descriptors].concat());
    let run = {
        let (id, bundle) = (Runtime::new_id(), Bundle::busybox().command(descriptors));
        let bundle = bundle.set("/linux/cgroupsPath", format!("/{id}"));
        let _guard = runtime.guard(&id);
        let path = bundle.path().to_str().unwrap();
        with_free_descriptors(&runtime, &["run", "--preserve-fds", "7", "--bundle", path, &id])
    };

    // The fourth is the directory that is listed.
    for outcome in [executed, run] {
        assert_eq!(outcome.success().stdout, "0\n1\n2\n3\n");
    }
}

#[test]
fn a_working_directory_that_is_not_there_is_named() {
    let host = requires!(root, our_runtime);
    let container = host.runtime().create(Bundle::probe().args(["pause"]));
    container.start();

    let outcome = container.exec(&["--cwd", "/nosuch/place", "/probe", "report"]);

    assert_eq!(outcome.exit_code, 255, "{outcome:?}");
    assert!(outcome.text().contains("\"/nosuch/place\": no such file"), "{outcome:?}");
}

#[test]
fn an_added_capability_is_never_inheritable() {
    let host = requires!(root);
    let bundle = Bundle::probe().edit(|spec| {
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            spec["process"]["capabilities"][set] = json!(["CAP_CHOWN"]);
        }
    });
    let container = running(&host.runtime(), bundle);

    let sets = report_of_exec(&container, &["--cap", "CAP_SYSLOG"]).capabilities;

    assert!(sets.effective.contains("CAP_SYSLOG"), "{sets:?}");
    assert!(!sets.inheritable.contains("CAP_SYSLOG"), "{sets:?}");
    assert!(!sets.ambient.contains("CAP_SYSLOG"), "{sets:?}");
}
