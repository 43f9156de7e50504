//! What imports make, and what they refuse.

use std::fs;

use futures_util::stream;

use super::*;
use crate::testing::{Fixture, archive, gzip};

async fn import(
    fixture: &Fixture,
    request: ImportRequest,
    bytes: &[u8],
) -> Result<ImageRecord, ImportError> {
    let pieces: Vec<io::Result<Bytes>> =
        bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    fixture.images.import(request, stream::iter(pieces)).await
}

fn named(name: &str) -> ImportRequest {
    ImportRequest { reference: Some(name.parse().unwrap()), ..ImportRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_becomes_an_image_however_it_is_compressed() {
    let plain = archive(&[("bin/", ""), ("bin/sh", "#!")]);
    let zstd = zstd::stream::encode_all(&plain[..], 3).unwrap();
    for (bytes, media_type) in
        [(plain.clone(), OCI_LAYER_ZSTD), (gzip(&plain), OCI_LAYER_GZIP), (zstd, OCI_LAYER_ZSTD)]
    {
        let fixture = Fixture::copying();

        let image = import(&fixture, named("me:1"), &bytes).await.unwrap();

        assert_eq!(image.names[0].to_string(), "docker.io/library/me:1");
        assert_eq!(image.layers[0].media_type, media_type);
        assert_eq!(image.chain_ids, [Digest::sha256(&plain)]);
        let directory =
            fixture.images.snapshotter().layers(&fixture.ns, image.snapshot_parent().unwrap());
        assert_eq!(fs::read_to_string(directory.unwrap()[0].join("bin/sh")).unwrap(), "#!");
        assert_eq!(fixture.images.collect().unwrap().blobs, 0);
        let store = fixture.images.store();
        assert_eq!(store.read(|tx| tx.leases(&fixture.ns)).unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_in_the_configuration_and_a_nameless_image_has_its_id() {
    let fixture = Fixture::copying();
    let request = ImportRequest {
        changes: vec!["CMD [\"top\"]".to_owned(), "ENV A=1".to_owned()],
        message: "from a tape".to_owned(),
        platform: Some("linux/s390x".parse().unwrap()),
        ..ImportRequest::default()
    };

    let image = import(&fixture, request, &archive(&[("a", "")])).await.unwrap();

    let config = image.config.config().as_ref().unwrap();
    assert_eq!(config.cmd().as_deref(), Some(&["top".to_owned()][..]));
    assert_eq!(config.env().as_deref(), Some(&["A=1".to_owned()][..]));
    let history = image.config.history().as_ref().unwrap();
    assert_eq!(history[0].comment().as_deref(), Some("from a tape"));
    assert_eq!(image.platform.to_string(), "linux/s390x");
    assert!(image.names.is_empty());
    let found = fixture.images.resolve(&image.id.hex()[..10], None).unwrap();
    assert_eq!(found.id, image.id);
    fixture.images.tag(&image.id.to_string(), &"now:named".parse().unwrap()).unwrap();
    assert_eq!(fixture.images.list().unwrap().len(), 1);
    assert_eq!(fixture.images.resolve("now:named", None).unwrap().names.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_imported_leaves_nothing() {
    let whole = archive(&[("a", "1")]);
    let bad_change =
        ImportRequest { changes: vec!["RUN x".to_owned()], ..ImportRequest::default() };
    let with_digest = named(&format!("a@{}", Digest::sha256(b"")));
    let fixture = Fixture::copying();

    let change = import(&fixture, bad_change, &whole).await.unwrap_err();
    let digest = import(&fixture, with_digest, &whole).await.unwrap_err();
    let empty = import(&fixture, named("a"), b"").await.unwrap_err();
    let garbage = import(&fixture, named("a"), &[7; 5000]).await.unwrap_err();
    let cut = import(&fixture, named("a"), &gzip(&whole)[..50]).await.unwrap_err();
    let broken = [Ok(Bytes::from(whole)), Err(io::ErrorKind::BrokenPipe.into())];
    let broken = fixture.images.import(named("a"), stream::iter(broken)).await.unwrap_err();

    assert!(matches!(change, ImportError::Change { .. }));
    assert!(matches!(digest, ImportError::NotATag { .. }));
    assert!(matches!(empty, ImportError::Empty), "{empty:?}");
    assert_eq!(garbage.reason(), Reason::ImageMalformed, "{garbage:?}");
    assert_eq!(cut.reason(), Reason::ImageMalformed, "{cut:?}");
    assert!(matches!(broken, ImportError::Receive { .. }), "{broken:?}");
    assert!(fixture.images.list().unwrap().is_empty());
    assert_eq!(fixture.images.store().content().ingests().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_keeps_what_is_used_and_takes_what_is_not() {
    use crate::{ImageError, ImageUser};

    let fixture = Fixture::copying();
    let image = import(&fixture, named("a:1"), &archive(&[("a", "1")])).await.unwrap();
    fixture.images.tag("a:1", &"b:2".parse().unwrap()).unwrap();
    let user = |is_running| ImageUser {
        container: "c1".to_owned(),
        image_id: image.id.clone(),
        is_running,
    };
    let id = image.id.to_string();
    let remove = |text: &str, force, users: &[ImageUser]| fixture.images.remove(text, force, users);

    let by_id = remove(&id, false, &[]);
    let untagged = remove("a:1", false, &[user(true)]).unwrap();
    let last = remove("b:2", false, &[user(false)]);
    let running = remove(&id, true, &[user(true)]);
    let forced = remove("b:2", true, &[user(true)]).unwrap();
    let nameless = fixture.images.list().unwrap();
    let gone = remove(&id, true, &[]).unwrap();
    let missing = remove(&id, true, &[]);

    assert!(matches!(by_id, Err(ImageError::SeveralNames { names, .. }) if names.len() == 2));
    let digest = |name: &str| format!("docker.io/library/{name}@{}", image.target.digest);
    assert_eq!(untagged.untagged, ["docker.io/library/a:1".to_owned(), digest("a")]);
    assert_eq!(untagged.deleted, Vec::<String>::new());
    assert!(matches!(last, Err(ImageError::InUse { is_running: false, .. })));
    assert!(matches!(running, Err(ImageError::InUse { is_running: true, .. })));
    assert_eq!(forced.deleted, Vec::<String>::new());
    assert!(nameless.len() == 1 && nameless[0].names.is_empty());
    assert_eq!(gone.deleted, [id.clone(), image.chain_ids[0].to_string()]);
    assert_eq!(forced.untagged, ["docker.io/library/b:2".to_owned(), digest("b")]);
    assert!(matches!(missing, Err(ImageError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_beginning_is_told_with_the_ids() {
    use crate::ImageError;

    let fixture = Fixture::copying();
    for index in 0..17 {
        let request = ImportRequest { message: index.to_string(), ..ImportRequest::default() };
        import(&fixture, request, &archive(&[("a", "1")])).await.unwrap();
    }

    // Of seventeen ids, two begin with the same digit.
    let ambiguous = "0123456789abcdef"
        .chars()
        .filter_map(|digit| fixture.images.resolve(&digit.to_string(), None).err())
        .find(|error| matches!(error, ImageError::Ambiguous { .. }))
        .unwrap();

    assert_eq!(ambiguous.reason(), Reason::AmbiguousId);
    assert!(matches!(ambiguous, ImageError::Ambiguous { ids, .. } if ids.len() > 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_stands_for_its_image_until_it_is_moved_or_removed() {
    use crate::NamedImage;

    let fixture = Fixture::copying();
    let first = import(&fixture, named("a:1"), &archive(&[("a", "1")])).await.unwrap();
    let id = first.id.to_string();
    // "x" is the beginning of no digest.
    let stand = || {
        let texts = ["a:1", "docker.io/library/a:1", &id, &first.id.hex()[..7], "x", ""];
        let named = texts.map(|text| NamedImage { text, id: &id });
        fixture.images.still_stand(&named).unwrap()
    };

    let at_first = stand();
    import(&fixture, named("a:1"), &archive(&[("a", "2")])).await.unwrap();
    let moved = stand();
    fixture.images.tag(&id, &"x".parse().unwrap()).unwrap();
    let tagged = stand();

    assert_eq!(at_first, [true, true, true, true, false, false]);
    assert_eq!(moved, [false, false, true, true, false, false]);
    assert_eq!(tagged, [false, false, true, true, true, false]);
}
