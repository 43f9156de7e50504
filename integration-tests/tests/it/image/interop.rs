//! Archives and layouts between Keg and the tools that people have: byte for byte, in both directions.

use std::path::{Path, PathBuf};
use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{BadRegistry, Daemon, Dockerd, Image, Outcome, Registry, programs, requires};
use serde_json::Value;

const NAME: &str = "keg.test/it:1";

/// A daemon that holds [`Image::busybox`] as [`NAME`], and an archive of it.
fn saved() -> (Daemon, PathBuf) {
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let daemon = Daemon::new();
    let reference = format!("{}/it", registry.address());
    daemon.pull(&reference);
    let _ = daemon.keg(["tag", &reference, NAME]).success();
    let archive = daemon.scratch().join("saved.tar");
    let _ = daemon.keg(["save", "-o", archive.to_str().unwrap(), NAME]).success();
    (daemon, archive)
}

fn run(program: &str, arguments: &[&str]) -> Outcome {
    let program = programs::installed(program).expect("installed");
    Outcome::of(Command::new(program).args(arguments), PATIENCE)
}

/// Loads an archive or a directory; returns the manifest's digest and the image's id.
fn load(path: &Path, name: &str) -> (String, String) {
    let daemon = Daemon::new();
    let loaded = daemon.keg(["load", "-i", path.to_str().unwrap()]).success();
    assert!(loaded.stdout.contains("Loaded image"), "{loaded:?}");
    let image = match name {
        "" => daemon.keg(["images", "-q", "--no-trunc"]).success().stdout.trim().to_owned(),
        name => name.to_owned(),
    };
    let ran = daemon.keg(["run", "--rm", &image, "echo", "well"]).success();
    assert_eq!(ran.stdout, "well\n");
    let found = daemon.inspect(&image);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&found["Descriptor"]["digest"]), text(&found["Id"]))
}

fn expected() -> (String, String) {
    (Image::busybox().manifest.digest, Image::busybox().config.digest)
}

#[test]
fn skopeo_reads_what_we_save_and_we_load_what_it_writes() {
    requires!(root, skopeo);
    let (daemon, archive) = saved();
    let layout = daemon.scratch().join("layout");
    let theirs = daemon.scratch().join("theirs.tar");
    let source = format!("oci-archive:{}:1", archive.display());

    let copied = run("skopeo", &["copy", "-q", &source, &format!("oci:{}:1", layout.display())]);
    let _ = copied.success();
    let back = format!("oci-archive:{}:{NAME}", theirs.display());
    let from = format!("oci:{}:1", layout.display());
    let _ = run("skopeo", &["copy", "-q", &from, &back]).success();

    for blob in Image::busybox().blobs() {
        let path = layout.join("blobs/sha256").join(blob.hex());
        assert_eq!(std::fs::read(path).unwrap(), blob.bytes);
    }
    assert_eq!(load(&theirs, NAME), expected());
    let docker = format!("docker-archive:{}", archive.display());
    let raw: Value = run("skopeo", &["inspect", "--config", &docker]).success().json();
    assert_eq!(raw["config"]["Cmd"], serde_json::json!(["sh"]));
}

#[test]
fn skopeo_finds_what_we_push_and_it_is_the_same() {
    requires!(root, skopeo, registry);
    let (daemon, _) = saved();
    let registry = Registry::new();
    let target = format!("{}/team/it:2", registry.address());
    let _ = daemon.keg(["tag", NAME, &target]).success();

    let pushed = daemon.keg(["push", &target]).success();

    assert!(pushed.stdout.contains("Pushed"), "{pushed:?}");
    let (manifest, _) = expected();
    assert!(pushed.stdout.contains(&format!("2: digest: {manifest} size: ")), "{pushed:?}");
    let reference = format!("docker://{target}");
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &reference]).success();
    assert_eq!(keg_fixtures::image::digest(raw.stdout.as_bytes()), manifest);
    let again = daemon.keg(["push", &target]).success();
    assert!(again.stdout.contains("Already exists"), "{again:?}");
    let elsewhere = format!("{}/other/it:1", registry.address());
    let _ = daemon.keg(["tag", NAME, &elsewhere]).success();
    let mounted = daemon.keg(["push", &elsewhere]).success();
    assert!(mounted.stdout.contains("Mounted from another repository"), "{mounted:?}");
}

