//! More than an image for this machine: all platforms, what refers to an image, and what a short name means.

use std::path::Path;
use std::process::Command;

use keg_fixtures::image::{Blob, digest};
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{BadRegistry, Daemon, Image, Outcome, Registry, programs, requires};
use serde_json::{Value, json};

fn skopeo(arguments: &[&str]) -> Outcome {
    let program = programs::installed("skopeo").expect("installed");
    Outcome::of(Command::new(program).args(arguments), PATIENCE)
}

/// What a name stands for in a registry: the very bytes.
fn raw(reference: &str) -> Vec<u8> {
    let reference = format!("docker://{reference}");
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &reference]).success();
    raw.stdout.into_bytes()
}

/// Puts an image for two platforms into a registry; returns its name, and the digest of its index.
fn for_two_platforms(registry: &Registry, layout: &Path) -> (String, String) {
    let host = Image::busybox();
    let foreign = host.clone().for_architecture("s390x");
    let index = Image::write_index_layout(layout, &[(&host, "amd64"), (&foreign, "s390x")], "it");
    let reference = format!("{}/it:1", registry.address());
    let from = format!("oci:{}:it", layout.display());
    let to = format!("docker://{reference}");
    let copied = ["copy", "-q", "--all", "--insecure-policy", "--dest-tls-verify=false"];
    let _ = skopeo(&[&copied[..], &[&from, &to]].concat()).success();
    (reference, index)
}

#[test]
fn all_platforms_of_an_image_go_to_another_place_as_they_are() {
    requires!(root, registry, skopeo);
    let registry = Registry::new();
    let daemon = Daemon::new();
    let (reference, index) = for_two_platforms(&registry, &daemon.scratch().directory("layout"));
    let copy = format!("{}/copy/it:2", registry.address());

    let _ = daemon.keg(["pull", "--all-platforms", &reference]).success();
    let _ = daemon.keg(["tag", &reference, &copy]).success();
    let pushed = daemon.keg(["push", &copy]).success();

    assert!(!pushed.stdout.contains("not pushed"), "{pushed:?}");
    assert_eq!(digest(&raw(&copy)), index);
    let ran = daemon.keg(["run", "--rm", &reference, "echo", "here"]).success();
    assert_eq!(ran.stdout, "here\n");
    // Stored, and unpacked only when it is wanted: the files are the same, whatever the name says.
    let platform = ["run", "--rm", "--pull", "never", "--platform", "linux/s390x"];
    let ran = daemon.keg([&platform[..], &[&reference, "echo", "there"]].concat()).success();
    assert_eq!(ran.stdout, "there\n");
}

#[test]
fn an_image_for_another_platform_is_not_taken_for_the_one_that_is_asked_for() {
    requires!(root, registry, skopeo);
    let registry = Registry::new();
    let daemon = Daemon::new();
    let (reference, _) = for_two_platforms(&registry, &daemon.scratch().directory("layout"));
    daemon.pull(&reference);
    let platform = |pull| ["create", "--pull", pull, "--platform", "linux/s390x", &reference];

    let refused = daemon.keg(platform("never"));
    let _ = daemon.keg(platform("missing")).success();

    assert_ne!(refused.exit_code, 0);
    assert!(refused.stderr.contains("linux/s390x"), "{refused:?}");
}

/// Puts a bill of materials into a registry that refers to a manifest there; returns its digest.
fn attach_bill(registry: &Registry, repository: &str, subject: &Blob, daemon: &Daemon) -> String {
    let empty = Blob::new("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let bill = Blob::new("application/spdx+json", b"a bill".to_vec());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/spdx+json",
        "config": empty.descriptor(),
        "layers": [bill.descriptor()],
        "subject": subject.descriptor(),
    });
    let manifest =
        Blob::new("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
    let mut entry = manifest.descriptor();
    entry["artifactType"] = json!("application/spdx+json");
    let list = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let base = format!("http://{}/v2/{repository}", registry.address());
    let put = |url: &str, media_type: &str, bytes: &[u8]| {
        let file = daemon.scratch().file("sent", bytes);
        let script = "curl -sf -X POST -D - -o /dev/null \"$1\" | \
                      tr -d '\\r' | sed -n 's/^[Ll]ocation: //p'";
        let place = match url.strip_prefix("blob ") {
            Some(digest) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script, "sh", &format!("{base}/blobs/uploads/")]);
                let place = Outcome::of(&mut shell, PATIENCE).success().stdout;
                format!("{}&digest={digest}", place.trim())
            }
            None => format!("{base}/{url}"),
        };
        let mut curl = Command::new("curl");
        curl.args(["-sf", "-X", "PUT", "-H", &format!("Content-Type: {media_type}")]);
        curl.arg("--data-binary").arg(format!("@{}", file.display())).arg(place);
        let _ = Outcome::of(&mut curl, PATIENCE).success();
    };
    for blob in [&empty, &bill] {
        put(&format!("blob {}", blob.digest), "application/octet-stream", &blob.bytes);
    }
    put(&format!("manifests/{}", manifest.digest), &manifest.media_type, &manifest.bytes);
    let tag = subject.digest.replace(':', "-");
    let index = "application/vnd.oci.image.index.v1+json";
    put(&format!("manifests/{tag}"), index, list.to_string().as_bytes());
    manifest.digest
}

