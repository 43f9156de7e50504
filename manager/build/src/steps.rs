//! Steps that make files: `RUN`, `COPY`, `ADD`, `WORKDIR`.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use keg_engine::users::{self, AccountFiles};
use keg_store::{Algorithm, Hasher};
use serde_json::json;

use crate::chmod::ModeChange;
use crate::copy::{NewDirs, Placement, make_dirs, place};
use crate::direct;
use crate::dockerfile::{Add, Copy, Located, Words, parse_heredoc};
use crate::earlier::Earlier;
use crate::error::BuildError;
use crate::ignore::Ignore;
use crate::layers::{Files, StepResult};
use crate::progress::Step;
use crate::sources::{Files as SourceFiles, Source, clean};
use crate::stage::{Stage, key_of};
use crate::tree::{Tree, TreeError};

/// Largest `/etc/passwd` or `/etc/group` that is read.
const ACCOUNT_FILE_BYTES_MAX: u64 = 4 << 20;

/// Where a `COPY` takes its files from.
enum From {
    Context(SourceFiles),
    /// A stage or an image: its files, and what stands for all of them.
    Files(Files),
}

impl Stage {
    /// `WORKDIR`.
    pub(crate) async fn workdir(&mut self, path: &str) -> Result<(), BuildError> {
        let path = self.word(path)?;
        let full = if path.starts_with('/') {
            format!("/{}", clean(&path))
        } else {
            format!("/{}", clean(&format!("{}/{path}", self.config.text("WorkingDir"))))
        };
        self.config.set("WorkingDir", json!(full));
        let step = self.begin_step(&format!("WORKDIR {full}"));
        let outcome = self.workdir_step(full, &step).await;
        outcome.inspect_err(|error| step.failed(error.to_string()))
    }

    async fn workdir_step(&mut self, full: String, step: &Step) -> Result<(), BuildError> {
        let created_by = format!("WORKDIR {full}");
        if full == "/" {
            step.done();
            self.config.note(created_by, None, false);
            return Ok(());
        }
        let user = self.config.text("User").to_owned();
        let key = key_of(&json!({
            "step": "workdir", "on": self.files.id, "path": full, "user": user,
            "epoch": self.build.epoch_secs,
        }));
        let _turn = self.build.shared.locks.lock(&key).await;
        if let Some(result) = self.find(&key).await? {
            step.cached();
            self.accept(result, created_by);
            return Ok(());
        }
        let files = self.files.clone();
        let epoch_secs = self.build.epoch_secs;
        let upper = self
            .build
            .shared
            .blocking(move |shared| {
                let owner = match user.as_str() {
                    "" => (0, 0),
                    user => owner_of(&files, user)?,
                };
                let upper = shared.layers.take(&files, None)?;
                let made = writable(shared, &files, &upper).and_then(|tree| {
                    // What is there already stays as it is, and makes no layer.
                    if tree.stat(&full).map_err(TreeError::io("look at", &full))?.is_none() {
                        let look = NewDirs { owner, mtime_secs: epoch_secs };
                        make_dirs(&tree, &full, &look)?;
                    }
                    Ok(())
                });
                made.inspect_err(|_| shared.layers.discard(&upper))?;
                Ok(upper)
            })
            .await?;
        let result = self.finish_step(&key, key.clone(), upper, &created_by)?;
        step.done();
        self.accept(result, created_by);
        Ok(())
    }

    /// `COPY`.
    pub(crate) async fn copy(&mut self, copy: &Copy, located: &Located) -> Result<(), BuildError> {
        let step = self.begin_step(&located.text);
        let outcome = self.copy_step(copy, &step).await;
        outcome.inspect_err(|error| step.failed(error.to_string()))
    }

