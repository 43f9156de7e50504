//! keg-runtime under containerd's own shim, by the runtime option `BinaryName`.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Containerd, programs, requires, wait_until};
use serde_json::Value;

#[test]
fn containerds_own_shim_passes_output_and_exit_code_on() {
    requires!(root, containerd);
    let containerd = Containerd::new();
    containerd.import_busybox();

    let runtime = programs::ours("keg-runtime");
    let fixed = ["run", "--rm", "--runc-binary", runtime.to_str().unwrap(), Containerd::BUSYBOX];
    let script = ["one", "sh", "-c", "echo hello; echo oh >&2; exit 3"];
    let outcome = containerd.ctr_prints(fixed.iter().chain(&script), |outcome| {
        outcome.stdout.ends_with('\n') && outcome.stderr.contains("oh\n")
    });

    assert_eq!(outcome.stdout, "hello\n", "{outcome:?}");
    assert!(outcome.stderr.starts_with("oh\n"), "{outcome:?}");
    assert_eq!(outcome.exit_code, 3);
}

#[test]
fn containerds_own_shim_tells_why_a_program_does_not_start() {
    requires!(root, containerd);
    let containerd = Containerd::new();
    containerd.import_busybox();
    let runtime = programs::ours("keg-runtime");
    let fixed = ["run", "--rm", "--runc-binary", runtime.to_str().unwrap()];

    let outcome = containerd.ctr(fixed.iter().chain(&[Containerd::BUSYBOX, "one", "/no/such"]));

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.contains("/no/such"), "{outcome:?}");
}

#[test]
fn containerds_own_shim_execs_pauses_measures_and_removes() {
    requires!(root, containerd);
    let containerd = Containerd::new();
    containerd.import_busybox();
    let runtime = programs::ours("keg-runtime");
    let run = ["run", "--detach", "--runc-binary", runtime.to_str().unwrap(), Containerd::BUSYBOX];
    let _ = containerd.ctr(run.iter().chain(&["one", "sleep", "1000"])).success();
    let status = || {
        let list = containerd.ctr(["task", "ls"]).success().stdout;
        let line = list.lines().find(|line| line.starts_with("one ")).map(str::to_owned);
        line.and_then(|line| line.split_whitespace().last().map(str::to_owned)).unwrap_or_default()
    };

    let words = ["task", "exec", "--exec-id", "e", "one", "sh", "-c", "echo inside; exit 4"];
    let exec = containerd.ctr_prints(words, |exec| exec.stdout.ends_with('\n'));
    assert_eq!((exec.stdout.as_str(), exec.exit_code), ("inside\n", 4), "{exec:?}");

    let _ = containerd.ctr(["task", "pause", "one"]).success();
    assert_eq!(status(), "PAUSED");
    let _ = containerd.ctr(["task", "resume", "one"]).success();
    assert_eq!(status(), "RUNNING");

    let metrics: Value = {
        let text = containerd.ctr(["task", "metrics", "--format", "json", "one"]).success().stdout;
        serde_json::from_str(&text).unwrap()
    };
    assert!(metrics.pointer("/pids/current").and_then(Value::as_u64) > Some(0), "{metrics}");

    let _ = containerd.ctr(["task", "kill", "--signal", "SIGKILL", "one"]).success();
    wait_until("it has ended", PATIENCE, || status() == "STOPPED");
    let _ = containerd.ctr(["task", "rm", "one"]);
    let _ = containerd.ctr(["container", "rm", "one"]).success();
}
