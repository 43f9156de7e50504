//! What is pushed into a registry that nobody here wrote.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;

use super::*;
use crate::testing::{
    Fixture, TestArtifact, TestImage, TestRegistry, archive, gzip, noise, recording, silent,
};
use crate::{ImportRequest, PullEvent, PullRequest, ReferrersRequest};

/// Debian's registry on a loopback port.
struct Registry {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let spawned = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = spawned else {
            eprintln!("skipped: needs docker-registry");
            return None;
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the registry does not come up");
            std::thread::yield_now();
        }
        Some(Self { child, port, _dir: dir })
    }

    fn reference(&self, name: &str) -> Reference {
        format!("127.0.0.1:{}/{name}", self.port).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn push(reference: &Reference) -> PushRequest {
    PushRequest {
        reference: reference.clone(),
        platform: None,
        referrers: false,
        credentials: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_pulled_elsewhere_and_sent_once() {
    let Some(registry) = Registry::start() else { return };
    let reference = registry.reference("me/app:1");
    let from = Fixture::copying();
    let request = ImportRequest { reference: Some(reference.clone()), ..ImportRequest::default() };
    let pieces = [Ok(Bytes::from(gzip(&archive(&[("a", &noise(2_000_000))]))))];
    let image = from.images.import(request, stream::iter(pieces)).await.unwrap();

    let pushed = from.images.push(push(&reference), silent()).await.unwrap();
    let (progress, events) = recording();
    from.images.push(push(&reference), progress).await.unwrap();
    let to = Fixture::copying();
    let request = PullRequest::new(reference.clone(), None);
    let pulled = to.images.pull(request, silent()).await.unwrap();

    assert_eq!(pushed, Pushed { target: image.manifest.clone(), missing: Vec::new() });
    assert_eq!((&pulled.image.id, &pulled.image.manifest), (&image.id, &pushed.target));
    let exists =
        |event: &PullEvent| matches!(event, PullEvent::Layer { phase: LayerPhase::Exists, .. });
    assert!(events.lock().unwrap().iter().any(exists));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_or_not_taken_is_told() {
    let fixture = Fixture::copying();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reference: Reference = format!("{}/a:b", closed.local_addr().unwrap()).parse().unwrap();
    drop(closed);

    let missing = fixture.images.push(push(&reference), silent()).await.unwrap_err();
    let request = ImportRequest { reference: Some(reference.clone()), ..ImportRequest::default() };
    let pieces = [Ok(Bytes::from(archive(&[("a", "1")])))];
    fixture.images.import(request, stream::iter(pieces)).await.unwrap();
    let unreachable = fixture.images.push(push(&reference), silent()).await.unwrap_err();

    assert_eq!(missing.reason(), Reason::ImageNotFound);
    assert_eq!(unreachable.reason(), Reason::RegistryUnreachable, "{unreachable:?}");
}

#[test]
fn a_blob_is_mounted_from_another_repository_of_the_same_registry_only() {
    let labels = Labels::from([(
        "containerd.io/distribution.source.example.com".to_owned(),
        "me/app,me/base".to_owned(),
    )]);
    let source = |name: &str| source_of(&labels, &name.parse().unwrap());

    assert_eq!(source("example.com/me/app:1").as_deref(), Some("me/base"));
    assert_eq!(source("example.com/new:1").as_deref(), Some("me/app"));
    assert_eq!(source("other.com/new:1"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_an_image_is_pushed_also_where_the_registry_keeps_no_list() {
    let Some(registry) = Registry::start() else { return };
    let source = TestRegistry::start().await;
    let image = TestImage::new(&[archive(&[("a", "1")])]);
    let from = source.add("app", "1", &image);
    let bill = TestArtifact::new("application/spdx+json", Some(&image.manifest), "bill");
    source.add_referrer("app", &image.manifest, &bill);
    let fixture = Fixture::copying();
    let pull = PullRequest { referrers: true, ..PullRequest::new(from.clone(), None) };
    fixture.images.pull(pull, silent()).await.unwrap();
    let reference = registry.reference("me/app:1");
    fixture.images.tag(&from.to_string(), &reference).unwrap();

    let request = PushRequest { referrers: true, ..push(&reference) };
    fixture.images.push(request.clone(), silent()).await.unwrap();
    fixture.images.push(request, silent()).await.unwrap();
    let list = ReferrersRequest {
        reference,
        platform: None,
        artifact_type: Some("application/spdx+json".to_owned()),
        credentials: None,
    };
    let found = fixture.images.referrers(&list).await.unwrap();

    assert_eq!(found.referrers.len(), 1);
    assert_eq!(found.referrers[0].target.digest, Digest::sha256(&bill.manifest));
    assert_eq!(found.referrers[0].annotations["org.example.of"], "bill");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_nobody_here_wrote_takes_chunks() {
    let Some(registry) = Registry::start() else { return };
    let reference = registry.reference("me/app:1");
    let from = Fixture::chunking(100_000);
    let request = ImportRequest { reference: Some(reference.clone()), ..ImportRequest::default() };
    let pieces = [Ok(Bytes::from(gzip(&archive(&[("a", &noise(2_000_000))]))))];
    let image = from.images.import(request, stream::iter(pieces)).await.unwrap();

    from.images.push(push(&reference), silent()).await.unwrap();
    let request = PullRequest::new(reference, None);
    let pulled = Fixture::copying().images.pull(request, silent()).await.unwrap();

    assert!(image.layers[0].size_bytes > 300_000);
    assert_eq!(pulled.image.manifest, image.manifest);
}
