//! A Debian with compilers, interpreters and servers, as a base for images that are built.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::image::Blob;
use crate::programs;

/// What is in it besides what every Debian has.
const PACKAGES: &str = "gcc,libc6-dev,make,python3-minimal,nodejs,nginx-light,mariadb-server-core,\
                        mariadb-client-core,redis-server,xz-utils";

/// What nobody reads in a container.
const LEFT_OUT: [&str; 4] = ["doc", "man", "locale", "info"];

/// Name of the directory; another for other contents.
const DIRECTORY: &str = "debian-base-1";

/// The name of the image in its layout.
pub const NAME: &str = "keg.test/debian:base";

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An OCI layout with one image of one layer, which is not compressed.
#[derive(Debug, Clone)]
pub struct DebianBase {
    /// The layout.
    pub layout: PathBuf,
    /// The layer.
    pub layer: PathBuf,
}

/// Returns the base, which is made once and kept beside the programs that were built.
///
/// # Errors
/// What mmdebstrap said, if it cannot be made: it needs Debian's archive.
pub fn base() -> Result<DebianBase, String> {
    static ONCE: OnceLock<Result<DebianBase, String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        let built = programs::directory();
        let directory = built.parent().unwrap_or(&built).join(DIRECTORY);
        find_or_make(&directory).map_err(|error| error.to_string())
    })
    .clone()
}

fn find_or_make(directory: &Path) -> std::io::Result<DebianBase> {
    fs::create_dir_all(directory)?;
    // Other test processes may want it at the same time.
    let lock = File::create(directory.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let (layout, layer) = (directory.join("layout"), directory.join("layer.tar"));
    if !layer.exists() {
        let unfinished = directory.join("unfinished.tar");
        make_archive(&unfinished)?;
        fs::rename(unfinished, &layer)?;
    }
    if !layout.join("index.json").exists() {
        make_layout(&layout, &layer)?;
    }
    Ok(DebianBase { layout, layer })
}

fn make_archive(archive: &Path) -> std::io::Result<()> {
    let program = programs::installed("mmdebstrap").ok_or(std::io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    command.args(["--quiet", "--variant=minbase"]).arg(format!("--include={PACKAGES}"));
    // Nobody needs what a power cut would leave.
    command.arg("--dpkgopt=force-unsafe-io");
    for directory in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{directory}/*"));
    }
    command.arg("--aptopt=APT::Sandbox::User \"root\"").arg("bookworm").arg(archive);
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn make_layout(layout: &Path, layer: &Path) -> std::io::Result<()> {
    let sum = Command::new("sha256sum").arg(layer).output()?.stdout;
    let hex = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
    let digest = format!("sha256:{hex}");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let link = blobs.join(&hex);
    let _ = fs::remove_file(&link);
    fs::hard_link(layer, link)?;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let config = json!({
        "created": "2024-01-02T03:04:05Z",
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": [format!("PATH={path}")], "Cmd": ["bash"]},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "mmdebstrap"}],
    });
    let config = Blob::new(CONFIG, config.to_string().into_bytes());
    let size = fs::metadata(layer)?.len();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": [{"mediaType": LAYER, "digest": digest, "size": size}],
    });
    let manifest = Blob::new(MANIFEST, manifest.to_string().into_bytes());
    for blob in [&config, &manifest] {
        fs::write(blobs.join(blob.hex()), &blob.bytes)?;
    }
    fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    let mut target = manifest.descriptor();
    target["annotations"] = json!({
        "org.opencontainers.image.ref.name": "base",
        "io.containerd.image.name": NAME,
    });
    // Last: who finds it finds all.
    fs::write(
        layout.join("index.json"),
        json!({"schemaVersion": 2, "manifests": [target]}).to_string(),
    )
}
