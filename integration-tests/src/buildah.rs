//! Debian's buildah on private directories.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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

    /// Writes an image into an OCI layout, which may hold others that share its layers.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn export(&self, image: &str, layout: &Path, tag: &str) {
        let policy = self.scratch.join("policy.json");
        let target = format!("oci:{}:{tag}", layout.display());
        let policy = policy.to_str().expect("UTF-8");
        let fixed = ["push", "-q", "--disable-compression", "--signature-policy", policy];
        let _ = self.run(fixed.iter().chain(&[image, target.as_str()]));
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
