//! What an image is made of: a scanner looks at it (moby/buildkit, docs/attestations/sbom-protocol.md).
//!
//! ```text
//! result's files ─▶ /run/src/core/sbom ─┐
//! other stages   ─▶ /run/src/extras/…  ─┼─▶ the scanner's own command ─▶ /run/out/*.spdx.json ─▶ statements
//! ```
//!
//! The scanner runs as a step does, behind the same walls.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::build::{Build, Finished, host_platform};
use crate::error::BuildError;
use crate::mounts::Mounted;
use crate::run::Job;
use crate::sources::Files as SourceFiles;
use crate::stage::Stage;

/// What statements are about.
const PREDICATE: &str = "https://spdx.dev/Document";
/// Where the scanner finds the result.
const SOURCE: &str = "/run/src/core/sbom";
/// Where it finds what else is to be scanned.
const EXTRAS: &str = "/run/src/extras";
/// Where it puts what it finds.
const DESTINATION: &str = "/run/out";
/// End of the names of its files.
const SUFFIX: &str = ".spdx.json";
/// Largest file that is taken from it.
const MAX_BYTES: u64 = 256 << 20;

impl Build {
    /// Scans a result; returns statements without subjects.
    pub(crate) async fn scan(
        self: &Arc<Self>,
        finished: &Finished,
        scanner: &str,
    ) -> Result<Vec<Value>, BuildError> {
        let broken = |problem: &str| BuildError::Scanner {
            scanner: scanner.to_owned(),
            problem: problem.to_owned(),
        };
        let target = self.target()?;
        let mut stage =
            Stage::of_image(Arc::clone(self), target, scanner, &host_platform()).await?;
        let words = [stage.config.list("Entrypoint"), stage.config.list("Cmd")].concat();
        if words.is_empty() {
            return Err(broken("its image says no command"));
        }
        let mut mounts = vec![stage.all_of(&finished.stage.files, SOURCE).await?];
        let extras = self.extras(&stage).await?;
        let mut env = stage.run_env();
        env.push(format!("BUILDKIT_SCAN_DESTINATION={DESTINATION}"));
        env.push(format!("BUILDKIT_SCAN_SOURCE={SOURCE}"));
        if !extras.is_empty() {
            env.push(format!("BUILDKIT_SCAN_SOURCE_EXTRAS={EXTRAS}"));
        }
        mounts.extend(extras);
        let outbox = self
            .shared
            .content
            .temporary_dir()
            .map_err(BuildError::io("make a directory for the scanner"))?;
        std::fs::set_permissions(outbox.path(), std::fs::Permissions::from_mode(0o777))
            .map_err(BuildError::io("open the scanner's directory to it"))?;
        let mut job = Job::of(words);
        job.env = env;
        job.mounts = mounts;
        job.outbox = Some((outbox.path().to_owned(), DESTINATION.to_owned()));
        let step =
            self.progress.step(format!("[{}] generating sbom using {scanner}", self.platform));
        match stage.execute(job, &step).await {
            Ok(upper) => self.shared.layers.discard(&upper),
            Err(error) => {
                step.failed(error.to_string());
                return Err(error);
            }
        }
        match statements(outbox.path()) {
            Ok(statements) => {
                step.done();
                Ok(statements)
            }
            Err(problem) => {
                step.failed(problem.as_str());
                Err(broken(&problem))
            }
        }
    }

    /// Returns what the Dockerfile wants scanned besides (`BUILDKIT_SBOM_SCAN_STAGE` and `…_CONTEXT`).
    async fn extras(self: &Arc<Self>, stage: &Stage) -> Result<Vec<Mounted>, BuildError> {
        let target = self.target()?;
        let mut extras = Vec::new();
        for index in self.needed(target).into_iter().filter(|index| *index != target) {
            let built = self.stage(index).await.map_err(BuildError::Shared)?;
            let name = self.file.stages[index].name.clone().unwrap_or_else(|| index.to_string());
            let wanted = built.arg("BUILDKIT_SBOM_SCAN_STAGE").unwrap_or_default();
            if is_true(wanted) || wanted.split(',').any(|one| one.trim() == name) {
                let place = format!("{EXTRAS}/sbom-{name}");
                extras.push(stage.all_of(&built.files, &place).await?);
            }
        }
        let global = self.global_args.iter().find(|(key, _)| key == "BUILDKIT_SBOM_SCAN_CONTEXT");
        if global.and_then(|(_, value)| value.as_deref()).is_some_and(is_true)
            && let Some(context) = self.context("").await?
        {
            let source = context.select("", &Arc::default(), true).await?;
            let place = format!("{EXTRAS}/sbom-context");
            extras.push(Mounted::of_source(source, None, &place));
        }
        Ok(extras)
    }
}

impl Stage {
    /// Shows all of some files at a place.
    async fn all_of(
        &self,
        files: &crate::layers::Files,
        place: &str,
    ) -> Result<Mounted, BuildError> {
        let tree = SourceFiles::Tree(Arc::new(self.tree_of(files).await?), Arc::default());
        let source = tree.select("", &Arc::default(), false).await?;
        Ok(Mounted::of_source(source, Some(files.clone()), place))
    }
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "true" | "True" | "TRUE")
}

/// Reads what a scanner wrote, in the order of the names.
fn statements(directory: &Path) -> Result<Vec<Value>, String> {
    let listed = std::fs::read_dir(directory).map_err(|error| error.to_string())?;
    let mut names: Vec<String> = listed
        .flatten()
        // A link leads to where the scanner cannot go itself.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(SUFFIX))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(format!("it wrote no {DESTINATION}/*{SUFFIX}"));
    }
    names.iter().map(|name| statement(&directory.join(name), name)).collect()
}

fn statement(path: &Path, name: &str) -> Result<Value, String> {
    let told = |problem: &dyn std::fmt::Display| format!("its file {name:?}: {problem}");
    let size_bytes = std::fs::metadata(path).map_err(|error| told(&error))?.len();
    if size_bytes > MAX_BYTES {
        return Err(told(&format!("it has more than {MAX_BYTES} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| told(&error))?;
    let mut statement: Value = serde_json::from_slice(&bytes).map_err(|error| told(&error))?;
    let kind = statement.get("predicateType").and_then(Value::as_str);
    if kind != Some(PREDICATE) {
        return Err(told(&format!("its predicateType is not {PREDICATE}")));
    }
    if let Value::Object(fields) = &mut statement {
        fields.remove("subject");
    }
    Ok(statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Vec<Value>, String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        statements(directory.path())
    }

    #[test]
    fn what_a_scanner_writes_is_taken_if_it_is_what_was_agreed() {
        let good = format!(
            r#"{{"_type":"x","predicateType":"{PREDICATE}","subject":[{{"name":"_"}}],"predicate":{{}}}}"#
        );
        let found = read(&[("b.spdx.json", &good), ("a.spdx.json", &good), ("log", "x")]).unwrap();
        assert_eq!((found.len(), found[0].get("subject")), (2, None));

        assert!(read(&[("log", "x")]).unwrap_err().contains("no /run/out/*.spdx.json"));
        let other = good.replace("spdx.dev", "example.org");
        assert!(read(&[("a.spdx.json", &other)]).unwrap_err().contains("predicateType"));
        assert!(read(&[("a.spdx.json", "{")]).unwrap_err().contains("a.spdx.json"));
    }
}
