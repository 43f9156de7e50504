//! A stage while it is built: instructions one after the other, on files and a configuration.

use std::sync::Arc;

use jiff::Timestamp;
use keg_image::Platform;
use keg_store::Digest;
use serde_json::{Value, json};

use crate::build::Build;
use crate::config::ImageConfig;
use crate::dockerfile::{
    Command, Health, HealthTest, Instruction, Line, Located, Pair, Words, parse_line, port_specs,
};
use crate::error::{BuildError, shorten};
use crate::layers::{Files, StepResult, Upper};
use crate::progress::Step;
use crate::scope::{Scope, set_arg};

/// A stage, as far as it is built.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) build: Arc<Build>,
    pub(crate) index: usize,
    pub(crate) files: Files,
    pub(crate) config: ImageConfig,
    /// `ARG`s so far.
    pub(crate) args: Vec<(String, Option<String>)>,
    pub(crate) platform: Platform,
    has_own_cmd: bool,
    /// Whether its layers are layers of the image.
    is_shipped: bool,
    /// Steps so far, and all of them, for people.
    step: usize,
    steps: usize,
}

/// An image that a stage begins with.
#[derive(Debug)]
pub(crate) struct BaseImage {
    pub(crate) config_json: Vec<u8>,
    pub(crate) platform: Platform,
    pub(crate) files: Files,
}

/// What a stage has come to.
#[derive(Debug)]
pub(crate) struct BuiltStage {
    pub(crate) files: Files,
    pub(crate) config: ImageConfig,
    args: Vec<(String, Option<String>)>,
    pub(crate) platform: Platform,
}

impl BuiltStage {
    /// Returns the value of an `ARG` at the stage's end.
    pub(crate) fn arg(&self, name: &str) -> Option<&str> {
        let (_, value) = self.args.iter().rev().find(|(key, _)| key == name)?;
        value.as_deref()
    }
}

impl Stage {
    /// Builds a stage of a file.
    pub(crate) async fn build(build: Arc<Build>, index: usize) -> Result<BuiltStage, BuildError> {
        let stage = build.file.stages[index].clone();
        let line = *stage.range.start();
        let mut this =
            Self::begin(build, index).await.map_err(|error| error.at(&stage.text, line))?;
        let triggers = this.config.list("OnBuild");
        this.config.remove("OnBuild");
        this.steps += triggers.len();
        for trigger in triggers {
            let located = parse_trigger(&trigger, line, this.build.file.directives.escape)
                .map_err(|source| BuildError::Parse { source })?;
            this.step_at(&located, line).await?;
        }
        for located in &stage.instructions {
            this.step_at(located, *located.range.start()).await?;
        }
        // Without the build itself, which keeps what its stages have come to.
        let Self { files, config, args, platform, .. } = this;
        Ok(BuiltStage { files, config, args, platform })
    }

    /// Carries an instruction out; one that fails may be looked into.
    async fn step_at(&mut self, located: &Located, line: usize) -> Result<(), BuildError> {
        let scope = Scope { config: Some(&self.config), args: &self.args };
        self.build.warn_of_unset(located, &scope);
        let Err(error) = self.instruction(located).await else { return Ok(()) };
        // What a command left can be looked at only by who ran it, and has been.
        let is_command = matches!(error, BuildError::Exit { .. });
        let is_elsewhere = matches!(error, BuildError::Stage { .. } | BuildError::Session { .. });
        if !is_command && !is_elsewhere {
            self.offer_shell(&format!("before {}", shorten(&located.text)), false).await;
        }
        Err(error.at(&located.text, line))
    }

