//! Files from elsewhere: URLs, git repositories, archives, standard input – docs.docker.com, "Build context".

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keg_fixtures::registry::{HttpRequest, HttpResponse};
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{BadRegistry, Daemon, Image, Outcome, requires};

use super::Project;

/// Serves the files of a directory by HTTP, all of them modified on a day in 2015.
fn serve(directory: PathBuf) -> BadRegistry {
    BadRegistry::new(Image::busybox(), move |request: &HttpRequest, _| {
        let path = request.path.split('?').next().unwrap_or_default();
        match fs::read(directory.join(path.trim_start_matches('/'))) {
            Ok(bytes) => HttpResponse::new(200, bytes)
                .header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
            Err(_) => HttpResponse::new(404, "nothing here"),
        }
    })
}

fn git(directory: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
    command.args(args).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", directory);
    Outcome::of(&mut command, PATIENCE).success().stdout.trim().to_owned()
}

/// Makes a repository with two commits and a branch, as a server of files has it; returns the ids of
/// the commits.
fn repository(served: &Path, base: &str) -> [String; 2] {
    let work = served.join("work");
    fs::create_dir_all(work.join("sub")).unwrap();
    git(&work, &["init", "-q", "-b", "main", "."]);
    let commit = |text: &str| {
        fs::write(work.join("sub/file"), text).unwrap();
        let dockerfile = format!("FROM {base}\nCOPY file /file\nRUN cat /file > /copy\n");
        fs::write(work.join("sub/Dockerfile"), dockerfile).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-q", "-m", text]);
        git(&work, &["rev-parse", "HEAD"])
    };
    let first = commit("first");
    let second = commit("second");
    git(&work, &["branch", "old", &first]);
    let bare = served.join("repo.git");
    let clone = ["clone", "-q", "--bare", work.to_str().unwrap(), bare.to_str().unwrap()];
    git(served, &clone);
    git(&bare, &["update-server-info"]);
    [first, second]
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |path: &str, mode: u32, owner: u64, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_500_000_000);
        builder.append_data(&mut header, path, content).unwrap();
    };
    append("dir/tool", 0o4755, 7, b"tool");
    append("top", 0o640, 0, b"top");
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn add_fetches_urls_checks_them_and_keeps_their_time() {
    requires!(root);
    let project = Project::new(&[]);
    let served = project.scratch.directory("served");
    fs::write(served.join("file.txt"), "fetched").unwrap();
    fs::write(served.join("a.tar.gz"), gzip(&archive())).unwrap();
    let server = serve(served);
    let url = format!("http://{}", server.address());
    let digest = keg_fixtures::image::digest(b"fetched");
    project.write(
        "Dockerfile",
        &format!(
            "FROM BASE
ARG SUM={digest}
ADD --checksum=$SUM {url}/file.txt?x=1 /dir/
ADD --chown=7:8 --chmod=640 {url}/file.txt /named
ADD {url}/a.tar.gz /archive
ADD --unpack=true {url}/a.tar.gz /unpacked/
"
        ),
    );

    let _ = project.build(&[]).success();

    let shown = project.run(
        "cat /dir/file.txt; stat -c ' %a %u:%g %Y' /dir/file.txt /named; cat /unpacked/dir/tool; \
         test -f /archive && echo ' kept'",
    );
    assert_eq!(shown, "fetched 600 0:0 1445412480\n 640 7:8 1445412480\ntool kept\n");
    let wrong = digest.replace(['0', '1', '2', '3'], "4");
    project.write("Dockerfile", &format!("FROM BASE\nADD --checksum={wrong} {url}/file.txt /x\n"));
    let refused = project.build(&[]);
    assert!(refused.stderr.contains(&digest), "{}", refused.stderr);
    project.write("Dockerfile", &format!("FROM BASE\nADD {url}/missing /x\n"));
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("404"), "{}", refused.stderr);
}

#[test]
fn add_fetches_on_a_daemon_that_has_talked_to_no_registry() {
    requires!(root);
    let daemon = Daemon::new();
    let served = daemon.scratch().directory("served");
    fs::write(served.join("file.txt"), "fetched").unwrap();
    let server = serve(served);
    let context = daemon.scratch().directory("context");
    let text = format!("FROM scratch\nADD http://{}/file.txt /\n", server.address());
    fs::write(context.join("Dockerfile"), text).unwrap();

    let built = daemon.keg(["build", "-q", context.to_str().unwrap()]).success();

    assert!(built.stdout.starts_with("sha256:"), "{built:?}");
}

