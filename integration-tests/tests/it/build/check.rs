//! `keg build --check` – docs.docker.com, "Build checks".

use keg_fixtures::requires;
use serde_json::{Value, json};

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

    let checked = project.build_only(&["--check"]);

    assert_eq!(checked.exit_code, 1, "what is found is an error for scripts: {checked:?}");
    for check in
        ["StageNameCasing", "CopyIgnoredFile", "WorkdirRelativePath", "JSONArgsRecommended"]
    {
        assert!(checked.stdout.contains(&format!("WARNING: {check} - https://")), "{checked:?}");
    }
    assert!(checked.stdout.contains("/rule/json-args-recommended/"), "{}", checked.stdout);
    assert!(checked.stdout.contains("   2 | >>> FROM"), "{}", checked.stdout);
    assert!(checked.stdout.contains("4 warnings have been found!"), "{}", checked.stdout);
    assert!(!checked.stderr.contains("RUN"), "{}", checked.stderr);

    let json = project.build_only(&["--call", "check,format=json"]);
    assert_eq!(json.exit_code, 1);
    let found: Value = serde_json::from_str(&json.stdout).unwrap();
    let casing =
        &found["warnings"].as_array().unwrap().iter().find(|w| w["ruleName"] == "StageNameCasing");
    let casing = casing.unwrap();
    assert_eq!(casing["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(casing["description"], "Names of stages are in lower case");
    assert_eq!(found["sources"][0]["filename"], "Dockerfile");

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

#[test]
fn an_outline_tells_what_a_target_can_be_given_and_builds_nothing() {
    requires!(root);
    let file = "ARG inherited=box
ARG unused=abc${inherited}
# sfx is a suffix
ARG sfx=\"usy${inherited}\"

FROM b${sfx} AS first
# this is not assigned to anything
ARG FOO=123
# BAR is a number
ARG BAR=456
RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true

FROM nothing.invalid/alpine${unused} AS second
RUN --mount=type=secret,id=unused --mount=type=ssh,id=ssh2 true

FROM scratch AS third
ARG ABC=a
# alternate will show up
# check=skip=all
ARG alternate
RUN --mount=type=secret,id=second${ABC} true

# target defines the build
FROM third AS target
COPY --from=first /etc/passwd /
RUN --mount=type=ssh,id=ssh3,required true

FROM second
";
    let project = Project::new(&[("Dockerfile", file)]);
    let args = ["--call", "outline", "--target", "target", "--build-arg", "BAR=678"];

    let told = project.build_only(&args).success();

    assert_eq!(
        told.stdout,
        "TARGET:      target\nDESCRIPTION: defines the build\n\n\
         BUILD ARG   VALUE    DESCRIPTION\ninherited   box\nsfx         usybox   is a suffix\n\
         FOO         123\nBAR         678      is a number\nABC         a\n\
         alternate            will show up\n\n\
         SECRET    REQUIRED\npasswd    true\nseconda\n\n\
         SSH       REQUIRED\ndefault\nssh3      true\n\n"
    );
    let json = [&["--call", "outline,format=json"], &args[2..]].concat();
    let json: Value = serde_json::from_str(&project.build_only(&json).success().stdout).unwrap();
    assert_eq!(
        json["args"][1]["location"],
        json!({"ranges": [{"start": {"line": 4}, "end": {"line": 4}}]})
    );
    assert_eq!(json["ssh"][1]["name"], "ssh3");
    let missing = project.build_only(&["--call=outline", "--target=nobody"]);
    assert!(missing.stderr.contains("nobody"), "{missing:?}");

    // Definitions that are made of each other, and of those before them.
    project.write(
        "Dockerfile",
        "ARG FOO=123\nARG ABC=abc\nARG DEF=def\nARG FOO=${FOO}${ABC}\nARG BAR=${FOO}456\n\
         ARG FOO=${FOO}456${BAR}\nFROM scratch\nARG FOO\nARG INFOO=123\n\
         ARG INBAR=${INFOO}456\nARG INFOO=${INFOO}456${INBAR}\n",
    );
    let told = project.build_only(&["--call=outline"]).success().stdout;
    let rows: Vec<String> =
        told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        rows,
        [
            "BUILD ARG VALUE DESCRIPTION",
            "ABC abc",
            "BAR 123abc456",
            "FOO 123abc456123abc456",
            "INBAR 123456",
            "INFOO 123456123456",
            ""
        ]
    );
}

#[test]
fn targets_are_listed_with_what_their_comments_say() {
    requires!(root);
    let file = "# build defines stage for compiling the binary
FROM alpine AS build
RUN true

FROM busybox as second
FROM alpine
# binary returns the compiled binary
FROM --platform=$BUILDPLATFORM second AS binary
";
    let project = Project::new(&[("Dockerfile", file)]);

    let told = project.build_only(&["--call", "targets"]).success();

    assert_eq!(
        told.stdout,
        "TARGET           DESCRIPTION\nbuild            defines stage for compiling the binary\n\
         second\n\nbinary (default) returns the compiled binary\n"
    );
    let json = project.build_only(&["--call=targets,format=json"]).success();
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        json["targets"][3],
        json!({
            "name": "binary", "default": true, "description": "returns the compiled binary",
            "base": "second", "platform": "$BUILDPLATFORM",
            "location": {"ranges": [{"start": {"line": 8}, "end": {"line": 8}}]},
        })
    );
    assert_eq!(json["targets"].as_array().unwrap().len(), 4);
    let unknown = project.build_only(&["--call=layers"]);
    assert!(unknown.stderr.contains("build, check, outline or targets"), "{unknown:?}");
}
