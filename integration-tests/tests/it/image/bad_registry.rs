//! Registries that lie, stall, cut or refuse: one clear error, nothing half-stored, and the next pull
//! from a good one works.

use std::fs;
use std::path::Path;
use std::time::Duration;

use keg_fixtures::registry::{HttpRequest, HttpResponse};
use keg_fixtures::{BadRegistry, Daemon, Image, Outcome, requires};

/// Pulls from a registry with this fault; returns what `keg` said, after checking that nothing is left.
fn pull_from(
    fault: impl Fn(&HttpRequest, HttpResponse) -> HttpResponse + Send + Sync + 'static,
) -> Outcome {
    let daemon = Daemon::new();
    let bad = BadRegistry::new(Image::busybox(), fault);

    let outcome = daemon.keg(["pull", &format!("{}/busybox:latest", bad.address())]);

    assert_ne!(outcome.exit_code, 0, "the pull worked: {outcome:?}");
    assert!(!outcome.stderr.trim().is_empty(), "it failed without a word");
    assert_eq!(daemon.keg(["images", "-q"]).success().stdout, "");
    let ingest = files(&daemon.root().join("content/ingest"));
    assert!(ingest.len() <= 3, "half-received blobs pile up: {ingest:?}");
    let good = BadRegistry::new(Image::busybox(), |_, right| right);
    let reference = format!("{}/busybox:latest", good.address());
    let ran = daemon.keg(["run", "--rm", &reference, "echo", "well"]);
    assert_eq!(ran.success().stdout, "well\n");
    outcome
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn is_layer(request: &HttpRequest) -> bool {
    let last = Image::busybox().layers.pop().unwrap();
    request.path.ends_with(&last.digest)
}

#[test]
fn a_layer_with_other_bytes_is_refused_by_its_digest() {
    requires!(root);

    let outcome = pull_from(|request, mut right| {
        if is_layer(request) {
            let middle = right.body.len() / 2;
            right.body[middle] ^= 1;
        }
        right
    });

    assert!(outcome.stderr.contains("sha256:"), "{outcome:?}");
}

#[test]
fn a_truncated_layer_is_an_error() {
    requires!(root);

    let outcome = pull_from(|request, mut right| {
        if is_layer(request) {
            right.body.truncate(right.body.len() / 2);
        }
        right
    });

    assert!(outcome.stderr.contains("sha256:"), "{outcome:?}");
}

#[test]
fn a_connection_that_is_cut_every_time_is_an_error() {
    requires!(root);

    let outcome = pull_from(|request, mut right| {
        if is_layer(request) {
            right.declared_length = Some(right.body.len());
            right.body.truncate(1000);
        }
        right
    });

    assert!(outcome.stderr.contains("127.0.0.1"), "{outcome:?}");
}

#[test]
fn a_connection_that_is_cut_once_is_tried_again() {
    requires!(root);
    let cut = std::sync::atomic::AtomicBool::new(false);
    let registry = BadRegistry::new(Image::busybox(), move |request, mut right| {
        if is_layer(request) && !cut.swap(true, std::sync::atomic::Ordering::SeqCst) {
            right.declared_length = Some(right.body.len());
            right.body.truncate(1000);
        }
        right
    });
    let daemon = Daemon::new();

    let outcome = daemon.keg(["pull", "-q", &format!("{}/busybox", registry.address())]);

    assert_eq!(outcome.exit_code, 0, "{outcome:?}");
}

#[test]
fn a_manifest_with_another_digest_than_asked_for_is_refused() {
    requires!(root);
    let daemon = Daemon::new();
    let digest = Image::busybox().manifest.digest;
    let registry = BadRegistry::new(Image::busybox(), |request, mut right| {
        if request.path.contains("/manifests/") {
            right.body.push(b' ');
        }
        right
    });

    let outcome = daemon.keg(["pull", &format!("{}/busybox@{digest}", registry.address())]);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.stderr.contains("sha256:"), "{outcome:?}");
}

#[test]
fn an_unknown_tag_is_named() {
    requires!(root);

    let outcome = pull_from(|request, right| {
        if request.path.contains("/manifests/") {
            return HttpResponse::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
        }
        right
    });

    assert!(outcome.stderr.contains("busybox:latest"), "{outcome:?}");
}

#[test]
fn a_registry_that_wants_a_login_says_so() {
    requires!(root);

    let outcome = pull_from(|_, _| {
        HttpResponse::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
            .header("WWW-Authenticate", "Basic realm=\"it\"")
    });

    let text = outcome.stderr.to_lowercase();
    assert!(
        ["login", "credential", "unauthorized"].iter().any(|word| text.contains(word)),
        "{text}"
    );
}

#[test]
fn a_registry_that_always_fails_is_named() {
    requires!(root);

    let outcome = pull_from(|_, _| HttpResponse::new(500, "broken"));

    assert!(outcome.stderr.contains("127.0.0.1") && outcome.stderr.contains("500"), "{outcome:?}");
}

#[test]
fn a_manifest_that_is_no_json_is_an_error() {
    requires!(root);

    for body in ["", "{", "<html></html>", "[]", "{\"schemaVersion\":2}"] {
        let outcome = pull_from(move |request, mut right| {
            if request.path.contains("/manifests/") {
                right.body = body.into();
                right.headers.retain(|(name, _)| name == "Content-Type");
            }
            right
        });

        assert!(outcome.stderr.contains("manifest"), "{body:?}: {outcome:?}");
    }
}

#[test]
fn a_manifest_without_end_is_not_read_to_its_end() {
    requires!(root);

    let outcome = pull_from(|request, mut right| {
        if request.path.contains("/manifests/") {
            right.body = vec![b' '; 16 << 20];
        }
        right
    });

    assert!(!outcome.stderr.is_empty());
}

#[test]
fn a_registry_that_stalls_does_not_keep_other_commands_waiting() {
    requires!(root);
    let registry = BadRegistry::new(Image::busybox(), |request, mut right| {
        if request.path.contains("/blobs/") {
            right.declared_length = Some(right.body.len());
            right.body.truncate(10);
            right.stall = true;
        }
        right
    });
    let daemon = Daemon::new();
    let reference = format!("{}/busybox", registry.address());
    let pull = keg_fixtures::Tree::spawn(&daemon.keg_command(["pull", &reference]));
    keg_fixtures::wait_until("a layer is asked for", Duration::from_secs(30), || {
        registry.requests().iter().any(|request| request.path.contains("/blobs/"))
    });

    let _ = daemon.keg_within(Duration::from_secs(10), ["ps", "-a"]).success();
    drop(pull);

    let _ = daemon.keg_within(Duration::from_secs(10), ["images"]).success();
}