    /// `FROM`.
    async fn begin(build: Arc<Build>, index: usize) -> Result<Self, BuildError> {
        let stage = build.file.stages[index].clone();
        let global = Scope { config: None, args: &build.global_args };
        let read = |text: &str| {
            build.file.words().one(text, &global).map_err(|source| BuildError::Words { source })
        };
        let base = read(&stage.base)?;
        let platform = match stage.platform.as_deref().map(read).transpose()? {
            Some(text) if !text.is_empty() => {
                text.parse::<Platform>().map_err(|_| BuildError::Malformed {
                    problem: format!("{text:?} is no platform, such as linux/amd64"),
                })?
            }
            _ => build.platform.clone(),
        };
        if base.is_empty() {
            let problem = format!("{:?} is empty once its variables are replaced", stage.base);
            return Err(BuildError::Malformed { problem });
        }
        let made = |located: &&Located| makes_files(&located.instruction);
        let mut this = Self::empty(build, index, platform);
        this.steps += stage.instructions.iter().filter(made).count();
        this.is_shipped = this.build.ships(index);
        let named = this.build.request.named_contexts.get(&base).cloned();
        match (named, this.build.find_stage(&base, index)) {
            (Some(crate::request::ContextSource::Image { reference }), _) => {
                this.begin_at_image(&reference).await?;
            }
            (Some(crate::request::ContextSource::Layout { tag, digest }), _) => {
                this.begin_at_layout(&base, (tag.as_deref(), digest.as_deref())).await?;
            }
            (Some(_), _) => {
                return Err(BuildError::Malformed {
                    problem: format!(
                        "the context {base:?} is a directory, and a stage needs an image"
                    ),
                });
            }
            (None, Some(other)) => this.begin_at_stage(other).await?,
            (None, None) if base == "scratch" => this.step += 1,
            (None, None) => this.begin_at_image(&base).await?,
        }
        Ok(this)
    }

    /// A stage with nothing in it, and one step to come.
    fn empty(build: Arc<Build>, index: usize, platform: Platform) -> Self {
        Self {
            index,
            files: Files::empty(),
            config: ImageConfig::empty(&platform),
            args: Vec::new(),
            platform,
            has_own_cmd: false,
            is_shipped: false,
            step: 0,
            steps: 1,
            build,
        }
    }

    /// Goes on from what a stage has come to.
    pub(crate) fn of_built(build: Arc<Build>, index: usize, built: &BuiltStage) -> Self {
        let mut this = Self::empty(build, index, built.platform.clone());
        this.files = built.files.clone();
        this.config = built.config.clone();
        this.args.clone_from(&built.args);
        this
    }

    /// A stage that is an image.
    pub(crate) async fn of_image(
        build: Arc<Build>,
        index: usize,
        name: &str,
        platform: &Platform,
    ) -> Result<Self, BuildError> {
        let mut this = Self::empty(build, index, platform.clone());
        this.begin_at_image(name).await?;
        Ok(this)
    }

    async fn begin_at_stage(&mut self, other: usize) -> Result<(), BuildError> {
        let base =
            self.build.stage(other).await.map_err(|source| self.stage_failed(other, source))?;
        self.files = base.files.clone();
        self.config = base.config.clone();
        self.args.clone_from(&base.args);
        self.platform = base.platform.clone();
        self.step += 1;
        Ok(())
    }

    pub(crate) fn stage_failed(&self, other: usize, source: Arc<BuildError>) -> BuildError {
        let name = self.build.file.stages[other].name.clone().unwrap_or_else(|| other.to_string());
        BuildError::Stage { name, source }
    }

    async fn begin_at_image(&mut self, name: &str) -> Result<(), BuildError> {
        let step = self.begin_step(&format!("FROM {name}"));
        let image = self.build.image(name, &self.platform).await?;
        let files = self.build.image_files(&image)?;
        let base = BaseImage { config_json: image.config_json, platform: image.platform, files };
        self.begin_at(name, base)?;
        step.cached();
        Ok(())
    }

    /// Begins with an image that is in a directory of the client.
    async fn begin_at_layout(
        &mut self,
        context: &str,
        which: (Option<&str>, Option<&str>),
    ) -> Result<(), BuildError> {
        let step = self.begin_step(&format!("FROM {context}"));
        let base = self.build.layout_image(context, which, &self.platform).await;
        let base = base.inspect_err(|error| step.failed(error.to_string()))?;
        self.begin_at(context, base)?;
        step.cached();
        Ok(())
    }

