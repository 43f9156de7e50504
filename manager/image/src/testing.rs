//! What the tests of this crate share: a store, images in the making, and a registry that does what it
//! is told, also wrongly.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keg_store::{CopySnapshotter, Digest, Namespace, OverlaySnapshotter, Snapshotter, Store};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::registry::RegistryOptions;
use crate::{Images, ImagesOptions, Platform, Progress, PullEvent, ShortNamePolicy};

/// How long a registry of a test may take on a machine with much to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// A private store with its images.
pub(crate) struct Fixture {
    pub(crate) images: Images,
    pub(crate) ns: Namespace,
    _root: tempfile::TempDir,
}

impl Fixture {
    /// Returns a store with the overlay snapshotter, or `None` where that needs more rights.
    pub(crate) fn overlay() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        Some(Self::with(PATIENCE, |store| Arc::new(OverlaySnapshotter::new(store).unwrap())))
    }

    pub(crate) fn copying() -> Self {
        Self::with(PATIENCE, |store| Arc::new(CopySnapshotter::new(store)))
    }

    /// Returns a store that does not wait long for a registry.
    pub(crate) fn impatient() -> Self {
        Self::with(Duration::from_millis(150), |store| Arc::new(CopySnapshotter::new(store)))
    }

    /// Returns a store that sends at most so many bytes at once.
    pub(crate) fn chunking(upload_chunk_bytes: u64) -> Self {
        let mut options = options(PATIENCE);
        options.registry.upload_chunk_bytes = upload_chunk_bytes;
        Self::with_options(options, |store| Arc::new(CopySnapshotter::new(store)))
    }

    /// Returns a store that looks in these registries for names without one.
    pub(crate) fn searching(registries: Vec<String>) -> Self {
        let mut options = options(PATIENCE);
        options.short_names.policy = ShortNamePolicy::Search(registries);
        Self::with_options(options, |store| Arc::new(CopySnapshotter::new(store)))
    }

    fn with(
        stall_timeout: Duration,
        snapshotter: impl FnOnce(&Store) -> Arc<dyn Snapshotter>,
    ) -> Self {
        Self::with_options(options(stall_timeout), snapshotter)
    }

    fn with_options(
        options: ImagesOptions,
        snapshotter: impl FnOnce(&Store) -> Arc<dyn Snapshotter>,
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let (ns, snapshotter) = (Namespace::default(), snapshotter(&store));
        let images = Images::new(store, snapshotter, ns.clone(), options);
        Self { images, ns, _root: root }
    }
}

fn options(stall_timeout: Duration) -> ImagesOptions {
    let registry = RegistryOptions {
        stall_timeout,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
        ..RegistryOptions::default()
    };
    ImagesOptions { registry, ..ImagesOptions::default() }
}

/// A tar archive of files; a name that ends in a slash is a directory.
pub(crate) fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_path(path).unwrap();
        let is_dir = path.ends_with('/');
        header.set_entry_type(if is_dir {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if is_dir { 0o755 } else { 0o644 });
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize) -> String {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + u8::try_from(state >> 24).unwrap() % 90)
    };
    (0..length).map(|_| next()).collect()
}

/// An image in the making.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl TestImage {
    /// Makes an image of plain archives, compressed by gzip.
    pub(crate) fn new(archives: &[Vec<u8>]) -> Self {
        Self::for_platform(archives, &Platform::new("linux", std::env::consts::ARCH, ""))
    }

    pub(crate) fn for_platform(archives: &[Vec<u8>], platform: &Platform) -> Self {
        let diff_ids: Vec<Digest> = archives.iter().map(|a| Digest::sha256(a)).collect();
        let layers: Vec<Vec<u8>> = archives.iter().map(|a| gzip(a)).collect();
        Self::assemble(layers, &diff_ids, platform)
    }

    pub(crate) fn assemble(layers: Vec<Vec<u8>>, diff_ids: &[Digest], platform: &Platform) -> Self {
        let config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "created": "2026-01-01T00:00:00Z",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config),
            "layers": layers.iter().map(|l| descriptor(OCI_LAYER_GZIP, l)).collect::<Vec<_>>(),
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    pub(crate) fn layer_digest(&self, index: usize) -> Digest {
        Digest::sha256(&self.layers[index])
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len()})
}

/// An index of images for platforms.
pub(crate) fn index(images: &[(&TestImage, &Platform)]) -> Vec<u8> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(image, platform)| {
            let mut entry = descriptor(OCI_MANIFEST, &image.manifest);
            entry["platform"] = json!({"os": platform.os, "architecture": platform.architecture});
            entry
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
        .to_string()
        .into_bytes()
}

/// What refers to a document: a manifest, and its one layer.
pub(crate) struct TestArtifact {
    pub(crate) manifest: Vec<u8>,
    pub(crate) layer: Vec<u8>,
}

impl TestArtifact {
    /// Configuration of artifacts that have none.
    pub(crate) const CONFIG: &[u8] = b"{}";

    pub(crate) fn new(artifact_type: &str, subject: Option<&[u8]>, text: &str) -> Self {
        let layer = text.as_bytes().to_vec();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": descriptor("application/vnd.oci.empty.v1+json", Self::CONFIG),
            "layers": [descriptor("text/plain", &layer)],
            "annotations": {"org.example.of": text},
        });
        if let Some(subject) = subject {
            manifest["subject"] = descriptor(OCI_MANIFEST, subject);
        }
        Self { manifest: manifest.to_string().into_bytes(), layer }
    }
}

