//! One build: stages that run in parallel, each as soon as somebody needs it.
//!
//! ```text
//! target ─▶ stages that it needs, statically ─▶ a task each
//!             │  FROM other stage, COPY --from, RUN --mount=from ─▶ waits for that stage's task
//!             └─ a stage fails ─▶ all others are given up ─▶ what is done is committed all the same
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use keg_image::Platform;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::builder::{Builder, Shared};
use crate::context::ClientContext;
use crate::dockerfile::{Dockerfile, Instruction, RunMount};
use crate::error::BuildError;
use crate::ignore::Ignore;
use crate::inputs::Inputs;
use crate::progress::Progress;
use crate::remote_cache::Imports;
use crate::request::{BuildRequest, ContextSource};
use crate::scope::{PROXY_ARGS, Scope, platform_args, set_arg};
use crate::session::Session;
use crate::sources::Files as SourceFiles;
use crate::stage::{BuiltStage, Stage};

/// What a build, for one platform, shares with its stages.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) shared: Arc<Shared>,
    pub(crate) request: Arc<BuildRequest>,
    pub(crate) file: Arc<Dockerfile>,
    pub(crate) session: Arc<dyn Session>,
    pub(crate) progress: Progress,
    /// `ARG`s before the first `FROM`, and what every build has.
    pub(crate) global_args: Vec<(String, Option<String>)>,
    pub(crate) platform: Platform,
    /// Results must not be later than this, seconds since 1970.
    pub(crate) epoch_secs: Option<i64>,
    /// What builds of the same request for other platforms share.
    pub(crate) inputs: Arc<Inputs>,
    /// Results of other machines.
    pub(crate) imports: Arc<Imports>,
    stages: Vec<OnceCell<Result<Arc<BuiltStage>, Arc<BuildError>>>>,
}

/// What a build has come to.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) stage: Arc<BuiltStage>,
}

/// Returns this machine's platform as images are marked with it: what a processor can do beyond its
/// architecture is no demand of what is built on it.
pub(crate) fn host_platform() -> Platform {
    let host = Platform::host();
    match host.architecture.as_str() {
        "amd64" => Platform { variant: String::new(), ..host },
        _ => host,
    }
}

impl Build {
    /// Reads the Dockerfile; returns a build for each platform that is asked for, at least one.
    pub(crate) async fn new(
        builder: &Builder,
        mut request: BuildRequest,
        session: Arc<dyn Session>,
        progress: Progress,
    ) -> Result<Vec<Arc<Self>>, BuildError> {
        if request.platforms.is_empty() {
            request.platforms.push(host_platform());
        }
        let mut build = Self {
            epoch_secs: None,
            file: Arc::new(Dockerfile {
                directives: crate::dockerfile::Directives::default(),
                global_args: Vec::new(),
                stages: Vec::new(),
                source: Vec::new(),
            }),
            shared: Arc::clone(&builder.shared),
            session,
            progress,
            global_args: Vec::new(),
            platform: request.platforms[0].clone(),
            inputs: Arc::default(),
            imports: Arc::default(),
            stages: Vec::new(),
            request: Arc::new(request),
        };
        let text = build.dockerfile_text().await?;
        let mut file = Dockerfile::parse(&text).map_err(|source| BuildError::Parse { source })?;
        // Build arguments say it for files that cannot be changed.
        let given = |name: &str| build.request.build_args.get(name).cloned();
        file.directives.syntax = given("BUILDKIT_SYNTAX").or(file.directives.syntax);
        file.directives.check = given("BUILDKIT_DOCKERFILE_CHECK").or(file.directives.check);
        build.file = Arc::new(file);
        build.check_frontend()?;
        build.resolve_epoch().await?;
        if !build.request.check_only {
            build.imports = Arc::new(build.load_imports().await?);
        }
        let platforms = build.request.platforms.clone();
        platforms.into_iter().map(|platform| build.for_platform(platform).map(Arc::new)).collect()
    }

