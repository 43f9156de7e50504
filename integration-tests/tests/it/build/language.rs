//! What instructions do – docs.docker.com, "Dockerfile reference".

use keg_fixtures::requires;
use serde_json::json;

use super::Project;

#[test]
fn a_dockerfile_of_many_instructions_becomes_the_image_that_it_describes() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            r#"ARG TAG=one
FROM BASE AS build
ARG TAG
ARG NAME=nobody
ENV GREETING="hello ${NAME:-x}" LONG=$TAG
WORKDIR /src
COPY a.txt sub/ ./
RUN echo "$GREETING" > made && chmod 4755 made && ln -s made alias
RUN <<EOF
echo from a heredoc > heredoc
EOF

FROM BASE
LABEL org.example.kind="test image" short=1
COPY --from=build --chown=1000:50 /src/made /out/
COPY --from=build /src/alias /src/heredoc /src/a.txt /out/
COPY --chmod=600 <<A <<B /texts/
one $NAME
A
two
B
ENV WHO=me
USER 1000:50
WORKDIR relative
EXPOSE 80 53/udp
VOLUME ["/data"]
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=30s --retries=2 CMD ["/bin/true"]
ONBUILD RUN echo triggered > /triggered
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo run"]
"#,
        ),
        ("a.txt", "a"),
        ("sub/b.txt", "b"),
        ("sub/deep/c.txt", "c"),
    ]);

    let outcome = project.build(&["--build-arg", "NAME=you", "--label", "added=later"]).success();

    assert!(outcome.stderr.contains("[build 2/5] WORKDIR /src"), "{}", outcome.stderr);
    let config = project.config();
    assert_eq!(config["Entrypoint"], json!(["/bin/sh", "-c"]));
    assert_eq!(config["Cmd"], json!(["echo run"]));
    assert_eq!(config["User"], "1000:50");
    assert_eq!(config["WorkingDir"], "/relative");
    assert_eq!(config["StopSignal"], "SIGQUIT");
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
    assert_eq!(config["Volumes"], json!({"/data": {}}));
    assert_eq!(config["Labels"]["org.example.kind"], "test image");
    assert_eq!(config["Labels"]["added"], "later");
    assert_eq!(config["Healthcheck"]["Interval"], 30_000_000_000_i64);
    assert_eq!(config["OnBuild"], json!(["RUN echo triggered > /triggered"]));
    let run = |line: &str| project.daemon.keg(["run", "--rm", "built", line]).success().stdout;
    assert_eq!(run("cat /out/made"), "hello you\n");
    assert_eq!(run("stat -c '%a %u:%g' /out/made"), "4755 1000:50\n");
    assert_eq!(run("cat /out/heredoc /out/a.txt"), "from a heredoc\na");
    // A link that is itself the source is followed.
    assert_eq!(run("test -L /out/alias && echo link || cat /out/alias"), "hello you\n");
    assert_eq!(run("stat -c '%a' /texts/A; id -u; pwd"), "600\n1000\n/relative\n");
}

#[test]
fn what_the_runtime_needs_for_a_step_is_not_in_the_image() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM BASE\nRUN echo x > /file\n")]);

    let _ = project.build(&[]).success();

    let layers = project.daemon.inspect("built")["RootFS"]["Layers"].as_array().unwrap().len();
    assert_eq!(layers, 4, "three of the base, and one");
    let archive = project.scratch.path().join("files.tar");
    let place = format!("type=tar,dest={}", archive.display());
    let _ = project.build(&["-o", &place]).success();
    let names: Vec<String> = tar::Archive::new(std::fs::File::open(archive).unwrap())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.iter().any(|name| name.trim_start_matches("./") == "file"), "{names:?}");
    for stub in ["proc", "sys", "dev", "etc/resolv.conf", "etc/hosts", "etc/hostname"] {
        let found = names.iter().any(|name| name.trim_matches(['.', '/']) == stub);
        assert!(!found, "{stub} in {names:?}");
    }
}

#[test]
fn ignored_files_and_links_that_climb_out_stay_out() {
    requires!(root);
    let project = Project::new(&[
        ("Dockerfile", "FROM BASE\nCOPY . /all/\n"),
        (".dockerignore", "*.log\n!keep.log\nnode_modules\nDockerfile\n.dockerignore\n"),
        ("a.log", ""),
        ("keep.log", ""),
        ("node_modules/x", ""),
        ("src/main", "m"),
    ]);
    std::fs::write(project.scratch.path().join("outside"), "secret of the host").unwrap();
    std::os::unix::fs::symlink("../outside", project.path("climbs")).unwrap();

    let _ = project.build(&[]).success();

    let listed = project.run("cd /all; find . | sort");
    assert_eq!(listed, ".\n./climbs\n./keep.log\n./src\n./src/main\n");
    assert_eq!(project.run("cat /all/climbs 2>/dev/null || echo nothing"), "nothing\n");
    project.write("Dockerfile", "FROM BASE\nCOPY climbs /x\n");
    let refused = project.build(&[]);
    assert_ne!(refused.exit_code, 0);
    assert!(refused.stderr.contains("climbs"), "{}", refused.stderr);
}

