//! Files of containers – keg.v1, `Files`: commit, export, diff, cp.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, Scratch, requires, wait_until};

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

fn ended(daemon: &Daemon, name: &str) {
    wait_until("the container has ended", PATIENCE, || {
        daemon.inspect(name)["State"]["Status"] == "exited"
    });
}

#[test]
fn a_commit_keeps_data_owners_and_deletions_and_runs_as_it_says() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let script = "mkdir /data && echo kept >/data/f && chown 12:34 /data/f && chmod 4750 /data/f \
                  && ln /data/f /data/twin && ln -s f /data/link && rm /etc/passwd";
    let _ = daemon.keg(["run", "--name", "one", "-e", "A=1", &image, "sh", "-c", script]).success();

    let change = r#"CMD ["sh", "-c", "cat /data/f; echo $A; ls /etc/passwd"]"#;
    let commit = ["commit", "-a", "Ada", "-m", "filled", "-c", change, "one", "made:1"];
    let id = daemon.keg(commit).success().stdout;

    assert!(id.starts_with("sha256:"), "{id}");
    let ran = daemon.keg(["run", "--rm", "made:1"]);
    assert_eq!(ran.stdout, "kept\n1\n");
    assert!(ran.stderr.contains("No such file"), "{}", ran.stderr);
    let seen = ["run", "--rm", "made:1", "stat", "-c", "%u:%g %a %h", "/data/f", "/data/twin"];
    assert_eq!(daemon.keg(seen).success().stdout, "12:34 4750 2\n12:34 4750 2\n");
    let history = daemon.keg(["image", "inspect", "-f", "{{.Author}} {{.Comment}}", "made:1"]);
    assert_eq!(history.success().stdout, "Ada filled\n");
}

#[test]
fn a_commit_of_a_running_container_lets_it_go_on() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let _ = daemon.keg(["exec", "one", "sh", "-c", "echo new >/new"]).success();

    let _ = daemon.keg(["commit", "one", "made"]).success();

    assert_eq!(daemon.inspect("one")["State"]["Status"], "running");
    assert_eq!(daemon.keg(["run", "--rm", "made", "cat", "/new"]).success().stdout, "new\n");
    let refused = daemon.keg(["commit", "-c", "RUN x", "one", "other"]);
    assert!(refused.stderr.contains("RUN x"), "{}", refused.stderr);
}

#[test]
fn an_export_imported_again_runs_as_the_container_did() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let scratch = Scratch::new();
    let archive = text(scratch.path().join("one.tar"));
    let run = [
        "create",
        "--name",
        "one",
        "-e",
        "GREETING=hello",
        "-w",
        "/tmp",
        "-u",
        "7",
        &image,
        "sh",
        "-c",
        "echo $GREETING $(pwd) $(id -u)",
    ];
    let _ = daemon.keg(run).success();
    let _ = daemon.keg(["export", "-o", &archive, "one"]).success();

    let _ = daemon.keg(["import", &archive, "again:1"]).success();

    let ran = daemon.keg(["run", "--rm", "again:1"]).success();
    assert_eq!(ran.stdout, "hello /tmp 7\n");
    // Others read it as the plain archive that it is.
    let listed = std::process::Command::new("tar").args(["tf", &archive]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|name| name == "etc/passwd"));
}

#[test]
fn changes_are_listed_while_it_runs_and_after() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let script = "echo x >/new; rm /etc/group; echo y >>/etc/passwd; mkdir /d; /probe pause";
    let _ = daemon.run_detached(["--name", "one", &image, "sh", "-c", script]);
    daemon.wait_for_line("one", "ready");

    let running = daemon.keg(["diff", "one"]).success().stdout;
    let _ = daemon.keg(["kill", "one"]).success();
    ended(&daemon, "one");
    let after = daemon.keg(["container", "diff", "one"]).success().stdout;

    for line in ["A /new", "C /etc", "D /etc/group", "C /etc/passwd", "A /d"] {
        assert!(running.lines().any(|found| found == line), "{line} is not in {running}");
    }
    // What the container's own mounts lie on is not the container's doing.
    for place in ["/dev", "/proc", "/sys", "/etc/hosts"] {
        let line = format!("A {place}");
        assert!(!running.lines().any(|found| found == line), "{line} is in {running}");
    }
    assert_eq!(running, after);
}