#[test]
fn what_refers_to_an_image_is_listed_and_goes_where_the_image_goes() {
    requires!(root, registry, skopeo);
    let (registry, reference) = Registry::with_busybox();
    let daemon = Daemon::new();
    let subject = Image::busybox().manifest;
    let bill = attach_bill(&registry, "busybox", &subject, &daemon);
    let copy = format!("{}/copy/busybox:1", registry.address());

    let listed = daemon.keg(["image", "referrers", &reference]).success();
    let _ = daemon.keg(["pull", "--referrers", &reference]).success();
    let _ = daemon.keg(["tag", &reference, &copy]).success();
    let _ = daemon.keg(["push", "--referrers", &copy]).success();
    let there = daemon.keg(["image", "referrers", "--format", "json", &copy]).success();

    assert!(listed.stdout.starts_with("DIGEST"), "{listed:?}");
    assert!(listed.stdout.contains(&bill), "{listed:?}");
    assert!(listed.stdout.contains("application/spdx+json"), "{listed:?}");
    let there: Value = there.json();
    assert_eq!(there["Digest"], json!(bill));
    let archive = daemon.scratch().join("with.tar");
    let archive = archive.to_str().unwrap();
    let _ = daemon.keg(["save", "--referrers", "-o", archive, &reference]).success();
    let elsewhere = Daemon::new();
    let loaded = elsewhere.keg(["load", "-i", archive]).success();
    assert_eq!(loaded.stdout.lines().count(), 1, "{loaded:?}");
    let again = elsewhere.scratch().join("again.tar");
    let again = again.to_str().unwrap();
    let _ = elsewhere.keg(["save", "--referrers", "-o", again, &reference]).success();
    assert_eq!(std::fs::read(again).unwrap(), std::fs::read(archive).unwrap());
}

#[test]
fn a_short_name_is_looked_for_where_the_operator_says() {
    requires!(root);
    let empty = BadRegistry::new(Image::busybox(), |request, right| {
        if request.path.contains("/manifests/") {
            return keg_fixtures::registry::HttpResponse::new(404, "{}");
        }
        right
    });
    let full = BadRegistry::new(Image::busybox(), |_, right| right);
    let daemon = Daemon::with_config(&format!(
        "[registry]\nshort_names = \"search\"\nsearch = [\"{}\", \"{}\"]\n\
         [registry.aliases]\nnick = \"{}/name\"\n",
        empty.address(),
        full.address(),
        full.address(),
    ));

    let pulled = daemon.keg(["pull", "-q", "app"]).success();
    let aliased = daemon.keg(["pull", "-q", "nick:2"]).success();
    let ran = daemon.keg(["run", "--rm", "--pull", "never", "app", "echo", "well"]).success();

    assert_eq!(pulled.stdout.trim(), format!("{}/app:latest", full.address()));
    assert_eq!(aliased.stdout.trim(), format!("{}/name:2", full.address()));
    assert_eq!(ran.stdout, "well\n");
    assert!(empty.requests().iter().any(|request| request.path.contains("/app/manifests/")));
}

#[test]
fn a_short_name_that_is_denied_is_not_asked_for_and_the_remedy_is_told() {
    requires!(root);
    let daemon = Daemon::with_config("[registry]\nshort_names = \"deny\"\n");

    let refused = daemon.keg(["pull", "busybox"]);

    assert_eq!(refused.exit_code, 1);
    assert!(refused.stderr.contains("names no registry"), "{refused:?}");
    assert!(refused.stderr.contains("docker.io/busybox"), "{refused:?}");
}

#[test]
fn all_tags_of_a_repository_are_pulled() {
    requires!(root, registry, skopeo);
    let registry = Registry::new();
    let image = Image::busybox();
    let names = ["1", "2"].map(|tag| registry.push(&image, &format!("it:{tag}")));
    let daemon = Daemon::new();

    let pulled = daemon.keg(["pull", "-a", "-q", &format!("{}/it", registry.address())]).success();
    let refused = daemon.keg(["pull", "-a", &names[0]]);

    let mut told: Vec<&str> = pulled.stdout.lines().collect();
    told.sort_unstable();
    assert_eq!(told, names);
    assert!(refused.stderr.contains("--all-tags"), "{refused:?}");
}
