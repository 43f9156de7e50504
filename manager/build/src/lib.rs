//! Dockerfiles: parse, plan, cache, solve.
//!
//! ```text
//!                     Session: the client's files, secrets, agent
//!                        ▲ asked for what is read, and only if it changed
//! text ─ dockerfile ─▶ Build ─▶ Stage, Stage, … in parallel ─▶ export ─▶ an image, or files
//!                        │         └─ RUN  ─ mounts ─ engine ──┐
//!                        │         └─ COPY ─ sources ─ copy ───┤
//!                        ▼                                     ▼
//!                     Content: files by digest      Layers: snapshots, results by key
//! ```
//!
//! # Invariants
//! - A step's key is the digest of everything that its result depends on: the files before it, its
//!   words with variables replaced, the bytes, modes and owners of what it reads; never times.
//! - Steps run as containers do, in a user namespace of their own, and never as the host's root.
//! - What a step is given by `--mount` is not in its layer; a secret is on no disk but that of
//!   `--state`, and in no key, history or log.
//! - A build that ends in the middle, however it ends, leaves results that are whole, or none.

mod archive;
mod base;
mod build;
mod builder;
mod check;
mod chmod;
mod config;
mod content;
mod context;
mod copy;
mod describe;
mod direct;
pub mod dockerfile;
mod earlier;
mod emulation;
mod epoch;
mod error;
mod export;
mod git;
mod ignore;
mod inputs;
mod layers;
mod layout;
mod mounts;
mod overlay;
mod owners;
mod progress;
mod provenance;
mod remote;
mod remote_cache;
mod request;
mod rules;
mod run;
mod sbom;
mod scope;
pub mod session;
mod shell;
mod sources;
mod stage;
mod steps;
mod tree;
mod usage;

use std::sync::Arc;

use futures_util::future::try_join_all;

pub use builder::{Builder, BuilderSettings};
pub use describe::{Outline, OutlineArg, OutlineOffer, Target, Targets};
pub use error::{BuildError, FetchError};
pub use export::{Built, ResultFiles};
pub use git::GitAddressError;
pub use ignore::{Ignore, IgnoreError, PathPattern};
pub use layout::LayoutError;
pub use progress::{Event, Progress, StepState};
pub use remote_cache::CacheArchive;
pub use request::{
    BuildRequest, CachePlace, CacheSource, CacheTarget, ContextSource, DebugShell, Provenance,
    ProvenanceVersion,
};
pub use rules::check_description;
pub use tree::{Tree, TreeError};
pub use usage::{DiskUsage, Filter, FilterError, Prune, Pruned, UsageKind};

use build::Build;
use export::Variant;
use session::Session;

impl Builder {
    /// Builds. What is told goes to `progress`; whoever stops waiting gives the build up.
    ///
    /// # Errors
    /// [`BuildError`]; what was done until then is kept for the next build.
    pub async fn build(
        &self,
        request: BuildRequest,
        session: Arc<dyn Session>,
        progress: Progress,
    ) -> Result<Built, Failure> {
        let running = Arc::clone(&self.shared.running).read_owned().await;
        let builds = Build::new(self, request, session, progress).await.map_err(Failure::early)?;
        let Some(build) = builds.first().cloned() else { return Ok(Built::default()) };
        let checked = build.check_copies().await.and_then(|()| build.check_findings());
        checked.map_err(|error| build.failure(error))?;
        let outcome = match try_join_all(builds.iter().map(Build::run)).await {
            Ok(finished) => {
                let of = |(build, finished)| Variant { build: Arc::clone(build), finished };
                let variants: Vec<Variant> = builds.iter().zip(finished).map(of).collect();
                if let [one] = variants.as_slice() {
                    one.build.look_at(&one.finished).await;
                }
                export::export(variants).await
            }
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            build.inputs.finish().await;
            let done = Arc::clone(&build);
            let kept = build.shared.blocking(move |_| done.keep(&[])).await;
            if let Err(error) = kept {
                tracing::warn!(%error, "the results of a failed build are not kept");
            }
        }
        let outcome = outcome.map_err(|error| build.failure(error));
        let shared = Arc::clone(&build.shared);
        // What they have come to is in use as long as they are there.
        drop((running, build, builds));
        if let Err(error) = shared.blocking(|shared| shared.stay_bounded()).await {
            tracing::warn!(%error, "the build cache cannot be kept within its limit");
        }
        outcome
    }
}

impl Builder {
    /// Reads a Dockerfile and warns of what is doubtful in it; builds nothing.
    ///
    /// # Errors
    /// [`BuildError`] if it cannot be read; [`BuildError::Findings`] if there is something, and the file
    /// says that this is an error.
    pub async fn check(
        &self,
        request: BuildRequest,
        session: Arc<dyn Session>,
        progress: Progress,
    ) -> Result<(), Failure> {
        let builds = Build::new(self, request, session, progress).await.map_err(Failure::early)?;
        let Some(build) = builds.first() else { return Ok(()) };
        let checked = build.check_copies().await.and_then(|()| build.check_findings());
        checked.map_err(|error| build.failure(error))
    }
}

/// A failed build: why, and where in the file.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: BuildError,
    /// Lines of the Dockerfile around the failure, and which of them are to blame.
    pub excerpt: Option<Excerpt>,
}

/// Some lines of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Number of the first line shown.
    pub first_line: usize,
    /// The lines.
    pub lines: Vec<String>,
    /// Lines to blame, first and last.
    pub blamed: (usize, usize),
}

/// Lines shown before and after those to blame.
const AROUND: usize = 3;
/// Most lines shown.
const MAX_SHOWN: usize = 30;

impl Failure {
    fn early(error: BuildError) -> Self {
        Self { error, excerpt: None }
    }
}

impl Build {
    fn failure(&self, error: BuildError) -> Failure {
        let line = blamed_line(&error);
        let excerpt = line.and_then(|line| self.excerpt(line));
        Failure { error, excerpt }
    }

    fn excerpt(&self, line: usize) -> Option<Excerpt> {
        let ranges = self.file.stages.iter().flat_map(|stage| {
            std::iter::once(&stage.range).chain(stage.instructions.iter().map(|i| &i.range))
        });
        let last = ranges.filter(|range| range.contains(&line)).map(|range| *range.end()).max();
        let last = last.unwrap_or(line);
        let first_line = line.saturating_sub(AROUND).max(1);
        let end = (last + AROUND).min(self.file.source.len()).min(first_line + MAX_SHOWN);
        let lines = self.file.source.get(first_line - 1..end)?.to_vec();
        Some(Excerpt { first_line, lines, blamed: (line, last) })
    }
}

fn blamed_line(error: &BuildError) -> Option<usize> {
    match error {
        BuildError::At { line, source, .. } => Some(match source.as_ref() {
            // The line of the stage that failed tells more than that of the one that needs it.
            BuildError::Stage { source, .. } => blamed_line(source).unwrap_or(*line),
            _ => *line,
        }),
        BuildError::Stage { source, .. } | BuildError::Shared(source) => blamed_line(source),
        BuildError::Parse { source } => source.line(),
        _ => None,
    }
}
