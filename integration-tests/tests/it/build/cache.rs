//! What is done again, and what is not.

use std::process::Stdio;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{requires, wait_until};

use super::Project;

const FILE: &str = "FROM BASE AS build
COPY src /src
RUN cat /src/a > /result; cat /proc/sys/kernel/random/uuid > /run-id
FROM BASE
COPY --from=build /result /result
RUN cat /proc/sys/kernel/random/uuid > /run-id
";

#[test]
fn what_was_done_once_is_not_done_again_unless_bytes_changed() {
    requires!(root);
    let mut project = Project::new(&[("Dockerfile", FILE), ("src/a", "1"), ("src/b", "1")]);
    let _ = project.build(&[]).success();
    let first = project.id();

    let again = project.build(&[]).success();
    assert_eq!(again.stderr.matches(" CACHED").count(), 6, "{}", again.stderr);
    assert_eq!(project.id(), first);

    // The same bytes with another time.
    project.write("src/a", "1");
    let _ = project.build(&[]).success();
    assert_eq!(project.id(), first);

    // Other bytes, and the same result of the first stage: the second has nothing to do.
    project.write("src/b", "2");
    let changed = project.build(&[]).success();
    assert_eq!(project.id(), first, "{}", changed.stderr);
    assert!(changed.stderr.contains("DONE"), "{}", changed.stderr);

    project.write("src/a", "2");
    let _ = project.build(&[]).success();
    assert_ne!(project.id(), first);
    assert_eq!(project.run("cat /result"), "2");

    // Results outlive the daemon.
    let before = project.id();
    project.daemon.kill9();
    project.daemon.start();
    let _ = project.build(&[]).success();
    assert_eq!(project.id(), before);
    let _ = project.build(&["--no-cache"]).success();
    assert_ne!(project.id(), before);
}

#[test]
fn only_the_file_that_changed_is_sent() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    for number in 0..200 {
        project.write(&format!("dir{}/file{number}", number % 7), &format!("{number:0>1000}"));
    }
    let metadata = project.scratch.path().join("metadata.json");
    let sent = || {
        let _ = project.build(&["--metadata-file", metadata.to_str().unwrap()]).success();
        let value: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
        value["keg.sent_bytes"].as_i64().unwrap()
    };
    assert!(sent() >= 200_000);
    // A file that changed a moment ago may change again without its times telling; soon none has.
    wait_until("nothing is sent again", PATIENCE, || sent() == 0);

    project.write("dir1/file1", "other");

    assert_eq!(sent(), 5);
}

#[test]
fn a_build_that_is_killed_leaves_nothing_and_the_cache_stays_sound() {
    requires!(root);
    let mut project = Project::new(&[(
        "Dockerfile",
        "FROM BASE\nRUN echo one > /one\nRUN echo two > /two; sleep 1000\n",
    )]);
    let context = project.path("");
    let spawn = |project: &Project| {
        project
            .daemon
            .keg_command(["build", "--progress", "plain", context.to_str().unwrap()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let tasks = project.daemon.state().join("tasks/keg");
    let is_running = || {
        std::fs::read_dir(&tasks).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.path().join("init.pid").exists())
        })
    };
    let is_clean = || std::fs::read_dir(&tasks).is_ok_and(|entries| entries.count() == 0);

    // The client goes away.
    let mut client = spawn(&project);
    wait_until("a step runs", PATIENCE, is_running);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("the step is gone", PATIENCE, is_clean);

    // The daemon goes away.
    let mut client = spawn(&project);
    wait_until("a step runs", PATIENCE, is_running);
    project.daemon.kill9();
    client.wait().unwrap();
    project.daemon.start();
    assert!(is_clean());

    project.write("Dockerfile", "FROM BASE\nRUN echo one > /one\nRUN cat /one > /two\n");
    let _ = project.build(&[]).success();
    assert_eq!(project.run("cat /one /two"), "one\none\n");
}