#[test]
fn docker_loads_what_we_save_and_we_load_what_it_saves() {
    requires!(root, dockerd);
    let (daemon, archive) = saved();
    let dockerd = Dockerd::new();

    let loaded = dockerd.docker(["load", "-i", archive.to_str().unwrap()]).success();
    let id = dockerd.docker(["image", "inspect", "-f", "{{.Id}}", NAME]).success();
    let theirs = daemon.scratch().join("theirs.tar");
    let _ = dockerd.docker(["save", "-o", theirs.to_str().unwrap(), NAME]).success();

    assert!(loaded.stdout.contains(NAME), "{loaded:?}");
    assert_eq!(id.stdout.trim(), expected().1);
    assert_eq!(load(&theirs, NAME).1, expected().1);
}

#[test]
fn podman_loads_what_we_save_and_we_load_what_it_saves() {
    requires!(root, podman);
    let (daemon, archive) = saved();
    let (root, state) = (daemon.scratch().directory("p"), daemon.scratch().directory("ps"));
    let podman = |arguments: &[&str]| {
        let place = [
            "--storage-driver",
            "vfs",
            "--root",
            root.to_str().unwrap(),
            "--runroot",
            state.to_str().unwrap(),
        ];
        run("podman", &[&place[..], arguments].concat())
    };

    let _ = podman(&["load", "-q", "-i", archive.to_str().unwrap()]).success();
    let id = podman(&["image", "inspect", "--format", "{{.Id}}", NAME]).success();
    let (docker, oci) = (daemon.scratch().join("docker.tar"), daemon.scratch().join("oci.tar"));
    for (format, path) in [("docker-archive", &docker), ("oci-archive", &oci)] {
        let path = path.to_str().unwrap();
        let _ = podman(&["save", "-q", "--format", format, "-o", path, NAME]).success();
    }

    assert_eq!(format!("sha256:{}", id.stdout.trim()), expected().1);
    assert_eq!(load(&docker, NAME).1, expected().1);
    assert_eq!(load(&oci, NAME).1, expected().1);
}

#[test]
fn umoci_works_on_what_we_save_and_we_load_what_it_makes() {
    requires!(root, umoci);
    let (daemon, archive) = saved();
    let layout = daemon.scratch().directory("layout");
    let mut unpacked = tar::Archive::new(std::fs::File::open(&archive).unwrap());
    unpacked.unpack(&layout).unwrap();
    let image = format!("{}:1", layout.display());

    let told: Value = run("umoci", &["stat", "--image", &image, "--json"]).success().json();
    let tag = ["config", "--image", &image, "--tag", "made", "--config.cmd", "made"];
    let _ = run("umoci", &tag).success();
    let made = daemon.scratch().join("made");
    let source = format!("{}:made", layout.display());
    let bundle = run("umoci", &["unpack", "--image", &source, made.to_str().unwrap()]);
    let _ = bundle.success();
    std::fs::write(made.join("rootfs/added"), "by umoci\n").unwrap();
    let packed = run("umoci", &["repack", "--image", &source, made.to_str().unwrap()]);
    let _ = packed.success();

    for blob in Image::busybox().blobs() {
        let path = layout.join("blobs/sha256").join(blob.hex());
        assert_eq!(std::fs::read(path).unwrap(), blob.bytes);
    }
    assert!(told.get("history").is_some(), "{told}");
    assert!(made.join("rootfs/bin/busybox").exists());
    let other = Daemon::new();
    let loaded = other.keg(["load", "-i", layout.to_str().unwrap()]).success();
    assert_eq!(loaded.stdout.lines().count(), 2, "{loaded:?}");
    let ids = other.keg(["images", "-q", "--no-trunc"]).success().stdout;
    let commands: Vec<Value> =
        ids.lines().map(|id| other.inspect(id)["Config"]["Cmd"].clone()).collect();
    assert!(commands.contains(&serde_json::json!(["made"])), "{commands:?} {loaded:?}");
    let at = commands.iter().position(|command| *command == serde_json::json!(["made"])).unwrap();
    let id = ids.lines().nth(at).unwrap();
    let ran = other.keg(["run", "--rm", id, "cat", "/added"]).success();
    assert_eq!(ran.stdout, "by umoci\n");
    let index: Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let manifests = index["manifests"].as_array().unwrap().iter();
    let mut theirs = manifests.map(|manifest| manifest["digest"].clone());
    let found = other.inspect(id)["Descriptor"]["digest"].clone();
    assert!(theirs.any(|digest| digest == found), "{found} is not in {index}");
}

