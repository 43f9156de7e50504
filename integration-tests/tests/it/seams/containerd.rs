//! containerd-shim-keg-v2 under containerd – containerd's core/runtime/v2/README.md.
//!
//! The same tests for each generation of containerd: Debian 12's (1.6), the next one (2.1, fetched by
//! `.ci/newer-peers`), and one that starts shims in the way of 2.3 (`KEG_NEWEST_CONTAINERD`).

use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Containerd, Terminal, Tree, requires, wait_for, wait_until};
use serde_json::Value;

const KEG: [&str; 3] = ["run", "--runtime", "io.containerd.keg.v2"];

/// Makes the tests for one generation.
macro_rules! generation {
    ($name:ident, $start:path, $($need:ident),+) => {
        mod $name {
            use super::*;

            fn started() -> Containerd {
                let containerd = $start();
                containerd.import_busybox();
                containerd
            }

            #[test]
            fn ctr_run_prints_the_containers_output_and_returns_its_exit_code() {
                requires!(root, $($need),+);
                prints_output_and_returns_the_exit_code(&started());
            }

            #[test]
            fn ctr_run_with_a_terminal_has_one() {
                requires!(root, $($need),+);
                has_a_terminal(&started());
            }

            #[test]
            fn ctr_execs_pauses_measures_and_hears_of_a_task() {
                requires!(root, $($need),+);
                is_managed_through_its_life(&started());
            }

            #[test]
            fn ctr_checkpoints_a_container_and_restores_it() {
                requires!(root, criu, $($need),+);
                is_checkpointed_and_restored(&started());
            }

            #[test]
            fn a_killed_containerd_finds_its_task_again() {
                requires!(root, $($need),+);
                is_found_again(started());
            }
        }
    };
}

generation!(debian, Containerd::new, containerd);
generation!(newer, Containerd::newer, newer_containerd);
generation!(newest, Containerd::newest, newest_containerd);

/// Starts a container in the background.
fn detached(containerd: &Containerd, id: &str, script: &str) {
    let flags = ["--detach", Containerd::BUSYBOX, id, "sh", "-c", script];
    let _ = containerd.ctr(KEG.iter().chain(&flags)).success();
}

fn status(containerd: &Containerd, id: &str) -> String {
    let list = containerd.ctr(["task", "ls"]).success().stdout;
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
    line.and_then(|line| line.split_whitespace().last()).unwrap_or("gone").to_owned()
}

fn remove(containerd: &Containerd, id: &str) {
    let _ = containerd.ctr(["task", "rm", "--force", id]);
    let _ = containerd.ctr(["container", "rm", id]).success();
}

fn prints_output_and_returns_the_exit_code(containerd: &Containerd) {
    let script = ["sh", "-c", "echo hello; echo oh >&2; exit 3"];
    let words = KEG.iter().chain(&["--rm", Containerd::BUSYBOX, "one"]).chain(&script);
    let outcome = containerd.ctr_prints(words, |outcome| {
        outcome.stdout.ends_with('\n') && outcome.stderr.contains("oh\n")
    });

    assert_eq!(outcome.stdout, "hello\n", "{outcome:?}");
    // ctr has something to say too: newer ones of cgroup v1, older ones of the exit code.
    assert!(outcome.stderr.lines().any(|line| line == "oh"), "{outcome:?}");
    assert_eq!(outcome.exit_code, 3);
}

