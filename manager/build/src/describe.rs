//! What a Dockerfile offers: its targets, and what a target can be given. Nothing is built, and nothing is
//! fetched but the Dockerfile.
//!
//! A comment right above an `ARG` or a `FROM` that begins with the name describes it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::build::Build;
use crate::builder::Builder;
use crate::config::ImageConfig;
use crate::dockerfile::{Dockerfile, Instruction, Located, MountKind, Run, RunMount};
use crate::error::BuildError;
use crate::progress::Progress;
use crate::request::BuildRequest;
use crate::scope::{Scope, set_arg};
use crate::session::Session;
use crate::{Failure, dockerfile};

/// A stage that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name; `None`: it has a number only.
    pub name: Option<String>,
    /// What it is, as its comment says.
    pub description: String,
    /// What it is built on, variables not replaced.
    pub base: String,
    /// Its platform, variables not replaced.
    pub platform: Option<String>,
    /// Whether it is built if none is asked for.
    pub is_default: bool,
    /// Lines of its `FROM`.
    pub lines: RangeInclusive<usize>,
}

/// All targets of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// Stages, in order.
    pub targets: Vec<Target>,
    /// The Dockerfile.
    pub source: String,
}

/// A build argument that a target has a use for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What it is now: what was given, else its default.
    pub value: Option<String>,
    /// What it is, as its comment says.
    pub description: String,
    /// Lines of its definition.
    pub lines: RangeInclusive<usize>,
}

/// A secret or an SSH agent that a target has a use for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineOffer {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub is_required: bool,
    /// Lines of the step that mounts it first.
    pub lines: RangeInclusive<usize>,
}

/// What a target can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The target's name, if it has one.
    pub name: Option<String>,
    /// What it is, as its comment says.
    pub description: String,
    /// Build arguments, in the order of their lines.
    pub args: Vec<OutlineArg>,
    /// Secrets.
    pub secrets: Vec<OutlineOffer>,
    /// SSH agents.
    pub agents: Vec<OutlineOffer>,
    /// The Dockerfile.
    pub source: String,
}

impl Builder {
    /// Tells what stages a Dockerfile has.
    ///
    /// # Errors
    /// [`BuildError`] if it cannot be read.
    pub async fn targets(
        &self,
        request: BuildRequest,
        session: Arc<dyn Session>,
        progress: Progress,
    ) -> Result<Targets, Failure> {
        let builds = Build::new(self, request, session, progress).await.map_err(Failure::early)?;
        let file = builds.first().map(|build| Arc::clone(&build.file));
        let file = file.ok_or_else(|| Failure::early(no_stage()))?;
        let last = file.stages.len() - 1;
        let targets = file.stages.iter().enumerate().map(|(index, stage)| Target {
            name: stage.name.clone(),
            description: description(&file, &stage.range, stage.name.as_deref()),
            base: stage.base.clone(),
            platform: stage.platform.clone(),
            is_default: index == last,
            lines: stage.range.clone(),
        });
        Ok(Targets { targets: targets.collect(), source: source(&file) })
    }

    /// Tells what the target of a request can be given.
    ///
    /// # Errors
    /// [`BuildError`] if the file cannot be read, or has no such target.
    pub async fn outline(
        &self,
        request: BuildRequest,
        session: Arc<dyn Session>,
        progress: Progress,
    ) -> Result<Outline, Failure> {
        let builds = Build::new(self, request, session, progress).await.map_err(Failure::early)?;
        let build = builds.first().ok_or_else(|| Failure::early(no_stage()))?;
        build.outline().map_err(|error| build.failure(error))
    }
}

fn no_stage() -> BuildError {
    BuildError::Parse { source: dockerfile::ParseError::NoStage }
}

fn source(file: &Dockerfile) -> String {
    file.source.iter().map(|line| format!("{line}\n")).collect()
}

/// Finds what the comments right above a definition say of a name.
fn description(file: &Dockerfile, lines: &RangeInclusive<usize>, name: Option<&str>) -> String {
    let Some(name) = name else { return String::new() };
    let above = file.source.get(..lines.start() - 1).unwrap_or_default();
    let comments = above.iter().rev().map_while(|line| line.trim().strip_prefix('#'));
    let comments: Vec<&str> = comments.map(str::trim).collect();
    let told = comments.iter().rev().find_map(|comment| {
        let (first, rest) = comment.split_once(' ')?;
        first.eq_ignore_ascii_case(name).then_some(rest)
    });
    told.unwrap_or_default().to_owned()
}

/// What is found on the way through the stages.
#[derive(Default)]
struct Found {
    args: Vec<OutlineArg>,
    secrets: Vec<OutlineOffer>,
    agents: Vec<OutlineOffer>,
    /// Names of arguments before the first `FROM` that are of use.
    globals: BTreeSet<String>,
}

impl Found {
    /// Notes an argument; the last definition in a stage counts, and the first stage that has one.
    fn arg(&mut self, arg: OutlineArg, stage_args: &mut BTreeSet<String>) {
        match self.args.iter_mut().find(|known| known.name == arg.name) {
            Some(known) if stage_args.contains(&arg.name) => *known = arg,
            Some(_) => {}
            None => {
                stage_args.insert(arg.name.clone());
                self.args.push(arg);
            }
        }
    }
}

