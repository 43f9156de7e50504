//! What a step is given and must not keep.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{requires, wait_until};

use super::Project;

const SECRET: &str = "correct-horse-battery-staple-7f3a";

/// Files below a directory that hold a text.
fn holders(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holders(&path, text));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            let mut unpacked = Vec::new();
            let _ = flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked);
            if let Ok(mut decoder) = zstd::stream::read::Decoder::new(&bytes[..]) {
                let _ = decoder.read_to_end(&mut unpacked);
            }
            let holds =
                |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            if holds(&bytes) || holds(&unpacked) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn a_secret_is_seen_by_its_step_and_kept_nowhere() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE
RUN --mount=type=secret,id=token test \"$(cat /run/secrets/token | wc -c)\" = 33 && stat -c '%a %u' /run/secrets/token > /mode
RUN --mount=type=secret,id=token,env=TOKEN test -n \"$TOKEN\"
RUN test ! -e /run/secrets/token && echo gone > /gone
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
",
    )]);
    let file = project.scratch.path().join("token");
    fs::write(&file, SECRET).unwrap();

    let flag = format!("id=token,src={}", file.display());
    let built = project.build(&["--secret", &flag]).success();

    assert_eq!(project.run("cat /mode /gone; ls /run 2>/dev/null || true"), "400 0\ngone\n");
    assert!(!built.stderr.contains(SECRET));
    assert!(!project.daemon.log().contains(SECRET));
    for told in [&["history", "--no-trunc", "built"][..], &["inspect", "built"], &["builder", "du"]]
    {
        let told = project.daemon.keg(told).success().stdout;
        assert!(!told.contains(SECRET), "{told}");
    }
    for place in [project.daemon.root(), project.daemon.state()] {
        assert_eq!(holders(&place, SECRET), Vec::<String>::new());
    }
    let archive = project.scratch.path().join("image.tar");
    let place = format!("type=tar,dest={}", archive.display());
    let _ = project.build(&["--secret", &flag, "-o", &place]).success();
    let bytes = fs::read(&archive).unwrap();
    assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
    project.write("Dockerfile", "FROM BASE\nRUN --mount=type=secret,id=other,required=true true\n");
    let refused = project.build(&["--secret", &flag]);
    assert!(refused.stderr.contains("--secret id=other"), "{}", refused.stderr);
}

#[test]
fn what_searches_for_a_secret_finds_one_in_a_layer() {
    requires!(root);
    let line = format!("FROM BASE\nRUN echo {SECRET} > /leaked\n");
    let project = Project::new(&[("Dockerfile", &line)]);

    let _ = project.build(&[]).success();

    let found = holders(&project.daemon.root(), SECRET);
    let is_in = |part: &str| found.iter().any(|path| path.contains(part));
    assert!(is_in("/content/blobs/") && is_in("/snapshots/"), "{found:?}");
}

#[test]
fn a_step_that_fails_or_is_killed_leaves_no_secret_either() {
    requires!(root);
    let step = "RUN --mount=type=secret,id=token cp /run/secrets/token /copy";
    let project = Project::new(&[("Dockerfile", &format!("FROM BASE\n{step}; exit 3\n"))]);
    let file = project.scratch.path().join("token");
    fs::write(&file, SECRET).unwrap();
    let flag = format!("id=token,src={}", file.display());

    let failed = project.build(&["--secret", &flag]);
    assert!(failed.stderr.contains("exit code 3"), "{}", failed.stderr);
    let root = project.daemon.root();
    wait_until("its copy is gone", PATIENCE, || holders(&root, SECRET).is_empty());

    project.write("Dockerfile", &format!("FROM BASE\n{step}; echo copied; sleep 1000\n"));
    let context = project.path("");
    let mut client = project
        .daemon
        .keg_command(["build", "--secret", &flag, context.to_str().unwrap()])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let state = project.daemon.state();
    wait_until("the step has the secret", PATIENCE, || !holders(&state, SECRET).is_empty());
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("the secret is gone", PATIENCE, || holders(&state, SECRET).is_empty());
    wait_until("its copy is gone", PATIENCE, || holders(&root, SECRET).is_empty());
}

#[test]
fn caches_live_from_build_to_build_and_are_in_no_image() {
    requires!(root);
    let step = |text: &str| {
        format!(
            "FROM BASE\nRUN --mount=type=cache,target=/cache,id=c,sharing=locked \
             --mount=type=tmpfs,target=/memory \
             echo {text} >> /cache/log && echo x > /memory/x && cp /cache/log /seen\n"
        )
    };
    let project = Project::new(&[("Dockerfile", &step("one"))]);
    let _ = project.build(&[]).success();
    project.write("Dockerfile", &step("two"));

    let _ = project.build(&[]).success();

    assert_eq!(project.run("cat /seen; ls /cache /memory 2>/dev/null || true"), "one\ntwo\n");
}

#[test]
fn files_can_be_mounted_from_the_context_and_from_a_stage() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            "FROM BASE AS made
RUN mkdir /dir && echo staged > /dir/file
FROM BASE
RUN --mount=type=bind,source=tool,target=/tool --mount=from=made,source=/dir,target=/dir \
  cat /tool /dir/file > /seen; (echo x > /dir/new) 2>/dev/null || echo closed >> /seen
",
        ),
        ("tool", "tool\n"),
    ]);

    let _ = project.build(&[]).success();

    assert_eq!(
        project.run("cat /seen; ls /tool /dir 2>/dev/null || true"),
        "tool\nstaged\nclosed\n"
    );
}
