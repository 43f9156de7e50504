//! `keg build`: what a Dockerfile becomes, what is done again and what is not, and what is never kept.

mod attest;
mod cache;
mod check;
mod copying;
mod dockerfiles;
mod flags;
mod full;
mod ignoring;
mod image_files;
mod killed;
mod language;
mod mounts;
mod platforms;
mod secrets;
mod shell;
mod sources;
mod syntax;
mod travel;

use std::path::PathBuf;
use std::time::Duration;

use keg_fixtures::{Daemon, Outcome, Scratch};

/// How long a build may take on a machine that does much else.
const PATIENT: Duration = Duration::from_secs(120);

/// A directory with a Dockerfile, and a daemon to build it.
pub(super) struct Project {
    pub(super) daemon: Daemon,
    /// The base image.
    pub(super) base: String,
    pub(super) scratch: Scratch,
}

impl Project {
    /// Makes one; `BASE` in files stands for the base image.
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let (daemon, base) = Daemon::with_busybox();
        Self::with(daemon, base, files)
    }

    /// Makes one for a daemon that is there.
    pub(super) fn with(daemon: Daemon, base: String, files: &[(&str, &str)]) -> Self {
        let project = Self { daemon, base, scratch: Scratch::new() };
        for (path, content) in files {
            project.write(path, content);
        }
        project
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.scratch.path().join("context").join(path)
    }

    pub(super) fn write(&self, path: &str, content: &str) {
        let full = self.path(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, content.replace("BASE", &self.base)).unwrap();
    }

    /// Builds with plain progress.
    pub(super) fn build(&self, args: &[&str]) -> Outcome {
        let context = self.path("");
        let mut all = vec!["build", "--progress", "plain", "-t", "built"];
        all.extend(args);
        all.push(context.to_str().unwrap());
        self.daemon.keg_within(PATIENT, all)
    }

    /// Builds something else than an image called "built".
    pub(super) fn build_only(&self, args: &[&str]) -> Outcome {
        let context = self.path("");
        let mut all = vec!["build", "--progress", "plain"];
        all.extend(args);
        all.push(context.to_str().unwrap());
        self.daemon.keg_within(PATIENT, all)
    }

    /// Reads a stored document.
    #[track_caller]
    pub(super) fn document(&self, digest: &str) -> serde_json::Value {
        let path = self.daemon.root().join("content/blobs").join(digest.replace(':', "/"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Builds, and returns what its name stands for: the digest of a manifest or of an index.
    #[track_caller]
    pub(super) fn build_target(&self, args: &[&str]) -> String {
        let metadata = self.scratch.path().join("metadata.json");
        let mut all = vec!["--metadata-file", metadata.to_str().unwrap()];
        all.extend(args);
        let _ = self.build(&all).success();
        let value: serde_json::Value =
            serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
        value["containerimage.digest"].as_str().unwrap().to_owned()
    }

    /// Runs a line of shell in what was built.
    #[track_caller]
    pub(super) fn run(&self, line: &str) -> String {
        self.daemon.keg(["run", "--rm", "built", "sh", "-c", line]).success().stdout
    }

    /// The configuration of what was built.
    #[track_caller]
    pub(super) fn config(&self) -> serde_json::Value {
        self.daemon.inspect("built")["Config"].clone()
    }

    /// The id of what was built.
    #[track_caller]
    pub(super) fn id(&self) -> String {
        self.daemon.inspect("built")["Id"].as_str().unwrap().to_owned()
    }
}
