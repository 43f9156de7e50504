//! `RUN --mount` of every kind – docs.docker.com, "Dockerfile reference", RUN --mount.

use std::process::{Child, Command, Stdio};

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Outcome, requires, wait_until};

use super::Project;

#[test]
fn binds_show_context_stage_and_image_and_what_is_written_is_lost() {
    requires!(root);
    let project = Project::new(&[
        (
            "Dockerfile",
            "FROM BASE AS made
RUN mkdir -p /out/deep && echo staged > /out/deep/file
FROM BASE
WORKDIR /work
RUN --mount=type=bind,source=dir,target=relative cat relative/file > /one; test ! -w relative/file || echo x >> relative/file || true
RUN --mount=type=bind,target=/context,rw echo new > /context/new && ls /context > /two
RUN --mount=type=bind,from=made,src=/out,dst=/out,readwrite echo changed > /out/deep/file && cat /out/deep/file > /three
RUN --mount=type=bind,from=made,source=/out/deep/file,target=/a-file cat /a-file > /four
RUN --mount=type=bind,from=BASE,source=/etc,target=/their-etc head -n 1 /their-etc/passwd > /five
",
        ),
        ("dir/file", "context\n"),
    ]);

    let _ = project.build(&[]).success();

    assert_eq!(project.run("cat /one /three /four"), "context\nchanged\nstaged\n");
    assert_eq!(project.run("cat /two"), "Dockerfile\ndir\nnew\n");
    assert!(project.run("cat /five").starts_with("root:"));
    assert_eq!(
        project.run("ls -A /work; ls -d /context /out /a-file /their-etc 2>/dev/null || true"),
        ""
    );
    assert!(!project.path("new").exists());
    assert_eq!(std::fs::read_to_string(project.path("dir/file")).unwrap(), "context\n");
}

#[test]
fn caches_have_owners_modes_contents_and_ways_of_sharing() {
    requires!(root);
    let file = |text: &str| {
        format!(
            "FROM BASE AS seed
RUN mkdir /seed && echo seeded > /seed/file
FROM BASE
ENV CACHE=/cache
RUN --mount=type=cache,target=$CACHE/own,uid=1000,gid=50,mode=0770 stat -c '%a %u:%g' /cache/own > /own
RUN --mount=type=cache,target=/filled,from=seed,source=/seed cat /filled/file > /filled-file && echo {text} >> /filled/file
RUN --mount=type=cache,id=shared,target=/a echo {text} >> /a/log
RUN --mount=type=cache,id=shared,target=/b,readonly cat /b/log > /log; (echo x > /b/x) 2>/dev/null || echo closed >> /log
RUN --mount=type=cache,target=/private,sharing=private ls -A /private > /private-list && touch /private/{text}
USER keg
RUN --mount=type=cache,target=/mine,uid=1000 echo {text} > /mine/file
"
        )
    };
    let project = Project::new(&[("Dockerfile", &file("one"))]);

    let _ = project.build(&[]).success();
    assert_eq!(project.run("cat /own /filled-file /log"), "770 1000:50\nseeded\none\nclosed\n");
    project.write("Dockerfile", &file("two"));
    let _ = project.build(&[]).success();

    assert_eq!(project.run("cat /filled-file /log"), "seeded\none\none\ntwo\nclosed\n");
    assert_eq!(project.run("cat /private-list"), "one\n");
    // Another namespace has other caches.
    project.write("Dockerfile", &file("three"));
    let _ = project.build(&["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=other"]).success();
    assert_eq!(project.run("cat /filled-file /log"), "seeded\nthree\nclosed\n");
}