    async fn copy_step(&mut self, copy: &Copy, step: &Step) -> Result<(), BuildError> {
        let from = self.copy_from(copy).await?;
        let destination = self.word(&copy.destination)?;
        let created_by = created_by("COPY", copy, &copy.sources, &destination);
        let fixed = self.fixed_part("copy", copy, &destination)?;
        let first_key = match &from {
            From::Context(_) => None,
            From::Files(files) => Some(key_of(&json!({
                "copy": fixed, "sources": self.sources_of(copy)?, "from": files.id,
            }))),
        };
        // A stage that was not touched need not even be looked at.
        if let Some(key) = &first_key
            && let Some(result) = self.find(key).await?
        {
            step.cached();
            self.accept(result, created_by);
            return Ok(());
        }
        let sources = match from {
            From::Context(files) => self.collect(copy, &files).await?,
            From::Files(files) => {
                let tree = self.tree_of(&files).await?;
                self.collect(copy, &SourceFiles::Tree(Arc::new(tree), Arc::default())).await?
            }
        };
        let key = content_key(&fixed, &sources);
        let result = self.place(&key, sources, copy, &destination, &created_by, step).await?;
        if let Some(first) = first_key {
            self.keep_result(&first, &result, &created_by);
        }
        self.accept(result, created_by);
        Ok(())
    }

    /// `ADD`.
    pub(crate) async fn add(&mut self, add: &Add, located: &Located) -> Result<(), BuildError> {
        let step = self.begin_step(&located.text);
        let outcome = self.add_step(add, &step).await;
        outcome.inspect_err(|error| step.failed(error.to_string()))
    }

    async fn add_step(&mut self, add: &Add, step: &Step) -> Result<(), BuildError> {
        let copy = &add.copy;
        let destination = self.word(&copy.destination)?;
        let created_by = created_by("ADD", copy, &copy.sources, &destination);
        let fixed = self.fixed_part("add", copy, &destination)?;
        let checksum = self.optional_word(add.checksum.as_deref())?;
        let sources = self.sources_of(copy)?;
        let local: Vec<String> =
            sources.iter().filter(|source| !crate::remote::is_remote(source)).cloned().collect();
        if checksum.is_some() && (sources.len() != 1 || !local.is_empty()) {
            return Err(BuildError::Malformed {
                problem: "--checksum is for a single source that is fetched".to_owned(),
            });
        }
        let how = (add.keep_git_dir, add.unpack);
        let names_a_file = !destination.ends_with('/') && sources.len() == 1;
        let mut collected = Vec::new();
        for source in &sources {
            if crate::remote::is_remote(source) {
                let fetched =
                    self.build.fetch_source(source, checksum.as_deref(), how, names_a_file).await?;
                collected.extend(fetched);
                continue;
            }
            if let Some(inline) = self.heredoc_source(copy, source)? {
                collected.push(inline);
                continue;
            }
            let Some(context) = self.build.context("").await? else {
                return Err(no_context());
            };
            for source in self.select(copy, &context, source).await? {
                if add.unpack == Some(false) {
                    collected.push(source);
                } else {
                    collected.push(self.build.unpack_if_archive(source).await?);
                }
            }
        }
        let key = content_key(&fixed, &collected);
        let result = self.place(&key, collected, copy, &destination, &created_by, step).await?;
        self.accept(result, created_by);
        Ok(())
    }

    /// What the result of a copy depends on, besides the sources.
    fn fixed_part(
        &self,
        what: &str,
        copy: &Copy,
        destination: &str,
    ) -> Result<serde_json::Value, BuildError> {
        Ok(json!({
            "step": what,
            "on": self.files.id,
            "destination": destination,
            "directory": self.config.text("WorkingDir"),
            "chown": self.optional_word(copy.chown.as_deref())?,
            "chmod": self.optional_word(copy.chmod.as_deref())?,
            "link": copy.link,
            "parents": copy.parents,
            "exclude": copy.exclude,
            "epoch": self.build.epoch_secs,
        }))
    }

    fn sources_of(&self, copy: &Copy) -> Result<Vec<String>, BuildError> {
        copy.sources
            .iter()
            .map(|source| {
                if parse_heredoc(source, '\\').is_some() {
                    Ok(source.clone())
                } else {
                    self.word(source)
                }
            })
            .collect()
    }

    async fn copy_from(&mut self, copy: &Copy) -> Result<From, BuildError> {
        if copy.from.as_ref().is_some_and(|name| name.contains('$')) {
            let problem = "variables are not replaced in --from: name a stage FROM the variable, and \
                           copy from that";
            return Err(BuildError::Malformed { problem: problem.to_owned() });
        }
        let Some(name) = &copy.from else {
            let is_inline = !copy.heredocs.is_empty() && copy.sources.len() == copy.heredocs.len();
            return match self.build.context("").await? {
                Some(files) => Ok(From::Context(files)),
                // Heredocs need no files.
                None if is_inline => {
                    let empty = self.tree_of(&Files::empty()).await?;
                    Ok(From::Context(SourceFiles::Tree(Arc::new(empty), Arc::default())))
                }
                None => Err(no_context()),
            };
        };
        self.files_named(name).await
    }

