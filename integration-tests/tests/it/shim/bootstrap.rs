//! `start`, `delete`, `-v` – containerd's core/runtime/v2/README.md, "Commands".

use std::fs;
use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Scratch, Shim, programs, requires};
use nix::sys::signal::{Signal, kill};

#[test]
fn start_prints_an_address_and_nothing_else() {
    requires!(root);
    let shim = Shim::new(Bundle::probe());

    let address = shim.tree().stdout();

    assert!(address.starts_with("unix:///"), "{address:?}");
    assert!(!address.contains('\n'), "{address:?}");
    assert_eq!(shim.tree().stderr(), "");
}

#[test]
fn the_socket_is_for_root_alone() {
    use std::os::unix::fs::MetadataExt as _;
    requires!(root);
    let shim = Shim::new(Bundle::probe());

    let address = shim.tree().stdout();
    let socket = fs::metadata(address.strip_prefix("unix://").unwrap()).unwrap();

    assert_eq!((socket.uid(), socket.mode() & 0o077), (0, 0));
}

#[test]
fn the_version_is_printed() {
    let mut command = Command::new(programs::ours("containerd-shim-keg-v2"));

    let outcome = Outcome::of(command.arg("-v"), PATIENCE).success();

    assert!(outcome.stdout.contains(env!("CARGO_PKG_VERSION")), "{outcome:?}");
}

#[test]
fn without_an_id_it_is_an_error_that_says_so() {
    let scratch = Scratch::new();
    let mut command = Command::new(programs::ours("containerd-shim-keg-v2"));
    command.args(["-namespace", "it", "-address", "/nowhere", "start"]).current_dir(scratch.path());

    let outcome = Outcome::of(&mut command, PATIENCE);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.contains("id"), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

#[test]
fn delete_cleans_up_after_a_shim_that_was_killed() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    let init = shim.create();
    shim.start("");
    shim.wait_for_line("ready");
    for pid in shim.tree().pids().iter().filter(|pid| pid.as_raw().cast_unsigned() != init) {
        let _ = kill(*pid, Signal::SIGKILL);
    }

    let first = shim.clean_up();
    let second = shim.clean_up();

    assert_eq!(first.exit_code, 0, "{first:?}");
    assert_eq!(second.exit_code, 0, "{second:?}");
    assert!(!first.stdout.is_empty(), "a DeleteResponse is expected");
    shim.tree().wait_exit(nix::unistd::Pid::from_raw(init.cast_signed()), PATIENCE);
    assert!(keg_fixtures::runtime::cgroups_of(shim.id()).is_empty());
}
