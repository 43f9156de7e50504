//! Heredocs, variables, directives, arguments – docs.docker.com, "Dockerfile reference".

use keg_fixtures::requires;
use serde_json::json;

use super::Project;

#[test]
fn heredocs_are_scripts_files_and_input_of_programs() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        r#"# syntax=docker/dockerfile:1
FROM BASE
ENV NAME=world
RUN <<EOF
set -e
echo "plain $NAME" > /plain
EOF
RUN <<-SCRIPT
	#!/bin/sh -e
	echo "shebang $0" > /shebang
	SCRIPT
RUN cat <<'ONE' > /one && cat <<TWO > /two
kept $NAME \$x
ONE
set $NAME
TWO
RUN cat <<EOF | grep -v no > /piped
no
yes
EOF
COPY <<plain.txt <<"raw.txt" /files/
expanded $NAME ${NAME:+"quoted"} \$NAME
plain.txt
raw $NAME
raw.txt
COPY --chown=7:8 --chmod=0700 <<-EOF /single
	tabs gone
	  blanks stay
EOF
ADD <<empty /files/
empty
SHELL ["/bin/sh", "-ec"]
RUN <<EOF
false
echo not reached > /not
EOF
"#,
    )]);

    let failed = project.build(&[]);
    assert_ne!(failed.exit_code, 0);
    assert!(failed.stderr.contains(">>> echo not reached"), "{}", failed.stderr);
    let file = std::fs::read_to_string(project.path("Dockerfile")).unwrap();
    project.write("Dockerfile", &file.replace("false\n", ""));
    let _ = project.build(&[]).success();

    assert_eq!(project.run("cat /plain /shebang"), "plain world\nshebang /dev/pipes/SCRIPT\n");
    assert_eq!(project.run("cat /one /two /piped"), "kept $NAME \\$x\nset world\nyes\n");
    assert_eq!(
        project.run("cat /files/plain.txt /files/raw.txt"),
        "expanded world \"quoted\" $NAME\nraw $NAME\n"
    );
    assert_eq!(
        project.run("cat /single; stat -c '%a %u:%g' /single"),
        "tabs gone\n  blanks stay\n700 7:8\n"
    );
    let rest = project.run("stat -c '%s %a' /files/empty; ls -A /dev/pipes 2>/dev/null || true");
    assert_eq!(rest, "0 644\n");
}

#[test]
fn variables_have_all_their_modifiers_in_all_instructions() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            r#"ARG REPOSITORY=BASE
ARG STAGE=final
FROM ${REPOSITORY} AS base
ARG STAGE
ARG VERSION=1.2.3-rc4
ENV FILE=dir/archive.tar.gz EMPTY=
ENV MAJOR=${VERSION%%.*} BARE=${VERSION%-*} REST=${VERSION#*.} LAST=${FILE##*/}
ENV SWAPPED=${FILE/dir/other} DOTS=${VERSION//./_} DEFAULT=${EMPTY:-unset} KEPT=${EMPTY-unset} \
    PLUS=${VERSION:+set} NONE=${MISSING:+set} LITERAL=\$VERSION SINGLE='$VERSION' TWO="a b"
ENV SAME=old
ENV SAME=new COPY=$SAME
LABEL version=$VERSION "quoted key"="with \"quotes\"" stage=$STAGE
WORKDIR /desk/${MAJOR}
COPY ${LAST} ${LAST%.gz} ./${MAJOR}/
USER ${UID_OF:-1000}:${GID_OF:-50}
EXPOSE ${PORT:-8080} $MAJOR/udp
VOLUME /data/$MAJOR
STOPSIGNAL ${SIGNAL:-SIGINT}
CMD echo $NOT_REPLACED_HERE
"#,
        ),
        ("archive.tar.gz", "z"),
        ("archive.tar", "t"),
    ]);

    let _ = project.build(&[]).success();

    let config = project.config();
    let env: Vec<&str> =
        config["Env"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect();
    for expected in [
        "MAJOR=1",
        "BARE=1.2.3",
        "REST=2.3-rc4",
        "LAST=archive.tar.gz",
        "SWAPPED=other/archive.tar.gz",
        "DOTS=1_2_3-rc4",
        "DEFAULT=unset",
        "KEPT=",
        "PLUS=set",
        "NONE=",
        "LITERAL=$VERSION",
        "SINGLE=$VERSION",
        "TWO=a b",
        "SAME=new",
        "COPY=old",
    ] {
        assert!(env.contains(&expected), "{expected} in {env:?}");
    }
    assert_eq!(config["Labels"]["version"], "1.2.3-rc4");
    assert_eq!(config["Labels"]["quoted key"], "with \"quotes\"");
    assert_eq!(config["Labels"]["stage"], "final");
    assert_eq!(config["WorkingDir"], "/desk/1");
    assert_eq!(config["User"], "1000:50");
    assert_eq!(config["ExposedPorts"], json!({"8080/tcp": {}, "1/udp": {}}));
    assert_eq!(config["Volumes"], json!({"/data/1": {}}));
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["Cmd"], json!(["/bin/sh", "-c", "echo $NOT_REPLACED_HERE"]));
    assert_eq!(project.run("ls /desk/1/1"), "archive.tar\narchive.tar.gz\n");
    project.write("Dockerfile", "FROM BASE\nARG A\nENV B=\"${A:?give it}\"\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("A: give it"), "{}", refused.stderr);
}