fn note(offers: &mut Vec<OutlineOffer>, id: String, is_required: bool, located: &Located) {
    match offers.iter_mut().find(|known| known.id == id) {
        Some(known) => known.is_required |= is_required,
        None => offers.push(OutlineOffer { id, is_required, lines: located.range.clone() }),
    }
}

impl Build {
    fn outline(&self) -> Result<Outline, BuildError> {
        let target = self.target()?;
        let mut found = Found::default();
        // The target's own come first.
        for index in self.needed(target).into_iter().rev() {
            self.look_through(index, &mut found)?;
        }
        self.add_globals(&mut found);
        found.args.sort_by_key(|arg| *arg.lines.start());
        found.secrets.sort_by_key(|offer| *offer.lines.start());
        found.agents.sort_by_key(|offer| *offer.lines.start());
        let stage = &self.file.stages[target];
        Ok(Outline {
            name: stage.name.clone(),
            description: description(&self.file, &stage.range, stage.name.as_deref()),
            args: found.args,
            secrets: found.secrets,
            agents: found.agents,
            source: source(&self.file),
        })
    }

    /// Evaluates what a stage says of itself: its base may set more, which is not looked at.
    fn look_through(&self, index: usize, found: &mut Found) -> Result<(), BuildError> {
        let stage = &self.file.stages[index];
        let words = self.file.words();
        for text in std::iter::once(&stage.base).chain(&stage.platform) {
            found.globals.extend(words.names(text));
        }
        let mut config = ImageConfig::empty(&self.platform);
        let mut args: Vec<(String, Option<String>)> = Vec::new();
        let mut own = BTreeSet::new();
        for located in &stage.instructions {
            let at = |source| {
                let error = BuildError::Words { source };
                error.at(&located.text, *located.range.start())
            };
            match &located.instruction {
                Instruction::Env(pairs) => {
                    let scope = Scope { config: Some(&config), args: &args };
                    let read = |text: &str| words.one(text, &scope).map_err(at);
                    let pairs: Result<Vec<_>, BuildError> = pairs
                        .iter()
                        .map(|pair| Ok((read(&pair.key)?, read(&pair.value)?)))
                        .collect();
                    for (key, value) in pairs? {
                        config.set_env(&key, &value);
                    }
                }
                Instruction::Arg(list) => {
                    for (key, default) in list {
                        let scope = Scope { config: Some(&config), args: &args };
                        let default = default.as_deref().map(|text| words.one(text, &scope));
                        let default = default.transpose().map_err(at)?;
                        let value = self.value_of(key, default, found);
                        set_arg(&mut args, key, value.clone());
                        let description =
                            description(&self.file, &located.range, Some(key.as_str()));
                        let (name, lines) = (key.clone(), located.range.clone());
                        found.arg(OutlineArg { name, value, description, lines }, &mut own);
                    }
                }
                Instruction::Run(run) => {
                    let scope = Scope { config: Some(&config), args: &args };
                    self.look_at_mounts(run, located, &scope, found)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn value_of(&self, key: &str, default: Option<String>, found: &mut Found) -> Option<String> {
        let given = self.request.build_args.get(key).cloned();
        given.or(default).or_else(|| {
            let (_, value) = self.global_args.iter().find(|(name, _)| name == key)?;
            found.globals.insert(key.to_owned());
            value.clone()
        })
    }

    fn look_at_mounts(
        &self,
        run: &Run,
        located: &Located,
        scope: &Scope<'_>,
        found: &mut Found,
    ) -> Result<(), BuildError> {
        let line = *located.range.start();
        for text in &run.mounts {
            let mount = self.file.words().one(text, scope);
            let mount = mount.map_err(|source| BuildError::Words { source });
            let mount = mount.map_err(|error| error.at(&located.text, line))?;
            // What is wrong with one is told by a build.
            match RunMount::parse(&mount).map(|mount| mount.kind) {
                Ok(MountKind::Secret { id, required, .. }) => {
                    note(&mut found.secrets, id, required, located);
                }
                Ok(MountKind::Ssh { id, required, .. }) => {
                    note(&mut found.agents, id, required, located);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the arguments before the first `FROM` that stages have a use for, and those of which these
    /// are made.
    fn add_globals(&self, found: &mut Found) {
        let mut definitions = Vec::new();
        for located in &self.file.global_args {
            if let Instruction::Arg(list) = &located.instruction {
                definitions.extend(list.iter().map(|(key, default)| (key, default, located)));
            }
        }
        let mut pending: Vec<String> = found.globals.iter().cloned().collect();
        while let Some(name) = pending.pop() {
            for (_, default, _) in definitions.iter().filter(|(key, ..)| **key == name) {
                let used = default.iter().flat_map(|text| self.file.words().names(text));
                pending.extend(used.filter(|used| found.globals.insert(used.clone())));
            }
        }
        for name in &found.globals {
            let Some((_, _, located)) = definitions.iter().rev().find(|(key, ..)| *key == name)
            else {
                continue;
            };
            if found.args.iter().any(|arg| arg.name == *name) {
                continue;
            }
            let value = self.global_args.iter().find(|(key, _)| key == name);
            found.args.push(OutlineArg {
                name: name.clone(),
                value: value.and_then(|(_, value)| value.clone()),
                description: description(&self.file, &located.range, Some(name)),
                lines: located.range.clone(),
            });
        }
    }
}
