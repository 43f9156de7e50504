//! What `RUN --mount` shows to a step.
//!
//! | kind | where it is on the host | when the step has ended |
//! | --- | --- | --- |
//! | bind | the layer that has it, or a copy | the copy goes |
//! | cache | `ROOT/build/caches/…` | stays |
//! | tmpfs | memory | gone |
//! | secret | a file under `--state` | goes |
//! | ssh | a socket under `--state`, passed on to the client | goes |
//!
//! All of them appear in the step through idmapped mounts, so that root's files are root's inside.
//! Nothing of them lies in the step's snapshot, and so nothing gets into a layer.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keg_engine::model::{Mount, MountSource, Propagation, Relabel};
use keg_store::{Algorithm, Digest, Hasher};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::OwnedMutexGuard;

use crate::builder::Shared;
use crate::content::TemporaryDir;
use crate::copy::{Placement, place};
use crate::dockerfile::{MountKind, RunMount, Sharing};
use crate::error::BuildError;
use crate::layers::Files;
use crate::session::Session;
use crate::sources::{Files as SourceFiles, Source, clean};
use crate::stage::Stage;
use crate::tree::Tree;

/// Where secrets appear that name no place.
const SECRETS: &str = "/run/secrets";
/// Where agents appear that name no place.
const AGENTS: &str = "/run/buildkit";

/// Tells directories of steps apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A mount of which all is known that the step's result depends on.
#[derive(Debug)]
pub(crate) struct Mounted {
    mount: RunMount,
    /// Files that it shows or begins with.
    source: Option<(Source, String, Option<Files>)>,
}

impl Mounted {
    /// What the result of the step depends on. Not what a cache or a secret holds.
    pub(crate) fn key(&self) -> Value {
        let source = self.source.as_ref().map(|(source, id, _)| json!([source.path, id]));
        let kind = match &self.mount.kind {
            MountKind::Bind { writable, .. } => json!(["bind", writable]),
            MountKind::Cache { id, .. } => json!(["cache", id]),
            MountKind::Tmpfs { size_bytes } => json!(["tmpfs", size_bytes]),
            MountKind::Secret { id, env, .. } => json!(["secret", id, env]),
            MountKind::Ssh { id, .. } => json!(["ssh", id]),
        };
        json!({"target": self.mount.target, "kind": kind, "source": source})
    }
}

impl Mounted {
    /// Lets the bytes that are shown stand for them in the key, and not what all files of the stage or
    /// image were made of. All of a stage is not read for that.
    pub(crate) async fn know_by_content(&mut self) -> Result<(), BuildError> {
        let Some((source, id, Some(_))) = &mut self.source else { return Ok(()) };
        let Some(tree) = source.tree.clone().filter(|_| !source.path.is_empty()) else {
            return Ok(());
        };
        let files = SourceFiles::Tree(tree, Arc::default());
        let hashed = files.select(&source.path, &Arc::default(), true).await?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hashed.hash(&mut hasher);
        *id = hasher.finish().to_string();
        Ok(())
    }

    /// Shows a source at a place, read only; `files` are those that it is all of, if it is.
    pub(crate) fn of_source(source: Source, files: Option<Files>, target: &str) -> Self {
        let kind = MountKind::Bind { from: None, source: String::new(), writable: false };
        let mount = RunMount { kind, target: target.to_owned() };
        Self { mount, source: Some((source, String::new(), files)) }
    }
}

impl Stage {
    /// Finds what a mount shows.
    pub(crate) async fn mount(&mut self, mount: &RunMount) -> Result<Mounted, BuildError> {
        let source = match &mount.kind {
            MountKind::Bind { from, source, .. } => {
                Some(self.mount_source(from.as_deref(), source).await?)
            }
            MountKind::Cache { from: Some(from), source, .. } => {
                Some(self.mount_source(Some(from), source).await?)
            }
            _ => None,
        };
        Ok(Mounted { mount: mount.clone(), source })
    }
}

