//! An init before the program, namespaces of other containers, id ranges that are asked for.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, requires, wait_until};
use nix::unistd::chown;

fn namespace(daemon: &Daemon, container: &str, kind: &str) -> String {
    let path = format!("/proc/{}/ns/{kind}", daemon.pid_of(container));
    fs::read_link(path).unwrap().display().to_string()
}

#[test]
fn an_init_passes_signals_on_reaps_orphans_and_ends_as_its_child() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let script = "trap 'exit 7' TERM; (sleep 0 &); echo up; while :; do sleep 0.1; done";
    let run = ["--init", "--name", "one", &image, "sh", "-c", script];

    let _ = daemon.run_detached(run);
    daemon.wait_for_line("one", "up");
    let listed = daemon.keg(["top", "one"]).success().stdout;
    let _ = daemon.keg(["stop", "one"]).success();

    assert!(listed.contains("keg-init"), "{listed}");
    assert_eq!(daemon.inspect("one")["State"]["ExitCode"], 7);
    assert_eq!(daemon.keg(["run", "--rm", "--init", &image, "sh", "-c", "exit 3"]).exit_code, 3);
    let missing = daemon.keg(["run", "--rm", "--init", &image, "/none"]);
    assert_eq!(missing.exit_code, 127);
    assert!(missing.stderr.contains("/none"), "{}", missing.stderr);
}

#[test]
fn processes_of_another_container_can_be_seen_and_its_ids_are_kept_for_who_shares_them() {
    requires!(root, user_namespaces);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    let share = ["--name", "two", "--pid", "container:one", &image, "/probe", "pause"];
    let _ = daemon.run_detached(share);

    for kind in ["pid", "user"] {
        assert_eq!(namespace(&daemon, "one", kind), namespace(&daemon, "two", kind), "{kind}");
    }
    assert_ne!(namespace(&daemon, "one", "mnt"), namespace(&daemon, "two", "mnt"));
    let seen = daemon.keg(["exec", "two", "ps"]).success().stdout;
    assert!(seen.matches("/probe pause").count() >= 2, "{seen}");
    let range = daemon.inspect("two")["Keg"]["IdRange"]["Start"].clone();
    let _ = daemon.keg(["rm", "-f", "one"]).success();
    let _ = daemon.keg(["create", "--name", "three", &image]).success();
    assert_ne!(daemon.inspect("three")["Keg"]["IdRange"]["Start"], range);
    let orphaned = daemon.keg(["start", "two"]);
    assert!(orphaned.exit_code == 1 || daemon.inspect("two")["State"]["Running"] == true);
}

#[test]
fn memory_is_shared_with_who_joins_the_ipc_namespace_and_with_nobody_else() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    for (name, mode) in [("closed", "private"), ("open", "shareable")] {
        let _ = daemon.run_detached(["--name", name, "--ipc", mode, &image, "/probe", "pause"]);
    }
    let _ = daemon.keg(["exec", "open", "sh", "-c", "echo hi > /dev/shm/note"]).success();

    let read =
        |mode: &str| daemon.keg(["run", "--rm", "--ipc", mode, &image, "cat", "/dev/shm/note"]);

    assert_eq!(read("container:open").success().stdout, "hi\n");
    assert!(read("private").stderr.contains("No such file"));
    assert!(read("container:closed").stderr.contains("shareable"));
    assert!(read("none").stderr.contains("No such file"));
    let _ = daemon.keg(["rm", "-f", "open"]).success();
    assert!(
        !fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(&*daemon.root().join("containers").display().to_string())
    );
}

#[test]
fn a_range_has_the_size_that_was_asked_for() {
    requires!(root, user_namespaces);
    let (daemon, image) = Daemon::with_busybox();
    let run = |mode: &str| {
        daemon.keg(["run", "--rm", "--userns", mode, &image, "cat", "/proc/self/uid_map"])
    };

    let map = run("auto:size=1000").success().stdout;

    assert_eq!(map.split_whitespace().nth(2), Some("1000"), "{map}");
    for mode in ["auto:size=0", "auto:size=x", "mine", "keep-id:uid=70000"] {
        assert_eq!(run(mode).exit_code, 125, "{mode}");
    }
}

#[test]
fn the_callers_files_belong_to_the_kept_id_inside() {
    requires!(root, user_namespaces);
    let (daemon, image) = Daemon::with_busybox();
    let dir = daemon.scratch().directory("home");
    fs::write(dir.join("own"), "x").unwrap();
    chown(&dir, Some(0.into()), Some(0.into())).unwrap();
    let volume = format!("{}:/home", dir.display());
    let script = "id -u; id -g; busybox stat -c %u /home/own; touch /home/new";
    let flags = ["run", "--rm", "--userns", "keep-id:uid=1000,gid=1001", "-v", &volume];

    let seen = daemon.keg(flags.iter().chain(&[image.as_str(), "sh", "-c", script])).success();

    assert_eq!(seen.stdout, "1000\n1001\n1000\n");
    let new = fs::metadata(dir.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (0, 0));
}

#[test]
fn what_waits_for_its_restart_says_so_and_can_be_stopped() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let run = ["--name", "one", "--restart", "always", &image, "sh", "-c", "exit 5"];
    let _ = daemon.run_detached(run);

    wait_until("it restarts", PATIENCE, || {
        daemon.inspect("one")["State"]["Status"] == "restarting"
    });
    let _ = daemon.keg(["stop", "one"]).success();

    wait_until("it is stopped", PATIENCE, || daemon.inspect("one")["State"]["Status"] == "exited");
    assert_eq!(daemon.inspect("one")["State"]["Restarting"], false);
}