#[test]
fn add_unpacks_local_archives_with_owners_and_modes() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE
ADD plain.tar /plain/
ADD compressed.tgz notes.txt /both/
ADD --chown=1000:50 plain.tar /owned/
ADD --unpack=false plain.tar /kept.tar
COPY plain.tar /copied.tar
",
    )]);
    fs::write(project.path("plain.tar"), archive()).unwrap();
    fs::write(project.path("compressed.tgz"), gzip(&archive())).unwrap();
    project.write("notes.txt", "notes");

    let _ = project.build(&[]).success();

    let shown = project.run(
        "stat -c '%n %a %u:%g' /plain/dir/tool /plain/top /both/top /both/notes.txt \
         /owned/dir/tool; test -f /kept.tar && test -f /copied.tar && echo kept",
    );
    assert_eq!(
        shown,
        "/plain/dir/tool 4755 7:7\n/plain/top 640 0:0\n/both/top 640 0:0\n\
         /both/notes.txt 644 0:0\n/owned/dir/tool 4755 1000:50\nkept\n"
    );
}

#[test]
fn a_repository_is_a_context_and_a_source() {
    requires!(root, git);
    let project = Project::new(&[]);
    let served = project.scratch.directory("served");
    let [first, second] = repository(&served, &project.base);
    let server = serve(served);
    let url = format!("http://{}/repo.git", server.address());
    let build = |context: &str| {
        let args = ["build", "--progress", "plain", "-t", "built", context];
        project.daemon.keg_within(Duration::from_secs(120), args)
    };

    let _ = build(&format!("{url}#:sub")).success();
    assert_eq!(project.run("cat /copy"), "second");
    let _ = build(&format!("{url}#old:sub")).success();
    assert_eq!(project.run("cat /copy"), "first");
    let _ = build(&format!("{url}#{first}:sub")).success();
    assert_eq!(project.run("cat /copy"), "first");
    let refused = build(&format!("{url}#no-such-branch:sub"));
    assert!(refused.stderr.contains("no-such-branch"), "{}", refused.stderr);
    let refused = build(&format!("{url}#main:../../etc"));
    assert_ne!(refused.exit_code, 0);

    project.write(
        "Dockerfile",
        &format!(
            "FROM BASE\nADD --checksum={second} {url} /main\nADD --keep-git-dir=true {url}#old /old\n"
        ),
    );
    let _ = project.build(&[]).success();
    let shown = project.run("cat /main/sub/file; test -e /main/.git || echo; ls -d /old/.git");
    assert_eq!(shown, "second\n/old/.git\n");
    project.write("Dockerfile", &format!("FROM BASE\nADD --checksum={first} {url} /main\n"));
    assert!(project.build(&[]).stderr.contains(&second));
}

#[test]
fn a_repository_is_named_by_a_query_and_gives_results_its_time() {
    requires!(root, git);
    let project = Project::new(&[]);
    let served = project.scratch.directory("served");
    let [first, second] = repository(&served, &project.base);
    let made_secs = git(&served.join("repo.git"), &["show", "-s", "--format=%ct", "old"]);
    let server = serve(served);
    let url = format!("http://{}/repo.git", server.address());
    let build = |context: &str, flags: &[&str]| {
        let args = ["build", "--progress", "plain", "-t", "built"];
        let args = args.iter().chain(flags).copied().chain([context]);
        project.daemon.keg_within(Duration::from_secs(120), args)
    };

    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    let _ = build(&format!("{url}?branch=old&subdir=sub"), &epoch).success();

    assert_eq!(project.run("cat /copy"), "first");
    let of_context = project.id();
    let number = format!("SOURCE_DATE_EPOCH={made_secs}");
    let _ = build(&format!("{url}#old:sub"), &["--no-cache", "--build-arg", &number]).success();
    assert_eq!(project.id(), of_context);
    let mismatch = build(&format!("{url}?ref=old&commit={second}&subdir=sub"), &[]);
    assert!(mismatch.stderr.contains(&first), "{mismatch:?}");
    let unknown = build(&format!("{url}?depth=1"), &[]);
    assert!(unknown.stderr.contains("has no \"depth\""), "{unknown:?}");
    let file = format!(
        "ARG SOURCE_DATE_EPOCH=repo\nFROM scratch AS repo\nADD {url}#old /\nFROM BASE\n\
         ARG SOURCE_DATE_EPOCH\nADD {url}?keep-git-dir&mtime=commit /all\n\
         RUN ls -d /all/.git; echo $SOURCE_DATE_EPOCH > /epoch\n"
    );
    project.write("Dockerfile", &file);
    let _ = project.build(&[]).success();
    assert_eq!(project.run("cat /epoch"), format!("{made_secs}\n"));
    project.write("Dockerfile", "ARG SOURCE_DATE_EPOCH=soon\nFROM BASE\n");
    let refused = project.build(&[]);
    assert!(refused.stderr.contains("invalid SOURCE_DATE_EPOCH: soon"), "{refused:?}");
}