#[test]
fn files_are_copied_both_ways_whether_it_runs_or_not() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let scratch = Scratch::new();
    let here = |path: &str| text(scratch.path().join(path));
    fs::create_dir_all(here("src/sub")).unwrap();
    fs::write(here("src/sub/f"), "content").unwrap();
    fs::create_dir(here("out")).unwrap();
    let _ = daemon.keg(["create", "--name", "stopped", "-v", "vol:/vol", &image, "true"]).success();
    let _ =
        daemon.run_detached(["--name", "running", "-v", "vol2:/vol", &image, "/probe", "pause"]);
    daemon.wait_for_line("running", "ready");

    for name in ["stopped", "running"] {
        let to = |path: &str| format!("{name}:{path}");
        let _ = daemon.keg(["cp", &here("src"), &to("/tmp")]).success();
        let _ = daemon.keg(["cp", &here("src/."), &to("/fresh")]).success();
        let _ = daemon.keg(["cp", &here("src/sub/f"), &to("/vol/renamed")]).success();
        let out = here(&format!("out/{name}"));
        let _ = daemon.keg(["cp", "-q", &to("/tmp/src"), &out]).success();
        let piped = daemon.keg(["cp", &to("/vol/renamed"), "-"]).success();

        assert_eq!(fs::read_to_string(format!("{out}/sub/f")).unwrap(), "content");
        assert!(piped.stdout.contains("content"));
        let _ = daemon.keg(["cp", &to("/fresh/sub/f"), &here("single")]).success();
        assert_eq!(fs::read_to_string(here("single")).unwrap(), "content");
        assert_eq!(fs::metadata(here("single")).unwrap().uid(), 0);
    }
    // What was copied belongs to the container's root, also on a volume.
    let seen =
        ["exec", "running", "stat", "-c", "%u:%g", "/tmp/src/sub/f", "/vol/renamed", "/fresh"];
    assert_eq!(daemon.keg(seen).success().stdout, "0:0\n0:0\n0:0\n");
    let started = ["run", "--rm", "-v", "vol:/vol", &image, "stat", "-c", "%u", "/vol/renamed"];
    assert_eq!(daemon.keg(started).success().stdout, "0\n");
    // What did not run does so still, and can.
    assert_eq!(daemon.inspect("stopped")["State"]["Status"], "created");
    let _ = daemon.keg(["start", "-a", "stopped"]).success();
}

#[test]
fn files_of_a_container_whose_program_cannot_be_run_are_copied() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let scratch = Scratch::new();
    let _ = daemon.keg(["create", "--name", "box", &image, "/missing"]).success();
    let file = text(scratch.file("f", "content"));

    let _ = daemon.keg(["cp", &file, "box:/etc/here"]).success();
    let back = daemon.keg(["cp", "box:/etc/here", "-"]).success();
    let started = daemon.keg(["start", "box"]);

    assert!(back.stdout.contains("content"), "{back:?}");
    assert!(started.stderr.contains("/missing"), "{started:?}");
}

#[test]
fn what_cannot_be_copied_is_told_by_name() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let scratch = Scratch::new();
    let file = text(scratch.file("f", "x"));
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "pause"]);
    daemon.wait_for_line("one", "ready");
    let table: [(&[&str], &str); 7] = [
        (&["cp", "one:/missing", "."], "no such file or directory: /missing"),
        (&["cp", &file, "one:/missing/"], "no such file or directory: /missing"),
        (&["cp", &file, "one:/etc/passwd/"], "not a directory"),
        (&["cp", "one:/proc/version", "."], "the kernel makes it up"),
        (&["cp", &file, "one:/proc/sys/kernel/"], "the kernel makes it up"),
        (&["cp", "a", "b"], "neither side names a container"),
        (&["cp", "nobody:/x", "."], "no such container: nobody"),
    ];

    for (line, complaint) in table {
        let outcome = daemon.keg(line);

        assert_ne!(outcome.exit_code, 0, "{line:?}");
        assert!(outcome.stderr.contains(complaint), "{line:?}: {}", outcome.stderr);
    }
}