    /// Returns what `--from` names: a context, a stage, or an image.
    async fn files_named(&mut self, name: &str) -> Result<From, BuildError> {
        if let Some(files) = self.build.context(name).await? {
            return Ok(From::Context(files));
        }
        if let Some(other) = self.build.find_stage(name, self.index) {
            let stage = self.build.stage(other).await;
            let stage = stage.map_err(|source| self.stage_failed(other, source))?;
            return Ok(From::Files(stage.files.clone()));
        }
        if name == "scratch" {
            return Ok(From::Files(Files::empty()));
        }
        let image = self.build.image(name, &self.platform).await?;
        Ok(From::Files(self.build.image_files(&image)?))
    }

    /// Returns the sources and what stands for them, for `RUN --mount`.
    pub(crate) async fn mount_source(
        &mut self,
        from: Option<&str>,
        path: &str,
    ) -> Result<(Source, String, Option<Files>), BuildError> {
        let from = match from {
            Some(name) => self.files_named(name).await?,
            None => match self.build.context("").await? {
                Some(files) => From::Context(files),
                None => return Err(no_context()),
            },
        };
        match from {
            From::Context(files) => {
                let source = files.select(&clean(path), &Arc::default(), true).await?;
                let mut hasher = Hasher::new(Algorithm::Sha256);
                source.hash(&mut hasher);
                Ok((source, hasher.finish().to_string(), None))
            }
            From::Files(files) => {
                let tree = self.tree_of(&files).await?;
                let tree = SourceFiles::Tree(Arc::new(tree), Arc::default());
                let source = tree.select(&clean(path), &Arc::default(), false).await?;
                let id = files.id.clone();
                Ok((source, id, Some(files)))
            }
        }
    }

    /// Shows files for reading.
    pub(crate) async fn tree_of(&self, files: &Files) -> Result<Tree, BuildError> {
        let dirs = files.dirs();
        self.build
            .shared
            .blocking(move |shared| {
                if dirs.is_empty() {
                    let empty = shared.content.root().join("tmp/empty");
                    std::fs::create_dir_all(&empty)
                        .map_err(BuildError::io("make an empty directory"))?;
                    return Ok(Tree::directory(&empty)?);
                }
                Ok(Tree::layers(&dirs)?)
            })
            .await
    }

    async fn collect(&self, copy: &Copy, files: &SourceFiles) -> Result<Vec<Source>, BuildError> {
        let mut collected = Vec::new();
        for source in self.sources_of(copy)? {
            match self.heredoc_source(copy, &source)? {
                Some(inline) => collected.push(inline),
                None => collected.extend(self.select(copy, files, &source).await?),
            }
        }
        Ok(collected)
    }

    /// Returns the text that a source stands for, if it is the mark of one.
    fn heredoc_source(&self, copy: &Copy, source: &str) -> Result<Option<Source>, BuildError> {
        let escape = self.build.file.directives.escape;
        let Some(mark) = parse_heredoc(source, escape) else { return Ok(None) };
        let Some(heredoc) = copy.heredocs.iter().find(|heredoc| heredoc.name == mark.name) else {
            return Ok(None);
        };
        let text = if heredoc.expands {
            let rules = Words { escape: '\\', plain_quotes: true };
            self.word_by(rules, &heredoc.text())?
        } else {
            heredoc.text()
        };
        let mtime_nsec = self.build.epoch_secs.unwrap_or(0).saturating_mul(1_000_000_000);
        Ok(Some(Source::inline(&heredoc.name, text, mtime_nsec)))
    }

