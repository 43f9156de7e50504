//! The program `keg` as people and scripts meet it, against a daemon that does as it is told.

mod compatibility;
mod fake_daemon;
mod terminal;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use fake_daemon::{Asked, FakeDaemon, ID, Script, Then};

/// `keg`, told to talk to the daemon.
fn keg(daemon: &FakeDaemon, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keg"));
    command.env("KEG_HOST", daemon.host()).args(words);
    command
}

/// Runs `keg` without input.
fn outcome(daemon: &FakeDaemon, words: &[&str]) -> Output {
    keg(daemon, words).stdin(Stdio::null()).output().expect("keg runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn run_shows_both_streams_and_ends_with_the_processes_code() {
    let script =
        Script { stdout: "out\n", stderr: "err\n", then: Then::Exit(7), ..Script::default() };
    let daemon = FakeDaemon::new(script);

    let outcome = outcome(&daemon, &["run", "busybox", "sh"]);

    assert_eq!(outcome.status.code(), Some(7));
    assert_eq!((text(&outcome.stdout), text(&outcome.stderr)), ("out\n", "err\n"));
}

#[test]
fn run_pulls_an_image_that_is_not_here_and_says_so() {
    let daemon =
        FakeDaemon::new(Script { images: Vec::new(), stdout: "hi\n", ..Script::default() });

    let outcome = outcome(&daemon, &["run", "--rm", "tool"]);

    assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
    assert_eq!(text(&outcome.stdout), "hi\n");
    assert!(text(&outcome.stderr).starts_with("Unable to find image 'tool:latest' locally\n"));
    assert!(matches!(daemon.next_asked(), Asked::Create(_)));
    assert_eq!(daemon.next_asked(), Asked::Pull("tool".to_owned()));
    assert!(matches!(daemon.next_asked(), Asked::Create(_)));
    assert_eq!(daemon.next_asked(), Asked::Start);
}

#[test]
fn run_does_not_pull_if_told_so() {
    let daemon = FakeDaemon::new(Script { images: Vec::new(), ..Script::default() });

    let outcome = outcome(&daemon, &["run", "--pull", "never", "tool"]);

    assert_eq!(outcome.status.code(), Some(125));
    assert_eq!(text(&outcome.stderr), "keg: no image \"tool\"\n     try: pull it\n");
}

#[test]
fn an_image_that_no_registry_has_is_one_clear_error() {
    let daemon = FakeDaemon::new(Script { images: Vec::new(), ..Script::default() });

    let outcome = outcome(&daemon, &["run", "nosuch"]);

    assert_eq!(outcome.status.code(), Some(125));
    assert_eq!(
        text(&outcome.stderr),
        "Unable to find image 'nosuch:latest' locally\n\
         keg: docker.io has no \"nosuch\"\n     try: check the name\n"
    );
}

#[test]
fn commands_that_cannot_start_have_dockers_exit_codes() {
    let table =
        [("COMMAND_NOT_FOUND", 127), ("COMMAND_NOT_EXECUTABLE", 126), ("RUNTIME_FAILED", 125)];
    for (reason, code) in table {
        let daemon = FakeDaemon::new(Script { start_fails: Some(reason), ..Script::default() });
        for words in [&["run", "busybox", "nosuch"][..], &["run", "-d", "busybox", "nosuch"]] {
            let outcome = outcome(&daemon, words);

            assert_eq!(outcome.status.code(), Some(code), "{words:?}");
            let expected = "keg: exec \"nosuch\": no such file\n     try: check the spelling\n";
            assert_eq!(text(&outcome.stderr), expected);
            assert_eq!(text(&outcome.stdout), "");
        }
    }
}

#[test]
fn exec_shows_both_streams_and_ends_with_the_processes_code() {
    let script =
        Script { stdout: "out\n", stderr: "err\n", then: Then::Exit(5), ..Script::default() };
    let daemon = FakeDaemon::new(script);

    let outcome = outcome(&daemon, &["exec", "-e", "A=1", "web", "sh", "-c", "true"]);

    assert_eq!(outcome.status.code(), Some(5));
    assert_eq!((text(&outcome.stdout), text(&outcome.stderr)), ("out\n", "err\n"));
    let Asked::Exec(start) = daemon.next_asked() else { panic!("exec is asked for") };
    assert_eq!((start.container.as_str(), start.env.as_slice()), ("web", &["A=1".to_owned()][..]));
    assert_eq!(start.command, ["sh", "-c", "true"]);
}

#[test]
fn an_exec_that_cannot_start_has_dockers_exit_codes() {
    let table =
        [("COMMAND_NOT_FOUND", 127), ("COMMAND_NOT_EXECUTABLE", 126), ("CONTAINER_NOT_RUNNING", 1)];
    for (reason, code) in table {
        let daemon = FakeDaemon::new(Script { start_fails: Some(reason), ..Script::default() });

        let outcome = outcome(&daemon, &["exec", "web", "nosuch"]);

        assert_eq!(outcome.status.code(), Some(code), "{reason}");
    }
}

#[test]
fn run_in_the_background_prints_the_id() {
    let daemon = FakeDaemon::new(Script::default());

    let outcome = outcome(&daemon, &["run", "-d", "busybox"]);

    assert_eq!(outcome.status.code(), Some(0));
    assert_eq!(text(&outcome.stdout), format!("{ID}\n"));
}

#[test]
fn input_is_sent_up_to_its_end() {
    let daemon = FakeDaemon::new(Script { then: Then::Echo, ..Script::default() });
    let mut child = keg(&daemon, &["run", "-i", "busybox", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("keg runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let sent = "line\n".repeat(100_000);
    let writer = {
        let sent = sent.clone();
        std::thread::spawn(move || stdin.write_all(sent.as_bytes()))
    };

    let outcome = child.wait_with_output().expect("keg ends");

    writer.join().expect("the writer").expect("all is read");
    assert_eq!(outcome.status.code(), Some(0));
    assert_eq!(text(&outcome.stdout), sent.to_uppercase());
}

#[test]
fn signals_are_passed_on_to_the_process() {
    let script = Script { stdout: "up\n", then: Then::WaitForSignal, ..Script::default() };
    let daemon = FakeDaemon::new(script);
    let mut child = keg(&daemon, &["run", "busybox"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("keg runs");
    terminal::wait_for_output(child.stdout.as_mut().expect("a pipe"), "up\n");

    terminal::signal(&child, rustix::process::Signal::TERM);

    let kill = daemon.wait_for(|asked| matches!(asked, Asked::Kill(_)));
    assert_eq!(kill, Asked::Kill("SIGTERM".to_owned()));
    assert_eq!(child.wait().expect("keg ends").code(), Some(143));
}

#[test]
fn a_connection_that_breaks_is_told_with_what_to_do() {
    let script = Script { stdout: "half", then: Then::Cut, ..Script::default() };
    let daemon = FakeDaemon::new(script);

    let outcome = outcome(&daemon, &["run", "busybox"]);

    assert_eq!(outcome.status.code(), Some(125));
    assert_eq!(text(&outcome.stdout), "half");
    assert!(text(&outcome.stderr).contains("join it again by `keg attach`"), "{outcome:?}");
}

#[test]
fn a_reader_that_leaves_is_no_reason_to_complain() {
    let daemon = FakeDaemon::new(Script::default());
    let mut child = keg(&daemon, &["logs", "x"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("keg runs");

    drop(child.stdout.take());

    let outcome = child.wait_with_output().expect("keg ends");
    assert_eq!(text(&outcome.stderr), "");
    assert_eq!(outcome.status.code(), Some(141));
}

#[test]
fn one_failure_of_several_does_not_keep_the_others_from_being_done() {
    let daemon = FakeDaemon::new(Script::default());

    let outcome = outcome(&daemon, &["rm", "a", "absent", "b"]);

    assert_eq!(outcome.status.code(), Some(1));
    assert_eq!(text(&outcome.stdout), "a\nb\n");
    assert_eq!(text(&outcome.stderr), "keg: no container \"absent\"\n     try: see `keg ps -a`\n");
}

#[test]
fn a_format_that_does_not_fit_names_the_fields_there_are() {
    let daemon = FakeDaemon::new(Script::default());

    let outcome = outcome(&daemon, &["ps", "--format", "{{.Colour}}"]);

    assert_eq!(outcome.status.code(), Some(1));
    assert!(text(&outcome.stderr).contains("no field \"Colour\"; there are Command, CreatedAt"));
}

#[test]
fn words_that_make_no_sense_end_with_dockers_codes() {
    let daemon = FakeDaemon::new(Script::default());
    let table: [(&[&str], i32); 7] = [
        (&["ps", "--no-such-flag"], 125),
        (&["run", "--no-such-flag", "x"], 125),
        (&["run"], 1),
        (&["nosuch"], 1),
        (&["rm"], 1),
        (&["--help"], 0),
        (&[], 0),
    ];
    for (words, code) in table {
        let outcome = outcome(&daemon, words);
        assert_eq!(outcome.status.code(), Some(code), "{words:?}");
    }
}
