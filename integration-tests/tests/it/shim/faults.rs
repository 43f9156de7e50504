//! What goes wrong around a shim, and must not go wrong in it.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Shim, requires};

fn socket(shim: &Shim) -> String {
    shim.tree().stdout().strip_prefix("unix://").unwrap().to_owned()
}

#[test]
fn a_client_that_speaks_garbage_disturbs_nobody() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();

    for garbage in [&[0_u8; 10][..], &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 4, 1]] {
        let mut client = UnixStream::connect(socket(&shim)).unwrap();
        let _ = client.write_all(garbage);
    }

    shim.start("");
    shim.wait_for_line("ready");
}

#[test]
fn a_client_that_says_nothing_holds_nobody_up() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("exit 0"));
    let silent: Vec<UnixStream> =
        (0..50).map(|_| UnixStream::connect(socket(&shim)).unwrap()).collect();

    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 0);
    drop(silent);
}

#[test]
fn a_daemon_that_is_gone_costs_the_container_nothing() {
    requires!(root);
    // Nobody listens where the events go.
    let shim = Shim::new(Bundle::busybox().sh("echo on; exit 5"));
    std::fs::remove_file(shim.scratch().join("events.sock")).unwrap();

    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 5);
    assert_eq!(shim.logged("stdout"), "on\n");
}

#[test]
fn a_process_that_closes_its_streams_goes_on() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("echo before; exec >&- 2>&- <&-; exit 6"));
    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 6);
    assert_eq!(shim.logged("stdout"), "before\n");
}

#[test]
fn a_child_that_keeps_the_streams_open_does_not_hide_the_exit() {
    requires!(root);
    let script = "sleep 1000 & echo started; exit 2";
    let shim = Shim::new(Bundle::busybox().sh(script).without_namespace("pid"));
    shim.create();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 2);
}

#[test]
fn a_frozen_container_is_killed_all_the_same() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("ready");
    let pause = keg_proto::containerd::task::v2::PauseRequest { id: shim.id().to_owned() };
    shim.call::<_, ()>("Pause", &pause).unwrap();

    shim.kill("", 9, true).unwrap();
    let resume = keg_proto::containerd::task::v2::ResumeRequest { id: shim.id().to_owned() };
    let _ = shim.call::<_, ()>("Resume", &resume);

    assert_eq!(shim.wait("").exit_status, 137);
}

#[test]
fn the_container_goes_on_when_every_client_has_gone() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["count", "5", "200"]));
    shim.create();
    shim.start("");
    shim.wait_for_line("200");

    keg_fixtures::wait_until("the exit is recorded", PATIENCE, || shim.exit_file().exists());

    let numbers: Vec<u32> =
        shim.logged("stdout").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=200).collect::<Vec<u32>>());
}
