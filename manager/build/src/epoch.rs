//! `SOURCE_DATE_EPOCH`: the time that nothing in a result is later than.
//!
//! A build argument says it, or an `ARG` before the first `FROM`: seconds since 1970, or what it is the
//! time of:
//!
//! ```text
//! context         the main context ─┐
//! NAME            a named context  ─┼─▶ a repository: its commit; an archive: as its server says, else
//!                 a stage that adds ┘   its newest file; what the client sends has no time
//!                 one thing from elsewhere
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::build::{Build, host_platform};
use crate::dockerfile::{Add, Instruction};
use crate::error::BuildError;
use crate::remote::is_remote;
use crate::request::ContextSource;
use crate::scope::{Scope, set_arg};
use crate::sources::{Files as SourceFiles, ItemKind, Source};

/// The argument's name.
pub(crate) const NAME: &str = "SOURCE_DATE_EPOCH";
/// The value that means the main context.
const CONTEXT: &str = "context";

impl Build {
    /// Finds out the time, and makes the argument a number for whoever asks for it.
    pub(crate) async fn resolve_epoch(&mut self) -> Result<(), BuildError> {
        let globals = self.evaluate_globals(&host_platform())?;
        let default = globals.iter().find(|(key, _)| key == NAME);
        let given = self.request.build_args.get(NAME);
        let text = given.or(default.and_then(|(_, value)| value.as_ref())).cloned();
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(()) };
        self.epoch_secs = match text.parse() {
            Ok(secs) => Some(secs),
            Err(_) => self.time_of(&text).await?,
        };
        let number = self.epoch_secs.map(|secs| secs.to_string()).unwrap_or_default();
        Arc::make_mut(&mut self.request).build_args.insert(NAME.to_owned(), number);
        Ok(())
    }

    /// Returns the time of what a name stands for, if it has one.
    async fn time_of(&self, name: &str) -> Result<Option<i64>, BuildError> {
        if name == CONTEXT {
            return self.time_of_context("", self.request.context.as_ref()).await;
        }
        if let Some(context) = self.request.named_contexts.get(name) {
            return self.time_of_context(name, Some(context)).await;
        }
        let Some(stage) = self.find_stage(name, self.file.stages.len()) else {
            return Err(malformed(format!(
                "invalid {NAME}: {name}: it is seconds since 1970, \"{CONTEXT}\", or the name of a \
                 context or a stage"
            )));
        };
        let line = *self.file.stages[stage].range.start();
        let text = self.file.stages[stage].text.clone();
        self.time_of_stage(stage).await.map_err(|error| error.at(&text, line))
    }

    async fn time_of_context(
        &self,
        name: &str,
        context: Option<&ContextSource>,
    ) -> Result<Option<i64>, BuildError> {
        let Some(ContextSource::Remote { url }) = context else { return Ok(None) };
        let mut contexts = self.inputs.contexts.lock().await;
        let files = match contexts.get(name) {
            Some(files) => files.clone(),
            None => self.remote_context(url).await?,
        };
        contexts.insert(name.to_owned(), files.clone());
        drop(contexts);
        if let Some(secs) = self.inputs.time_of(url) {
            return Ok(Some(secs));
        }
        let SourceFiles::Tree(tree, _) = files else { return Ok(None) };
        // What is ignored is as much a part of the archive.
        let all = SourceFiles::Tree(tree, Arc::default());
        Ok(newest(&all.select("", &Arc::default(), true).await?))
    }

    /// Returns the time of the one thing that a stage adds.
    async fn time_of_stage(&self, index: usize) -> Result<Option<i64>, BuildError> {
        let stage = &self.file.stages[index];
        let words = self.file.words();
        let mut args = self.evaluate_globals(&host_platform())?;
        args.retain(|(key, _)| key != NAME);
        let word = |text: &str, args: &[(String, Option<String>)]| {
            let scope = Scope { config: None, args };
            words.one(text, &scope).map_err(|source| BuildError::Words { source })
        };
        if word(&stage.base, &args)? != "scratch" {
            return Err(malformed(format!("a stage for {NAME} begins FROM scratch")));
        }
        let mut found = None;
        for located in &stage.instructions {
            match &located.instruction {
                Instruction::Arg(list) => {
                    for (key, default) in list {
                        let given: &BTreeMap<String, String> = &self.request.build_args;
                        let value = match (given.get(key), default) {
                            (Some(given), _) => given.clone(),
                            (None, Some(default)) => word(default, &args)?,
                            (None, None) => continue,
                        };
                        set_arg(&mut args, key, Some(value));
                    }
                }
                Instruction::Add(Add { copy, checksum, keep_git_dir, .. })
                    if found.is_none() && copy.sources.len() == 1 =>
                {
                    let source = word(&copy.sources[0], &args)?;
                    let checksum = checksum.as_deref().map(|text| word(text, &args)).transpose()?;
                    found = Some((source, checksum, *keep_git_dir));
                }
                _ => found = Some((String::new(), None, false)),
            }
        }
        let Some((url, checksum, keep_git_dir)) = found.filter(|(url, ..)| is_remote(url)) else {
            let problem = "it is to have one ADD of one address, and nothing else but ARG";
            return Err(malformed(format!(
                "{NAME} stage does not meet source-only requirements: {problem}"
            )));
        };
        let how = (keep_git_dir, Some(true));
        let sources = self.fetch_source(&url, checksum.as_deref(), how, true).await?;
        Ok(self.inputs.time_of(&url).or_else(|| sources.first().and_then(newest)))
    }
}

/// Returns when the newest file of an archive was modified.
fn newest(source: &Source) -> Option<i64> {
    if !source.is_dir() {
        return None;
    }
    let files = source.items.iter().filter(|item| matches!(item.kind, ItemKind::File { .. }));
    files.map(|item| item.mtime_nsec.div_euclid(1_000_000_000)).max()
}

fn malformed(problem: String) -> BuildError {
    BuildError::Malformed { problem }
}