/// The mounts of one step. Dropped, what was made for them is gone.
pub(crate) struct Prepared {
    shared: Arc<Shared>,
    session: Arc<dyn Session>,
    directory: String,
    mounts: Vec<Mount>,
    copies: Vec<TemporaryDir>,
    turns: Vec<OwnedMutexGuard<()>>,
    private: Option<PrivateDir>,
    agents: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for agent in &self.agents {
            agent.abort();
        }
    }
}

/// A directory under `--state` for what must not stay.
struct PrivateDir(PathBuf);

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = ?self.0, %error, "what a step was given stays until the next start");
        }
    }
}

impl Prepared {
    pub(crate) fn new(stage: &Stage, directory: &str) -> Self {
        Self {
            shared: Arc::clone(&stage.build.shared),
            session: Arc::clone(&stage.build.session),
            directory: directory.to_owned(),
            mounts: Vec::new(),
            copies: Vec::new(),
            turns: Vec::new(),
            private: None,
            agents: Vec::new(),
        }
    }

    /// Returns the mounts for the engine.
    pub(crate) fn engine_mounts(&self) -> Vec<Mount> {
        self.mounts.clone()
    }

    /// Makes a mount ready; a secret may add to the environment.
    pub(crate) async fn add(
        &mut self,
        mounted: Mounted,
        env: &mut Vec<String>,
    ) -> Result<(), BuildError> {
        let target = mounted.mount.target.clone();
        match mounted.mount.kind.clone() {
            MountKind::Bind { writable, .. } => self.bind(mounted, writable).await,
            MountKind::Cache { .. } => self.cache(mounted).await,
            MountKind::Tmpfs { size_bytes } => {
                let mut options = vec!["exec".to_owned(), "mode=1777".to_owned()];
                options.extend(size_bytes.map(|bytes| format!("size={bytes}")));
                self.push(MountSource::Tmpfs { options }, &target, false);
                Ok(())
            }
            MountKind::Secret { id, env: variable, has_file, required, mode, uid, gid } => {
                let secret = self
                    .session
                    .secret(&id)
                    .await
                    .map_err(|source| BuildError::Session { source })?;
                let Some(secret) = secret else {
                    return if required { Err(BuildError::NoSecret { id }) } else { Ok(()) };
                };
                if let Some(variable) = variable {
                    env.retain(|entry| {
                        entry.split_once('=').is_none_or(|(key, _)| key != variable)
                    });
                    env.push(format!("{variable}={}", String::from_utf8_lossy(&secret)));
                }
                if has_file {
                    let target = if target.is_empty() { format!("{SECRETS}/{id}") } else { target };
                    let path = self.private_file("secret", &secret, mode, (uid, gid))?;
                    self.push(MountSource::Bind { path, create: false }, &target, true);
                }
                Ok(())
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                self.agent(&id, &target, required, mode, (uid, gid), env).await
            }
        }
    }

    /// Adds a script that is executed.
    pub(crate) fn add_script(&mut self, name: &str, text: &str) -> Result<(), BuildError> {
        let path = self.private_file("script", text.as_bytes(), 0o755, (0, 0))?;
        let target = format!("/dev/pipes/{name}");
        self.push(MountSource::Bind { path, create: false }, &target, true);
        Ok(())
    }

    /// Adds a directory of the host that the step writes to.
    pub(crate) fn add_outbox(&mut self, path: PathBuf, target: &str) {
        self.push(MountSource::Bind { path, create: false }, target, false);
    }

    fn push(&mut self, source: MountSource, target: &str, read_only: bool) {
        let target = if target.starts_with('/') {
            format!("/{}", clean(target))
        } else {
            format!("/{}", clean(&format!("{}/{target}", self.directory)))
        };
        self.mounts.push(Mount {
            source,
            target: target.into(),
            read_only,
            propagation: Propagation::default(),
            submounts: keg_engine::model::Submounts::default(),
            relabel: Relabel::None,
        });
    }

