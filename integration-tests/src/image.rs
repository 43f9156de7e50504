//! Images made by the tests themselves: an OCI layout from layers that are built entry by entry.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Scratch, programs};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layer: a tar archive, entry by entry.
pub struct Layer {
    archive: tar::Builder<Vec<u8>>,
    compressed: bool,
}

impl fmt::Debug for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Layer")
            .field("compressed", &self.compressed)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// Makes an empty layer, to be stored with gzip.
    #[must_use]
    pub fn new() -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        archive.mode(tar::HeaderMode::Deterministic);
        Self { archive, compressed: true }
    }

    /// Stores the layer as it is, without gzip.
    #[must_use]
    pub fn uncompressed(mut self) -> Self {
        self.compressed = false;
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, mode, (0, 0), None, b"")
    }

    /// Adds a file of root.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, tar::EntryType::Regular, mode, (0, 0), None, content.as_ref())
    }

    /// Adds a file of another user and group.
    #[must_use]
    pub fn owned_file(self, path: &str, mode: u32, owner: (u64, u64), content: &str) -> Self {
        self.entry(path, tar::EntryType::Regular, mode, owner, None, content.as_bytes())
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, 0o777, (0, 0), Some(target), b"")
    }

    /// Adds a hard link to an entry before it.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Link, 0o644, (0, 0), Some(target), b"")
    }

    /// Marks what the layers below have under `path` as deleted (image-spec, layer.md, "Whiteouts").
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let marker = match path.rsplit_once('/') {
            Some((directory, name)) => format!("{directory}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.file(&marker, 0o644, "")
    }

    /// Hides all that the layers below have in `directory`.
    #[must_use]
    pub fn opaque(self, directory: &str) -> Self {
        self.file(&format!("{directory}/.wh..wh..opq"), 0o644, "")
    }

    /// Adds any entry; its path is written as it is, "../" and all.
    ///
    /// # Panics
    /// If the path or the target is longer than a plain header holds.
    #[must_use]
    pub fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        (uid, gid): (u64, u64),
        target: Option<&str>,
        content: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        let name = &mut header.as_old_mut().name;
        assert!(path.len() < name.len(), "path too long for a plain header: {path}");
        name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(target) = target {
            let link = &mut header.as_old_mut().linkname;
            assert!(target.len() < link.len(), "target too long for a plain header: {target}");
            link[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.archive.append(&header, content).expect("append to a vector");
        self
    }

    /// Returns the archive.
    ///
    /// # Panics
    /// Never: it is written to memory.
    #[must_use]
    pub fn into_tar(self) -> Vec<u8> {
        self.archive.into_inner().expect("write to a vector")
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

/// A blob with the descriptor that names it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// "application/…"
    pub media_type: String,
    /// "sha256:…"
    pub digest: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Names bytes by their digest.
    #[must_use]
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.to_owned(), digest: digest(&bytes), bytes }
    }

    /// Returns its descriptor (image-spec, descriptor.md).
    #[must_use]
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }

    /// Returns the digest's hexadecimal part.
    ///
    /// # Panics
    /// If the digest was edited to have none.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.digest.split_once(':').expect("algorithm:hex").1
    }
}

/// Returns the digest of bytes, "sha256:…".
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image in memory.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest.
    pub manifest: Blob,
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
}

impl Image {
    /// Builds an image; `config` is the "config" object of image-spec, config.md.
    ///
    /// # Panics
    /// Never: all is in memory.
    #[must_use]
    pub fn new(layers: Vec<Layer>, config: &Value) -> Self {
        let mut diff_ids = Vec::new();
        let layers: Vec<Blob> = layers
            .into_iter()
            .map(|layer| {
                let compressed = layer.compressed;
                let tar = layer.into_tar();
                diff_ids.push(digest(&tar));
                if compressed {
                    Blob::new(&format!("{LAYER}+gzip"), gzip(&tar))
                } else {
                    Blob::new(LAYER, tar)
                }
            })
            .collect();
        let config = json!({
            "created": "2024-01-02T03:04:05Z",
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [],
        });
        let config = Blob::new(CONFIG, serde_json::to_vec(&config).expect("serialize"));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(MANIFEST, serde_json::to_vec(&manifest).expect("serialize"));
        Self { manifest, config, layers }
    }

    /// Builds the image that most tests use: busybox, the probe, users in `/etc`; three layers.
    ///
    /// # Panics
    /// If busybox is not installed.
    #[must_use]
    pub fn busybox() -> Self {
        static ONCE: OnceLock<Image> = OnceLock::new();
        ONCE.get_or_init(|| Self::new(Self::busybox_layers(), &Self::busybox_config())).clone()
    }

    /// Returns the layers of [`Image::busybox`], for images that build on it.
    ///
    /// # Panics
    /// If busybox is not installed.
    #[must_use]
    pub fn busybox_layers() -> Vec<Layer> {
        let busybox = programs::installed("busybox").expect("busybox-static is not installed");
        let busybox = fs::read(busybox).expect("read busybox");
        let probe = fs::read(programs::ours("keg-probe")).expect("read the probe");
        let mut base = Layer::new().directory("bin/", 0o755).file("bin/busybox", 0o755, busybox);
        for applet in crate::bundle::APPLETS {
            base = base.symlink(&format!("bin/{applet}"), "busybox");
        }
        let etc = Layer::new()
            .directory("etc/", 0o755)
            .file("etc/passwd", 0o644, crate::bundle::PASSWD)
            .file("etc/group", 0o644, crate::bundle::GROUP)
            .directory("tmp/", 0o1777)
            .directory("root/", 0o700)
            .directory("home/", 0o755)
            .owned_file("home/keg.txt", 0o640, (1000, 50), "of keg\n");
        let probe = Layer::new().file("probe", 0o755, probe);
        vec![base, etc, probe]
    }

