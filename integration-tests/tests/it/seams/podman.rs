//! keg-runtime under Debian's podman, by `--runtime`.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Podman, requires, wait_until};

#[test]
fn podman_run_prints_the_containers_output_and_returns_its_exit_code() {
    requires!(root, podman);

    let outcome = Podman::new().run(&["--rm"], "echo hello; echo oh >&2; exit 3");

    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("hello\n", "oh\n"));
    assert_eq!(outcome.exit_code, 3);
}

#[test]
fn podman_execs_measures_limits_pauses_and_removes() {
    requires!(root, podman);
    let podman = Podman::new();
    let _ = podman.run(&["--detach", "--name=one", "--pids-limit=64"], "exec sleep 1000").success();
    let status = || {
        let inspect = ["container", "inspect", "--format", "{{.State.Status}}", "one"];
        podman.podman(inspect).success().stdout.trim().to_owned()
    };
    wait_until("it runs", PATIENCE, || status() == "running");

    let exec = podman.podman(["exec", "one", "sh", "-c", "echo inside; exit 4"]);
    assert_eq!((exec.stdout.as_str(), exec.exit_code), ("inside\n", 4), "{exec:?}");
    // By the runtime's words it knows why a command is not executed.
    let exit_code = |program| podman.podman(["exec", "one", program]).exit_code;
    assert_eq!((exit_code("/etc"), exit_code("/no/such/command")), (126, 127));

    let format = "{{.PIDs}} {{.MemUsage}}";
    let stats = podman.podman(["stats", "--no-stream", "--format", format, "one"]).success();
    assert!(stats.stdout.starts_with("1 "), "{stats:?}");

    let _ = podman.podman(["update", "--memory=64m", "one"]).success();
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    let limit = podman.podman(["exec", "one", "sh", "-c", &format!("{limit} 2>/dev/null; :")]);
    assert_eq!(limit.success().stdout, "67108864\n");

    let _ = podman.podman(["pause", "one"]).success();
    assert_eq!(status(), "paused");
    let _ = podman.podman(["unpause", "one"]).success();
    assert_eq!(status(), "running");

    let _ = podman.podman(["rm", "--force", "--time=0", "one"]).success();
    assert_eq!(podman.podman(["ps", "--all", "--quiet"]).success().stdout, "");
}