#[test]
fn no_link_of_a_container_leads_a_copy_out_of_it() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let scratch = Scratch::new();
    let secret = scratch.path().join("outside");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("secret"), "secret").unwrap();
    let file = text(scratch.file("f", "mine"));
    // A container whose own directory and link change places all the time (CVE-2018-15664).
    let away = text(&secret);
    let script = format!(
        "mkdir -p {away} /w/d /w/parked && echo inside >/w/d/secret && ln -s {away} /w/link && echo go && \
         while :; do mv /w/d /w/parked/d; mv /w/link /w/d; mv /w/d /w/link; mv /w/parked/d /w/d; done"
    );
    let _ = daemon.run_detached(["--name", "swapper", &image, "sh", "-c", &script]);
    daemon.wait_for_line("swapper", "go");
    let rounds = std::env::var("KEG_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(15);

    for round in 0..rounds {
        let out = scratch.path().join(format!("out-{round}"));
        // Each may succeed or find nothing, as the race has it; none may touch what is outside.
        let _ = daemon.keg(["cp", "swapper:/w/d/secret", &text(&out)]);
        if let Ok(copied) = fs::read_to_string(&out) {
            assert_eq!(copied, "inside\n");
        }
        let _ = daemon.keg(["cp", &file, "swapper:/w/d/"]);
        let _ = daemon.keg(["cp", &file, "swapper:/w/link/f"]);
    }

    let names: Vec<_> = fs::read_dir(&secret).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(fs::read_to_string(secret.join("secret")).unwrap(), "secret");
}

#[test]
fn a_copy_to_here_follows_no_link_that_it_finds() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let scratch = Scratch::new();
    let outside = text(scratch.file("outside", "precious"));
    let script = "mkdir /d && echo evil >/d/f";
    let _ = daemon.keg(["run", "--name", "one", &image, "sh", "-c", script]).success();
    let target = scratch.path().join("target");
    fs::create_dir(&target).unwrap();
    symlink(&outside, target.join("f")).unwrap();

    let _ = daemon.keg(["cp", "one:/d/.", &text(&target)]).success();

    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "evil\n");
}

#[test]
fn use_is_counted_and_limits_are_changed_while_it_runs() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "busy", &image, "sh", "-c", "while :; do :; done"]);
    let format = "{{.Name}} {{.CPUPerc}} {{.PIDs}}";

    let stats = daemon.keg(["stats", "--no-stream", "--format", format, "busy"]).success().stdout;
    let _ = daemon.keg(["update", "-m", "64m", "--pids-limit", "50", "busy"]).success();
    let limit = daemon.keg(["stats", "--no-stream", "--format", "{{.MemUsage}}", "busy"]).success();

    let words: Vec<&str> = stats.split_whitespace().collect();
    assert_eq!((words[0], words[2]), ("busy", "1"));
    let percent: f64 = words[1].trim_end_matches('%').parse().unwrap();
    assert!(percent > 0.5, "{stats}");
    assert!(limit.stdout.contains("/ 64MiB"), "{}", limit.stdout);
    assert_eq!(daemon.inspect("busy")["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(daemon.inspect("busy")["HostConfig"]["PidsLimit"], 50);
}

#[test]
fn prune_removes_what_does_not_run_and_matches() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let _ = daemon.keg(["create", "--name", "kept", "--label", "keep=1", &image, "true"]).success();
    let _ = daemon.keg(["create", "--name", "gone", &image, "true"]).success();
    let _ = daemon.run_detached(["--name", "running", &image, "/probe", "pause"]);

    let young = daemon.keg(["container", "prune", "-f", "--filter", "until=1h"]).success();
    let pruned = daemon.keg(["container", "prune", "-f", "--filter", "label!=keep=1"]).success();

    assert!(young.stdout.contains("Total reclaimed space: 0B"), "{}", young.stdout);
    assert!(pruned.stdout.starts_with("Deleted Containers:\n"), "{}", pruned.stdout);
    let mut names: Vec<String> = daemon
        .keg(["ps", "-a", "--format", "{{.Names}}"])
        .success()
        .stdout
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    assert_eq!(names, ["kept", "running"]);
}
