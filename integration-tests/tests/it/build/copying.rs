//! `COPY` with all its flags – docs.docker.com, "Dockerfile reference", COPY.

use std::os::unix::fs::PermissionsExt as _;

use keg_fixtures::requires;

use super::Project;

#[test]
fn owners_are_names_of_the_image_or_numbers_and_modes_are_chmods() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            "FROM BASE
ARG WHO=keg
COPY --chown=$WHO file /name
COPY --chown=keg:staff file /both
COPY --chown=4321 file /number
COPY --chown=5:staff --chmod=0604 file /mixed
COPY --chmod=u=rwX,go=rX dir /made/dir
COPY --chown=keg --chmod=750 dir /new/deep/
COPY dir /kept
",
        ),
        ("file", "f"),
        ("dir/program", "p"),
        ("dir/sub/data", "d"),
    ]);
    let mode = |path: &str, mode: u32| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(project.path(path), permissions).unwrap();
    };
    mode("dir/program", 0o700);
    mode("dir/sub/data", 0o600);
    mode("dir/sub", 0o700);

    let _ = project.build(&[]).success();

    let shown = project.run(
        "stat -c '%n %a %u:%g' /name /both /number /mixed /made/dir/program /made/dir/sub \
         /made/dir/sub/data /new /new/deep /new/deep/sub/data /kept/program /kept/sub",
    );
    assert_eq!(
        shown,
        "/name 644 1000:1000\n/both 644 1000:50\n/number 644 4321:4321\n/mixed 604 5:50\n\
         /made/dir/program 755 0:0\n/made/dir/sub 755 0:0\n/made/dir/sub/data 644 0:0\n\
         /new 755 1000:1000\n/new/deep 750 1000:1000\n/new/deep/sub/data 750 1000:1000\n\
         /kept/program 700 0:0\n/kept/sub 700 0:0\n"
    );
    project.write("Dockerfile", "FROM BASE\nCOPY --chown=nobody-here file /x\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("nobody-here"), "{}", refused.stderr);
}

#[test]
fn parents_are_kept_and_exclusions_left_out() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            "FROM BASE
COPY --parents a/b/one.txt a/two.txt /parents/
COPY --parents ./a/./b/*.txt /pivot/
COPY --parents a/b /directory/
COPY --parents **/*.go /deep/
COPY --exclude=*.md --exclude=b/*.txt a /excluded/
COPY --exclude=*.md *.* /top/
",
        ),
        ("a/b/one.txt", "1"),
        ("a/b/one.md", "1"),
        ("a/two.txt", "2"),
        ("a/readme.md", "r"),
        ("top.md", "t"),
        ("top.go", "t"),
        ("src/x/y.go", "y"),
    ]);

    let _ = project.build(&[]).success();

    let files = |directory: &str| project.run(&format!("cd {directory}; find . -type f | sort"));
    assert_eq!(files("/parents"), "./a/b/one.txt\n./a/two.txt\n");
    assert_eq!(files("/pivot"), "./b/one.txt\n");
    assert_eq!(files("/directory"), "./a/b/one.md\n./a/b/one.txt\n");
    assert_eq!(files("/deep"), "./src/x/y.go\n./top.go\n");
    assert_eq!(files("/excluded"), "./b/one.md\n./two.txt\n");
    assert_eq!(files("/top"), "./top.go\n");
}

#[test]
fn a_linked_copy_does_not_see_the_files_below() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            "FROM BASE
RUN mkdir /real && ln -s real /alias && touch /real/old
COPY file /alias/plain
COPY --link file /real/linked
COPY --link --chown=7:8 dir/ /new/place/
COPY --link --from=BASE /etc/passwd /etc/passwd.copy
",
        ),
        ("file", "f"),
        ("dir/x", "x"),
    ]);

    let _ = project.build(&[]).success();

    assert_eq!(project.run("ls /real"), "linked\nold\nplain\n");
    let shown = project.run("stat -c '%n %u:%g' /new/place /new/place/x; cat /etc/passwd.copy");
    assert!(shown.starts_with("/new/place 7:8\n/new/place/x 7:8\nroot:"), "{shown}");
}

#[test]
fn destinations_follow_the_working_directory_links_and_final_slashes() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            r#"FROM BASE
RUN mkdir -p /var/real && ln -s /var/real /link && touch /var/real/kept
WORKDIR /desk
COPY a.txt renamed
COPY a.txt into/
COPY a.txt b.txt ../
COPY ["with space.txt", "quoted name"]
COPY dir /link
COPY dir/. .
COPY missing* nothing* a.tx[t] /some/
COPY bracket[[]1].txt /bracket
COPY loop /loop
"#,
        ),
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("with space.txt", "s"),
        ("dir/one", "1"),
        ("bracket[1].txt", "e"),
        ("loop/file", "l"),
    ]);
    std::os::unix::fs::symlink(".", project.path("loop/self")).unwrap();

    let _ = project.build(&[]).success();

    assert_eq!(project.run("ls /desk; ls /desk/into"), "into\none\nquoted name\nrenamed\na.txt\n");
    assert_eq!(project.run("ls /var/real; cat /b.txt /bracket; ls /some"), "kept\none\nbea.txt\n");
    assert_eq!(project.run("ls -l /loop | grep -o 'self -> .'"), "self -> .\n");
    for (line, expected) in [
        ("COPY a.txt b.txt /file", "must end with a /"),
        ("COPY nothing /x", "nothing"),
        ("COPY dir /etc/passwd", "passwd"),
        ("COPY --from=absent.example/never:1 /x /y", "absent.example/never"),
    ] {
        project.write("Dockerfile", &format!("FROM BASE\n{line}\n"));
        let refused = project.build(&[]);
        assert_ne!(refused.exit_code, 0, "{line}");
        assert!(refused.stderr.contains(expected), "{line}: {}", refused.stderr);
    }
}

#[test]
fn a_copy_from_a_stage_keeps_hard_links_attributes_and_owners() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE AS made
RUN mkdir -p /tree/deep && echo x > /tree/one && ln /tree/one /tree/two && \
    ln -s one /tree/link && chmod 4711 /tree/one && touch /tree/deep/mine
COPY --chown=1000:50 <<x /tree/deep/theirs
x
FROM BASE
COPY --from=made /tree /copy
COPY --from=0 /tree/link /followed
",
    )]);

    let _ = project.build(&[]).success();

    let shown = project.run(
        "stat -c '%n %a %u:%g %h' /copy/one /copy/two /copy/deep/theirs; stat -c %F /copy/link \
         /followed; test $(stat -c %i /copy/one) = $(stat -c %i /copy/two) && echo same",
    );
    assert_eq!(
        shown,
        "/copy/one 4711 0:0 2\n/copy/two 4711 0:0 2\n/copy/deep/theirs 644 1000:50 1\n\
         symbolic link\nregular file\nsame\n"
    );
}
