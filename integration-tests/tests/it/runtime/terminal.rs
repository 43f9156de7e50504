//! Terminals – runtime-spec, config.md, "Process" (terminal, consoleSize), and runc's console socket.

use keg_fixtures::terminal::ConsoleSocket;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Report, Runtime, Terminal, requires};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn the_terminal_arrives_over_the_console_socket() {
    let host = requires!(root);
    let (container, terminal) =
        host.runtime().create_on_terminal(Bundle::busybox().sh("tty; exit 5"));

    container.start();

    terminal.expect("/dev/pts/0");
    assert_eq!(container.wait_exit(PATIENCE), 5);
    terminal.wait_for_hangup();
}

#[test]
fn a_container_in_the_hosts_mount_namespace_has_one_of_the_hosts() {
    let host = requires!(root, our_runtime);
    let bundle =
        Bundle::busybox().without_namespace("mount").sh("[ -t 0 ] && echo has one").edit(|spec| {
            spec["mounts"] = json!([]);
            for paths in ["maskedPaths", "readonlyPaths"] {
                spec["linux"][paths] = json!([]);
            }
        });
    let (container, terminal) = host.runtime().create_on_terminal(bundle);

    container.start();

    terminal.expect("has one");
    assert_eq!(container.wait_exit(PATIENCE), 0);
}

#[test]
fn it_is_the_controlling_terminal_of_a_session_of_its_own() {
    let host = requires!(root);
    let (container, terminal) = host.runtime().create_on_terminal(Bundle::probe());

    container.start();
    container.wait_exit(PATIENCE);
    terminal.wait_for_hangup();

    let text = terminal.text();
    let report: Report = serde_json::from_str(text.trim()).unwrap();
    let seen = report.terminal.as_ref().unwrap();
    assert!(seen.controlling, "{seen:?}");
    assert_eq!(report.process.sid, 1);
    assert_eq!(report.mount("/dev/console").fstype, "devpts");
}

#[test]
fn it_has_the_size_asked_for_from_the_start() {
    let host = requires!(root);
    let bundle = Bundle::probe()
        .args(["terminal"])
        .set("/process/consoleSize", json!({"width": 123, "height": 45}));
    let (container, terminal) = host.runtime().create_on_terminal(bundle);

    container.start();

    terminal.expect("size 123x45");
}

#[test]
fn a_new_size_reaches_the_process() {
    let host = requires!(root);
    let bundle = Bundle::probe().args(["terminal"]);
    let (container, terminal) = host.runtime().create_on_terminal(bundle);
    container.start();
    terminal.expect("size ");

    terminal.resize(100, 50);

    terminal.expect("size 100x50");
    let _ = container.kill(Signal::SIGTERM).success();
    assert_eq!(container.wait_exit(PATIENCE), 0);
}

#[test]
fn ctrl_c_interrupts_the_foreground_process() {
    let host = requires!(root);
    // The shell is PID 1: only its child dies, which says that it is there.
    let bundle =
        Bundle::busybox().sh("trap 'echo caught' INT; (echo go; exec sleep 1000); echo after");
    let (container, terminal) = host.runtime().create_on_terminal(bundle);
    container.start();
    terminal.expect("go");

    terminal.type_text("\x03");

    terminal.expect("caught");
    terminal.expect("after");
    assert_eq!(container.wait_exit(PATIENCE), 0);
}

#[test]
fn what_is_typed_reaches_the_process_and_is_echoed() {
    let host = requires!(root);
    let bundle = Bundle::busybox().sh("read -r line; echo \"got <$line>\"");
    let (container, terminal) = host.runtime().create_on_terminal(bundle);
    container.start();

    terminal.type_text("abc\r");

    terminal.expect("abc\r\n");
    terminal.expect("got <abc>\r\n");
    assert_eq!(container.wait_exit(PATIENCE), 0);
}

#[test]
fn the_terminal_belongs_to_the_user_of_the_process() {
    let host = requires!(root);
    let bundle = Bundle::busybox()
        .sh("ls -ln /dev/pts/0")
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let (container, terminal) = host.runtime().create_on_terminal(bundle);

    container.start();
    container.wait_exit(PATIENCE);

    terminal.expect("crw--w----");
    terminal.expect("1000");
}

#[test]
fn a_console_socket_without_terminal_is_refused() {
    let host = requires!(root);
    let socket = ConsoleSocket::new();
    let flags = ["--console-socket".as_ref(), socket.path().as_os_str()];

    let created = host.runtime().create_with(Bundle::probe(), &flags);

    assert!(created.is_err());
}

#[test]
fn a_terminal_without_console_socket_is_refused_when_detached() {
    let host = requires!(root);

    let created = host.runtime().try_create(Bundle::probe().set("/process/terminal", true));

    assert!(created.is_err());
}

#[test]
fn lines_end_in_a_file_as_the_process_ended_them() {
    let host = requires!(root);
    let bundle = Bundle::busybox().sh("echo one; echo two").set("/process/terminal", true);

    let outcome = host.runtime().run(bundle).success();

    assert_eq!(outcome.stdout, "one\ntwo\n");
}

#[test]
fn run_in_the_foreground_copies_between_both_terminals() {
    let host = requires!(root);
    let runtime = host.runtime();
    let id = Runtime::new_id();
    let bundle = Bundle::busybox()
        .sh("echo go; read -r line; echo \"got <$line>\"; stty size; exit 6")
        .set("/process/terminal", true)
        .set("/linux/cgroupsPath", format!("/{id}"));
    let mut command = runtime.command(["run", "--bundle"]);
    command.arg(bundle.path()).arg(&id);
    let _guard = runtime.guard(&id);

    let mut terminal = Terminal::spawn(&command);
    terminal.expect("go");
    terminal.type_text("abc\r");
    terminal.expect("got <abc>");
    terminal.expect("24 80");

    assert_eq!(terminal.wait_exit(PATIENCE), 6);
}