#[test]
fn a_mount_from_a_stage_counts_by_what_it_shows() {
    requires!(root);
    let file = "FROM BASE AS made
COPY changing /
RUN mkdir /out && echo same > /out/file
FROM BASE
RUN --mount=from=made,source=out,target=/out,rw touch /out/more && \\
 cat /out/file /proc/sys/kernel/random/uuid > /seen
";
    let project = Project::new(&[("Dockerfile", file), ("changing", "one")]);
    let _ = project.build(&[]).success();
    let first = project.run("cat /seen");

    project.write("changing", "another");
    let _ = project.build(&[]).success();

    assert!(first.starts_with("same\n"), "{first}");
    assert_eq!(project.run("cat /seen"), first);
    project.write("Dockerfile", &file.replace("echo same", "echo other"));
    let _ = project.build(&[]).success();
    assert!(project.run("cat /seen").starts_with("other\n"));
    project.write("Dockerfile", "FROM BASE\nRUN --mount=type=cache,source=x,target=/y true\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("the source of a cache"), "{refused:?}");
}

#[test]
fn memory_is_bounded_and_secrets_are_where_they_were_asked_for() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE
RUN --mount=type=tmpfs,target=/memory,size=64k head -c 200000 /dev/zero > /memory/x || echo full > /full
RUN --mount=type=secret,id=one,target=/run/place,uid=1000,gid=50,mode=0440 stat -c '%a %u:%g' /run/place > /stat
RUN --mount=type=secret,id=one,env=ONE,target=/both test \"$ONE\" = value && test \"$(cat /both)\" = value
RUN --mount=type=secret,id=two,required env | grep -c value > /count || true
RUN --mount=type=secret,target=/run/secrets/three test -s /run/secrets/three
",
    )]);
    let file = project.scratch.file("secret", "value");
    let secret = |id: &str| format!("id={id},src={}", file.display());
    let (one, two, three) = (secret("one"), secret("two"), secret("three"));

    let _ = project.build(&["--secret", &one, "--secret", &two, "--secret", &three]).success();

    assert_eq!(project.run("cat /full /stat /count"), "full\n440 1000:50\n0\n");
    // Another value changes nothing that was built with the first.
    let first = project.id();
    std::fs::write(&file, "value").unwrap();
    let again = project.build(&["--secret", &one, "--secret", &two, "--secret", &three]).success();
    assert_eq!(project.id(), first, "{}", again.stderr);
}

/// An SSH agent with one key.
struct SshAgent {
    child: Child,
    socket: std::path::PathBuf,
}

impl SshAgent {
    fn new(project: &Project) -> Self {
        let socket = project.scratch.path().join("agent.sock");
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).stderr(Stdio::null());
        let child = agent.spawn().expect("ssh-agent");
        let key = project.scratch.path().join("key");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "key-of-the-test", "-f"]).arg(&key);
        let _ = Outcome::of(&mut keygen, PATIENCE).success();
        wait_until("the agent listens", PATIENCE, || socket.exists());
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket);
        let _ = Outcome::of(&mut add, PATIENCE).success();
        Self { child, socket }
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_clients_agent_answers_in_a_step_and_nowhere_else() {
    requires!(root, ssh_agent);
    // The probe asks an agent for its keys.
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE
RUN --mount=type=ssh /probe ssh-keys \"$SSH_AUTH_SOCK\" > /keys && echo $SSH_AUTH_SOCK > /where
RUN --mount=type=ssh,id=other,target=/run/agent,uid=1000,gid=50,mode=0660 stat -c '%a %u:%g' /run/agent > /stat
RUN --mount=type=ssh,id=absent test -z \"$SSH_AUTH_SOCK\"
RUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit
",
    )]);
    let agent = SshAgent::new(&project);
    let (default, other) = (
        format!("default={}", agent.socket.display()),
        format!("other={}", agent.socket.display()),
    );

    let _ = project.build(&["--ssh", &default, "--ssh", &other]).success();

    assert_eq!(project.run("cat /keys"), "key-of-the-test\n");
    assert_eq!(project.run("cat /where /stat"), "/run/buildkit/ssh_agent.0\n660 1000:50\n");
    project.write("Dockerfile", "FROM BASE\nRUN --mount=type=ssh,required true\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("--ssh"), "{}", refused.stderr);
}
