//! What holds of blobs on their way in and out.

use super::*;
use crate::Store;

struct Fixture {
    root: tempfile::TempDir,
    store: Store,
    ns: Namespace,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        Self { root, store, ns: Namespace::default() }
    }

    fn ingest(&self, reference: &str) -> Ingest {
        self.store.content().ingest(&self.ns, reference, Algorithm::Sha256).unwrap()
    }

    fn blob_files(&self) -> usize {
        fs::read_dir(self.root.path().join("content/blobs/sha256")).unwrap().count()
    }

    fn ingest_dirs(&self) -> usize {
        fs::read_dir(self.root.path().join("content/ingest")).unwrap().count()
    }
}

#[test]
fn a_committed_blob_is_a_file_of_an_oci_layout_and_is_read_back() {
    let fixture = Fixture::new();
    let digest = Digest::sha256(b"hello");
    let mut ingest = fixture.ingest("r");
    ingest.write(b"hel").unwrap();
    ingest.write(b"lo").unwrap();

    ingest.commit(Some(5), Some(&digest), &Labels::new(), None).unwrap();

    let file = fixture.root.path().join("content/blobs/sha256").join(digest.hex());
    let layout = fs::read_to_string(fixture.root.path().join("content/oci-layout")).unwrap();
    let content = fixture.store.content();
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    assert!(layout.contains("\"imageLayoutVersion\":\"1.0.0\""));
    assert_eq!(content.read_blob(&fixture.ns, &digest, 5).unwrap(), b"hello");
    assert_eq!(fixture.ingest_dirs(), 0);
}

#[test]
fn bytes_with_a_wrong_digest_never_get_a_name() {
    let fixture = Fixture::new();
    let mut ingest = fixture.ingest("r");
    ingest.write(b"evil").unwrap();

    let refused =
        ingest.commit(Some(4), Some(&Digest::sha256(b"good")), &Labels::new(), None).unwrap_err();

    assert!(
        matches!(refused, ContentError::Digest { found, .. } if found == Digest::sha256(b"evil"))
    );
    assert_eq!((fixture.blob_files(), fixture.ingest_dirs()), (0, 0));
}

#[test]
fn bytes_of_a_wrong_size_never_get_a_name() {
    let fixture = Fixture::new();
    let mut ingest = fixture.ingest("r");
    ingest.write(b"short").unwrap();

    let refused = ingest.commit(Some(9), None, &Labels::new(), None).unwrap_err();

    assert!(matches!(refused, ContentError::Size { wanted_bytes: 9, found_bytes: 5, .. }));
    assert_eq!(fixture.blob_files(), 0);
}

#[test]
fn a_broken_transfer_resumes_where_it_broke_off() {
    let fixture = Fixture::new();
    let digest = Digest::sha256(b"one two");
    let mut first = fixture.ingest("r");
    first.write(b"one ").unwrap();
    drop(first);

    let mut second = fixture.ingest("r");
    let offset_bytes = second.offset_bytes();
    second.write(b"two").unwrap();
    let committed = second.commit(None, Some(&digest), &Labels::new(), None).unwrap();

    assert_eq!(offset_bytes, 4);
    assert_eq!(committed, digest);
}

#[test]
fn one_reference_has_one_writer_at_a_time() {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let first = fixture.ingest("r");

    let refused = content.ingest(&fixture.ns, "r", Algorithm::Sha256).unwrap_err();
    let other = content.ingest(&fixture.ns, "s", Algorithm::Sha256);
    drop(first);
    let again = content.ingest(&fixture.ns, "r", Algorithm::Sha256);

    assert!(matches!(refused, ContentError::Busy { reference } if reference == "r"));
    assert!(other.is_ok() && again.is_ok());
}