#[test]
fn the_same_step_of_two_builds_runs_once() {
    requires!(root);
    let file = "FROM BASE\nRUN sleep 1; cat /proc/sys/kernel/random/uuid > /id\n";
    let project = Project::new(&[("Dockerfile", file)]);
    let context = project.path("");
    let spawn = |tag: &str| {
        project
            .daemon
            .keg_command(["build", "-q", "-t", tag, context.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };

    let builds = [spawn("built"), spawn("other")];
    for mut build in builds {
        assert!(build.wait().unwrap().success());
    }

    let other = project.daemon.keg(["run", "--rm", "other", "cat", "/id"]).success().stdout;
    assert_eq!(project.run("cat /id"), other);
}

#[test]
fn the_same_inputs_give_the_same_image_with_an_epoch() {
    requires!(root);
    let file = "FROM BASE\nCOPY a /dir/a\nRUN echo x > /dir/x && mkdir /dir/y\nCMD [\"a\"]\n";
    let project = Project::new(&[("Dockerfile", file), ("a", "a")]);
    let build = |args: &[&str]| {
        let mut all = vec!["--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
        all.extend(args);
        let _ = project.build(&all).success();
        project.daemon.inspect("built")["RepoDigests"].clone()
    };

    let first = build(&[]);
    project.write("a", "a");
    let second = build(&["--no-cache"]);

    assert_eq!(first, second);
    assert_eq!(project.run("stat -c %Y /dir/a"), "1000000000\n");
}

#[test]
fn pruning_gives_the_space_back_and_builds_go_on() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", FILE), ("src/a", "1")]);
    let _ = project.build(&[]).success();
    let listed = project.daemon.keg(["builder", "du"]).success().stdout;
    assert!(listed.contains("cat /src/a"), "{listed}");

    let pruned = project.daemon.keg(["builder", "prune", "--all"]).success().stdout;

    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    let listed = project.daemon.keg(["builder", "du"]).success().stdout;
    assert!(!listed.contains("RUN"), "{listed}");
    assert_eq!(project.run("cat /result"), "1");
    let _ = project.build(&[]).success();
    assert_eq!(project.run("cat /result"), "1");
}

#[test]
fn a_copy_takes_over_what_the_last_one_had_and_comes_to_the_same() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM BASE\nCOPY files /srv/files\n")]);
    for number in 0..400 {
        project.write(&format!("files/dir{}/file{number}", number % 7), &format!("is {number}\n"));
    }
    std::fs::hard_link(project.path("files/dir0/file0"), project.path("files/dir0/same")).unwrap();
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    let _ = project.build(&epoch).success();
    let first = project.id();
    let before = project.run("cd /srv/files && find . -type f | sort | xargs cat | md5sum");

    project.write("files/dir1/file1", "changed\n");
    let _ = project.build(&epoch).success();
    let changed = project.id();
    let shown =
        "cd /srv/files && stat -c %h dir1/file1 dir1/file8 dir0/same dir0/file0 && cat dir1/file1";
    assert_eq!(project.run(shown), "1\n2\n2\n2\nchanged\n");
    let _ = project.build(&[&epoch[..], &["--no-cache"]].concat()).success();
    assert_eq!(project.id(), changed, "as if each file had been written");

    // What is done to one image's files does not show in the other's, and one may go without the other.
    let _ = project.daemon.keg(["tag", first.as_str(), "first"]).success();
    let write = "cd /srv/files && echo x >> dir1/file8 && chmod 600 dir2/file2 && touch dir3/file3";
    let _ = project.daemon.keg(["run", "--rm", "first", "sh", "-c", write]).success();
    let _ = project.build(&epoch).success();
    let _ = project.daemon.keg(["rmi", "built"]).success();
    let _ = project.daemon.keg(["builder", "prune", "-a", "-f"]).success();
    let _ = project.daemon.keg(["tag", "first", "built"]).success();
    let after = project.run("cd /srv/files && find . -type f | sort | xargs cat | md5sum");
    assert_eq!(after, before);
}
