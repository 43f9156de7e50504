//! `.dockerignore` – docs.docker.com, "Build context", and what links and hostile patterns must not do.

use std::os::unix::fs::symlink;

use keg_fixtures::requires;

use super::Project;

/// The files that `COPY . /all` copies with these patterns.
fn copied(project: &Project, patterns: &str) -> Vec<String> {
    project.write(".dockerignore", patterns);
    let _ = project.build(&[]).success();
    let listed = project.run("cd /all; find . ! -type d | sort");
    listed.lines().map(|line| line.trim_start_matches("./").to_owned()).collect()
}

#[test]
fn patterns_leave_out_and_bring_back() {
    requires!(root);
    let project = Project::new(&[
        ("Dockerfile", "FROM BASE\nCOPY . /all/\n"),
        ("a.md", ""),
        ("README.md", ""),
        ("docs/b.md", ""),
        ("docs/deep/c.md", ""),
        ("docs/deep/keep.md", ""),
        ("src/temp1/x", ""),
        ("src/tempx/y", ""),
        ("vendor/lib/z", ""),
        ("vendor/lib/LICENSE", ""),
        ("#hash", ""),
        ("with space", ""),
    ]);
    let all = |patterns: &str| copied(&project, &format!("Dockerfile\n.dockerignore\n{patterns}"));

    assert_eq!(
        all("# comment\n\n  **/*.md  \n!README.md\n!docs/deep/keep.md\n"),
        [
            "#hash",
            "README.md",
            "docs/deep/keep.md",
            "src/temp1/x",
            "src/tempx/y",
            "vendor/lib/LICENSE",
            "vendor/lib/z",
            "with space"
        ]
    );
    assert_eq!(all("*\n!src/temp?\nsrc/tempx\n"), ["src/temp1/x"]);
    assert_eq!(all("**\n!vendor/**/LICENSE\n"), ["vendor/lib/LICENSE"]);
    assert_eq!(all("/docs/\nvendor/\nsrc\n*.md\nwith space\n../README.md\n"), ["#hash"]);
    assert_eq!(all("*\n!docs\ndocs/**/*.md\n!**/[k-m]*.md\n"), ["docs/deep/keep.md"]);
    project.write("Dockerfile.dockerignore", "*\n!a.md\n");
    assert_eq!(copied(&project, ""), ["a.md"]);
    std::fs::remove_file(project.path("Dockerfile.dockerignore")).unwrap();
    project.write("Dockerfile", "FROM BASE\nCOPY a.md /x\n");
    project.write(".dockerignore", "*.md\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains(".dockerignore leaves it out"), "{}", refused.stderr);
    project.write(".dockerignore", "[\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("bracket"), "{}", refused.stderr);
}

#[test]
fn patterns_made_to_take_for_ever_do_not() {
    requires!(root);
    let long = "a".repeat(200);
    let project = Project::new(&[("Dockerfile", "FROM BASE\nCOPY . /all/\n")]);
    project.write(&format!("{long}/{long}/{long}/file"), "kept");
    let stars = format!("{}b", "*a".repeat(90));
    let deep = format!("{}x", "**/a*/".repeat(30));
    // By trying every way a single one of them would take longer than the universe has existed.
    let patterns: String =
        (0..50).map(|index| format!("{deep}{index}\n!{stars}{index}\n")).collect();
    project.write(".dockerignore", &patterns);

    let _ = project.build(&[]).success();

    assert_eq!(project.run("cat /all/a*/a*/a*/file"), "kept");
}

#[test]
fn links_in_a_context_lead_nowhere_else() {
    requires!(root);
    let project =
        Project::new(&[("Dockerfile", "FROM BASE\nCOPY . /all/\n"), ("inside/file", "inside")]);
    let secret = project.scratch.directory("secret");
    std::fs::write(secret.join("key"), "key of the host").unwrap();
    let link = |target: &str, path: &str| symlink(target, project.path(path)).unwrap();
    link("../secret/key", "up");
    link("../secret", "up-directory");
    link(secret.join("key").to_str().unwrap(), "absolute");
    link("/proc/self/root/etc", "magic");
    link("inside/../../secret", "inside/winding");
    link("self", "self");
    link("/inside/file", "from-the-top");

    let _ = project.build(&[]).success();
    let found = project.run("cd /all; grep -r 'key of' . 2>/dev/null || echo nothing");
    assert_eq!(found, "nothing\n");

    for source in
        ["up", "up-directory/key", "absolute", "magic/passwd", "inside/winding/key", "self"]
    {
        for line in [
            format!("COPY {source} /x"),
            format!("ADD {source} /x"),
            format!("RUN --mount=type=bind,source={source},target=/x cat /x"),
        ] {
            project.write("Dockerfile", &format!("FROM BASE\n{line}\n"));
            let refused = project.build(&[]);
            assert_ne!(refused.exit_code, 0, "{line}");
            assert!(!refused.text().contains("key of the host"), "{line}");
        }
    }
    // One that stays inside is followed, and "/" is the context's root.
    project.write("Dockerfile", "FROM BASE\nCOPY from-the-top /x\n");
    let _ = project.build(&[]).success();
    assert_eq!(project.run("cat /x"), "inside");
}

#[test]
fn links_in_an_image_do_not_lead_a_copy_out_of_it() {
    requires!(root);
    let project = Project::new(&[("file", "overwritten"), ("dir/file", "overwritten")]);
    let victim = project.scratch.directory("victim");
    std::fs::write(victim.join("file"), "untouched").unwrap();
    let path = victim.display().to_string();
    project.write(
        "Dockerfile",
        &format!(
            "FROM BASE
RUN mkdir -p /a && ln -s {path} /a/absolute && ln -s ../../../../../../../../../../{path} /a/up
COPY file /a/absolute/file
COPY dir /a/up
ADD dir /a/absolute/
WORKDIR /a/up/made
"
        ),
    );

    let _ = project.build(&[]).success();

    assert_eq!(std::fs::read_to_string(victim.join("file")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1);
    assert_eq!(
        project.run(&format!("cat {path}/file; ls -d {path}/made")),
        format!("overwritten{path}/made\n")
    );
}