#[test]
fn damage_on_disk_is_noticed_when_a_blob_is_read() {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let digest = content.write_blob(&fixture.ns, b"right", &Labels::new(), None).unwrap();
    let path = content.blob_path(&digest);
    fs::remove_file(&path).unwrap();

    let gone = content.read_blob(&fixture.ns, &digest, 100).unwrap_err();
    fs::write(&path, b"wrong").unwrap();
    let damaged = content.read_blob(&fixture.ns, &digest, 100).unwrap_err();
    fs::write(&path, b"wron").unwrap();
    let cut = content.read_blob(&fixture.ns, &digest, 100).unwrap_err();

    assert!(matches!(gone, ContentError::Vanished { .. }));
    assert!(matches!(damaged, ContentError::Digest { .. }));
    assert!(matches!(cut, ContentError::Size { .. }));
}

#[test]
fn a_namespace_sees_a_blob_of_another_only_after_adopting_it() {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let other: Namespace = "other".parse().unwrap();
    let digest = content.write_blob(&fixture.ns, b"x", &Labels::new(), None).unwrap();

    let unseen = content.open_blob(&other, &digest);
    let adopted = content.adopt(&other, &digest, &Labels::new(), None).unwrap();
    let absent = content.adopt(&other, &Digest::sha256(b"y"), &Labels::new(), None).unwrap();

    assert!(matches!(unseen, Err(ContentError::NotFound { .. })));
    assert!(adopted && !absent);
    assert!(content.open_blob(&other, &digest).is_ok());
}

#[test]
fn a_blob_entered_twice_has_the_labels_of_both() {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let label = |name: &str| Labels::from([(name.to_owned(), "1".to_owned())]);

    let digest = content.write_blob(&fixture.ns, b"x", &label("a"), None).unwrap();
    content.write_blob(&fixture.ns, b"x", &label("b"), None).unwrap();

    let info = content.info(&fixture.ns, &digest).unwrap().unwrap();
    assert_eq!(info.labels.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn sha512_content_is_kept_apart_and_verified() {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let mut hasher = crate::Hasher::new(Algorithm::Sha512);
    hasher.update(b"x");
    let digest = hasher.finish();
    let mut ingest = content.ingest(&fixture.ns, "r", Algorithm::Sha512).unwrap();
    ingest.write(b"x").unwrap();

    ingest.commit(None, Some(&digest), &Labels::new(), None).unwrap();

    assert_eq!(content.read_blob(&fixture.ns, &digest, 1).unwrap(), b"x");
    assert!(content.blob_path(&digest).starts_with(content.dir().join("blobs/sha512")));
}

#[test]
fn many_blobs_are_entered_at_once_and_none_before() {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let texts: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let sealed: Vec<Sealed> = texts
        .iter()
        .map(|text| {
            let mut ingest = fixture.ingest(text).transient();
            ingest.write(text.as_bytes()).unwrap();
            ingest.seal(None, Some(&Digest::sha256(text.as_bytes()))).unwrap()
        })
        .collect();
    let before = fixture.blob_files();

    content.commit_all(sealed, &Labels::new(), None).unwrap();

    assert_eq!((before, fixture.blob_files(), fixture.ingest_dirs()), (0, 300, 0));
    for text in &texts {
        let digest = Digest::sha256(text.as_bytes());
        assert_eq!(content.read_blob(&fixture.ns, &digest, 9).unwrap(), text.as_bytes());
    }
}

#[test]
fn what_was_sealed_and_not_entered_goes_on_as_an_ingest() {
    let fixture = Fixture::new();
    let mut ingest = fixture.ingest("r");
    ingest.write(b"hello").unwrap();

    drop(ingest.seal(Some(5), None).unwrap());

    assert_eq!(fixture.ingest("r").offset_bytes(), 5);
    assert_eq!(fixture.blob_files(), 0);
}

#[test]
fn what_another_collection_has_removed_is_no_failure_of_this_one() {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let stray = Digest::sha256(b"stray");
    fs::write(content.blob_path(&stray), b"stray").unwrap();
    let digests = [stray];

    let first = content.remove_unknown(&digests).unwrap();
    let second = content.remove_unknown(&digests).unwrap();

    assert_eq!((first, second), ((5, 1), (0, 0)));
}