    /// Returns the "config" object of [`Image::busybox`].
    #[must_use]
    pub fn busybox_config() -> Value {
        json!({
            "Env": ["PATH=/usr/local/bin:/bin:/usr/bin", "FROM_IMAGE=yes"],
            "Cmd": ["sh"],
            "WorkingDir": "/",
            "Labels": {"org.example.from": "keg-it"},
        })
    }

    /// Returns an image of one layer, these bytes, whatever they are, with its digests right.
    ///
    /// # Panics
    /// Never: all is in memory.
    #[must_use]
    pub fn with_raw_layer(model: &Self, bytes: Vec<u8>) -> Self {
        let layer = Blob::new(LAYER, bytes);
        let mut config: Value = serde_json::from_slice(&model.config.bytes).expect("our own");
        config["rootfs"]["diff_ids"] = json!([layer.digest]);
        let config = Blob::new(CONFIG, serde_json::to_vec(&config).expect("serialize"));
        let mut manifest: Value = serde_json::from_slice(&model.manifest.bytes).expect("our own");
        manifest["config"] = config.descriptor();
        manifest["layers"] = json!([layer.descriptor()]);
        let manifest = Blob::new(MANIFEST, serde_json::to_vec(&manifest).expect("serialize"));
        Self { manifest, config, layers: vec![layer] }
    }

    /// Returns the same image for another architecture, a Go name.
    ///
    /// # Panics
    /// Never: all is in memory.
    #[must_use]
    pub fn for_architecture(mut self, architecture: &str) -> Self {
        let mut config: Value = serde_json::from_slice(&self.config.bytes).expect("our own");
        config["architecture"] = json!(architecture);
        self.config = Blob::new(CONFIG, serde_json::to_vec(&config).expect("serialize"));
        let mut manifest: Value = serde_json::from_slice(&self.manifest.bytes).expect("our own");
        manifest["config"] = self.config.descriptor();
        self.manifest = Blob::new(MANIFEST, serde_json::to_vec(&manifest).expect("serialize"));
        self
    }

    /// Returns the same image with a history, an entry for each layer, which buildah insists on.
    ///
    /// # Panics
    /// Never: all is in memory.
    #[must_use]
    pub fn with_history(mut self) -> Self {
        let mut config: Value = serde_json::from_slice(&self.config.bytes).expect("our own");
        let entry = json!({"created": "2024-01-02T03:04:05Z", "created_by": "a test"});
        config["history"] = json!(vec![entry; self.layers.len()]);
        self.config = Blob::new(CONFIG, serde_json::to_vec(&config).expect("serialize"));
        let mut manifest: Value = serde_json::from_slice(&self.manifest.bytes).expect("our own");
        manifest["config"] = self.config.descriptor();
        self.manifest = Blob::new(MANIFEST, serde_json::to_vec(&manifest).expect("serialize"));
        self
    }

    /// Writes an OCI layout whose one name stands for an index of images and their architectures;
    /// returns the index's digest.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_index_layout(directory: &Path, images: &[(&Self, &str)], tag: &str) -> String {
        let entries: Vec<Value> = images
            .iter()
            .map(|(image, architecture)| {
                image.write_layout(directory, tag);
                let mut entry = image.manifest.descriptor();
                entry["platform"] = json!({"os": "linux", "architecture": architecture});
                entry
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        let index = Blob::new(INDEX, serde_json::to_vec(&index).expect("serialize"));
        let path = directory.join("blobs/sha256").join(index.hex());
        fs::write(path, &index.bytes).expect("write the index");
        let mut target = index.descriptor();
        target["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let document = json!({"schemaVersion": 2, "manifests": [target]});
        fs::write(directory.join("index.json"), document.to_string()).expect("write index.json");
        index.digest
    }

    /// Returns every blob.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }

    /// Writes an OCI layout (image-spec, image-layout.md) of this image, named `tag`.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_layout(&self, directory: &Path, tag: &str) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("make the layout");
        for blob in self.blobs() {
            fs::write(blobs.join(blob.hex()), &blob.bytes).expect("write a blob");
        }
        let mut target = self.manifest.descriptor();
        target["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "manifests": [target]});
        fs::write(directory.join("index.json"), index.to_string()).expect("write index.json");
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        fs::write(directory.join("oci-layout"), layout).expect("write oci-layout");
    }

    /// Returns a tar archive of the OCI layout, as `ctr image import` takes it.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn layout_archive(&self, tag: &str) -> Vec<u8> {
        let scratch = Scratch::new();
        let layout = scratch.directory("layout");
        self.write_layout(&layout, tag);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all(".", &layout).expect("archive the layout");
        archive.into_inner().expect("write to a vector")
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compress to a vector");
    encoder.finish().expect("compress to a vector")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

        assert_eq!(digest(b""), known);
    }

    #[test]
    fn a_whiteout_is_named_after_what_it_deletes() {
        let layer = Layer::new().whiteout("etc/passwd").whiteout("top");

        let tar = layer.into_tar();

        let mut archive = tar::Archive::new(tar.as_slice());
        let paths: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["etc/.wh.passwd", ".wh.top"]);
    }
}
