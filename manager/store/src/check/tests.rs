//! Damage of every kind, and what is only debris.

use super::*;
use crate::{CommitOptions, CopySnapshotter, Descriptor, Labels, PrepareOptions};

struct Fixture {
    root: tempfile::TempDir,
    store: Store,
    snapshotter: CopySnapshotter,
    layer: Digest,
    manifest: Digest,
}

/// A store with an image of one layer.
fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let snapshotter = CopySnapshotter::new(&store);
    let ns = Namespace::default();
    snapshotter.prepare(&ns, "active", None, &PrepareOptions::default()).unwrap();
    snapshotter.commit(&ns, "chain", "active", &CommitOptions::default()).unwrap();
    let write = |text: &str, labels: Labels| {
        store.content().write_blob(&ns, text.as_bytes(), &labels, None).unwrap()
    };
    let label = |name: String, value: &str| Labels::from([(name, value.to_owned())]);
    let layer = write("layer", Labels::new());
    let snapshot = format!("{}.copy", labels::GC_REF_SNAPSHOT);
    let config = write("config", label(snapshot, "chain"));
    let mut references = label(format!("{}.config", labels::GC_REF_CONTENT), config.as_str());
    references.insert(format!("{}.l.0", labels::GC_REF_CONTENT), layer.to_string());
    let manifest = write("manifest", references);
    let target = Descriptor { media_type: "m".to_owned(), digest: manifest.clone(), size_bytes: 8 };
    store.transaction(|tx| tx.create_image(&ns, "image", &target, &Labels::new())).unwrap();
    Fixture { root, store, snapshotter, layer, manifest }
}

impl Fixture {
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.path().join("content/blobs/sha256").join(digest.hex())
    }

    fn findings(&self) -> Vec<Finding> {
        check(&self.store, true).unwrap().findings
    }
}

#[test]
fn a_sound_store_has_no_findings() {
    let checked = check(&fixture().store, true).unwrap();

    assert_eq!(checked.findings, []);
    assert_eq!((checked.blobs, checked.snapshots, checked.images), (3, 1, 1));
}

#[test]
fn each_kind_of_damage_is_found_and_named() {
    let fixture = fixture();
    let damaged = Digest::sha256(b"LAYER");

    fs::remove_file(fixture.blob(&fixture.layer)).unwrap();
    let missing = fixture.findings();
    fs::write(fixture.blob(&fixture.layer), b"long layer").unwrap();
    let size = fixture.findings();
    fs::write(fixture.blob(&fixture.layer), b"LAYER").unwrap();
    let bytes = fixture.findings();
    fs::remove_dir_all(fixture.root.path().join("snapshots/1")).unwrap();
    let directory = fixture.findings();

    let digest = fixture.layer.clone();
    assert_eq!(missing, [Finding::BlobMissing { digest: digest.clone() }]);
    let (wanted_bytes, found_bytes) = (5, 10);
    let wrong = Finding::BlobSize { digest: digest.clone(), wanted_bytes, found_bytes };
    assert_eq!(size, [wrong]);
    assert_eq!(bytes, [Finding::BlobDamaged { digest, found: damaged }]);
    assert!(directory.contains(&Finding::SnapshotMissing { key: "chain".to_owned() }));
}

#[test]
fn debris_is_told_from_damage() {
    let fixture = fixture();
    let orphan = Digest::sha256(b"orphan");
    fs::write(fixture.blob(&orphan), b"orphan").unwrap();
    fs::create_dir_all(fixture.root.path().join("snapshots/77/fs")).unwrap();

    let findings = fixture.findings();

    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|finding| !finding.is_damage()));
}

#[test]
fn a_repaired_store_has_only_what_must_be_fetched_again() {
    let fixture = fixture();
    fs::write(fixture.blob(&fixture.manifest), b"MANIFEST").unwrap();
    fs::write(fixture.blob(&Digest::sha256(b"orphan")), b"orphan").unwrap();

    // What the first repair forgets may leave names of nothing, which the second forgets.
    for _ in 0..2 {
        repair(&fixture.store, &[&fixture.snapshotter], &fixture.findings()).unwrap();
    }

    assert_eq!(check(&fixture.store, true).unwrap(), Checked::default());
}