    fn begin_at(&mut self, name: &str, base: BaseImage) -> Result<(), BuildError> {
        self.config = ImageConfig::from_json(&base.config_json).map_err(|_| {
            BuildError::Malformed { problem: format!("the configuration of {name} is not JSON") }
        })?;
        self.platform = base.platform;
        self.files = base.files;
        Ok(())
    }

    /// Begins to tell of a step that makes files.
    pub(crate) fn begin_step(&mut self, text: &str) -> Step {
        self.step += 1;
        self.build.progress.step(self.step_name(text))
    }

    fn step_name(&self, text: &str) -> String {
        let stages = self.build.file.stages.len();
        let stage = match &self.build.file.stages[self.index].name {
            Some(name) => format!("{name} "),
            None if stages > 1 => format!("stage-{} ", self.index),
            None => String::new(),
        };
        let platform = match self.build.request.platforms.len() {
            0 | 1 => String::new(),
            _ => format!("{} ", self.build.platform),
        };
        format!("[{platform}{stage}{}/{}] {}", self.step, self.steps, shorten(text))
    }

    /// Replaces the variables of a word.
    pub(crate) fn word(&self, text: &str) -> Result<String, BuildError> {
        self.word_by(self.build.file.words(), text)
    }

    pub(crate) fn word_by(&self, rules: Words, text: &str) -> Result<String, BuildError> {
        let scope = Scope { config: Some(&self.config), args: &self.args };
        rules.one(text, &scope).map_err(|source| BuildError::Words { source })
    }

    pub(crate) fn optional_word(&self, text: Option<&str>) -> Result<Option<String>, BuildError> {
        text.map(|text| self.word(text)).transpose()
    }

    async fn instruction(&mut self, located: &Located) -> Result<(), BuildError> {
        match &located.instruction {
            Instruction::Run(run) => self.run(run, located).await,
            Instruction::Copy(copy) => self.copy(copy, located).await,
            Instruction::Add(add) => self.add(add, located).await,
            Instruction::Workdir(path) => self.workdir(path).await,
            other => self.configure(other),
        }
    }

    /// Instructions that change the configuration alone.
    fn configure(&mut self, instruction: &Instruction) -> Result<(), BuildError> {
        let note = match instruction {
            Instruction::Arg(list) => self.arg(list)?,
            Instruction::Env(pairs) => {
                let mut note = "ENV".to_owned();
                // All values are read before one is set.
                for (key, value) in self.pairs(pairs)? {
                    note.push_str(&format!(" {key}={value}"));
                    self.config.set_env(&key, &value);
                }
                note
            }
            Instruction::Label(pairs) => {
                let mut note = "LABEL".to_owned();
                for (key, value) in self.pairs(pairs)? {
                    note.push_str(&format!(" {key}={value}"));
                    self.config.insert("Labels", &key, json!(value));
                }
                note
            }
            Instruction::Cmd(command) => {
                let words = self.command(command);
                self.config.set("Cmd", json!(words));
                self.has_own_cmd = true;
                format!("CMD {}", quoted(&words))
            }
            Instruction::Entrypoint(command) => {
                let words = self.command(command);
                self.config.set("Entrypoint", json!(words));
                // What the base runs by default was for the base's entry point.
                if !self.has_own_cmd {
                    self.config.remove("Cmd");
                }
                format!("ENTRYPOINT {}", quoted(&words))
            }
            Instruction::Expose(text) => self.expose(text)?,
            Instruction::Healthcheck(health) => self.health(health),
            Instruction::Maintainer(name) => {
                self.config.set("Author", json!(name));
                format!("MAINTAINER {name}")
            }
            Instruction::Onbuild(trigger) => {
                self.config.push("OnBuild", trigger);
                format!("ONBUILD {trigger}")
            }
            Instruction::Shell(words) => {
                self.config.set("Shell", json!(words));
                format!("SHELL [{}]", words.join(" "))
            }
            Instruction::Stopsignal(signal) => {
                let signal = self.word(signal)?;
                keg_engine::signal::Signal::parse(&signal)
                    .map_err(|error| BuildError::Malformed { problem: error.to_string() })?;
                self.config.set("StopSignal", json!(signal));
                format!("STOPSIGNAL {signal}")
            }
            Instruction::User(user) => {
                let user = self.word(user)?;
                self.config.set("User", json!(user));
                format!("USER {user}")
            }
            Instruction::Volume(paths) => {
                let mut shown = Vec::new();
                for path in paths {
                    let path = self.word(path)?;
                    if path.trim().is_empty() {
                        let problem = "a path is empty once its variables are replaced".to_owned();
                        return Err(BuildError::Malformed { problem });
                    }
                    self.config.insert("Volumes", &path, json!({}));
                    shown.push(path);
                }
                format!("VOLUME [{}]", shown.join(" "))
            }
            Instruction::From { .. }
            | Instruction::Run(_)
            | Instruction::Copy(_)
            | Instruction::Add(_)
            | Instruction::Workdir(_) => return Ok(()),
        };
        self.config.note(note, None, false);
        Ok(())
    }

