//! More than one platform's image: all of an index, what refers to it, and names that may mean several.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use keg_store::{Explain as _, Reason};
use serde_json::{Value, json};

use super::*;
use crate::SaveRequest;
use crate::media_type::{OCI_INDEX, OCI_MANIFEST};
use crate::testing::*;

/// An index for two platforms, neither of which is this machine's unless it is one of them, with an
/// attestation as BuildKit makes them.
struct Whole {
    images: Vec<TestImage>,
    attestation: TestArtifact,
    index: Vec<u8>,
    reference: Reference,
}

fn platforms() -> [Platform; 2] {
    ["linux/amd64", "linux/s390x"].map(|text| text.parse().unwrap())
}

fn whole(registry: &TestRegistry) -> Whole {
    let images: Vec<TestImage> = platforms()
        .iter()
        .map(|platform| {
            let text = platform.to_string();
            TestImage::for_platform(&[archive(&[("of", &text)])], platform)
        })
        .collect();
    for image in &images {
        registry.add("app", "unused", image);
    }
    let attestation = TestArtifact::new("application/vnd.in-toto+json", None, "provenance");
    registry.add_blob("app", TestArtifact::CONFIG);
    registry.add_blob("app", &attestation.layer);
    registry.add_manifest("app", "unused", OCI_MANIFEST, &attestation.manifest);
    let both: Vec<_> = images.iter().zip(platforms()).collect();
    let both: Vec<_> = both.iter().map(|(image, platform)| (*image, platform)).collect();
    let mut document: Value = serde_json::from_slice(&index(&both)).unwrap();
    let mut entry = descriptor(OCI_MANIFEST, &attestation.manifest);
    entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entry["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": Digest::sha256(&images[0].manifest),
    });
    document["manifests"].as_array_mut().unwrap().push(entry);
    let index = document.to_string().into_bytes();
    let reference = registry.add_manifest("app", "1", OCI_INDEX, &index);
    Whole { images, attestation, index, reference }
}

fn all(reference: &Reference) -> PullRequest {
    PullRequest { platforms: Platforms::All, ..PullRequest::new(reference.clone(), None) }
}

fn saved(fixture: &Fixture, request: SaveRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    fixture.images.save(&request, &mut bytes).unwrap();
    bytes
}

async fn load(fixture: &Fixture, archive: Vec<u8>) {
    let pieces: [io::Result<Bytes>; 1] = [Ok(archive.into())];
    fixture.images.load(stream::iter(pieces), None, silent()).await.unwrap();
}

