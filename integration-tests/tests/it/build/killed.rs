//! Builds that are killed at any step, and builds of the same thing at the same time.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use keg_fixtures::scratch::mounts_below;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{requires, wait_until};

use super::Project;

/// Steps of every kind, each of which leaves its name.
const STEPS: &str = "FROM BASE AS one
RUN echo run > /run-file
COPY dir /dir
WORKDIR /made/by/workdir
FROM BASE AS two
ADD archive.tar /unpacked
RUN --mount=type=cache,target=/cache echo cached >> /cache/log && echo two > /two
FROM BASE
COPY --from=one / /one
COPY --from=two /two /unpacked/file /two/
RUN --mount=type=bind,from=one,source=/dir,target=/from-one cat /from-one/file > /last
";

fn project() -> Project {
    let project = Project::new(&[("Dockerfile", STEPS), ("dir/file", "copied\n")]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(9);
    header.set_mode(0o644);
    builder.append_data(&mut header, "file", &b"unpacked\n"[..]).unwrap();
    fs::write(project.path("archive.tar"), builder.into_inner().unwrap()).unwrap();
    project
}

fn count(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, |entries| entries.flatten().count())
}

fn assert_result(project: &Project) {
    let shown = project.run("cat /one/run-file /one/dir/file /two/two /two/file /last");
    assert_eq!(shown, "run\ncopied\ntwo\nunpacked\ncopied\n");
    assert_eq!(
        project.run("ls -d /one/made/by/workdir; ls /cache 2>/dev/null || true"),
        "/one/made/by/workdir\n"
    );
}

/// Starts a build that writes its progress into a file; returns how many steps are begun at least
/// when `kill` is to happen.
fn until_step(
    project: &Project,
    steps: usize,
    tag: &str,
    kill: impl FnOnce(&mut std::process::Child),
) {
    let progress = project.scratch.path().join(tag);
    let context = project.path("");
    let mut client = project
        .daemon
        .keg_command(["build", "--progress", "plain", "-t", tag, context.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(File::create(&progress).unwrap())
        .spawn()
        .unwrap();
    // It may have ended by then: that is the last step at which it can be killed.
    wait_until("the build has come so far", PATIENCE, || {
        let begun = fs::read_to_string(&progress).unwrap_or_default();
        let begun =
            begun.lines().filter(|line| line.starts_with('#') && line.contains('[')).count();
        begun >= steps || client.try_wait().unwrap().is_some()
    });
    kill(&mut client);
    client.wait().unwrap();
}

#[test]
fn a_daemon_that_is_killed_at_any_step_leaves_nothing_and_a_sound_cache() {
    requires!(root);
    let mut project = project();
    let (root, state) = (project.daemon.root(), project.daemon.state());
    let before = count(&root.join("snapshots"));

    for steps in 1..=12 {
        until_step(&project, steps, &format!("killed-{steps}"), |_| project.daemon.kill9());
        project.daemon.start();
        assert_eq!(count(&state.join("tasks/keg")), 0, "after {steps} steps");
        let mounts = [mounts_below(&root), mounts_below(&state)].concat();
        assert!(mounts.is_empty(), "after {steps} steps: {mounts:?}");
        assert_eq!(count(&root.join("build/tmp")), 0, "after {steps} steps");
        // What was whole is used, what was not is done again.
        if steps % 4 == 0 {
            let _ = project.build(&[]).success();
            assert_result(&project);
            let _ = project.daemon.keg(["rmi", "built"]).success();
            let _ = project.daemon.keg(["builder", "prune", "--all"]).success();
        }
    }

    let _ = project.daemon.keg(["image", "prune", "--all", "--force", "--filter", "dangling=true"]);
    let _ = project.daemon.keg(["builder", "prune", "--all"]).success();
    project.daemon.crash();
    let _ = project.daemon.keg(["builder", "prune", "--all"]).success();
    wait_until("the snapshots are gone", PATIENCE, || count(&root.join("snapshots")) <= before);
}

#[test]
fn a_client_that_is_killed_at_any_step_ends_the_build() {
    requires!(root);
    let project = project();
    let (root, state) = (project.daemon.root(), project.daemon.state());

    for steps in 1..=12 {
        until_step(&project, steps, &format!("left-{steps}"), |client| client.kill().unwrap());
        wait_until("its steps are gone", PATIENCE, || count(&state.join("tasks/keg")) == 0);
        wait_until("what it was given is gone", PATIENCE, || {
            count(&state.join("build")) == 0 && count(&root.join("build/tmp")) == 0
        });
        if steps % 3 == 0 {
            let _ = project.daemon.keg(["builder", "prune", "--all"]).success();
        }
    }
    // A step that was about to start when the others were gone ends by itself, too.
    wait_until("nothing is mounted", PATIENCE, || mounts_below(&state).is_empty());

    let _ = project.build(&[]).success();
    assert_result(&project);
}

#[test]
fn many_builds_of_the_same_thing_do_each_step_once() {
    requires!(root);
    let file = "FROM BASE AS one
COPY dir /dir
RUN echo ran >> /shared/one 2>/dev/null; cat /proc/sys/kernel/random/uuid > /id
FROM BASE AS two
RUN cat /proc/sys/kernel/random/uuid > /id2
FROM BASE
COPY --from=one /id /dir /
COPY --from=two /id2 /
RUN --mount=type=cache,target=/count echo once >> /count/log && cat /count/log > /log
";
    let project = Project::new(&[("Dockerfile", file), ("dir/file", "f")]);
    let context = project.path("");
    let builds: Vec<_> = (0..4)
        .map(|number| {
            let tag = format!("same-{number}");
            project
                .daemon
                .keg_command(["build", "-q", "-t", &tag, context.to_str().unwrap()])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut build in builds {
        assert!(build.wait().unwrap().success());
    }

    let seen: Vec<String> = (0..4)
        .map(|number| {
            let tag = format!("same-{number}");
            let args = ["run", "--rm", tag.as_str(), "sh", "-c", "cat /id /id2 /log"];
            project.daemon.keg(args).success().stdout
        })
        .collect();
    assert!(seen.iter().all(|text| *text == seen[0]), "{seen:?}");
    assert!(seen[0].ends_with("\nonce\n"), "{seen:?}");
}
