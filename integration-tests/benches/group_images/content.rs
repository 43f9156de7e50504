//! The images that are measured, and how they come into the registry.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::bail;
use keg_fixtures::{Image, Layer, Outcome, Registry, Scratch};

use super::{LONG_PATIENCE, installed};

/// Largest file that becomes a part of an image.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Files of this machine, to make layers of.
pub(super) struct Content {
    files: Vec<(String, Vec<u8>)>,
}

impl Content {
    /// Reads regular files below a directory until there are enough bytes.
    ///
    /// # Errors
    /// If there are not enough.
    pub(super) fn collect(root: &Path, wanted_bytes: u64) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        let mut bytes = 0;
        let mut pending = vec![root.to_owned()];
        while let Some(directory) = pending.pop() {
            let mut entries: Vec<_> = fs::read_dir(&directory)?
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .collect();
            entries.sort();
            for path in entries {
                let metadata = fs::symlink_metadata(&path)?;
                if metadata.is_dir() {
                    pending.push(path);
                } else if metadata.is_file()
                    && metadata.len() < MAX_FILE_BYTES
                    && bytes < wanted_bytes
                {
                    let Ok(content) = fs::read(&path) else { continue };
                    bytes += content.len() as u64;
                    files.push((format!("f/{:02}/{}", files.len() % 100, files.len()), content));
                }
            }
        }
        if bytes < wanted_bytes {
            bail!("{} holds too little to make an image of", root.display());
        }
        Ok(Self { files })
    }

    /// Makes an image of so many layers, none of which is in an image of another name.
    pub(super) fn image(&self, layers: usize, name: &str) -> Image {
        let mark = |layer: usize| format!("{name} {layer}");
        let mut all: Vec<Layer> =
            (0..layers).map(|layer| Layer::new().file("mark", 0o644, mark(layer))).collect();
        for (index, (name, content)) in self.files.iter().enumerate() {
            let place = index % layers;
            let layer = std::mem::take(&mut all[place]);
            all[place] = layer.file(name, 0o644, content);
        }
        Image::new(all, &serde_json::json!({"Cmd": ["true"]}))
    }
}

/// Makes an image of one layer with so many small files.
pub(super) fn of_many_files(count: usize) -> Image {
    let layer = (0..count).fold(Layer::new(), |layer, number| {
        layer.file(&format!("f/{:03}/{number}", number % 500), 0o644, number.to_string())
    });
    Image::new(vec![layer], &serde_json::json!({"Cmd": ["true"]}))
}

/// Writes an image with blobs beside it that no image needs; returns the layout's path.
pub(super) fn layout_with_blobs(scratch: &Scratch, blobs: usize) -> anyhow::Result<String> {
    let image = Image::new(vec![Layer::new().file("x", 0o644, "x")], &serde_json::json!({}));
    let layout = scratch.directory("blobs");
    image.write_layout(&layout, "keg.test/blobs:1");
    for number in 0..blobs {
        let blob = keg_fixtures::image::Blob::new("", number.to_string().into_bytes());
        fs::write(layout.join("blobs/sha256").join(blob.hex()), blob.bytes)?;
    }
    Ok(layout.display().to_string())
}

/// Pushes an image with its layers compressed by a program that people use; returns its name.
///
/// # Errors
/// If there is no skopeo, or it fails.
pub(super) fn push(
    registry: &Registry,
    image: &Image,
    name: &str,
    compression: &str,
    scratch: &Scratch,
) -> anyhow::Result<String> {
    let layout = scratch.directory("layout");
    image.write_layout(&layout, "it");
    let reference = format!("{}/{name}", registry.address());
    let mut skopeo = Command::new(installed("skopeo")?);
    skopeo
        .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
        .args(["--dest-compress", "--dest-compress-format", compression])
        .arg("--dest-force-compress-format")
        .arg(format!("oci:{}:it", layout.display()))
        .arg(format!("docker://{reference}"));
    let mut outcome = Outcome::of(&mut skopeo, LONG_PATIENCE);
    if outcome.exit_code != 0 {
        // skopeo of before 1.14 has no such option, and compresses what is not compressed.
        let arguments: Vec<_> = skopeo
            .get_args()
            .filter(|argument| *argument != "--dest-force-compress-format")
            .map(std::ffi::OsStr::to_owned)
            .collect();
        outcome = Outcome::of(Command::new(skopeo.get_program()).args(arguments), LONG_PATIENCE);
    }
    if outcome.exit_code != 0 {
        bail!("skopeo cannot push {name}: {}", outcome.stderr.trim());
    }
    fs::remove_dir_all(layout)?;
    Ok(reference)
}