#[test]
fn secrets_open_addresses_that_ask_who_is_there() {
    requires!(root, git);
    let project = Project::new(&[]);
    let served = project.scratch.directory("served");
    let _ = repository(&served, &project.base);
    fs::write(served.join("file"), "private").unwrap();
    let server = BadRegistry::new(Image::busybox(), move |request: &HttpRequest, _| {
        let path = request.path.split('?').next().unwrap_or_default();
        // "x-access-token:t0ken" in base64, as git servers take tokens.
        let wanted = match path.starts_with("/repo.git") {
            true => "basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=",
            false => "Bearer t0ken",
        };
        if request.headers.get("authorization").map(String::as_str) != Some(wanted) {
            return HttpResponse::new(401, "who is there?");
        }
        match fs::read(served.join(path.trim_start_matches('/'))) {
            Ok(bytes) => HttpResponse::new(200, bytes),
            Err(_) => HttpResponse::new(404, "nothing here"),
        }
    });
    let address = server.address().to_string();
    let file =
        format!("FROM BASE\nADD http://{address}/file /\nADD http://{address}/repo.git /repo\n");
    project.write("Dockerfile", &file);
    let token = project.scratch.file("token", "t0ken\n");
    let secret = |id: &str| format!("id={id},src={}", token.display());
    let (http, git) = (secret(&format!("HTTP_AUTH_TOKEN_{address}")), secret("GIT_AUTH_TOKEN"));

    let refused = project.build(&[]);
    assert!(refused.stderr.contains("401"), "{refused:?}");
    let _ = project.build(&["--secret", &http, "--secret", &git]).success();

    assert_eq!(project.run("cat /file /repo/sub/file"), "privatesecond");
}

#[test]
fn an_archive_is_a_context_by_url_and_by_standard_input() {
    requires!(root);
    let project = Project::new(&[]);
    let served = project.scratch.directory("served");
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |path: &str, content: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    };
    append("Dockerfile", &format!("FROM {}\nCOPY . /all\n", project.base));
    append("other/Dockerfile", &format!("FROM {}\nCOPY . /all\nRUN touch /other\n", project.base));
    append("other/Dockerfile.dockerignore", "secret\nother\n");
    append(".dockerignore", "*.log\n");
    append("a.log", "");
    append("secret", "s");
    append("kept", "k");
    let tar = gzip(&builder.into_inner().unwrap());
    fs::write(served.join("context.tar.gz"), &tar).unwrap();
    let dockerfile = format!("FROM {}\nRUN echo alone > /alone\n", project.base);
    fs::write(served.join("Dockerfile.txt"), dockerfile).unwrap();
    let server = serve(served);
    let url = format!("http://{}/context.tar.gz", server.address());
    let listed = || project.run("cd /all; ls -A; ls -d /other 2>/dev/null || true");

    let _ = project.daemon.keg(["build", "-t", "built", &url]).success();
    assert_eq!(listed(), ".dockerignore\nDockerfile\nkept\nother\nsecret\n");
    let args = ["build", "-t", "built", "-f", "other/Dockerfile", "-"];
    let _ = project.daemon.keg_with_input(&tar, args).success();
    assert_eq!(listed(), ".dockerignore\nDockerfile\na.log\nkept\n/other\n");
    let url = format!("http://{}/Dockerfile.txt", server.address());
    let _ = project.daemon.keg(["build", "-t", "built", &url]).success();
    assert_eq!(project.run("cat /alone"), "alone\n");
    // A Dockerfile by standard input, for a directory.
    project.write("a.txt", "a");
    let context = project.path("");
    let dockerfile = format!("FROM {}\nCOPY a.txt /b.txt\n", project.base);
    let args = ["build", "-t", "built", "-f", "-", context.to_str().unwrap()];
    let _ = project.daemon.keg_with_input(dockerfile, args).success();
    assert_eq!(project.run("cat /b.txt"), "a");
}

