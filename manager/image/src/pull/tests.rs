//! What pulls bring, and what registries cannot do to us.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keg_store::{Explain as _, PrepareOptions, Reason};

use super::*;
use crate::media_type::{OCI_INDEX, OCI_MANIFEST};
use crate::testing::*;
use crate::{Credentials, LayerPhase};

fn request(reference: &Reference) -> PullRequest {
    PullRequest::new(reference.clone(), None)
}

fn two_layers() -> TestImage {
    TestImage::new(&[
        archive(&[("bin/", ""), ("bin/a", "one"), ("tmp/", ""), ("big", &noise(200_000))]),
        archive(&[("bin/b", "two"), ("tmp/.wh.x", "")]),
    ])
}

/// Pulls with a store of its own and returns the failure; nothing must be left of the image.
async fn failure(reference: &Reference) -> PullError {
    let fixture = Fixture::copying();
    let error = fixture.images.pull(request(reference), silent()).await.unwrap_err();
    assert!(fixture.images.list().unwrap().is_empty(), "{error:?}");
    error
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_image_is_whole_named_and_unpacked() {
    let Some(fixture) = Fixture::overlay() else { return };
    let (registry, image) = (TestRegistry::start().await, two_layers());
    let reference = registry.add("app", "1", &image);
    let (progress, events) = recording();

    let pulled = fixture.images.pull(request(&reference), progress).await.unwrap();

    assert!(!pulled.is_up_to_date);
    assert_eq!(pulled.image.names, std::slice::from_ref(&reference));
    assert_eq!(pulled.image.id, Digest::sha256(&image.config));
    assert_eq!(pulled.image.config_json, image.config);
    assert_eq!(pulled.image.size_bytes, 200_006);
    let digest = Digest::sha256(&image.manifest);
    assert_eq!(pulled.image.digests, [format!("{}@{digest}", reference.repository())]);
    let snapshotter = fixture.images.snapshotter();
    let layers = snapshotter.layers(&fixture.ns, pulled.image.snapshot_parent().unwrap()).unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(fs::read_to_string(layers[0].join("bin/b")).unwrap(), "two");
    assert_eq!(fs::read_to_string(layers[1].join("bin/a")).unwrap(), "one");
    let events = events.lock().unwrap();
    assert!(matches!(&events[0], PullEvent::Resolved { layers, .. } if layers.len() == 2));
    let completed = |wanted: &Digest| {
        events.iter().any(|event| {
            matches!(event, PullEvent::Layer { digest, phase: LayerPhase::Complete, .. } if digest == wanted)
        })
    };
    assert!(completed(&image.layer_digest(0)) && completed(&image.layer_digest(1)));
    let store = fixture.images.store();
    assert_eq!(store.read(|tx| tx.leases(&fixture.ns)).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_received_again_and_survives_a_collection() {
    let fixture = Fixture::copying();
    let (registry, image) = (TestRegistry::start().await, two_layers());
    let reference = registry.add("app", "1", &image);
    fixture.images.pull(request(&reference), silent()).await.unwrap();
    let collected = fixture.images.collect().unwrap();
    let (progress, events) = recording();

    let again = fixture.images.pull(request(&reference), progress).await.unwrap();

    assert!(again.is_up_to_date);
    assert_eq!((collected.blobs, collected.snapshots), (0, 0));
    assert_eq!(registry.asked_for(&image.layer_digest(0)), 1);
    assert_eq!(registry.asked_for(&Digest::sha256(&image.config)), 1);
    let phases: Vec<LayerPhase> = events
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            PullEvent::Layer { phase, .. } => Some(*phase),
            PullEvent::Resolved { .. } => None,
        })
        .filter(|phase| *phase != LayerPhase::Waiting)
        .collect();
    assert_eq!(phases, [LayerPhase::Exists, LayerPhase::Exists]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copying_snapshotter_shows_the_same_files() {
    let fixture = Fixture::copying();
    let registry = TestRegistry::start().await;
    let reference = registry.add(
        "app",
        "1",
        &TestImage::new(&[
            archive(&[("a", "old"), ("b", "kept"), ("d/x", "hidden")]),
            archive(&[("a", "new"), ("d/.wh..wh..opq", ""), ("d/y", "shown"), ("e/z", "")]),
            archive(&[(".wh.e", "")]),
        ]),
    );

    let pulled = fixture.images.pull(request(&reference), silent()).await.unwrap();

    let snapshotter = fixture.images.snapshotter();
    let parent = pulled.image.snapshot_parent();
    snapshotter.prepare(&fixture.ns, "box", parent, &PrepareOptions::default()).unwrap();
    let root = snapshotter.directory(&fixture.ns, "box").unwrap();
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "new");
    assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "kept");
    assert!(root.join("d/y").exists() && !root.join("d/x").exists() && !root.join("e").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_a_layer_does_not_list_look_as_below() {
    use std::os::unix::fs::PermissionsExt;

    let Some(fixture) = Fixture::overlay() else { return };
    let registry = TestRegistry::start().await;
    let mut tmp = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_path("tmp/").unwrap();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    header.set_cksum();
    tmp.append(&header, &b""[..]).unwrap();
    let image = TestImage::new(&[tmp.into_inner().unwrap(), archive(&[("tmp/x", "")])]);
    let reference = registry.add("app", "1", &image);

    let pulled = fixture.images.pull(request(&reference), silent()).await.unwrap();

    let parent = pulled.image.snapshot_parent().unwrap();
    let layers = fixture.images.snapshotter().layers(&fixture.ns, parent).unwrap();
    let mode = fs::metadata(layers[0].join("tmp")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_again_and_again_are_resumed() {
    let cuts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&cuts);
    let registry = TestRegistry::meddling(move |asked, answer| {
        let mut answer = answer?;
        if asked.path.contains("/blobs/") && answer.body.len() > 70_000 {
            answer.cut_after = Some(70_000);
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Some(answer)
    })
    .await;
    let image = TestImage::new(&[archive(&[("big", &noise(1_500_000))])]);
    let reference = registry.add("app", "1", &image);
    let (fixture, (progress, events)) = (Fixture::copying(), recording());

    let pulled = fixture.images.pull(request(&reference), progress).await.unwrap();

    assert_eq!(pulled.image.size_bytes, 1_500_000);
    // Many more cuts than attempts: progress starts the count anew.
    assert!(cuts.load(Ordering::Relaxed) > 10);
    let events = events.lock().unwrap();
    let is_retry =
        |event: &PullEvent| matches!(event, PullEvent::Layer { phase: LayerPhase::Retrying, .. });
    assert!(events.iter().any(is_retry));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_is_asked_from_the_beginning() {
    let count = AtomicUsize::new(0);
    let registry = TestRegistry::meddling(move |asked, answer| {
        let mut answer = answer?;
        if asked.path.contains("/blobs/") && answer.status == 206 {
            answer = Answer::new(200, &noise_layer());
        }
        if answer.body.len() > 70_000 && count.fetch_add(1, Ordering::Relaxed) == 0 {
            answer.cut_after = Some(70_000);
        }
        Some(answer)
    })
    .await;
    let image = TestImage::new(&[archive(&[("big", &noise(200_000))])]);
    let reference = registry.add("app", "1", &image);

    let pulled = Fixture::copying().images.pull(request(&reference), silent()).await.unwrap();

    assert_eq!(pulled.image.size_bytes, 200_000);
    assert_eq!(registry.asked_for(&image.layer_digest(0)), 2);
}

fn noise_layer() -> Vec<u8> {
    gzip(&archive(&[("big", &noise(200_000))]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_failed_goes_on_from_what_it_received() {
    let is_broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let broken = Arc::clone(&is_broken);
    let registry = TestRegistry::meddling(move |asked, answer| {
        let mut answer = answer?;
        if asked.path.contains("/blobs/") && broken.load(Ordering::Relaxed) {
            let is_first = answer.status == 200;
            answer.cut_after =
                (answer.body.len() > 1000).then_some(if is_first { 30_000 } else { 0 });
        }
        Some(answer)
    })
    .await;
    let image = TestImage::new(&[archive(&[("big", &noise(200_000))])]);
    let reference = registry.add("app", "1", &image);
    let fixture = Fixture::copying();

    let error = fixture.images.pull(request(&reference), silent()).await.unwrap_err();
    is_broken.store(false, Ordering::Relaxed);
    fixture.images.collect().unwrap();
    fixture.images.pull(request(&reference), silent()).await.unwrap();

    assert_eq!(error.reason(), Reason::RegistryUnreachable, "{}", chain(&error));
    let ranges: Vec<Option<String>> = registry
        .asked()
        .iter()
        .filter(|asked| asked.path.ends_with(image.layer_digest(0).as_str()))
        .map(|asked| asked.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges[0], None);
    assert_eq!(ranges.last().unwrap().as_deref(), Some("bytes=30000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stalls_is_given_up() {
    let registry = TestRegistry::meddling(|asked, answer| {
        let mut answer = answer?;
        if asked.path.contains("/blobs/") {
            answer.stall_after = Some(10);
        }
        Some(answer)
    })
    .await;
    let reference = registry.add("app", "1", &two_layers());
    let fixture = Fixture::impatient();

    let error = fixture.images.pull(request(&reference), silent()).await.unwrap_err();

    assert_eq!(error.reason(), Reason::RegistryUnreachable, "{}", chain(&error));
    assert!(chain(&error).contains("sent nothing for"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_told_by_their_digest_and_never_stored() {
    for damage in [0_usize, 20, 1000] {
        let registry = TestRegistry::meddling(move |asked, answer| {
            let mut answer = answer?;
            if asked.path.contains("/blobs/") && answer.body.len() > 100_000 {
                answer.body[damage] ^= 0x55;
            }
            Some(answer)
        })
        .await;
        let image = two_layers();
        let reference = registry.add("app", "1", &image);
        let fixture = Fixture::copying();

        let error = fixture.images.pull(request(&reference), silent()).await.unwrap_err();

        assert_eq!(error.reason(), Reason::DigestMismatch, "{}", chain(&error));
        let content = fixture.images.store().content();
        assert!(content.info(&fixture.ns, &image.layer_digest(0)).unwrap().is_none());
        assert!(fixture.images.list().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_or_padded_blob_is_refused() {
    for length in [50_000, 400_000] {
        let registry = TestRegistry::meddling(move |asked, answer| {
            let mut answer = answer?;
            if asked.path.contains("/blobs/") && answer.body.len() > 100_000 {
                answer.body.resize(length, 0);
            }
            Some(answer)
        })
        .await;
        let reference = registry.add("app", "1", &two_layers());

        let error = failure(&reference).await;

        assert_eq!(error.reason(), Reason::DigestMismatch, "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_another_digest_than_asked_for_is_refused() {
    let other = two_layers().manifest;
    let registry = TestRegistry::meddling(move |asked, answer| {
        let mut answer = answer?;
        if asked.path.contains("/manifests/") {
            answer.body = [&other[..], b" "].concat();
        }
        Some(answer)
    })
    .await;
    let image = two_layers();
    let reference = registry.add("app", "1", &image);
    let reference = reference.at_digest(&Digest::sha256(&image.manifest));

    let error = failure(&reference).await;

    assert_eq!(error.reason(), Reason::DigestMismatch, "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let registry = TestRegistry::start().await;
    let layer = gzip(&archive(&[("a", "1")]));
    let lie = TestImage::assemble(vec![layer], &[Digest::sha256(b"other")], &Platform::host());
    let reference = registry.add("app", "1", &lie);
    let fixture = Fixture::copying();

    let error = fixture.images.pull(request(&reference), silent()).await.unwrap_err();

    assert_eq!(error.reason(), Reason::DigestMismatch, "{}", chain(&error));
    assert!(chain(&error).contains("diff id"), "{}", chain(&error));
    assert!(fixture.images.list().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_a_hundred_megabytes_is_not_read() {
    let registry = TestRegistry::meddling(|asked, answer| {
        if asked.path.contains("/manifests/") {
            // Chunked, so that its length is not known.
            let mut answer = Answer::new(200, &vec![b' '; 100 << 20]);
            answer.headers.push(("content-type".to_owned(), OCI_MANIFEST.to_owned()));
            return Some(answer);
        }
        answer
    })
    .await;
    let reference = registry.add("app", "1", &two_layers());

    let error = failure(&reference).await;

    assert_eq!(error.reason(), Reason::ImageMalformed, "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_image_is_told_as_unknown() {
    let registry = TestRegistry::start().await;
    let reference: Reference = format!("{}/nothing:here", registry.address).parse().unwrap();

    let error = failure(&reference).await;

    assert_eq!(error.reason(), Reason::ImageUnknownToRegistry);
    assert!(chain(&error).ends_with("does not know nothing:here"), "{}", chain(&error));
    assert!(error.operands().contains(&("image", reference.familiar())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_is_told_as_unreachable() {
    let fixture = Fixture::copying();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reference: Reference = format!("{}/a:b", closed.local_addr().unwrap()).parse().unwrap();
    drop(closed);

    let error = fixture.images.pull(request(&reference), silent()).await.unwrap_err();

    assert_eq!(error.reason(), Reason::RegistryUnreachable, "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_decides_which_image_of_an_index_is_pulled() {
    let registry = TestRegistry::start().await;
    let platform = |text: &str| text.parse::<Platform>().unwrap();
    let (arm, s390) = (platform("linux/arm64"), platform("linux/s390x"));
    let for_arm = TestImage::for_platform(&[archive(&[("arm", "")])], &arm);
    let for_s390 = TestImage::for_platform(&[archive(&[("s390", "")])], &s390);
    for image in [&for_arm, &for_s390] {
        registry.add("app", "unused", image);
    }
    let index = index(&[(&for_arm, &arm), (&for_s390, &s390)]);
    let reference = registry.add_manifest("app", "1", OCI_INDEX, &index);
    let fixture = Fixture::copying();
    let pull = |platform| {
        let request = PullRequest::new(reference.clone(), platform);
        fixture.images.pull(request, silent())
    };

    let pulled = pull(Some(s390.clone())).await.unwrap();
    let refused = pull(Some(platform("linux/mips64le"))).await.unwrap_err();

    assert_eq!(pulled.image.id, Digest::sha256(&for_s390.config));
    assert_eq!(pulled.image.target.digest, Digest::sha256(&index));
    assert_eq!(refused.reason(), Reason::PlatformNotFound);
    assert_eq!(registry.asked_for(&for_arm.layer_digest(0)), 0);
    let found = fixture.images.resolve(&reference.to_string(), None).unwrap();
    assert_eq!(found.platform, s390);
    let both = pull(Some(arm.clone())).await.unwrap();
    assert_eq!(both.image.platform, arm);
    assert_eq!(fixture.images.collect().unwrap().blobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lists_itself_ends_in_an_error() {
    let registry = TestRegistry::meddling(|asked, answer| {
        let mut answer = answer?;
        if asked.path.contains("/manifests/1") {
            answer.body = nested(0);
        } else if let Some((_, digest)) = asked.path.split_once("/manifests/") {
            let level = (0..20).find(|level| Digest::sha256(&nested(*level)).as_str() == digest)?;
            answer.body = nested(level);
        }
        Some(answer)
    })
    .await;
    for level in 0..20 {
        registry.add_manifest("app", "1", OCI_INDEX, &nested(level));
    }
    let reference: Reference = format!("{}/app:1", registry.address).parse().unwrap();

    let error = failure(&reference).await;

    assert_eq!(error.reason(), Reason::ImageMalformed, "{}", chain(&error));
    assert!(chain(&error).contains("nested too deeply"), "{}", chain(&error));
}

/// An index that lists an index, and so on.
fn nested(level: usize) -> Vec<u8> {
    if level >= 20 {
        return b"{}".to_vec();
    }
    let below = nested(level + 1);
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{
            "mediaType": OCI_INDEX,
            "digest": Digest::sha256(&below),
            "size": below.len(),
        }],
    })
    .to_string()
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_passwords_are_sent_where_they_belong() {
    let tokens = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&tokens);
    let registry = TestRegistry::meddling(move |asked, answer| {
        let authorization = asked.headers.get("authorization").map(String::as_str);
        if asked.path.starts_with("/token?") {
            assert!(asked.path.contains("scope=repository%3Aapp%3Apull"), "{}", asked.path);
            return Some(match authorization {
                Some("Basic bWU6c2VjcmV0") => Answer::new(200, br#"{"token":"good"}"#),
                _ => Answer::new(401, b""),
            });
        }
        if authorization != Some("Bearer good") {
            let challenge = format!("Bearer realm=\"{}\",service=\"s\"", realm.lock().unwrap());
            return Some(Answer::new(401, b"").header("www-authenticate", challenge));
        }
        answer
    })
    .await;
    *tokens.lock().unwrap() = format!("http://{}/token", registry.address);
    let reference = registry.add("app", "1", &two_layers());
    let credentials = |password: &str| {
        let (username, password) = ("me".to_owned(), password.to_owned());
        Some(Credentials::Basic { username, password })
    };
    let pull = |credentials| async {
        let request = PullRequest { credentials, ..request(&reference) };
        Fixture::copying().images.pull(request, silent()).await
    };

    let good = pull(credentials("secret")).await;
    let wrong = pull(credentials("hunter2")).await.unwrap_err();
    let none = pull(None).await.unwrap_err();

    assert!(good.is_ok(), "{}", chain(&good.unwrap_err()));
    for error in [&wrong, &none] {
        assert_eq!(error.reason(), Reason::RegistryUnauthorized, "{}", chain(error));
        assert!(!format!("{} {error:?}", chain(error)).contains("hunter2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_does_not_take_the_password_along() {
    let elsewhere = TestRegistry::start().await;
    let image = two_layers();
    elsewhere.add("app", "1", &image);
    let target = elsewhere.address;
    let registry = TestRegistry::meddling(move |asked, answer| {
        if !asked.headers.contains_key("authorization") {
            return Some(Answer::new(401, b"").header("www-authenticate", "Basic realm=r"));
        }
        if asked.path.contains("/blobs/") {
            let location = format!("http://{target}{}?Signature=s3cr3t", asked.path);
            return Some(Answer::new(307, b"").header("location", location));
        }
        answer
    })
    .await;
    let reference = registry.add("app", "1", &image);
    let credentials =
        Some(Credentials::Basic { username: "me".to_owned(), password: "secret".to_owned() });

    let request = PullRequest { credentials, ..request(&reference) };
    let outcome = Fixture::copying().images.pull(request, silent()).await;

    let asked = elsewhere.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("authorization")), "{asked:?}");
    // The other one does not know paths with a query: what is told has no signature.
    let error = outcome.unwrap_err();
    assert!(!format!("{} {error:?}", chain(&error)).contains("s3cr3t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_a_redirect_leads_to_does_not_name_a_server_for_the_password() {
    let thief = TestRegistry::start().await;
    let realm = format!("Bearer realm=\"http://{}/token\"", thief.address);
    let elsewhere = TestRegistry::meddling(move |_, _| {
        Some(Answer::new(401, b"").header("www-authenticate", realm.as_str()))
    })
    .await;
    let target = elsewhere.address;
    let registry = TestRegistry::meddling(move |asked, answer| {
        if asked.path.contains("/blobs/") {
            let location = format!("http://{target}{}", asked.path);
            return Some(Answer::new(307, b"").header("location", location));
        }
        answer
    })
    .await;
    let reference = registry.add("app", "1", &two_layers());
    let credentials =
        Some(Credentials::Basic { username: "me".to_owned(), password: "secret".to_owned() });

    let request = PullRequest { credentials, ..request(&reference) };
    let error = Fixture::copying().images.pull(request, silent()).await.unwrap_err();

    assert!(!elsewhere.asked().is_empty());
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
    assert!(chain(&error).contains(&target.to_string()), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_to_files_or_in_circles_or_nowhere_in_vain() {
    for location in
        ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://example.com/x", "/v2/again", ""]
    {
        let registry = TestRegistry::meddling(move |asked, answer| {
            if asked.path.contains("/blobs/") || asked.path == "/v2/again" {
                return Some(Answer::new(302, b"").header("location", location));
            }
            answer
        })
        .await;
        let reference = registry.add("app", "1", &two_layers());

        let error = failure(&reference).await;

        assert_eq!(error.reason(), Reason::RegistryRefused, "{location}: {}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registry_is_asked_again_and_a_refusing_one_is_not() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let busy = TestRegistry::meddling(move |asked, answer| {
        if asked.path.contains("/manifests/") && counted.fetch_add(1, Ordering::Relaxed) < 2 {
            return Some(Answer::new(429, b"").header("retry-after", "0"));
        }
        answer
    })
    .await;
    let refusing = TestRegistry::meddling(|asked, answer| {
        if asked.path.contains("/manifests/") {
            return Some(Answer::new(410, br#"{"errors":[{"message":"closed down"}]}"#));
        }
        answer
    })
    .await;
    let reference = busy.add("app", "1", &two_layers());
    let refused = refusing.add("app", "1", &two_layers());

    Fixture::copying().images.pull(request(&reference), silent()).await.unwrap();
    let error = failure(&refused).await;

    assert_eq!(count.load(Ordering::Relaxed), 3);
    assert_eq!(error.reason(), Reason::RegistryRefused);
    assert!(chain(&error).ends_with("answers 410: closed down"), "{}", chain(&error));
    assert_eq!(refusing.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_receive_each_layer_once() {
    let Some(fixture) = Fixture::overlay() else { return };
    let registry = TestRegistry::start().await;
    let common = archive(&[("common", &noise(300_000))]);
    let images = [
        TestImage::new(&[common.clone(), archive(&[("a", "1")])]),
        TestImage::new(&[common.clone(), archive(&[("b", "2")])]),
        // The same blob at another height.
        TestImage::new(&[archive(&[("c", "3")]), common.clone(), common]),
    ];
    let references: Vec<Reference> = images
        .iter()
        .enumerate()
        .map(|(index, image)| registry.add("app", &index.to_string(), image))
        .collect();

    let pulls = references.iter().chain(&references).map(|reference| {
        let (images, request) = (fixture.images.clone(), request(reference));
        tokio::spawn(async move { images.pull(request, silent()).await })
    });
    let pulls: Vec<_> = pulls.collect();
    for pull in pulls {
        let outcome = pull.await.unwrap();
        assert!(outcome.is_ok(), "{}", chain(&outcome.unwrap_err()));
    }

    assert_eq!(registry.asked_for(&images[0].layer_digest(0)), 1);
    assert_eq!(fixture.images.list().unwrap().len(), 3);
    let keys: Vec<String> = fixture
        .images
        .snapshotter()
        .walk(&fixture.ns)
        .unwrap()
        .into_iter()
        .map(|snapshot| snapshot.key)
        .collect();
    assert_eq!(keys.len(), 6, "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_leaves_nothing_that_hinders_the_next() {
    let Some(fixture) = Fixture::overlay() else { return };
    let is_stalling = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let stalling = Arc::clone(&is_stalling);
    let registry = TestRegistry::meddling(move |asked, answer| {
        let mut answer = answer?;
        let is_large = asked.path.contains("/blobs/") && answer.body.len() > 100_000;
        if is_large && stalling.load(Ordering::Relaxed) {
            answer.stall_after = Some(60_000);
        }
        Some(answer)
    })
    .await;
    let reference = registry.add("app", "1", &two_layers());

    let pull = fixture.images.pull(request(&reference), silent());
    let dropped = tokio::time::timeout(Duration::from_millis(150), pull).await;
    is_stalling.store(false, Ordering::Relaxed);
    let pulled = fixture.images.pull(request(&reference), silent()).await;

    assert!(dropped.is_err());
    assert_eq!(pulled.unwrap().image.size_bytes, 200_006);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_leaves_the_old_image_with_its_id_alone() {
    let fixture = Fixture::copying();
    let registry = TestRegistry::start().await;
    let old = TestImage::new(&[archive(&[("old", "")])]);
    let new = TestImage::new(&[archive(&[("new", "")])]);
    let reference = registry.add("app", "1", &old);
    fixture.images.pull(request(&reference), silent()).await.unwrap();
    registry.add("app", "1", &new);

    fixture.images.pull(request(&reference), silent()).await.unwrap();

    let old_id = Digest::sha256(&old.config);
    let listed = fixture.images.list().unwrap();
    let dangling = listed.iter().find(|image| image.id == old_id).unwrap();
    assert_eq!(listed.len(), 2);
    assert!(dangling.names.is_empty());
    let removed = fixture.images.remove(&old_id.hex()[..12], false, &[]).unwrap();
    assert_eq!(removed.untagged, Vec::<String>::new());
    assert_eq!(removed.deleted.len(), 2);
    assert_eq!(fixture.images.list().unwrap().len(), 1);
}
