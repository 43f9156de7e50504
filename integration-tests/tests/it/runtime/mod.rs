//! keg-runtime by its command line, on bundles; asked of the probe inside.

mod bad_input;
mod checkpoint;
mod escapes;
mod exec;
mod features;
mod hooks;
mod hostile;
mod killed;
mod lifecycle;
mod limits;
mod manage;
mod mounts;
mod namespaces;
mod passed_root;
mod paths;
mod process;
mod rootless;
mod seccomp;
mod seccomp_agent;
mod standby;
mod sysctl;
mod terminal;
mod userns;

use nix::sched::{CloneFlags, unshare};

/// Does something in new namespaces; in a network of its own every port is free.
fn in_namespaces(kinds: CloneFlags, act: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(kinds).unwrap();
            if kinds.contains(CloneFlags::CLONE_NEWNET) {
                let ip =
                    std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
                assert!(ip.unwrap().success());
            }
            act();
        });
    });
}
