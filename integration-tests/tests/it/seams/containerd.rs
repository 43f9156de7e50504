//! containerd-shim-keg-v2 under Debian's containerd – containerd's core/runtime/v2/README.md.

use keg_fixtures::{Containerd, requires};

const KEG: [&str; 4] = ["run", "--rm", "--runtime", "io.containerd.keg.v2"];

#[test]
fn ctr_run_prints_the_containers_output_and_returns_its_exit_code() {
    requires!(root, containerd);
    let containerd = Containerd::new();
    containerd.import_busybox();

    let script = ["sh", "-c", "echo hello; echo oh >&2; exit 3"];
    let outcome = containerd.ctr(KEG.iter().chain(&[Containerd::BUSYBOX, "one"]).chain(&script));

    assert_eq!(outcome.stdout, "hello\n", "{outcome:?}");
    assert!(outcome.stderr.starts_with("oh\n"), "{outcome:?}");
    assert_eq!(outcome.exit_code, 3);
}