    async fn bind(&mut self, mounted: Mounted, writable: bool) -> Result<(), BuildError> {
        let target = mounted.mount.target.clone();
        let Some((source, _, files)) = mounted.source else { return Ok(()) };
        if let Some(files) = &files
            && !writable
            && let Some(path) = only_place(files, &source.path)
        {
            self.push(MountSource::Bind { path, create: false }, &target, true);
            return Ok(());
        }
        let (copy, path) = self.copied(source).await?;
        self.copies.push(copy);
        self.push(MountSource::Bind { path, create: false }, &target, !writable);
        Ok(())
    }

    /// Copies a source into a directory of its own; returns also where it is in there.
    async fn copied(&self, source: Source) -> Result<(TemporaryDir, PathBuf), BuildError> {
        self.shared
            .blocking(move |shared| {
                let copy = shared
                    .content
                    .temporary_dir()
                    .map_err(BuildError::io("make a directory for a mount"))?;
                place_at(copy.path(), "source", source)?;
                let path = copy.path().join("source");
                Ok((copy, path))
            })
            .await
    }

    async fn cache(&mut self, mounted: Mounted) -> Result<(), BuildError> {
        let MountKind::Cache { id, sharing, read_only, mode, uid, gid, .. } = mounted.mount.kind
        else {
            return Ok(());
        };
        let target = mounted.mount.target;
        let id = id.unwrap_or_else(|| clean(&target));
        let base = Digest::sha256(id.as_bytes()).hex().to_owned();
        let (chosen, turn) = self.cache_turn(&base, sharing).await;
        self.turns.extend(turn);
        let path = self.shared.content.root().join("caches").join(chosen);
        let (made, label) = (path.clone(), id);
        let source = mounted.source.map(|(source, ..)| source);
        self.shared
            .blocking(move |_| {
                if made.join("data").exists() {
                    // Tells when it was last used.
                    return std::fs::write(made.join("name"), &label)
                        .map_err(BuildError::io("mark a cache as used"));
                }
                make_cache(&made, &label, (mode, uid, gid), source)
            })
            .await?;
        let path = path.join("data");
        self.push(MountSource::Bind { path, create: false }, &target, read_only);
        Ok(())
    }

    /// Chooses the directory of a cache, and waits for it if it is not to be shared.
    async fn cache_turn(
        &self,
        base: &str,
        sharing: Sharing,
    ) -> (String, Option<OwnedMutexGuard<()>>) {
        let name = |count: usize| match count {
            0 => base.to_owned(),
            count => format!("{base}-{count}"),
        };
        match sharing {
            Sharing::Shared => (name(0), None),
            Sharing::Locked => {
                let turn = self.shared.locks.lock(&format!("cache {base}")).await;
                (name(0), Some(turn))
            }
            Sharing::Private => {
                let mut count = 0;
                loop {
                    let lock = format!("private cache {base} {count}");
                    if let Some(turn) = self.shared.locks.try_lock(&lock) {
                        return (name(count), Some(turn));
                    }
                    count += 1;
                }
            }
        }
    }