fn has_a_terminal(containerd: &Containerd) {
    let flags = ["--rm", "--tty", Containerd::BUSYBOX, "one", "sh"];
    let command: Command = containerd.ctr_command(KEG.iter().chain(&flags));

    let mut terminal = Terminal::spawn(&command);
    terminal.resize(91, 17);
    terminal.type_text("tty; echo $((6 * 7))\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("42");
    terminal.type_text("exit 5\n");

    assert_eq!(terminal.wait_exit(PATIENCE), 5);
}

fn is_managed_through_its_life(containerd: &Containerd) {
    let events = Tree::spawn(&containerd.ctr_command(["events"]));
    let heard = |topic: &str| {
        wait_until(&format!("{topic} is heard"), PATIENCE, || events.stdout().contains(topic));
    };
    // Whether it listens is seen by what it hears.
    wait_until("ctr hears events", PATIENCE, || {
        let _ = containerd.ctr(["image", "label", Containerd::BUSYBOX, "heard=yes"]);
        events.stdout().contains("/images/update")
    });
    detached(containerd, "one", "echo $$; while :; do sleep 1; done");
    heard("/tasks/start");

    let words = ["task", "exec", "--exec-id", "e", "one", "sh", "-c", "echo inside; exit 4"];
    let exec = containerd.ctr_prints(words, |exec| exec.stdout.ends_with('\n'));
    assert_eq!((exec.stdout.as_str(), exec.exit_code), ("inside\n", 4), "{exec:?}");
    heard("/tasks/exec-started");

    let _ = containerd.ctr(["task", "pause", "one"]).success();
    assert_eq!(status(containerd, "one"), "PAUSED");
    let _ = containerd.ctr(["task", "resume", "one"]).success();
    assert_eq!(status(containerd, "one"), "RUNNING");
    heard("/tasks/resumed");

    let metrics = containerd.ctr(["task", "metrics", "--format", "json", "one"]).success().stdout;
    let metrics: Value = serde_json::from_str(&metrics).unwrap();
    let number = |pointer: &str| metrics.pointer(pointer).and_then(Value::as_u64);
    let memory = number("/memory/usage/usage").or(number("/memory/usage"));
    assert!(memory.is_some_and(|bytes| bytes > 0), "{metrics}");
    assert!(number("/pids/current").is_some_and(|count| count > 0), "{metrics}");

    let _ = containerd.ctr(["task", "kill", "--signal", "SIGKILL", "one"]).success();
    wait_until("it has ended", PATIENCE, || status(containerd, "one") == "STOPPED");
    remove(containerd, "one");
    heard("/tasks/delete");
    let heard = events.stdout();
    let at = |topic: &str| heard.find(topic).unwrap_or_else(|| panic!("{topic}: {heard}"));
    let order = ["/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started"];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{heard}");
}

fn is_checkpointed_and_restored(containerd: &Containerd) {
    // Counts in memory; the file is for us to see.
    let script = "i=0; while :; do i=$((i+1)); echo $i >/new; mv /new /count; sleep 0.05; done";
    detached(containerd, "one", script);
    let count = |id: &str| {
        let cat = ["task", "exec", "--exec-id", "cat", id, "cat", "/count"];
        let printed = containerd
            .ctr_prints(cat, |outcome| outcome.exit_code != 0 || outcome.stdout.ends_with('\n'));
        printed.stdout.trim().parse::<u64>().unwrap_or(0)
    };
    wait_until("it counts", PATIENCE, || count("one") > 20);

    let name = "keg.test/checkpoint:one";
    let checkpoint = ["container", "checkpoint", "--image", "--rw", "--task", "one", name];
    let _ = containerd.ctr(checkpoint).success();
    let before = count("one");
    remove(containerd, "one");
    let _ = containerd.ctr(["container", "restore", "--rw", "--live", "two", name]).success();

    let after =
        wait_for("the restored one counts", PATIENCE, || Some(count("two")).filter(|n| *n > 0));
    assert!(after > 15 && before > 15, "it began anew: {before} before, {after} after");
    assert_eq!(status(containerd, "two"), "RUNNING");
    remove(containerd, "two");
}

fn is_found_again(mut containerd: Containerd) {
    detached(&containerd, "one", "while :; do sleep 1; done");

    containerd.kill_and_restart();

    assert_eq!(status(&containerd, "one"), "RUNNING");
    let exec = ["task", "exec", "--exec-id", "e", "one", "echo", "still here"];
    let exec = containerd.ctr_prints(exec, |exec| exec.stdout.ends_with('\n'));
    assert_eq!(exec.success().stdout, "still here\n");
    remove(&containerd, "one");
}

/// ctr of 1.6 keeps these options for shims that it knows by name.
#[test]
fn ctr_checkpoints_a_task_into_a_directory_and_ends_it() {
    requires!(root, criu, newer_containerd);
    let containerd = &Containerd::newer();
    containerd.import_busybox();
    detached(containerd, "one", "while :; do sleep 1; done");
    let [images, work] = ["images", "work"].map(|name| containerd.scratch().join(name));
    let paths = [images.to_str().unwrap(), work.to_str().unwrap()];

    let flags = ["--exit", "--image-path", paths[0], "--work-path", paths[1], "one"];
    let _ = containerd.ctr(["task", "checkpoint"].iter().chain(&flags)).success();

    wait_until("it has ended", PATIENCE, || status(containerd, "one") == "STOPPED");
    assert!(images.join("inventory.img").is_file() && work.join("dump.log").is_file());
    remove(containerd, "one");
}
