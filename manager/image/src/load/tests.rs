//! What is saved is loaded, and what others save too.

use std::process::Command;

use futures_util::stream;

use keg_store::{Explain as _, Reason};
use serde_json::json;

use super::*;
use crate::testing::{Fixture, TestImage, TestRegistry, archive, gzip, silent};
use crate::{ImportRequest, PullRequest, SaveRequest};

async fn load(fixture: &Fixture, bytes: &[u8]) -> Result<Vec<ImageRecord>, LoadError> {
    let pieces: Vec<io::Result<Bytes>> =
        bytes.chunks(5000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let loaded = fixture.images.load(stream::iter(pieces), None, silent()).await;
    loaded.map(|loaded| loaded.into_iter().map(|loaded| loaded.image).collect())
}

/// A store with an image of two layers under two names, one of them shared with another image.
async fn filled() -> (Fixture, ImageRecord) {
    let fixture = Fixture::copying();
    let registry = TestRegistry::start().await;
    let image =
        TestImage::new(&[archive(&[("bin/sh", "#!")]), archive(&[("etc/x", "1"), (".wh.y", "")])]);
    let reference = registry.add("app", "1", &image);
    let request = PullRequest::new(reference, None);
    let pulled = fixture.images.pull(request, silent()).await.unwrap();
    fixture.images.tag(&pulled.image.id.to_string(), &"me/app:2".parse().unwrap()).unwrap();
    (fixture, pulled.image)
}

fn save(fixture: &Fixture, images: &[&str]) -> Vec<u8> {
    let images: Vec<String> = images.iter().map(|&image| image.to_owned()).collect();
    let mut bytes = Vec::new();
    let request = SaveRequest { images, ..SaveRequest::default() };
    fixture.images.save(&request, &mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_is_loaded_elsewhere_with_names_and_digests() {
    let (from, image) = filled().await;
    let first = image.names[0].to_string();
    let saved = save(&from, &["me/app:2", &first]);
    for bytes in [saved.clone(), gzip(&saved)] {
        let to = Fixture::copying();

        let loaded = load(&to, &bytes).await.unwrap();

        assert_eq!(loaded.len(), 1);
        assert_eq!((&loaded[0].id, &loaded[0].manifest), (&image.id, &image.manifest));
        let mut names: Vec<String> = loaded[0].names.iter().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, [first.clone(), "docker.io/me/app:2".to_owned()]);
        assert_eq!(loaded[0].size_bytes, image.size_bytes);
        assert_eq!(to.images.collect().unwrap().blobs, 0);
        assert_eq!(to.images.store().read(|tx| tx.leases(&to.ns)).unwrap(), []);
        assert_eq!(save(&to, &["me/app:2", &first]), saved);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_saved_by_its_id_is_loaded_without_a_name() {
    let (from, image) = filled().await;
    let to = Fixture::copying();

    let loaded = load(&to, &save(&from, &[&image.id.hex()[..12]])).await.unwrap();

    assert_eq!((&loaded[0].id, loaded[0].names.len()), (&image.id, 0));
    assert_eq!(to.images.list().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_an_older_docker_is_loaded_links_and_all() {
    let layers = [archive(&[("a", "1")]), archive(&[("b", "2")])];
    let diff_ids: Vec<Digest> =
        [0, 1, 0].iter().map(|&index: &usize| Digest::sha256(&layers[index])).collect();
    let config = json!({
        "architecture": std::env::consts::ARCH, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let hex = Digest::sha256(config.as_bytes()).hex().to_owned();
    let manifest = json!([{
        "Config": format!("{hex}.json"),
        "RepoTags": ["old:1", "not a name"],
        "Layers": ["l0/layer.tar", "l1/layer.tar", "l2/layer.tar"],
    }])
    .to_string();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        builder.append_data(&mut header, path, data).unwrap();
    };
    add("l0/layer.tar", tar::EntryType::Regular, "", &layers[0]);
    add("l1/layer.tar", tar::EntryType::Regular, "", &layers[1]);
    add("l2/layer.tar", tar::EntryType::Symlink, "../l0/layer.tar", b"");
    add(&format!("{hex}.json"), tar::EntryType::Regular, "", config.as_bytes());
    add("manifest.json", tar::EntryType::Regular, "", manifest.as_bytes());
    add("repositories", tar::EntryType::Regular, "", b"{}");
    let bytes = builder.into_inner().unwrap();

    let loaded = load(&Fixture::copying(), &bytes).await.unwrap();

    assert_eq!(loaded[0].id.hex(), hex);
    assert_eq!(loaded[0].names[0].to_string(), "docker.io/library/old:1");
    assert_eq!(loaded[0].chain_ids.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_lie_or_lack_something_are_refused() {
    let (from, image) = filled().await;
    let saved = save(&from, &["me/app:2"]);
    let hex = image.layers[0].digest.hex().as_bytes();
    let at = saved.windows(hex.len()).position(|window| window == hex).unwrap();
    let header = at - b"blobs/sha256/".len();
    let mut damaged = saved.clone();
    damaged[header + 512] ^= 1;
    let mut unnamed = saved.clone();
    // Another blob's name, the checksum kept right by exchanging two different digits.
    let (first, other) = (at, (at + 1..at + 64).find(|&i| saved[i] != saved[at]).unwrap());
    unnamed.swap(first, other);
    let fixture = Fixture::copying();

    let wrong = load(&fixture, &damaged).await.unwrap_err();
    let misnamed = load(&fixture, &unnamed).await.unwrap_err();
    let cut = load(&fixture, &saved[..saved.len() / 2]).await.unwrap_err();
    let other = load(&fixture, &archive(&[("etc/passwd", "")])).await.unwrap_err();
    let missing = archive(&[("manifest.json", r#"[{"Config":"c","Layers":[]}]"#)]);
    let missing = load(&fixture, &missing).await.unwrap_err();
    let broken = load(&fixture, &archive(&[("index.json", "{")])).await.unwrap_err();

    assert_eq!(wrong.reason(), Reason::DigestMismatch, "{wrong:?}");
    assert_eq!(misnamed.reason(), Reason::DigestMismatch, "{misnamed:?}");
    assert_eq!(cut.reason(), Reason::ImageMalformed, "{cut:?}");
    assert!(matches!(other, LoadError::NoImages), "{other:?}");
    assert!(matches!(missing, LoadError::Missing { path } if path == "c"));
    assert!(matches!(broken, LoadError::Document { document: "index.json", .. }));
    assert!(fixture.images.list().unwrap().is_empty());
    assert_eq!(fixture.images.store().content().ingests().unwrap(), []);
}

/// Both kinds of archive by a tool that nobody here wrote.
#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_what_is_saved_and_what_it_writes_is_loaded() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skipped: needs skopeo");
        return;
    }
    let fixture = Fixture::copying();
    let request =
        ImportRequest { reference: Some("me/app:2".parse().unwrap()), ..ImportRequest::default() };
    let pieces = [Ok(Bytes::from(gzip(&archive(&[("a", "1")]))))];
    let image = fixture.images.import(request, stream::iter(pieces)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("saved.tar"), save(&fixture, &["me/app:2"])).unwrap();
    let copy = |from: &str, to: &str| {
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", from, to])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (saved, docker) = (path("saved.tar"), path("docker.tar"));
    let (oci, again) = (path("oci.tar"), path("again.tar"));

    copy(&format!("docker-archive:{saved}:docker.io/me/app:2"), &format!("oci-archive:{oci}:x"));
    copy(&format!("oci-archive:{saved}:2"), &format!("docker-archive:{docker}:me/app:3"));
    copy(&format!("oci-archive:{saved}:2"), &format!("oci-archive:{again}:me/app:4"));

    for (archive, name) in
        [(&oci, None), (&docker, Some("docker.io/me/app:3")), (&again, Some("docker.io/me/app:4"))]
    {
        let loaded = load(&Fixture::copying(), &std::fs::read(archive).unwrap()).await.unwrap();
        // From Docker's kind to OCI's, skopeo writes the configuration anew.
        assert_eq!(loaded[0].id == image.id, *archive != oci, "{archive}");
        assert_eq!(loaded[0].chain_ids, image.chain_ids, "{archive}");
        let loaded_name = loaded[0].names.first().map(ToString::to_string);
        assert_eq!(loaded_name.as_deref(), name, "{archive}");
    }
}
