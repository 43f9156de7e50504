//! Debian's runc under our shim, by the runtime options that containerd passes (`BinaryName`).

use keg_fixtures::{Bundle, Shim, programs, requires};

#[test]
fn the_shim_runs_a_container_with_runc() {
    requires!(root, runc);
    let bundle = Bundle::busybox().sh("echo hello; exit 3");
    let shim = Shim::with_runtime(bundle, programs::installed("runc"));

    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 3);
    assert_eq!(shim.logged("stdout"), "hello\n");
}

#[test]
fn what_runc_refuses_is_told_in_its_words() {
    requires!(root, runc);
    let bundle = Bundle::busybox().command(["/no/such/command"]);
    let shim = Shim::with_runtime(bundle, programs::installed("runc"));

    let error = match shim.create_with(|_| {}) {
        Err(error) => error,
        Ok(_) => shim.try_start("").unwrap_err(),
    };

    assert!(error.status().unwrap().message.contains("/no/such/command"), "{error:?}");
}