    fn pairs(&self, pairs: &[Pair]) -> Result<Vec<(String, String)>, BuildError> {
        pairs.iter().map(|pair| Ok((self.word(&pair.key)?, self.word(&pair.value)?))).collect()
    }

    fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => {
                let mut words = self.config.shell();
                words.push(line.clone());
                words
            }
        }
    }

    fn arg(&mut self, list: &[(String, Option<String>)]) -> Result<String, BuildError> {
        let mut note = "ARG".to_owned();
        for (key, default) in list {
            let key = self.word(key)?;
            let given = self.build.request.build_args.get(&key).cloned();
            self.build.inputs.consume(&key);
            let global = || {
                let found = self.build.global_args.iter().find(|(other, _)| *other == key);
                found.and_then(|(_, value)| value.clone())
            };
            let value = match (given, default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(self.word(default)?),
                (None, None) => global(),
            };
            note.push(' ');
            note.push_str(&key);
            if let Some(value) = &value {
                note.push_str(&format!("={value}"));
            }
            set_arg(&mut self.args, &key, value);
        }
        Ok(note)
    }

    fn expose(&mut self, text: &str) -> Result<String, BuildError> {
        let scope = Scope { config: Some(&self.config), args: &self.args };
        let words = self
            .build
            .file
            .words()
            .split(text, &scope)
            .map_err(|source| BuildError::Words { source })?;
        let mut ports = Vec::new();
        for word in words {
            ports.extend(port_specs(&word).map_err(|problem| BuildError::Malformed { problem })?);
        }
        for port in &ports {
            self.config.insert("ExposedPorts", port, json!({}));
        }
        let shown: Vec<String> = ports.iter().map(|port| format!("{port}:{{}}")).collect();
        Ok(format!("EXPOSE map[{}]", shown.join(" ")))
    }

    fn health(&mut self, health: &Health) -> String {
        let test = match &health.test {
            HealthTest::None => vec!["NONE".to_owned()],
            HealthTest::Command(Command::Exec(words)) => {
                [&["CMD".to_owned()], words.as_slice()].concat()
            }
            HealthTest::Command(Command::Shell(line)) => {
                vec!["CMD-SHELL".to_owned(), line.clone()]
            }
        };
        let note = format!("HEALTHCHECK {}", quoted(&test));
        let mut value = json!({"Test": test});
        let fields = [
            ("Interval", health.interval_nsec),
            ("Timeout", health.timeout_nsec),
            ("StartPeriod", health.start_period_nsec),
            ("StartInterval", health.start_interval_nsec),
            ("Retries", health.retries),
        ];
        for (name, field) in fields {
            if let Some(field) = field {
                value[name] = json!(field);
            }
        }
        self.config.set("Healthcheck", value);
        note
    }

    /// Whether results of earlier builds do not count in this stage.
    pub(crate) fn ignores_cache(&self) -> bool {
        let request = &self.build.request;
        let name = self.build.file.stages[self.index].name.as_deref();
        request.no_cache
            || request.no_cache_filter.iter().any(|filter| {
                name.is_some_and(|name| name.eq_ignore_ascii_case(filter))
                    || *filter == self.index.to_string()
            })
    }

    /// Finds the result of a step: here, or where the client says that others may be.
    pub(crate) async fn find(&self, key: &str) -> Result<Option<StepResult>, BuildError> {
        if self.ignores_cache() {
            return Ok(None);
        }
        if let Some((result, description)) = self.build.shared.layers.find(key, &self.files)? {
            self.build.inputs.see(key, &result, &description);
            return Ok(Some(result));
        }
        let Some((result, description)) = self.build.fetch_result(key, &self.files).await? else {
            return Ok(None);
        };
        self.keep_result(key, &result, &description);
        Ok(Some(result))
    }

    /// Makes a result known to this build and to others.
    pub(crate) fn keep_result(&self, key: &str, result: &StepResult, description: &str) {
        self.build.shared.layers.put(key, result.clone(), description);
        self.build.inputs.see(key, result, description);
    }

    /// Returns what stands for the files after a command has run: its key, unless it was run although
    /// a result may have been there. It may have come to other files then, and what builds on them has
    /// to be done again.
    pub(crate) fn id_of_run(&self, key: &str) -> String {
        if !self.ignores_cache() {
            return key.to_owned();
        }
        key_of(&json!([key, Timestamp::now().as_nanosecond().to_string()]))
    }

    /// Makes a step's result of the snapshot that it filled; `id` stands for its files.
    pub(crate) fn finish_step(
        &self,
        key: &str,
        id: String,
        upper: Upper,
        description: &str,
    ) -> Result<StepResult, BuildError> {
        let layers = &self.build.shared.layers;
        let result = if layers.is_unchanged(&upper, &self.files)? {
            layers.discard(&upper);
            let files = Files { id, top: self.files.top.clone() };
            StepResult { files, has_layer: false, created: Timestamp::now() }
        } else {
            let layer = layers.filled(upper, self.files.top.clone());
            let created = layer.created;
            StepResult { files: Files { id, top: Some(layer) }, has_layer: true, created }
        };
        self.keep_result(key, &result, description);
        Ok(result)
    }

    /// Takes a step's result over.
    pub(crate) fn accept(&mut self, result: StepResult, created_by: String) {
        self.files = result.files;
        if self.is_shipped
            && result.has_layer
            && let Some(layer) = self.files.top.as_ref().filter(|layer| layer.exported().is_none())
        {
            self.build.export_early(layer);
        }
        let created = result.has_layer.then_some(result.created);
        self.config.note(created_by, created, result.has_layer);
    }
}

/// Whether an instruction is counted as a step.
fn makes_files(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}

/// Reads a trigger of a base image.
fn parse_trigger(
    text: &str,
    line: usize,
    escape: char,
) -> Result<Located, crate::dockerfile::ParseError> {
    let lines = crate::dockerfile::split_trigger(text)?;
    let trigger = lines.into_iter().next().unwrap_or(Line {
        text: text.to_owned(),
        range: line..=line,
        heredocs: Vec::new(),
        has_empty_continuation: false,
    });
    parse_line(&Line { range: line..=line, ..trigger }, escape)
}

/// Words as Go prints a list of strings.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> =
        words.iter().map(|word| Value::from(word.as_str()).to_string()).collect();
    format!("[{}]", words.join(" "))
}

/// The digest of what a step is made of.
pub(crate) fn key_of(value: &Value) -> String {
    Digest::sha256(value.to_string().as_bytes()).to_string()
}
