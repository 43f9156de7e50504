//! `keg run -it`, `attach`, detaching: a terminal that is usable.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, requires, wait_until};

#[test]
fn an_interactive_shell_takes_commands_and_passes_its_exit_code_on() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let mut terminal = daemon.keg_on_terminal(["run", "-it", "--rm", &image, "sh"]);
    terminal.expect("#");
    terminal.type_text("tty; echo $((6*7))\r");
    terminal.expect("/dev/pts/0");
    terminal.expect("42");
    terminal.type_text("exit 5\r");

    assert_eq!(terminal.wait_exit(PATIENCE), 5);
}

#[test]
fn the_container_has_the_terminals_size_and_follows_it() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let terminal = daemon.keg_on_terminal(["run", "-it", "--rm", &image, "/probe", "terminal"]);
    terminal.expect("size 80x24");
    terminal.resize(132, 50);

    terminal.expect("size 132x50");
}

#[test]
fn ctrl_c_interrupts_the_command_and_not_keg() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let script = "trap 'echo caught; exit 9' INT; echo go; while :; do sleep 1; done";

    let mut terminal = daemon.keg_on_terminal(["run", "-it", "--rm", &image, "sh", "-c", script]);
    terminal.expect("go");
    terminal.type_text("\x03");

    terminal.expect("caught");
    assert_eq!(terminal.wait_exit(PATIENCE), 9);
}

#[test]
fn ctrl_p_ctrl_q_leaves_it_running_and_attach_comes_back() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let mut first = daemon.keg_on_terminal(["run", "-it", "--name", "one", &image, "sh"]);
    first.expect("#");
    first.type_text("\x10\x11");
    assert_eq!(first.wait_exit(PATIENCE), 0);
    assert_eq!(daemon.inspect("one")["State"]["Status"], "running");

    let mut second = daemon.keg_on_terminal(["attach", "one"]);
    second.type_text("echo $((40+2)); exit 6\r");
    second.expect("42");
    assert_eq!(second.wait_exit(PATIENCE), 6);
}

#[test]
fn the_users_terminal_is_itself_again_afterwards() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let keg = daemon.keg_command(["run", "-it", "--rm", &image, "true"]);
    let script = format!(
        "stty -a > before; {:?} {}; stty -a > after; cmp before after && echo same",
        keg.get_program(),
        keg.get_args().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).env("KEG_HOST", daemon.host()).current_dir(daemon.scratch().path());

    let terminal = keg_fixtures::Terminal::spawn(&shell);

    terminal.expect("same");
}

#[test]
fn a_client_that_is_killed_leaves_the_container_running() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let terminal = daemon.keg_on_terminal(["run", "-it", "--name", "one", &image, "sh"]);
    terminal.expect("#");

    drop(terminal);

    wait_until("the container is there", PATIENCE, || {
        daemon.inspect("one")["State"]["Status"] == "running"
    });
}

#[test]
fn t_without_a_terminal_is_refused_with_a_reason() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();

    let outcome = daemon.keg(["run", "-it", "--rm", &image, "true"]);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.to_lowercase().contains("terminal"), "{outcome:?}");
}