    /// Returns the same build for a platform.
    fn for_platform(&self, platform: Platform) -> Result<Self, BuildError> {
        let mut build = Self {
            shared: Arc::clone(&self.shared),
            request: Arc::clone(&self.request),
            file: Arc::clone(&self.file),
            session: Arc::clone(&self.session),
            progress: self.progress.clone(),
            global_args: Vec::new(),
            platform,
            epoch_secs: self.epoch_secs,
            inputs: Arc::clone(&self.inputs),
            imports: Arc::clone(&self.imports),
            stages: self.file.stages.iter().map(|_| OnceCell::new()).collect(),
        };
        build.global_args = build.evaluate_globals(&host_platform())?;
        Ok(build)
    }

    /// Reads the Dockerfile from the context, unless it was sent.
    async fn dockerfile_text(&self) -> Result<String, BuildError> {
        let step = self.progress.step(format!(
            "[internal] load build definition from {}",
            self.request.dockerfile_name
        ));
        let text = match &self.request.dockerfile {
            Some(text) => text.clone(),
            None => {
                let name = self.request.dockerfile_name.clone();
                let read = self.read_from_context(&name).await?;
                read.ok_or(BuildError::NoSource { path: name, is_ignored: false })?
            }
        };
        step.status("transferring dockerfile", text.len() as u64, text.len() as u64, true);
        step.done();
        Ok(text)
    }

    /// A file that names another frontend than Docker's is for a program that is not this one.
    fn check_frontend(&self) -> Result<(), BuildError> {
        let Some(syntax) = &self.file.directives.syntax else { return Ok(()) };
        let name = syntax.split_whitespace().next().unwrap_or_default();
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let repository = name.split([':', '@']).next().unwrap_or(name);
        // The last is how BuildKit calls its own.
        let is_ours =
            |name| ["docker/dockerfile", "docker/dockerfile-upstream", ""].contains(&name);
        if is_ours(repository) || name == "dockerfile.v0" {
            return Ok(());
        }
        Err(BuildError::Malformed {
            problem: format!(
                "the file is written for the frontend {name}; Keg reads docker/dockerfile and runs \
                 no others"
            ),
        })
    }

    pub(crate) fn evaluate_globals(
        &self,
        host: &Platform,
    ) -> Result<Vec<(String, Option<String>)>, BuildError> {
        let target = self.request.target.as_deref().unwrap_or("default");
        let mut args: Vec<(String, Option<String>)> = platform_args(host, &self.platform, target)
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        for (key, value) in &mut args {
            if let Some(given) = self.request.build_args.get(key.as_str()) {
                *value = Some(given.clone());
                self.inputs.consume(key);
            }
        }
        for located in &self.file.global_args {
            let Instruction::Arg(list) = &located.instruction else { continue };
            for (key, default) in list {
                let value = match (self.request.build_args.get(key), default) {
                    (Some(given), _) => Some(given.clone()),
                    (None, Some(default)) => {
                        let scope = Scope { config: None, args: &args };
                        let line = *located.range.start();
                        Some(
                            self.file
                                .words()
                                .one(default, &scope)
                                .map_err(|source| BuildError::Words { source })
                                .map_err(|error| error.at(&located.text, line))?,
                        )
                    }
                    (None, None) => None,
                };
                self.inputs.consume(key);
                // One without a value does not hide what every build has.
                if value.is_some() || !args.iter().any(|(other, _)| other == key) {
                    set_arg(&mut args, key, value);
                }
            }
        }
        Ok(args)
    }

    /// Builds the target, and what it needs.
    pub(crate) async fn run(self: &Arc<Self>) -> Result<Finished, BuildError> {
        let target = self.target()?;
        let needed = self.needed(target);
        let mut running = JoinSet::new();
        for index in needed {
            let build = Arc::clone(self);
            running.spawn(async move { build.stage(index).await.map(drop) });
        }
        // Whichever fails first ends all others: dropping the set aborts them.
        while let Some(joined) = running.join_next().await {
            joined
                .map_err(|source| BuildError::Panicked { source })?
                .map_err(BuildError::Shared)?;
        }
        let stage = self.stage(target).await.map_err(BuildError::Shared)?;
        Ok(Finished { stage })
    }

