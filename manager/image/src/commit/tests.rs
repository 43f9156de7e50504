//! What a commit makes of an image and a container's files.

use std::fs;
use std::os::unix::fs::chown;

use futures_util::stream;
use keg_store::{IdRange, PrepareOptions};

use super::*;
use crate::ImportRequest;
use crate::testing::{Fixture, archive};

const RANGE: IdRange = IdRange { base: 1 << 20, count: 65_536 };

async fn base(fixture: &Fixture) -> ImageRecord {
    let request = ImportRequest {
        reference: Some("base:1".parse().unwrap()),
        changes: vec!["CMD [\"old\"]".into(), "ENV A=1".into(), "ONBUILD RUN x".into()],
        ..ImportRequest::default()
    };
    let bytes = archive(&[("etc/", ""), ("etc/kept", "kept"), ("etc/gone", "gone")]);
    fixture.images.import(request, stream::iter([Ok(bytes.into())])).await.unwrap()
}

/// Makes a container's snapshot in which a file was added and one deleted.
fn container(fixture: &Fixture, image: &ImageRecord) {
    let snapshotter = fixture.images.snapshotter();
    let options = PrepareOptions { id_range: Some(RANGE), ..PrepareOptions::default() };
    snapshotter.prepare(&fixture.ns, "c", image.snapshot_parent(), &options).unwrap();
    let dir = snapshotter.directory(&fixture.ns, "c").unwrap();
    fs::create_dir_all(dir.join("data")).unwrap();
    fs::write(dir.join("data/new"), "new").unwrap();
    for path in ["data", "data/new"] {
        chown(dir.join(path), Some(RANGE.base + 7), Some(RANGE.base + 8)).unwrap();
    }
    if snapshotter.can_rebase() {
        fs::create_dir_all(dir.join("etc")).unwrap();
        chown(dir.join("etc"), Some(RANGE.base), Some(RANGE.base)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("etc/gone"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        )
        .unwrap();
    } else {
        fs::remove_file(dir.join("etc/gone")).unwrap();
    }
}

fn request(image: &ImageRecord) -> CommitRequest {
    CommitRequest {
        snapshot_key: "c".into(),
        owners: Some(RANGE).into(),
        base: image.id.to_string(),
        config: Map::from_iter([("Env".to_owned(), json!(["A=2"]))]),
        changes: vec!["CMD [\"new\"]".into()],
        author: "me".into(),
        message: "note".into(),
        created_by: "sh".into(),
        reference: Some("made:1".parse().unwrap()),
    }
}

async fn committed(fixture: &Fixture) {
    use std::os::unix::fs::MetadataExt;

    let base = base(fixture).await;
    container(fixture, &base);

    let image = fixture.images.commit(&request(&base)).unwrap();

    assert_eq!(image.names[0].to_string(), "docker.io/library/made:1");
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.layers[0], base.layers[0]);
    let config = image.config.config().as_ref().unwrap();
    assert_eq!(config.cmd().as_deref(), Some(&["new".to_owned()][..]));
    assert_eq!(config.env().as_deref(), Some(&["A=2".to_owned()][..]));
    let history = image.config.history().as_ref().unwrap();
    assert_eq!(history.len(), 2);
    assert_eq!(history[1].comment().as_deref(), Some("note"));
    assert_eq!(image.config.author().as_deref(), Some("me"));

    // The new image's snapshot has the container's own ids, and the deletion.
    let layers =
        fixture.images.snapshotter().layers(&fixture.ns, image.snapshot_parent().unwrap()).unwrap();
    let metadata = fs::metadata(layers[0].join("data/new")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (7, 8));
    let gone = fs::symlink_metadata(layers[0].join("etc/gone"));
    match fixture.images.snapshotter().can_rebase() {
        true => assert_eq!(gone.unwrap().rdev(), 0),
        false => assert!(gone.is_err()),
    }
    assert_eq!(fixture.images.collect().unwrap().blobs, 0);
    let store = fixture.images.store();
    assert_eq!(store.read(|tx| tx.leases(&fixture.ns)).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_becomes_an_image_whose_changes_are_one_layer() {
    if let Some(fixture) = Fixture::overlay() {
        committed(&fixture).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_a_copy_becomes_an_image_too() {
    if Fixture::overlay().is_some() {
        committed(&Fixture::copying()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_committed_changes_nothing() {
    let Some(fixture) = Fixture::overlay() else { return };
    let base = base(&fixture).await;
    container(&fixture, &base);

    let bad_change = CommitRequest { changes: vec!["RUN x".into()], ..request(&base) };
    let no_base = CommitRequest { base: "sha256:00".into(), ..request(&base) };
    let no_snapshot = CommitRequest { snapshot_key: "none".into(), ..request(&base) };

    assert!(matches!(fixture.images.commit(&bad_change), Err(CommitError::Change { .. })));
    assert!(matches!(fixture.images.commit(&no_base), Err(CommitError::Base { .. })));
    assert!(matches!(fixture.images.commit(&no_snapshot), Err(CommitError::Store { .. })));
    assert_eq!(fixture.images.list().unwrap().len(), 1);
}
