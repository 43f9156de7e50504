//! save, load, history – OCI image-spec, image-layout.md, and Docker's archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use keg_fixtures::image::digest;
use keg_fixtures::{BadRegistry, Daemon, Image, requires};
use serde_json::Value;

/// The files of an archive by name.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    });
    entries.collect()
}

/// A daemon that holds an image of the tests' under a short name.
fn with_image(image: Image) -> Daemon {
    let registry = BadRegistry::new(image, |_, right| right);
    let daemon = Daemon::new();
    let reference = format!("{}/it", registry.address());
    daemon.pull(&reference);
    let _ = daemon.keg(["tag", &reference, "it:1"]).success();
    let _ = daemon.keg(["rmi", &reference]).success();
    daemon
}

#[test]
fn an_archive_has_the_images_very_bytes_and_is_the_same_each_time() {
    requires!(root);
    let daemon = with_image(Image::busybox());
    let (one, other) = (daemon.scratch().join("one.tar"), daemon.scratch().join("other.tar"));

    let _ = daemon.keg(["save", "-o", one.to_str().unwrap(), "it:1"]).success();
    let piped = daemon.keg(["save", "it:1", "--output", other.to_str().unwrap()]).success();

    assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&other).unwrap());
    assert_eq!(piped.stdout, "");
    let files = files(&one);
    for blob in Image::busybox().blobs() {
        assert_eq!(files.get(&format!("blobs/sha256/{}", blob.hex())), Some(&blob.bytes));
    }
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["it:1"]));
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    assert_eq!(index["manifests"][0]["digest"], Image::busybox().manifest.digest);
}

#[test]
fn several_images_are_saved_by_a_pipe_and_loaded_elsewhere() {
    requires!(root);
    let daemon = with_image(Image::busybox());
    let _ = daemon.keg(["tag", "it:1", "it:2"]).success();
    let archive = daemon.scratch().join("all.tar");
    let script = format!("exec \"$0\" save it > {}", archive.display());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).arg(keg_fixtures::programs::ours("keg"));
    shell.env("KEG_HOST", daemon.host());
    let _ = keg_fixtures::Outcome::of(&mut shell, keg_fixtures::wait::PATIENCE).success();
    let other = Daemon::new();

    let loaded = other.keg_with_input(std::fs::read(&archive).unwrap(), ["load", "-q"]).success();

    assert_eq!(loaded.stdout, "Loaded image: it:1\nLoaded image: it:2\n");
    let ran = other.keg(["run", "--rm", "it:2", "echo", "well"]).success();
    assert_eq!(ran.stdout, "well\n");
    let id = |daemon: &Daemon| daemon.inspect("it:1")["Id"].clone();
    assert_eq!(id(&daemon), id(&other));
}

#[test]
fn a_directory_that_is_an_oci_layout_is_loaded() {
    requires!(root);
    let daemon = Daemon::new();
    let layout = daemon.scratch().directory("layout");
    Image::busybox().write_layout(&layout, "keg.test/it:7");

    let loaded = daemon.keg(["load", "-i", layout.to_str().unwrap()]).success();

    assert_eq!(loaded.stdout, "Loaded image: keg.test/it:7\n");
    let digest = daemon.inspect("keg.test/it:7")["Descriptor"]["digest"].clone();
    assert_eq!(digest, Image::busybox().manifest.digest);
}

#[test]
fn an_archive_that_is_no_image_is_refused_with_a_hint() {
    requires!(root);
    let daemon = Daemon::new();
    let tar = keg_fixtures::Layer::new().file("etc/motd", 0o644, "hello").into_tar();

    let outcome = daemon.keg_with_input(tar, ["load"]);

    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.stderr.contains("import"), "{outcome:?}");
}

#[test]
fn an_archive_with_a_false_blob_is_refused_and_leaves_nothing() {
    requires!(root);
    let daemon = Daemon::new();
    let layout = daemon.scratch().directory("layout");
    let image = Image::busybox();
    image.write_layout(&layout, "keg.test/it:7");
    let blob = layout.join("blobs/sha256").join(image.layers[0].hex());
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&blob, bytes).unwrap();

    let outcome = daemon.keg(["load", "-i", layout.to_str().unwrap()]);

    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.stderr.contains("sha256:"), "{outcome:?}");
    assert_eq!(daemon.keg(["images", "-q"]).success().stdout, "");
    let checked = daemon.keg(["system", "check", "--read"]);
    assert_eq!(checked.exit_code, 0, "{checked:?}");
}

#[test]
fn an_archive_is_not_written_to_a_terminal() {
    requires!(root);
    let daemon = with_image(Image::busybox());

    let terminal = daemon.keg_on_terminal(["save", "it:1"]);

    terminal.expect("not written to a terminal");
}

#[test]
fn every_platform_of_an_archive_stays_with_its_image() {
    requires!(root);
    let daemon = Daemon::new();
    let layout = daemon.scratch().directory("layout");
    let host = Image::busybox();
    let foreign = host.clone().for_architecture("s390x");
    let index = Image::write_index_layout(
        &layout,
        &[(&host, "amd64"), (&foreign, "s390x")],
        "keg.test/it:7",
    );
    let _ = daemon.keg(["load", "-i", layout.to_str().unwrap()]).success();
    let _ = daemon.keg(["image", "prune", "-f"]).success();
    let archive = daemon.scratch().join("all.tar");

    let _ = daemon.keg(["save", "-o", archive.to_str().unwrap(), "keg.test/it:7"]).success();

    let files = files(&archive);
    for blob in host.blobs().chain(foreign.blobs()) {
        assert_eq!(files.get(&format!("blobs/sha256/{}", blob.hex())), Some(&blob.bytes));
    }
    assert!(files.values().any(|bytes| digest(bytes) == index), "the index is not in the archive");
    let tree = daemon.keg(["images", "--tree"]).success().stdout;
    assert!(tree.contains("linux/s390x") && !tree.contains("not here"), "{tree}");
    let one = daemon.keg([
        "save",
        "--platform",
        "linux/s390x",
        "-o",
        archive.to_str().unwrap(),
        "keg.test/it:7",
    ]);
    let _ = one.success();
    let files = self::files(&archive);
    assert!(files.contains_key(&format!("blobs/sha256/{}", foreign.config.hex())));
    assert!(!files.contains_key(&format!("blobs/sha256/{}", host.config.hex())));
}

#[test]
fn history_tells_the_steps_and_the_layers_sizes() {
    requires!(root);
    let daemon = with_image(Image::busybox());

    let outcome = daemon.keg(["history", "--format", "{{.ID}} {{.Size}}", "it:1"]).success();

    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{outcome:?}");
    let id = daemon.inspect("it:1")["Id"].as_str().unwrap()[7..19].to_owned();
    assert!(lines[0].starts_with(&id) && lines[1].starts_with("<missing>"), "{outcome:?}");
}
