//! Build caches that travel, and who is asked for credentials on the way – docs.docker.com, "Cache
//! storage backends".

use keg_fixtures::registry::HttpResponse;
use keg_fixtures::{BadRegistry, Daemon, Image, Registry, requires};
use serde_json::{Value, json};

use super::Project;

/// What is done twice differs.
const FILE: &str = "FROM BASE AS made
COPY src /src
RUN cat /src/a > /result; cat /proc/sys/kernel/random/uuid > /made-id
FROM BASE
COPY --from=made /result /made-id /
RUN cat /proc/sys/kernel/random/uuid > /own-id && mkdir -p /dir/sub && rm /src 2>/dev/null || true
ENV DONE=yes
";

const FILES: [(&str, &str); 2] = [("Dockerfile", FILE), ("src/a", "1")];

/// Two machines with the same base image, and what is said of the base there.
fn machines() -> (Registry, Project, Project) {
    let (registry, base) = Registry::with_busybox();
    let machine = || {
        let daemon = Daemon::new();
        daemon.pull(&base);
        Project::with(daemon, base.clone(), &FILES)
    };
    let (one, other) = (machine(), machine());
    (registry, one, other)
}

/// Builds on another machine, which must find everything.
#[track_caller]
fn finds_all(project: &Project, args: &[&str], ids: &str) {
    let built = project.build(args).success();
    let cached = built.stderr.lines().filter(|line| line.ends_with(" CACHED")).count();
    assert_eq!(cached, 6, "{}", built.stderr);
    assert_eq!(project.run("cat /made-id /own-id; stat -c %a /dir/sub"), ids);
}

const IDS: &str = "cat /made-id /own-id; stat -c %a /dir/sub";

#[test]
fn a_cache_in_a_registry_saves_another_machine_the_work() {
    requires!(root, registry);
    let (registry, one, other) = machines();
    let name = format!("{}/app:cache", registry.address());
    let to = format!("type=registry,ref={name},mode=max");
    let _ = one.build(&["--cache-to", &to]).success();
    let ids = one.run(IDS);

    finds_all(&other, &["--cache-from", &format!("type=registry,ref={name}")], &ids);

    // It is in BuildKit's form.
    let manifest = skopeo_raw(&name);
    let config = &manifest["config"]["mediaType"];
    assert_eq!(config, "application/vnd.buildkit.cacheconfig.v0", "{manifest}");
    let annotations = &manifest["layers"][0]["annotations"];
    assert!(annotations["containerd.io/uncompressed"].as_str().unwrap().starts_with("sha256:"));
    let to = format!("type=registry,ref={name}-index,mode=max,image-manifest=false");
    let _ = other.build(&["--cache-to", &to]).success();
    let index = skopeo_raw(&format!("{name}-index"));
    let last = index["manifests"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["mediaType"], "application/vnd.buildkit.cacheconfig.v0");
}

fn skopeo_raw(name: &str) -> Value {
    let mut command = std::process::Command::new("skopeo");
    command.args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    let outcome = keg_fixtures::Outcome::of(&mut command, keg_fixtures::wait::PATIENCE);
    outcome.success().json()
}

#[test]
fn a_cache_in_a_directory_is_an_oci_layout_to_which_only_news_are_added() {
    requires!(root, registry);
    let (_registry, one, other) = machines();
    let directory = one.scratch.path().join("cache");
    let to = format!("type=local,dest={},mode=max", directory.display());
    let _ = one.build(&["--cache-to", &to]).success();
    let ids = one.run(IDS);
    let blobs = || -> Vec<(String, std::time::SystemTime)> {
        let entries = std::fs::read_dir(directory.join("blobs/sha256")).unwrap().flatten();
        let modified = |entry: &std::fs::DirEntry| entry.metadata().unwrap().modified().unwrap();
        entries.map(|entry| (entry.file_name().into_string().unwrap(), modified(&entry))).collect()
    };

    let from = format!("type=local,src={}", directory.display());
    finds_all(&other, &["--cache-from", &from], &ids);

    let before = blobs();
    other.write("Dockerfile", &format!("{FILE}RUN echo more > /more\n"));
    let _ = other.build(&["--cache-from", &from, "--cache-to", &to]).success();
    let after = blobs();
    assert!(after.len() > before.len() && before.iter().all(|blob| after.contains(blob)));
    let index: Value =
        serde_json::from_slice(&std::fs::read(directory.join("index.json")).unwrap()).unwrap();
    let name = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(*name, json!("latest"));
}

#[test]
fn an_image_can_carry_its_own_cache() {
    requires!(root, registry);
    let (registry, one, other) = machines();
    let name = format!("{}/app:1", registry.address());
    let args = ["-t", &name, "--cache-to", "type=inline", "--push"];
    let _ = one.build_only(&args).success();
    let own = one.daemon.keg(["run", "--rm", &name, "cat", "/own-id"]).success().stdout;

    let built = other.build(&["--cache-from", &name]).success();

    // The image's own steps are found, the other stage is built again, to the same result.
    assert_eq!(other.run("cat /own-id"), own, "{}", built.stderr);
    assert!(built.stderr.contains("importing cache manifest"), "{}", built.stderr);
}

#[test]
fn a_cache_that_is_not_there_is_told_of_and_done_without() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", "FROM BASE\nRUN echo x > /x\n")]);
    let empty = project.scratch.directory("empty");
    let source = format!("type=local,src={}", empty.display());

    let built = project.build(&["--cache-from", &source, "--cache-from", "127.0.0.1:1/a:b"]);

    let built = built.success();
    assert_eq!(built.stderr.matches("ERROR:").count(), 2, "{}", built.stderr);
    assert_eq!(project.run("cat /x"), "x\n");
    let refused = project.build(&["--cache-to", "type=gha"]);
    assert_eq!(refused.exit_code, 125, "{refused:?}");
    assert!(refused.stderr.contains("registry, local or inline"), "{refused:?}");
}

/// "me:s3cret-word"
const BASIC: &str = "Basic bWU6czNjcmV0LXdvcmQ=";

#[test]
fn a_build_uses_the_credentials_of_whoever_builds() {
    requires!(root);
    let daemon = Daemon::new();
    let registry = BadRegistry::new(Image::busybox(), |request, right| {
        match request.headers.get("authorization").map(String::as_str) {
            Some(BASIC) => right,
            _ => HttpResponse::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"it\""),
        }
    });
    let base = format!("{}/private", registry.address());
    let project = Project::with(daemon, base, &[("Dockerfile", "FROM BASE\nRUN true\n")]);
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("keg login"), "{refused:?}");
    let login = ["login", "-u", "me", "--password-stdin", &registry.address()];
    let _ = project.daemon.keg_with_input("s3cret-word", login).success();

    let built = project.build(&[]).success();

    assert!(!built.stderr.contains("s3cret-word"));
    assert!(!project.daemon.log().contains("s3cret-word"));
}
