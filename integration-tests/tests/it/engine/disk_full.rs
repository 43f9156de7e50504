//! The daemon's disk takes no more: what cannot be done is told, and goes on when there is space.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use keg_fixtures::{Daemon, Outcome, requires, wait_until};

/// A file that leaves nothing of a disk; removed with it.
struct Ballast {
    path: PathBuf,
    file: File,
}

impl Ballast {
    fn new(daemon: &Daemon) -> Self {
        let path = daemon.root().join("ballast");
        let file = File::create(&path).expect("make the ballast");
        let mut ballast = Self { path, file };
        ballast.fill();
        ballast
    }

    /// Takes what has been given back since.
    fn fill(&mut self) {
        let mut block = vec![0; 1 << 20];
        while !block.is_empty() {
            // Blocks that get smaller, to the last byte.
            if self.file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let removed = std::fs::remove_file(&self.path);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

/// It failed, and says that the disk is full and what to do.
#[track_caller]
fn assert_told(outcome: &Outcome, exit_code: i32) {
    assert_eq!(outcome.exit_code, exit_code, "{outcome:?}");
    let told = outcome.stderr.to_lowercase();
    assert!(told.contains("space") || told.contains("disk is full"), "{outcome:?}");
    assert!(told.contains("try:"), "no remedy: {outcome:?}");
    assert!(!told.contains("panicked"), "{outcome:?}");
}

#[test]
fn what_needs_space_fails_plainly_and_works_when_there_is_some() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox_on_disk(64 << 20);
    let _ = daemon.keg(["create", "--name", "ready", &image, "echo", "started"]).success();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let mut ballast = Ballast::new(&daemon);
    let mut keg = |args: &[&str]| {
        ballast.fill();
        daemon.keg(args)
    };

    assert_told(&keg(&["run", "--rm", &image, "true"]), 125);
    assert_told(&keg(&["create", "--name", "late", &image, "true"]), 1);
    assert_told(&keg(&["start", "ready"]), 1);
    assert_told(&keg(&["commit", "one", "full"]), 1);
    assert_told(&keg(&["volume", "create", "late"]), 1);
    // What needs none goes on.
    assert!(keg(&["ps", "-a"]).success().stdout.contains("ready"));
    assert_eq!(keg(&["exec", "one", "echo", "here"]).success().stdout, "here\n");
    let written = keg(&["exec", "one", "sh", "-c", "echo x > /file"]);
    assert_ne!(written.exit_code, 0, "{written:?}");
    assert!(written.stderr.contains("No space left"), "{written:?}");

    drop(ballast);
    assert_eq!(daemon.keg(["start", "-a", "ready"]).success().stdout, "started\n");
    assert_eq!(daemon.keg(["run", "--rm", &image, "echo", "again"]).success().stdout, "again\n");
    let _ = daemon.keg(["create", "--name", "late", &image, "true"]).success();
    let _ = daemon.keg(["commit", "one", "full"]).success();
    let _ = daemon.keg(["rm", "-f", "ready", "late", "one"]).success();
    let check = daemon.keg(["system", "check"]);
    assert_eq!(check.exit_code, 0, "{check:?}");
}

#[test]
fn a_container_that_ends_while_the_disk_is_full_ends_with_its_own_code_and_can_be_removed() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox_on_disk(64 << 20);
    let script = "trap 'exit 23' TERM; echo ready; while :; do sleep 1; done";
    for name in ["one", "two"] {
        let _ = daemon.run_detached(["--name", name, &image, "sh", "-c", script]);
        daemon.wait_for_line(name, "ready");
    }
    let ballast = Ballast::new(&daemon);

    let _ = daemon.keg(["stop", "one"]);
    wait_until("it has ended", keg_fixtures::wait::PATIENCE, || {
        daemon.inspect("one")["State"]["Running"] == false
    });
    assert_eq!(daemon.inspect("one")["State"]["ExitCode"], 23);
    drop(ballast);
    wait_until("the end is stored", keg_fixtures::wait::PATIENCE, || {
        daemon.log().contains("is stored now")
    });
    daemon.crash();

    assert_eq!(daemon.inspect("one")["State"]["ExitCode"], 23);
    let _ = daemon.keg(["stop", "two"]).success();
    assert_eq!(daemon.inspect("two")["State"]["ExitCode"], 23);
    let _ = daemon.keg(["rm", "one", "two"]).success();
}