    /// Warns of build arguments that nothing has asked for.
    pub(crate) fn warn_of_unused(&self) {
        let known = |key: &str| {
            PROXY_ARGS.contains(&key) || key == crate::epoch::NAME || key.starts_with("BUILDKIT_")
        };
        let unused: Vec<&str> = self
            .request
            .build_args
            .keys()
            .map(String::as_str)
            .filter(|key| !self.inputs.is_consumed(key) && !known(key))
            .collect();
        if !unused.is_empty() {
            let message = format!(
                "no ARG of the stages built has the name of the build argument {}",
                unused.join(", ")
            );
            self.progress.warn(None, "UnusedBuildArg", message);
        }
    }

    /// Returns the stage that is asked for.
    pub(crate) fn target(&self) -> Result<usize, BuildError> {
        let Some(target) = &self.request.target else { return Ok(self.file.stages.len() - 1) };
        self.find_stage(target, self.file.stages.len())
            .ok_or_else(|| BuildError::NoStage { name: target.clone() })
    }

    /// Returns the stage that a text means in the stage `before`: by its name, or by its number.
    pub(crate) fn find_stage(&self, name: &str, before: usize) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let earlier = &self.file.stages[..before];
        earlier
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(lower.as_str()))
            .or_else(|| name.parse::<usize>().ok().filter(|index| *index < before))
    }

    /// Returns the stages that one needs, itself included, as far as the file alone tells.
    pub(crate) fn needed(&self, target: usize) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut pending = vec![target];
        while let Some(index) = pending.pop() {
            if !needed.insert(index) {
                continue;
            }
            let stage = &self.file.stages[index];
            let scope = Scope { config: None, args: &self.global_args };
            // What cannot be read now is told when the stage is built.
            let base = self.file.words().one(&stage.base, &scope).unwrap_or_default();
            let mut names = vec![base];
            for located in &stage.instructions {
                match &located.instruction {
                    Instruction::Copy(copy) => names.extend(copy.from.clone()),
                    Instruction::Run(run) => {
                        names.extend(run.mounts.iter().filter_map(|mount| mount_source(mount)));
                    }
                    _ => {}
                }
            }
            for name in names {
                if !self.request.named_contexts.contains_key(&name)
                    && let Some(found) = self.find_stage(&name, index)
                {
                    pending.push(found);
                }
            }
        }
        needed
    }

    /// Returns a stage, built once however many ask.
    pub(crate) async fn stage(
        self: &Arc<Self>,
        index: usize,
    ) -> Result<Arc<BuiltStage>, Arc<BuildError>> {
        let cell = &self.stages[index];
        cell.get_or_init(|| async {
            let build = Arc::clone(self);
            Box::pin(Stage::build(build, index)).await.map(Arc::new).map_err(Arc::new)
        })
        .await
        .clone()
    }

    /// Returns a context by its name; the empty one is the main one.
    pub(crate) async fn context(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Option<SourceFiles>, BuildError> {
        let source = match name {
            "" => self.request.context.clone(),
            name => self.request.named_contexts.get(name).cloned(),
        };
        // Which image it is depends on the platform; files of the client do not.
        let known = match &source {
            Some(ContextSource::Image { .. } | ContextSource::Layout { .. }) => {
                format!("{name}\0{}", self.platform)
            }
            _ => name.to_owned(),
        };
        let mut contexts = self.inputs.contexts.lock().await;
        if let Some(found) = contexts.get(&known) {
            return Ok(Some(found.clone()));
        }
        let files = match source {
            None => return Ok(None),
            Some(ContextSource::Client { identity }) => {
                let ignore = self.ignore(name, &identity).await?;
                let context = Arc::new(ClientContext::new(
                    name,
                    &identity,
                    Arc::clone(&self.session),
                    self.shared.content.clone(),
                    ignore,
                ));
                let mut clients =
                    self.inputs.clients.lock().unwrap_or_else(PoisonError::into_inner);
                clients.push(Arc::clone(&context));
                SourceFiles::Client(context)
            }
            Some(ContextSource::Archive) => self.archive_context(name).await?,
            Some(ContextSource::Remote { url }) => self.remote_context(&url).await?,
            Some(ContextSource::Image { reference }) => self.image_context(&reference).await?,
            Some(ContextSource::Layout { tag, digest }) => {
                let which = (tag.as_deref(), digest.as_deref());
                let image = self.layout_image(name, which, &self.platform).await?;
                self.files_context(image.files).await?
            }
        };
        contexts.insert(known, files.clone());
        Ok(Some(files))
    }

    /// Reads the patterns of a context: those that were sent, else those in it.
    pub(crate) async fn ignore(&self, name: &str, identity: &str) -> Result<Ignore, BuildError> {
        let parse =
            |text: &str| Ignore::parse(text).map_err(|source| BuildError::Ignore { source });
        if let (Some(text), "") = (&self.request.dockerignore, name) {
            return parse(text);
        }
        let mut candidates = Vec::new();
        if name.is_empty() {
            candidates.push(format!("{}.dockerignore", self.request.dockerfile_name));
        }
        candidates.push(".dockerignore".to_owned());
        for candidate in candidates {
            if let Some(text) = self.read_client_file(name, identity, &candidate).await? {
                return parse(&text);
            }
        }
        Ok(Ignore::default())
    }

    /// Reads a small file of the main context.
    async fn read_from_context(&self, path: &str) -> Result<Option<String>, BuildError> {
        match &self.request.context {
            Some(ContextSource::Client { identity }) => {
                self.read_client_file("", identity, path).await
            }
            Some(ContextSource::Archive) => {
                let files = self.archive_context("").await?;
                self.read_and_keep(files, path).await
            }
            Some(ContextSource::Remote { url }) => {
                let files = self.remote_context(url).await?;
                self.read_and_keep(files, path).await
            }
            _ => Ok(None),
        }
    }

    /// Reads a file of a context that is here now, and keeps that context.
    async fn read_and_keep(
        &self,
        files: SourceFiles,
        path: &str,
    ) -> Result<Option<String>, BuildError> {
        self.inputs.contexts.lock().await.insert(String::new(), files.clone());
        let SourceFiles::Tree(tree, _) = files else { return Ok(None) };
        let limit = crate::dockerfile::MAX_BYTES as u64;
        let bytes = tree.read(path, limit).map_err(BuildError::io("read a file of the context"))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn read_client_file(
        &self,
        name: &str,
        identity: &str,
        path: &str,
    ) -> Result<Option<String>, BuildError> {
        let context = ClientContext::new(
            name,
            identity,
            Arc::clone(&self.session),
            self.shared.content.clone(),
            Ignore::default(),
        );
        let files = SourceFiles::Client(Arc::new(context));
        let source = match files.select(path, &Arc::default(), false).await {
            Ok(source) if !source.is_dir() => source,
            Ok(_) | Err(BuildError::NoSource { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(crate::sources::Item {
            kind: crate::sources::ItemKind::File { digest, .. }, ..
        }) = source.items.first()
        else {
            return Ok(None);
        };
        let bytes = std::fs::read(self.shared.content.path(digest))
            .map_err(BuildError::io("read a file of the context"))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Keeps what was done for the next build: results of steps, and what files look like.
    pub(crate) fn keep(
        &self,
        chain: &[(Arc<crate::layers::Layer>, keg_store::Digest)],
    ) -> Result<(), BuildError> {
        // The builder's files are where its layers are.
        let is_synced = self.shared.layers.commit(chain)?;
        let sync = || if is_synced { Ok(()) } else { self.shared.content.sync() };
        let clients = self.inputs.clients.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for context in clients {
            context.keep(sync).map_err(BuildError::io("keep what is known of a context"))?;
        }
        Ok(())
    }

    /// Returns how many bytes the client sent.
    pub(crate) async fn sent_bytes(&self) -> u64 {
        let clients = self.inputs.clients.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut sum = 0;
        for context in clients {
            sum += context.sent_bytes().await;
        }
        sum
    }
}

/// Returns the `from` of a mount, if it is certain.
fn mount_source(mount: &str) -> Option<String> {
    use crate::dockerfile::MountKind;

    match RunMount::parse(mount).ok()?.kind {
        MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => from,
        _ => None,
    }
}
