//! keg-runtime under Debian's dockerd, by `--add-runtime` and `docker run --runtime keg`.

use keg_fixtures::{Dockerd, requires};

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
