//! Who reads a log through the daemon and stops doing so.

use std::fs;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, Tree, requires, wait_until};
use nix::sys::signal::Signal;

/// More than all buffers between a log and its reader hold.
const LINES: usize = 200_000;

/// What a daemon may need for it.
const MEMORY_KIB: u64 = 64 << 10;

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_stopped_reader_of_a_log_holds_nobody_up_and_misses_nothing() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let script = format!("until [ -e /go ]; do sleep 0.05; done; /probe lines {LINES} 80");
    let _ = daemon.run_detached(["--name", "one", &image, "sh", "-c", &script]);
    let reader = Tree::spawn(&daemon.keg_command(["logs", "--follow", "one"]));
    let _ = reader.main_pid();
    reader.signal_main(Signal::SIGSTOP);
    let before = resident_kib(&daemon);

    let _ = daemon.keg(["exec", "one", "touch", "/go"]).success();
    let code = daemon.keg(["wait", "one"]).success().stdout;

    assert_eq!(code, "0\n", "the container ends while its reader is stopped");
    let grown = resident_kib(&daemon).saturating_sub(before);
    assert!(grown < MEMORY_KIB, "the daemon keeps {grown} KiB for a reader that does not read");
    reader.signal_main(Signal::SIGCONT);
    assert_eq!(reader.wait_exit(reader.main_pid(), PATIENCE), 0, "{}", reader.stderr());
    let text = reader.stdout();
    wait_until("all lines are there", PATIENCE, || reader.stdout().lines().count() == LINES);
    let numbers = text.lines().map(|line| line.parse::<usize>().unwrap());
    assert!(numbers.eq(1..=LINES));
}