#[test]
fn triggers_of_a_base_run_in_the_child() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM BASE\nONBUILD RUN echo triggered > /t\n")]);
    let _ = project.build(&["-t", "parent:1"]).success();
    project.write("Dockerfile", "FROM parent:1\nRUN cat /t > /copy\n");

    let _ = project.build(&[]).success();

    assert_eq!(project.run("cat /copy"), "triggered\n");
    assert!(project.config()["OnBuild"].is_null());
}

#[test]
fn a_failed_step_shows_its_lines_and_what_it_wrote() {
    requires!(root);
    let file = "FROM BASE\nENV A=1\nRUN echo before; exit 7\nCMD [\"x\"]\n";
    let project = Project::new(&[("Dockerfile", file)]);

    let failed = project.build(&[]);

    assert_eq!(failed.exit_code, 1, "{}", failed.stderr);
    let shown = &failed.stderr;
    let lines =
        ["   3 | >>> RUN echo before; exit 7", "   2 |     ENV A=1", "exit code 7", " before"];
    for expected in lines {
        assert!(shown.contains(expected), "{expected:?} in {shown}");
    }
}

#[test]
fn steps_are_no_host_root_and_have_no_network_if_asked() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE\nRUN cat /proc/self/uid_map > /map\nRUN --network=none ls /sys/class/net > /net\n",
    )]);

    let _ = project.build(&[]).success();

    let map = project.run("cat /map");
    let fields: Vec<&str> = map.split_whitespace().collect();
    assert!(fields[0] == "0" && fields[1] != "0" && fields[2] == "65536", "{map}");
    assert_eq!(project.run("cat /net"), "lo\n");
    project.write("Dockerfile", "FROM BASE\nRUN --security=insecure true\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("security.insecure"), "{}", refused.stderr);
}

#[test]
fn a_step_gets_devices_that_are_here_and_allowed() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE\nRUN --device=keg.example/none=one echo ran > /ran\n",
    )]);

    let _ = project.build(&[]).success();

    assert_eq!(project.run("cat /ran"), "ran\n");
    project.write("Dockerfile", "FROM BASE\nRUN --device=keg.example/none=one,required true\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("--allow device"), "{refused:?}");
    let missing = project.build(&["--allow", "device=keg.example/none"]);
    assert!(missing.stderr.contains("no description in /etc/cdi"), "{missing:?}");
}

#[test]
fn copies_look_the_same_whatever_is_below_them() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            "FROM BASE AS tools
RUN mkdir -m 700 /private && chown 9:9 /private
FROM BASE
RUN mkdir -p /full/dir /mine/empty && chmod 2750 /mine /mine/empty && chown 7:8 /mine \\
 && echo old > /full/file && echo kept > /full/dir/kept && ln -s /full /way \\
 && mkdir /gone && echo x > /gone/x
RUN rm -r /gone
COPY tree /new/place
COPY tree /full
COPY tree /mine/empty
COPY tree /gone
COPY tree/file /way/by-link
COPY tree/file /full/dir/
COPY --chmod=640 --chown=5:6 tree/file /mine/own
COPY --chmod=770 --chown=5:6 tree/file /made/way/own
COPY --from=tools /private /public
",
        ),
        ("tree/file", "new"),
        ("tree/dir/below", "below"),
    ]);

    let _ = project.build(&[]).success();

    let line = "cd /; find new full mine gone -type f | sort | xargs grep -H .; \
        stat -c '%n %a %u:%g' mine mine/empty mine/own full/dir new/place/file made/way public";
    assert_eq!(
        project.run(line),
        "full/by-link:new\nfull/dir/below:below\nfull/dir/file:new\nfull/dir/kept:kept\n\
         full/file:new\ngone/dir/below:below\ngone/file:new\nmine/empty/dir/below:below\n\
         mine/empty/file:new\nmine/own:new\nnew/place/dir/below:below\nnew/place/file:new\n\
         mine 2750 7:8\nmine/empty 2750 0:0\nmine/own 640 5:6\nfull/dir 755 0:0\n\
         new/place/file 644 0:0\nmade/way 755 5:6\npublic 755 0:0\n"
    );
}

#[test]
fn a_dockerfile_alone_comes_by_standard_input() {
    requires!(root);
    let project = Project::new(&[]);
    let file = format!("FROM {}\nRUN echo piped > /p\n", project.base);

    let args = ["build", "-t", "built", "-"];
    let _ = project.daemon.keg_with_input(file.as_bytes(), args).success();

    assert_eq!(project.run("cat /p"), "piped\n");
}
