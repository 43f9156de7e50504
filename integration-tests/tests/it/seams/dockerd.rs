//! keg-runtime under Debian's dockerd, by `--add-runtime` and `docker run --runtime keg`.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Dockerd, requires, wait_until};

const RUN: [&str; 6] = ["run", "--rm", "--runtime", "keg", "--network", "none"];

#[test]
fn docker_run_prints_the_containers_output_and_returns_its_exit_code() {
    requires!(root, dockerd);
    let dockerd = Dockerd::new();
    dockerd.import_busybox();

    let script = ["sh", "-c", "echo hello; echo oh >&2; exit 3"];
    let outcome = dockerd.docker(RUN.iter().chain(&[Dockerd::BUSYBOX]).chain(&script));

    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("hello\n", "oh\n"));
    assert_eq!(outcome.exit_code, 3);
}

#[test]
fn docker_execs_measures_limits_pauses_and_stops() {
    requires!(root, dockerd);
    let dockerd = Dockerd::new();
    dockerd.import_busybox();
    let detached = ["run", "--detach", "--runtime", "keg", "--network", "none", "--name", "one"];
    let sleep =
        [Dockerd::BUSYBOX, "sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"];
    let _ = dockerd.docker(detached.iter().chain(&sleep)).success();
    let inspect = |format: &str| {
        let words = ["inspect", "--format", format, "one"];
        dockerd.docker(words).success().stdout.trim().to_owned()
    };
    wait_until("it is up", PATIENCE, || dockerd.docker(["logs", "one"]).stdout == "up\n");

    let exec = dockerd.docker(["exec", "one", "sh", "-c", "echo inside; exit 4"]);
    assert_eq!((exec.stdout.as_str(), exec.exit_code), ("inside\n", 4), "{exec:?}");

    let update = ["update", "--memory=64m", "--memory-swap=64m", "--pids-limit=32", "one"];
    let _ = dockerd.docker(update).success();
    let format = "{{.MemUsage}}|{{.PIDs}}";
    let stats = dockerd.docker(["stats", "--no-stream", "--format", format, "one"]).success();
    assert!(stats.stdout.contains("/ 64MiB|"), "{stats:?}");

    let _ = dockerd.docker(["pause", "one"]).success();
    assert_eq!(inspect("{{.State.Status}}"), "paused");
    let _ = dockerd.docker(["unpause", "one"]).success();
    assert_eq!(inspect("{{.State.Status}}"), "running");

    let _ = dockerd.docker(["stop", "one"]).success();
    assert_eq!(inspect("{{.State.ExitCode}}"), "7");
    let _ = dockerd.docker(["rm", "one"]).success();
}

#[test]
fn docker_tells_why_a_program_does_not_start() {
    requires!(root, dockerd);
    let dockerd = Dockerd::new();
    dockerd.import_busybox();

    let outcome = dockerd.docker(RUN.iter().chain(&[Dockerd::BUSYBOX, "/no/such"]));

    assert_eq!(outcome.exit_code, 127, "{outcome:?}");
    assert!(outcome.stderr.contains("/no/such"), "{outcome:?}");
}