#[test]
fn arguments_are_seen_where_they_are_declared_and_proxies_leave_no_trace() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "ARG GLOBAL=outer
FROM BASE AS one
RUN echo \"[$GLOBAL] [$GIVEN] [$TARGETARCH]\" > /before
ARG GLOBAL
ARG GIVEN=default
ARG TARGETARCH TARGETOS BUILDPLATFORM TARGETPLATFORM TARGETSTAGE
RUN echo \"[$GLOBAL] [$GIVEN] [$TARGETOS/$TARGETARCH]\" > /after && test $BUILDPLATFORM = $TARGETPLATFORM
RUN echo \"$HTTP_PROXY $no_proxy\" > /proxies
FROM one AS two
RUN echo \"[$GIVEN] [$TARGETSTAGE]\" > /inherited
ENV GIVEN=from-env
RUN echo \"[$GIVEN]\" > /hidden
",
    )]);
    let build = |proxy: &str| {
        let proxy = format!("HTTP_PROXY={proxy}");
        let args = ["GIVEN=mine", &proxy, "no_proxy=here", "NOBODY=wants"];
        let args: Vec<&str> = args.iter().flat_map(|arg| ["--build-arg", arg]).collect();
        project.build(&args).success()
    };

    let told = build("http://proxy.example:1").stderr;

    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!(project.run("cat /before"), "[] [] []\n");
    assert_eq!(project.run("cat /after"), format!("[outer] [mine] [linux/{arch}]\n"));
    assert_eq!(project.run("cat /proxies"), "http://proxy.example:1 here\n");
    assert_eq!(project.run("cat /inherited /hidden"), "[mine] [default]\n[from-env]\n");
    assert!(told.contains("NOBODY"), "{told}");
    let history = project.daemon.keg(["history", "--no-trunc", "built"]).success().stdout;
    assert!(history.contains("GIVEN=mine") && !history.contains("proxy.example"), "{history}");
    // Another proxy is no reason to do anything again.
    let first = project.id();
    let _ = build("http://other.example:1");
    assert_eq!(project.id(), first);
}

#[test]
fn directives_comments_and_odd_lines_are_read_as_buildkit_reads_them() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "# syntax = docker.io/docker/dockerfile:1.7-labs\r
# escape = `\r
from BASE as Odd\r
Run echo one`\r
    # a comment in between\r
\r
 two > 'C:\\x'; `\r
 cat 'C:\\x' > /x\r
onbuild run true\r
FROM odd\r
ENV legacy value with  blanks\r
ENTRYPOINT [\"/bin/sh\", \"-c\", \"cat /x\"]\r
CMD not [json\r
HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=2s --start-interval=1s --retries=4 CMD test -e /x\r
MAINTAINER somebody\r
",
    )]);

    let _ = project.build(&[]).success();

    let config = project.config();
    assert_eq!(config["Cmd"], json!(["/bin/sh", "-c", "not [json"]));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "test -e /x"]));
    assert_eq!(config["Healthcheck"]["Interval"], 90_000_000_000_i64);
    assert_eq!(config["Healthcheck"]["StartInterval"], 1_000_000_000_i64);
    let env = config["Env"].as_array().unwrap();
    assert!(env.contains(&json!("legacy=value with  blanks")), "{env:?}");
    let output = project.daemon.keg(["run", "--rm", "--entrypoint", "cat", "built", "/x"]);
    assert_eq!(output.success().stdout, "one two\n");
    for (file, expected) in [
        ("# syntax=example.org/other/frontend\nFROM BASE\n", "example.org/other/frontend"),
        ("FROM BASE\nRNU true\n", "did you mean RUN?"),
        ("FROM BASE\nRUN <<EOF\ntrue\n", "EOF"),
        ("RUN true\n", "before the first FROM"),
        ("FROM BASE AS 1st\n", "1st"),
        ("FROM BASE\nCOPY --colour=red a b\n", "--colour"),
        ("\n", "no instructions"),
    ] {
        project.write("Dockerfile", file);
        let refused = project.build(&[]);
        assert_eq!(refused.exit_code, 1, "{file}");
        assert!(refused.stderr.contains(expected), "{file}: {}", refused.stderr);
    }
}

#[test]
fn triggers_of_all_kinds_run_in_order_in_the_child_and_not_in_its_children() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            "FROM BASE
ONBUILD ARG FLAVOUR=plain
ONBUILD WORKDIR /app
ONBUILD COPY source/ ./
ONBUILD RUN <<EOF
cat *.txt > all
echo $FLAVOUR >> all
EOF
ONBUILD USER keg
ONBUILD ENV BUILT=yes
",
        ),
        ("source/a.txt", "a\n"),
        ("source/b.txt", "b\n"),
    ]);
    let _ = project.build(&["-t", "parent:1"]).success();
    project.write("Dockerfile", "FROM parent:1\nRUN cat all > /tmp/seen; id -u >> /tmp/seen\n");

    let _ = project.build(&["-t", "child:1", "--build-arg", "FLAVOUR=sweet"]).success();
    assert_eq!(project.run("cat /tmp/seen; echo $BUILT; pwd"), "a\nb\nsweet\n1000\nyes\n/app\n");
    assert!(project.config()["OnBuild"].is_null());
    std::fs::remove_dir_all(project.path("source")).unwrap();
    project.write("Dockerfile", "FROM child:1\nRUN echo grandchild\n");
    let _ = project.build(&[]).success();
    project.write("Dockerfile", "FROM BASE\nONBUILD ONBUILD RUN true\n");
    assert!(project.build(&[]).stderr.contains("trigger"));
}