    /// Finds what one source stands for.
    async fn select(
        &self,
        copy: &Copy,
        files: &SourceFiles,
        source: &str,
    ) -> Result<Vec<Source>, BuildError> {
        let exclude = Ignore::from_lines(copy.exclude.iter().map(String::as_str))
            .map_err(|source| BuildError::Ignore { source })?;
        let exclude = Arc::new(exclude);
        // What is before `/./` is where `--parents` begins to keep directories.
        let pivot = if copy.parents {
            // A wildcard in there stands for one name.
            source
                .split_once("/./")
                .map(|(start, _)| clean(start).split('/').filter(|name| !name.is_empty()).count())
        } else {
            None
        };
        let mut found = Vec::new();
        for path in files.expand(source).await? {
            let name = path.rsplit('/').next().unwrap_or(&path);
            if exclude.ignores(name) {
                continue;
            }
            let mut selected = files.select(&path, &exclude, true).await?;
            if copy.parents {
                let names: Vec<&str> = path.split('/').collect();
                let below = names.get(pivot.unwrap_or(0)..).unwrap_or_default().join("/");
                let parents = below.rsplit_once('/').map_or("", |(parents, _)| parents);
                selected.parents =
                    if parents.is_empty() { ".".to_owned() } else { parents.to_owned() };
            }
            found.push(selected);
        }
        Ok(found)
    }

    /// Puts sources into the stage's files, unless that was done before.
    async fn place(
        &mut self,
        key: &str,
        sources: Vec<Source>,
        copy: &Copy,
        destination: &str,
        created_by: &str,
        step: &Step,
    ) -> Result<StepResult, BuildError> {
        let _turn = self.build.shared.locks.lock(key).await;
        if let Some(result) = self.find(key).await? {
            step.cached();
            return Ok(result);
        }
        let mode = match self.optional_word(copy.chmod.as_deref())? {
            None => None,
            Some(text) => Some(ModeChange::parse(&text).ok_or_else(|| BuildError::Malformed {
                problem: format!("--chmod={text:?} is no mode, such as 755 or u+x"),
            })?),
        };
        let chown = self.optional_word(copy.chown.as_deref())?;
        let directory = self.config.text("WorkingDir").to_owned();
        let (files, full) = (self.files.clone(), full_destination(&directory, destination));
        let is_directory = destination.ends_with('/')
            || destination.ends_with("/.")
            || matches!(destination, "." | "..")
            || sources.len() > 1
            || copy.parents;
        let (is_link, epoch) = (copy.link, self.build.epoch_secs);
        let words = (!self.ignores_cache()).then(|| created_by.to_owned());
        let upper = self
            .build
            .shared
            .blocking(move |shared| {
                let placement = Placement {
                    destination: full,
                    is_directory,
                    owner: chown.as_deref().map(|user| owner_of(&files, user)).transpose()?,
                    mode,
                    mtime_secs: epoch,
                };
                let upper = shared.layers.take(&files, None)?;
                // A layer of its own knows nothing of those below it, where there are such layers.
                let is_link = is_link && !shared.layers.are_whole();
                let on = if is_link { Files::empty() } else { files };
                let placed = fill(shared, &on, &upper, &sources, &placement, words.as_deref());
                placed.inspect_err(|_| shared.layers.discard(&upper))?;
                Ok(upper)
            })
            .await?;
        let result = self.finish_step(key, key.to_owned(), upper, created_by)?;
        step.done();
        Ok(result)
    }
}

fn no_context() -> BuildError {
    BuildError::Malformed {
        problem: "there is no context to take files from: give a directory in place of \"-\""
            .to_owned(),
    }
}

/// Fills a snapshot: by itself if that is enough, else on top of what is below it. By itself it takes
/// over what the last layers of steps of the same `words` have already.
fn fill(
    shared: &crate::builder::Shared,
    files: &Files,
    upper: &crate::layers::Upper,
    sources: &[Source],
    placement: &Placement,
    words: Option<&str>,
) -> Result<(), BuildError> {
    let are_dirs = sources.iter().all(Source::is_dir);
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let content = match names.as_slice() {
        _ if are_dirs => direct::Content::OfDirectories,
        [name] if !placement.is_directory => direct::Content::File(name),
        names => direct::Content::Files(names),
    };
    // What fills nothing changes nothing that is there, and directories would be merged with others.
    let is_plain = !sources.is_empty()
        && sources.iter().all(|source| {
            source.parents.is_empty()
                && source.is_dir() == are_dirs
                && (!are_dirs || source.items.len() > 1)
        });
    if is_plain && !shared.layers.are_whole() {
        let lower = files.dirs();
        inherit_root(&lower, &upper.dir)?;
        if let Some(tree) = direct::open(&lower, &upper.dir, &placement.destination, content)? {
            let alike = match words {
                Some(words) if Earlier::is_worth_it(sources) => shared.layers.alike(words)?,
                _ => Vec::new(),
            };
            let dirs = alike.iter().map(|layer| layer.dir.as_path());
            let earlier = Earlier::most_alike(dirs, sources, placement);
            return Ok(place(&tree, sources, placement, earlier)?);
        }
    }
    Ok(place(&writable(shared, files, upper)?, sources, placement, None)?)
}