fn has(fixture: &Fixture, bytes: &[u8]) -> bool {
    let digest = Digest::sha256(bytes);
    fixture.images.store().content().info(&fixture.ns, &digest).unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_an_index_is_pulled_saved_and_loaded_with_its_attestations() {
    let registry = TestRegistry::start().await;
    let whole = whole(&registry);
    let (from, to) = (Fixture::copying(), Fixture::copying());

    from.images.pull(all(&whole.reference), silent()).await.unwrap();
    let images = vec![whole.reference.to_string()];
    let archive = saved(&from, SaveRequest { images, ..SaveRequest::default() });
    load(&to, archive).await;

    for fixture in [&from, &to] {
        assert_eq!(fixture.images.collect().unwrap().blobs, 0);
        let found = fixture.images.resolve(&whole.reference.to_string(), None).unwrap();
        assert_eq!(found.target.digest, Digest::sha256(&whole.index));
        assert!(
            has(fixture, &whole.attestation.manifest) && has(fixture, &whole.attestation.layer)
        );
        let layers = whole.images.iter().flat_map(|image| &image.layers);
        assert!(layers.into_iter().all(|layer| has(fixture, layer)));
        let here: Vec<bool> = fixture
            .images
            .variants(&found)
            .unwrap()
            .iter()
            .map(|variant| variant.is_here)
            .collect();
        assert_eq!(here, [true, true]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platforms_that_are_asked_for_are_all_unpacked_and_no_other() {
    let registry = TestRegistry::start().await;
    let whole = whole(&registry);
    let fixture = Fixture::copying();
    let request = PullRequest {
        platforms: Platforms::Only(platforms().to_vec()),
        ..PullRequest::new(whole.reference.clone(), None)
    };

    let pulled = fixture.images.pull(request, silent()).await.unwrap();

    assert_eq!(pulled.image.platform, platforms()[0]);
    assert!(!has(&fixture, &whole.attestation.manifest));
    for platform in platforms() {
        let image = fixture.images.resolve(&whole.reference.to_string(), Some(&platform)).unwrap();
        assert_eq!(image.platform, platform);
        assert!(image.size_bytes > 0, "{platform} is not unpacked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_an_image_comes_along_if_asked_for_and_is_passed_on() {
    let registry = TestRegistry::start().await;
    let image = TestImage::new(&[archive(&[("a", "1")])]);
    let reference = registry.add("app", "1", &image);
    let bill = TestArtifact::new("application/spdx+json", Some(&image.manifest), "bill");
    let signature = TestArtifact::new("application/x-signature", Some(&bill.manifest), "signed");
    registry.add_referrer("app", &image.manifest, &bill);
    registry.add_referrer("app", &bill.manifest, &signature);
    let (plain, from, to) = (Fixture::copying(), Fixture::copying(), Fixture::copying());
    let request = PullRequest::new(reference.clone(), None);
    let with_referrers = PullRequest { referrers: true, ..request.clone() };

    plain.images.pull(request, silent()).await.unwrap();
    from.images.pull(with_referrers, silent()).await.unwrap();
    let save = SaveRequest { images: vec![reference.to_string()], ..SaveRequest::default() };
    let archive = saved(&from, SaveRequest { referrers: true, ..save.clone() });
    load(&to, archive.clone()).await;

    assert!(!has(&plain, &bill.manifest));
    for fixture in [&from, &to] {
        assert_eq!(fixture.images.collect().unwrap().blobs, 0);
        for artifact in [&bill, &signature] {
            assert!(has(fixture, &artifact.manifest) && has(fixture, &artifact.layer));
        }
    }
    assert_eq!(saved(&to, SaveRequest { referrers: true, ..save.clone() }), archive);
    assert!(saved(&from, save).len() < archive.len());
    from.images.remove(&reference.to_string(), false, &[]).unwrap();
    assert!(!has(&from, &bill.manifest) && !has(&from, &signature.layer));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_an_image_is_listed_from_the_registry() {
    let registry = TestRegistry::start().await;
    let image = TestImage::new(&[archive(&[("a", "1")])]);
    let reference = registry.add("app", "1", &image);
    let bill = TestArtifact::new("application/spdx+json", Some(&image.manifest), "bill");
    registry.add_referrer("app", &image.manifest, &bill);
    let fixture = Fixture::copying();
    let request = crate::ReferrersRequest {
        reference,
        platform: None,
        artifact_type: None,
        credentials: None,
    };

    let found = fixture.images.referrers(&request).await.unwrap();
    let none = crate::ReferrersRequest { artifact_type: Some("other".to_owned()), ..request };
    let none = fixture.images.referrers(&none).await.unwrap();

    assert_eq!(found.subject.digest, Digest::sha256(&image.manifest));
    let digests: Vec<&Digest> = found.referrers.iter().map(|one| &one.target.digest).collect();
    assert_eq!(digests, [&Digest::sha256(&bill.manifest)]);
    assert_eq!(none.referrers, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_name_means_the_first_registry_that_has_it_from_then_on_too() {
    let (first, second) = (TestRegistry::start().await, TestRegistry::start().await);
    let image = TestImage::new(&[archive(&[("a", "1")])]);
    let reference = second.add("app", "1", &image);
    let registries: Vec<String> =
        [&first, &second].iter().map(|registry| registry.address.to_string()).collect();
    let fixture = Fixture::searching(registries.clone());
    let plain = |reference| PullRequest::new(reference, None);

    let pulled = fixture.images.pull_by_name("app:1", plain, silent()).await.unwrap();
    let nowhere = fixture.images.pull_by_name("other:1", plain, silent()).await.unwrap_err();

    assert_eq!(pulled.reference, reference);
    assert_eq!(fixture.images.resolve("app:1", None).unwrap().id, pulled.image.id);
    assert_eq!(nowhere.reason(), Reason::ImageUnknownToRegistry);
    assert!(registries.iter().all(|one| nowhere.to_string().contains(one)), "{nowhere}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_answer_is_not_passed_over() {
    let broken = TestRegistry::meddling(|_, _| Some(Answer::new(500, b""))).await;
    let second = TestRegistry::start().await;
    second.add("app", "1", &TestImage::new(&[archive(&[("a", "1")])]));
    let registries = [&broken, &second].iter().map(|one| one.address.to_string()).collect();
    let fixture = Fixture::searching(registries);
    let plain = |reference| PullRequest::new(reference, None);

    let error = fixture.images.pull_by_name("app:1", plain, silent()).await.unwrap_err();

    assert_eq!(error.reason(), Reason::RegistryUnreachable);
    assert_eq!(second.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_a_long_rest_is_left_alone_and_says_why() {
    let registry = TestRegistry::meddling(|asked, answer| {
        if !asked.path.contains("/manifests/") {
            return answer;
        }
        let busy = Answer::new(429, br#"{"errors":[{"message":"too many requests"}]}"#);
        let busy = busy.header("retry-after", "3600").header("ratelimit-limit", "100;w=21600");
        Some(busy.header("ratelimit-remaining", "0;w=21600"))
    })
    .await;
    let reference = registry.add("app", "1", &TestImage::new(&[archive(&[("a", "1")])]));
    let fixture = Fixture::copying();

    let error = fixture.images.pull(PullRequest::new(reference, None), silent()).await.unwrap_err();

    let told = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        told.ends_with(
            "answers 429: too many requests (0 of 100 requests left in 6 hours; it wants to be \
             left alone for 1 hour)"
        ),
        "{told}"
    );
    assert_eq!(registry.asked().len(), 1);
}
