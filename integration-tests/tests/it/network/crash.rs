//! kegd killed while it connects containers, as soon as one trace of it after another is seen.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use keg_fixtures::wait::{self, PATIENCE};
use keg_fixtures::{Daemon, Machine, requires};

use super::{network, serve};

#[test]
fn a_daemon_that_is_killed_while_it_connects_leaves_nothing_that_the_next_does_not_mend() {
    requires!(root);
    let host = Machine::new();
    let (mut daemon, image) = Daemon::on(&host, "");
    let _ = daemon.keg(["network", "create", "front"]).success();
    let (root, state) = (daemon.root(), daemon.state());
    let (containers, tasks) = (root.join("containers"), state.join("tasks/keg"));
    let endpoints = state.join("endpoints");
    let traces: [(&Path, usize); 4] =
        [(&containers, 1), (&tasks, 1), (&endpoints, 1), (&endpoints, 2)];

    for (directory, entries) in traces {
        let mut run = daemon.keg_command([
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "front",
            "--network",
            "bridge",
            "-p",
            "8080:80",
            &image,
            "/probe",
            "serve",
            "80",
            "web",
        ]);
        let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let seen = wait::poll(PATIENCE, || {
            let found = fs::read_dir(directory).map_or(0, Iterator::count);
            (found >= entries).then_some(())
        });
        assert!(seen.is_some(), "{directory:?} has no {entries} entries");
        daemon.crash();
        let _ = run.wait().unwrap();
        let _ = daemon.keg(["rm", "-f", "web"]);
    }

    for name in ["front", "bridge"] {
        assert_eq!(network(&daemon, name)["Containers"], serde_json::json!({}), "{name}");
    }
    let _ = serve(&daemon, &image, "last", &["--network", "front", "-p", "8080:80"]);
    assert!(host.hear("127.0.0.1:8080").unwrap().starts_with("last "));
    let _ = daemon.keg(["rm", "-f", "last"]).success();
    let _ = daemon.keg(["network", "prune", "-f"]).success();
    let left = host.sh("ip -o link; nft list tables");
    assert!(!left.contains("keg"), "{left}");
}