/// Tells which manifest a name stands for in a registry.
fn digest_in(registry: &str, name: &str) -> String {
    let url = format!("http://{registry}/v2/{name}/manifests/1");
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json, \
                  application/vnd.docker.distribution.manifest.v2+json";
    let raw = run("curl", &["-sf", "-H", accept, &url]).success();
    keg_fixtures::image::digest(raw.stdout.as_bytes())
}

#[test]
fn docker_pulls_what_we_push_and_we_pull_what_it_pushes() {
    requires!(root, dockerd, registry, skopeo);
    let (daemon, _) = saved();
    let registry = Registry::new();
    let dockerd = Dockerd::new();
    let _there = registry.serve_in_network_of(dockerd.pid());
    let [ours, theirs] = ["ours", "theirs"].map(|name| format!("{}/{name}:1", registry.address()));

    let _ = daemon.keg(["tag", NAME, &ours]).success();
    let _ = daemon.keg(["push", &ours]).success();
    let _ = dockerd.docker(["pull", "-q", &ours]).success();
    let digests = ["image", "inspect", "-f", "{{.Id}} {{index .RepoDigests 0}}", &ours];
    let told = dockerd.docker(digests).success();
    let _ = dockerd.docker(["tag", &ours, &theirs]).success();
    let _ = dockerd.docker(["push", "-q", &theirs]).success();
    daemon.pull(&theirs);

    let (manifest, id) = expected();
    assert_eq!(told.stdout.trim(), format!("{id} {}/ours@{manifest}", registry.address()));
    let found = daemon.inspect(&theirs);
    assert_eq!(found["Id"], id);
    assert_eq!(found["Descriptor"]["digest"], digest_in(&registry.address(), "theirs"));
}

#[test]
fn podman_pulls_what_we_push_and_we_pull_what_it_pushes() {
    requires!(root, podman, registry, skopeo);
    let (daemon, _) = saved();
    let registry = Registry::new();
    let (root, state) = (daemon.scratch().directory("p"), daemon.scratch().directory("ps"));
    let podman = |arguments: &[&str]| {
        let (root, state) = (root.to_str().unwrap(), state.to_str().unwrap());
        let place = ["--storage-driver", "vfs", "--root", root, "--runroot", state];
        run("podman", &[&place[..], arguments].concat()).success()
    };
    let [ours, theirs] = ["ours", "theirs"].map(|name| format!("{}/{name}:1", registry.address()));

    let _ = daemon.keg(["tag", NAME, &ours]).success();
    let _ = daemon.keg(["push", &ours]).success();
    let _ = podman(&["pull", "-q", "--tls-verify=false", &ours]);
    let told = podman(&["image", "inspect", "--format", "{{.Digest}}", &ours]);
    let _ = podman(&["push", "-q", "--tls-verify=false", &ours, &theirs]);
    daemon.pull(&theirs);

    let (manifest, id) = expected();
    assert_eq!(told.stdout.trim(), manifest);
    let found = daemon.inspect(&theirs);
    assert_eq!(found["Id"], id);
    assert_eq!(found["Descriptor"]["digest"], digest_in(&registry.address(), "theirs"));
}