/// Shows a snapshot on top of files as a tree that can be written to.
pub(crate) fn writable(
    shared: &crate::builder::Shared,
    files: &Files,
    upper: &crate::layers::Upper,
) -> Result<Tree, BuildError> {
    let lower = files.dirs();
    inherit_root(&lower, &upper.dir)?;
    let layers = &shared.layers;
    let mounts = layers.snapshotter().mounts_over(layers.ns(), &upper.key, &lower, None)?;
    match mounts.first() {
        Some(mount) => Ok(Tree::mounted(mount)?),
        None => Ok(Tree::directory(&upper.dir)?),
    }
}

/// Lets a new uppermost directory look as the one below it, since it is the root that is seen.
pub(crate) fn inherit_root(lower: &[std::path::PathBuf], upper: &Path) -> Result<(), BuildError> {
    use rustix::fs::{Gid, Mode, Uid, fchmod, fchown, fstat};

    let Some(below) = lower.first() else { return Ok(()) };
    let (from, to) = (Tree::directory(below)?, Tree::directory(upper)?);
    fstat(from.root())
        .and_then(|stat| {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            fchown(to.root().as_fd(), Some(uid), Some(gid))?;
            fchmod(to.root(), Mode::from_raw_mode(stat.st_mode & 0o7777))
        })
        .map_err(TreeError::io("look as", "/"))?;
    Ok(())
}

/// Makes a destination absolute, and keeps what its end says.
fn full_destination(directory: &str, destination: &str) -> String {
    let path = if destination.starts_with('/') {
        clean(destination)
    } else {
        clean(&format!("{directory}/{destination}"))
    };
    format!("/{path}")
}

fn content_key(fixed: &serde_json::Value, sources: &[Source]) -> String {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(fixed.to_string().as_bytes());
    for source in sources {
        source.hash(&mut hasher);
    }
    hasher.finish().to_string()
}

fn created_by(name: &str, copy: &Copy, sources: &[String], destination: &str) -> String {
    let mut text = name.to_owned();
    let flags = [("from", &copy.from), ("chown", &copy.chown), ("chmod", &copy.chmod)];
    for (flag, value) in flags {
        if let Some(value) = value {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for source in sources {
        text.push(' ');
        text.push_str(source);
    }
    format!("{text} {destination} # buildkit")
}

/// Looks `user[:group]` up in an image's own files; numbers need none. Without a group it is the
/// user's number, as with Docker.
pub(crate) fn owner_of(files: &Files, user: &str) -> Result<(u32, u32), BuildError> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let numbers = |text: &str| text.parse::<u32>().ok();
    if let Some(uid) = numbers(name) {
        match group.map(numbers) {
            None => return Ok((uid, uid)),
            Some(Some(gid)) => return Ok((uid, gid)),
            Some(None) => {}
        }
    }
    let identity = identity_of(files, user)?;
    Ok((identity.uid, identity.gid))
}

/// Looks a user up in an image's own files.
pub(crate) fn identity_of(
    files: &Files,
    user: &str,
) -> Result<keg_engine::users::Identity, BuildError> {
    let (passwd, group) = match files.dirs() {
        dirs if dirs.is_empty() => (String::new(), String::new()),
        dirs => {
            let root = keg_engine::layered_root::LayeredRoot::open(&dirs)
                .map_err(|source| BuildError::Layers { source })?;
            let read = |path: &str| -> Result<String, BuildError> {
                let content = root
                    .read(Path::new(path), ACCOUNT_FILE_BYTES_MAX)
                    .map_err(|source| BuildError::Layers { source })?;
                Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
            };
            (read("/etc/passwd")?, read("/etc/group")?)
        }
    };
    let accounts = AccountFiles { passwd: &passwd, group: &group };
    users::resolve(user, &[], accounts).map_err(|source| BuildError::User { source })
}
