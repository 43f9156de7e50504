//! `keg build --check` – docs.docker.com, "Build checks".

use keg_fixtures::requires;

use super::Project;

#[test]
fn checks_tell_what_where_and_why() {
    requires!(root);
    let file = "ARG TAG=1
FROM BASE AS Build
ENV HOME_OF=$UNKNOWN
COPY secret.txt kept.txt /
WORKDIR relative
CMD echo hello
";
    let project = Project::new(&[
        ("Dockerfile", file),
        (".dockerignore", "secret.txt\n"),
        ("secret.txt", "s"),
        ("kept.txt", "k"),
    ]);

    let checked = project.build_only(&["--check"]).success();

    for check in
        ["StageNameCasing", "CopyIgnoredFile", "WorkdirRelativePath", "JSONArgsRecommended"]
    {
        assert!(checked.stdout.contains(&format!("WARNING: {check} - https://")), "{checked:?}");
    }
    assert!(checked.stdout.contains("/rule/json-args-recommended/"), "{}", checked.stdout);
    assert!(checked.stdout.contains("   2 | >>> FROM"), "{}", checked.stdout);
    assert!(checked.stdout.contains("4 warnings have been found!"), "{}", checked.stdout);
    assert!(!checked.stderr.contains("RUN"), "{}", checked.stderr);

    // A build says so too, and what only it can know.
    project.write("secret.txt", "s");
    project.write(".dockerignore", "");
    let built = project.build(&[]).success();
    for told in ["UndefinedVar: nothing sets the variable $UNKNOWN (line 3)", "StageNameCasing"] {
        assert!(built.stderr.contains(told), "{}", built.stderr);
    }
}

#[test]
fn a_file_can_turn_checks_off_or_into_errors() {
    requires!(root);
    let bad = "FROM BASE\nCMD echo hello\n";
    let project = Project::new(&[("Dockerfile", &format!("# check=error=true\n{bad}"))]);

    let failed = project.build(&[]);
    assert_ne!(failed.exit_code, 0);
    assert!(failed.stderr.contains("check=error=true"), "{failed:?}");
    // A build argument counts more than the file.
    let skips = "BUILDKIT_DOCKERFILE_CHECK=skip=all;error=true";
    let _ = project.build(&["--build-arg", skips]).success();
    let other = project.build(&["--build-arg", "BUILDKIT_SYNTAX=example.org/another:1"]);
    assert!(other.stderr.contains("written for the frontend example.org/another:1"), "{other:?}");

    let skip = "# check=skip=JSONArgsRecommended;error=true";
    project.write("Dockerfile", &format!("{skip}\n{bad}"));
    let checked = project.build_only(&["--check"]).success();
    assert!(checked.stdout.contains("no warnings found"), "{checked:?}");
    let _ = project.build(&[]).success();
}