    /// Writes a file that goes with the step.
    fn private_file(
        &mut self,
        kind: &str,
        bytes: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<PathBuf, BuildError> {
        let path = self.private_path(kind)?;
        let written = std::fs::write(&path, bytes)
            .and_then(|()| chown(&path, Some(owner.0), Some(owner.1)))
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)));
        written.map_err(BuildError::io("write a file for a step"))?;
        Ok(path)
    }

    fn private_path(&mut self, kind: &str) -> Result<PathBuf, BuildError> {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        if self.private.is_none() {
            let dir = self.shared.settings.state.join(count.to_string());
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(BuildError::io("make a directory for a step"))?;
            self.private = Some(PrivateDir(dir));
        }
        let dir = self.private.as_ref().map(|dir| dir.0.clone()).unwrap_or_default();
        Ok(dir.join(format!("{kind}-{count}")))
    }

    async fn agent(
        &mut self,
        id: &str,
        target: &str,
        required: bool,
        mode: u32,
        owner: (u32, u32),
        env: &mut Vec<String>,
    ) -> Result<(), BuildError> {
        // Whether there is one is found out by connecting once.
        let first =
            self.session.agent(id).await.map_err(|source| BuildError::Session { source })?;
        if first.is_none() {
            return if required { Err(BuildError::NoAgent { id: id.to_owned() }) } else { Ok(()) };
        }
        drop(first);
        let path = self.private_path("agent")?;
        let listener =
            UnixListener::bind(&path).map_err(BuildError::io("listen for a step's SSH client"))?;
        chown(&path, Some(owner.0), Some(owner.1))
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)))
            .map_err(BuildError::io("give a socket to a step"))?;
        let target = if target.is_empty() {
            let count = self.agents.len();
            format!("{AGENTS}/ssh_agent.{count}")
        } else {
            target.to_owned()
        };
        env.push(format!("SSH_AUTH_SOCK={target}"));
        self.push(MountSource::Bind { path, create: false }, &target, false);
        let (session, id) = (Arc::clone(&self.session), id.to_owned());
        self.agents.push(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut inside, _)) = listener.accept().await {
                let (session, id) = (Arc::clone(&session), id.clone());
                connections.spawn(async move {
                    if let Ok(Some(mut outside)) = session.agent(&id).await {
                        // Whichever side ends it, the other sees the end.
                        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
        }));
        Ok(())
    }
}

/// Makes the directory of a cache; whole or not at all.
fn make_cache(
    path: &Path,
    label: &str,
    (mode, uid, gid): (u32, u32, u32),
    source: Option<Source>,
) -> Result<(), BuildError> {
    let failed = || BuildError::io("make the directory of a cache");
    let unfinished = path.with_extension("new");
    let _ = std::fs::remove_dir_all(&unfinished);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&unfinished).map_err(failed())?;
    std::fs::write(unfinished.join("name"), label).map_err(failed())?;
    let data = unfinished.join("data");
    match source {
        Some(source) => place_at(&unfinished, "data", source)?,
        None => std::fs::create_dir(&data).map_err(failed())?,
    }
    chown(&data, Some(uid), Some(gid)).map_err(failed())?;
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).map_err(failed())?;
    match std::fs::rename(&unfinished, path) {
        // Another step was quicker.
        Err(_) if path.join("data").exists() => {
            let _ = std::fs::remove_dir_all(&unfinished);
            Ok(())
        }
        other => other.map_err(failed()),
    }
}

/// Puts a source into a directory under a name.
fn place_at(directory: &Path, name: &str, source: Source) -> Result<(), BuildError> {
    let tree = Tree::directory(directory)?;
    let placement = Placement {
        destination: name.to_owned(),
        is_directory: false,
        owner: None,
        mode: None,
        mtime_secs: None,
    };
    Ok(place(&tree, &[source], &placement, None)?)
}

/// Returns the directory or file of a layer that alone makes up a path, if there is one: it need not
/// be copied to be shown.
fn only_place(files: &Files, path: &str) -> Option<PathBuf> {
    let mut found = None;
    for dir in files.dirs() {
        let tree = Tree::directory(&dir).ok()?;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
        // With a link on the way another layer may be meant.
        let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
        let relative = if path.is_empty() { "." } else { path };
        let mode = rustix::fs::Mode::empty();
        match rustix::fs::openat2(tree.root(), relative, flags, mode, resolve) {
            Ok(fd) => {
                let kind =
                    rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd).ok()?.st_mode);
                let plain = matches!(
                    kind,
                    rustix::fs::FileType::Directory | rustix::fs::FileType::RegularFile
                );
                if found.is_some() || !plain {
                    return None;
                }
                found = Some(dir.join(relative));
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(_) => return None,
        }
    }
    found
}