#[test]
fn named_contexts_are_directories_images_and_addresses() {
    requires!(root, git);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM nowhere.example/base AS app
COPY --from=extra file /file
COPY --from=stage /note /note
RUN --mount=from=extra,target=/extra cat /extra/file > /mounted
FROM scratch AS stage
COPY Dockerfile /note
FROM app
",
    )]);
    let extra = project.scratch.directory("extra");
    fs::write(extra.join("file"), "extra").unwrap();
    fs::write(extra.join("note"), "note of a directory").unwrap();
    let served = project.scratch.directory("served");
    let [first, _] = repository(&served, &project.base);
    let server = serve(served);
    let context = |name: &str, place: &str| format!("{name}={place}");
    let base = context("nowhere.example/base", &format!("docker-image://{}", project.base));
    let directory = context("extra", extra.to_str().unwrap());
    let stage = context("stage", extra.to_str().unwrap());
    let flags = |extra: &str| {
        let all = [base.as_str(), extra, stage.as_str()];
        all.iter().flat_map(|text| ["--build-context", text]).map(str::to_owned).collect::<Vec<_>>()
    };
    let build = |flags: Vec<String>| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        project.build(&flags)
    };

    let _ = build(flags(&directory)).success();
    assert_eq!(project.run("cat /file /mounted /note"), "extraextranote of a directory");
    let repository = format!("http://{}/repo.git#{first}:sub", server.address());
    let _ = build(flags(&context("extra", &repository))).success();
    assert_eq!(project.run("cat /file /mounted"), "firstfirst");
}

#[test]
fn a_layout_of_the_client_is_an_image_to_build_on_and_to_copy_from() {
    requires!(root);
    let file = "FROM own\nRUN echo \"$FROM_IMAGE\" > /made\nCOPY --from=own /etc/passwd /copied\n";
    let project = Project::new(&[("Dockerfile", file)]);
    let layout = project.scratch.path().join("layout");
    let image = Image::busybox();
    image.write_layout(&layout, "v1");
    let build = |place: &str| {
        let context = format!("own=oci-layout://{}{place}", layout.display());
        project.build(&["--build-context", &context])
    };

    let _ = build(":v1").success();

    assert_eq!(project.run("cat /made; head -n 1 /copied"), "yes\nroot:x:0:0:root:/root:/bin/sh\n");
    let layers = project.daemon.inspect("built")["RootFS"]["Layers"].clone();
    let config: serde_json::Value = serde_json::from_slice(&image.config.bytes).unwrap();
    let own = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(&layers.as_array().unwrap()[..own.len()], own.as_slice());
    // By its digest it is the same image, and nothing is done again.
    let again = build(&format!("@{}", image.manifest.digest)).success();
    assert_eq!(again.stderr.matches("CACHED").count(), 3, "{}", again.stderr);
    let missing = build(":v2");
    assert!(missing.stderr.contains("\"v2\" is not in the directory"), "{missing:?}");
    // Bytes that are not what their name says are not used.
    let wrong = project.scratch.path().join("wrong");
    image.write_layout(&wrong, "v1");
    let mut bytes = image.config.bytes.clone();
    bytes.push(b' ');
    fs::write(wrong.join("blobs/sha256").join(image.config.hex()), bytes).unwrap();
    let context = format!("own=oci-layout://{}", wrong.display());
    let refused = project.build(&["--build-context", &context]);
    assert!(refused.stderr.contains("is not what its digest says"), "{refused:?}");
}
