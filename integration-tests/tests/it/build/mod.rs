//! `keg build`: what a Dockerfile becomes, what is done again and what is not, and what is never kept.

mod cache;
mod language;
mod secrets;

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
