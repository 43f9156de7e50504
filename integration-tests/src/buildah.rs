//! Debian's buildah on private directories.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::image::Image;
use crate::{Outcome, Scratch, programs};

/// How long one of its commands may take: it writes whole images.
const PATIENT: Duration = Duration::from_secs(300);

/// A buildah with a store of its own, and runc to run its steps.
///
/// Its defaults raise limits, which needs CAP_SYS_RESOURCE: a configuration of its own asks for none.
#[derive(Debug)]
pub struct Buildah {
    program: PathBuf,
    scratch: Scratch,
}

impl Buildah {
    /// Makes the directories.
    ///
    /// # Panics
    /// If it is not installed.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let program = programs::installed("buildah").expect("buildah is missing");
        let scratch = Scratch::new();
        let limits = "default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]";
        let _ = scratch.file("containers.conf", format!("[containers]\n{limits}\n"));
        let _ = scratch.file("policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
        let _ = scratch.directory("tmp");
        Self { program, scratch }
    }

    /// Returns a command line of `buildah` on its directories.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        for (option, directory) in [("--root", "root"), ("--runroot", "run")] {
            command.arg(option).arg(self.scratch.join(directory));
        }
        command.args(["--storage-driver", "overlay"]).args(args);
        command.env("CONTAINERS_CONF", self.scratch.join("containers.conf"));
        command.env("BUILDAH_RUNTIME", "runc").env("TMPDIR", self.scratch.join("tmp"));
        command
    }

    /// Runs `buildah` to its end.
    ///
    /// # Panics
    /// If it fails, with all it wrote.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(&mut self.command(args), PATIENT).success()
    }

    /// Takes an image in under a name of this machine, "localhost/NAME".
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn import(&self, image: &Image, name: &str) {
        let layout = self.scratch.directory("layout");
        image.write_layout(&layout, "it");
        self.import_layout(&layout, "it", name);
        std::fs::remove_dir_all(layout).expect("remove the layout");
    }

    /// Takes an image of an OCI layout in under a name of this machine.
    ///
    /// # Panics
    /// If skopeo is not installed, or fails.
    #[track_caller]
    pub fn import_layout(&self, layout: &Path, tag: &str, name: &str) {
        let (root, run) = (self.scratch.join("root"), self.scratch.join("run"));
        let store = format!("[overlay@{}+{}]", root.display(), run.display());
        let mut skopeo = Command::new(programs::installed("skopeo").expect("skopeo is missing"));
        skopeo.args(["copy", "--quiet", "--insecure-policy"]);
        skopeo.arg(format!("oci:{}:{tag}", layout.display()));
        skopeo.arg(format!("containers-storage:{store}localhost/{name}:latest"));
        let _ = Outcome::of(skopeo.env("TMPDIR", self.scratch.join("tmp")), PATIENT).success();
    }

    /// Returns the directories of an image's layers, lowest first, as overlayfs keeps what each changed.
    ///
    /// # Panics
    /// If there is no such image, or its store is not as containers/storage writes it.
    #[must_use]
    #[track_caller]
    pub fn layers(&self, image: &str) -> Vec<PathBuf> {
        let list = |name: &str| -> Vec<Value> {
            let file = self.scratch.join("root").join(name);
            let text = std::fs::read(file).expect("read what the store has");
            serde_json::from_slice(&text).expect("JSON")
        };
        let tagged = json!(format!("{image}:latest"));
        let images = list("overlay-images/images.json");
        let is_named =
            |entry: &&Value| entry["names"].as_array().is_some_and(|names| names.contains(&tagged));
        let mut next = images.iter().find(is_named).map(|entry| entry["layer"].clone());
        let known = list("overlay-layers/layers.json");
        let mut layers = Vec::new();
        while let Some(id) = next.as_ref().and_then(Value::as_str) {
            let layer =
                known.iter().find(|layer| layer["id"] == id).expect("a layer that is there");
            layers.push(self.scratch.join("root/overlay").join(id).join("diff"));
            next = layer.get("parent").cloned();
        }
        assert!(!layers.is_empty(), "buildah has no image {image}");
        layers.reverse();
        layers
    }

    /// Returns a directory for files that are to go with it.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

impl Default for Buildah {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        let _ = Outcome::of(&mut self.command(["rm", "--all"]), PATIENT);
        // It keeps its store mounted on itself.
        for directory in ["root/overlay", "root", "run/overlay", "run"] {
            let _ = nix::mount::umount(&self.scratch.join(directory));
        }
    }
}