/// What a request is answered with.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// 0: with nothing, the connection is closed.
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Closes the connection after so many bytes of the body.
    pub(crate) cut_after: Option<usize>,
    /// Sends nothing any more after so many bytes of the body.
    pub(crate) stall_after: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            cut_after: None,
            stall_after: None,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

type Meddler = dyn Fn(&Asked, Option<Answer>) -> Option<Answer> + Send + Sync;

/// A registry in memory on the loopback device.
#[derive(Clone)]
pub(crate) struct TestRegistry {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// By path, with media type.
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    asked: Mutex<Vec<Asked>>,
    meddler: Box<Meddler>,
}

impl TestRegistry {
    /// Starts a registry that keeps to the protocol, Range requests included.
    pub(crate) async fn start() -> Self {
        Self::meddling(|_, answer| answer).await
    }

    /// Starts a registry whose answers `meddler` may change; `None` is 404.
    pub(crate) async fn meddling(
        meddler: impl Fn(&Asked, Option<Answer>) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            content: Mutex::default(),
            asked: Mutex::default(),
            meddler: Box::new(meddler),
        });
        let registry = Self { address, state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let _ = serve(stream, &state).await;
                });
            }
        });
        registry
    }

    /// Stores an image under a tag, and returns its reference.
    pub(crate) fn add(&self, name: &str, tag: &str, image: &TestImage) -> crate::Reference {
        self.add_blob(name, &image.config);
        for layer in &image.layers {
            self.add_blob(name, layer);
        }
        self.add_manifest(name, tag, OCI_MANIFEST, &image.manifest)
    }

    pub(crate) fn add_blob(&self, name: &str, bytes: &[u8]) {
        let path = format!("/v2/{name}/blobs/{}", Digest::sha256(bytes));
        self.put(path, "application/octet-stream", bytes);
    }

    /// Stores what refers to a document, and lists it as such.
    pub(crate) fn add_referrer(&self, name: &str, subject: &[u8], artifact: &TestArtifact) {
        self.add_blob(name, TestArtifact::CONFIG);
        self.add_blob(name, &artifact.layer);
        self.add_manifest(name, "unused", OCI_MANIFEST, &artifact.manifest);
        let list = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor(OCI_MANIFEST, &artifact.manifest)],
        });
        let path = format!("/v2/{name}/referrers/{}", Digest::sha256(subject));
        self.put(path, OCI_INDEX, list.to_string().as_bytes());
    }

    pub(crate) fn add_manifest(
        &self,
        name: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> crate::Reference {
        for tag in [tag, Digest::sha256(bytes).as_str()] {
            self.put(format!("/v2/{name}/manifests/{tag}"), media_type, bytes);
        }
        format!("{}/{name}:{tag}", self.address).parse().unwrap()
    }

    fn put(&self, path: String, media_type: &str, bytes: &[u8]) {
        let content = (media_type.to_owned(), bytes.to_vec());
        self.state.content.lock().unwrap().insert(path, content);
    }

    /// Returns what was asked for below `/v2/NAME/`, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.state.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.path != "/v2/").cloned().collect()
    }

    /// Returns how often a blob was asked for.
    pub(crate) fn asked_for(&self, digest: &Digest) -> usize {
        self.asked().iter().filter(|asked| asked.path.ends_with(digest.as_str())).count()
    }
}

async fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or("/").to_owned();
        let mut asked = Asked { method, path, headers: HashMap::new(), body: Vec::new() };
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => {
                    asked.headers.insert(name.to_lowercase(), value.to_owned());
                }
                None => break,
            }
        }
        let length = asked.headers.get("content-length").and_then(|text| text.parse().ok());
        asked.body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut asked.body).await?;
        let answer = (state.meddler)(&asked, regular(state, &asked));
        let is_head = asked.method == "HEAD";
        state.asked.lock().unwrap().push(asked);
        let mut answer = answer.unwrap_or_else(|| {
            Answer::new(404, br#"{"errors":[{"code":"UNKNOWN","message":"not here"}]}"#)
        });
        if answer.status == 0 {
            return Ok(());
        }
        if is_head {
            answer.body.clear();
        }
        if !send(&mut stream, answer).await? {
            return Ok(());
        }
    }
}

fn regular(state: &State, asked: &Asked) -> Option<Answer> {
    if asked.path == "/v2/" {
        return Some(Answer::new(200, b"{}"));
    }
    let (media_type, bytes) = state.content.lock().unwrap().get(&asked.path)?.clone();
    let range = asked
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let answer = match range.filter(|start| *start < bytes.len()) {
        Some(start) => Answer::new(206, &bytes[start..])
            .header("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
        None => Answer::new(200, &bytes),
    };
    Some(answer.header("content-type", media_type))
}

/// Sends an answer; `false` if the connection is of no more use.
async fn send(stream: &mut BufReader<TcpStream>, answer: Answer) -> std::io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name == "content-length") {
        head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    let end = answer.cut_after.or(answer.stall_after).unwrap_or(answer.body.len());
    stream.write_all(&answer.body[..end.min(answer.body.len())]).await?;
    stream.flush().await?;
    if answer.stall_after.is_some() {
        // Until the client gives up.
        let mut line = String::new();
        let _ = stream.read_line(&mut line).await;
        return Ok(false);
    }
    Ok(answer.cut_after.is_none())
}

/// Returns a sink for progress, and what it got.
pub(crate) fn recording() -> (Progress, Arc<Mutex<Vec<PullEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    (Arc::new(move |event| sink.lock().unwrap().push(event)), events)
}

/// Returns a sink for progress that nobody looks at.
pub(crate) fn silent() -> Progress {
    Arc::new(|_| {})
}
