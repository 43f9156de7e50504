//! `RUN`: a step in a container.
//!
//! ```text
//! seat (a right, and a range of ids) ─▶ empty snapshot over the stage's layers ─▶ mounts ─▶ engine
//!        ─▶ exit 0: what the runtime left is taken away, owners are given back ─▶ a layer
//!        ─▶ else: a shell, if one is wanted ─▶ the snapshot is given up
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use keg_engine::devices::{self, Device};
use keg_engine::model::IdRange;
use keg_engine::{StepOutput, StepPlan};
use keg_network::NetworkMode;
use rustix::fs::{AtFlags, FileType, Gid, Uid, fchown, unlinkat};
use serde_json::json;
use tokio::sync::mpsc;

use crate::builder::{Seat, Shared};
use crate::dockerfile::{
    Command, Located, MountKind, Network, Run, RunDevice, RunMount, Security, parse_heredoc,
};
use crate::error::BuildError;
use crate::layers::{Files, Upper};
use crate::mounts::{Mounted, Prepared};
use crate::owners::unshift;
use crate::progress::Step;
use crate::request::DebugShell;
use crate::scope::PROXY_ARGS;
use crate::sources::clean;
use crate::stage::{Stage, key_of};
use crate::steps::{identity_of, inherit_root};
use crate::tree::{Tree, TreeError};

/// Pieces of output that wait to be told.
const OUTPUT_PIECES: usize = 64;
/// What a step sees as its host's name; BuildKit's.
const HOSTNAME: &str = "buildkitsandbox";
/// The build argument that gives it another.
const HOSTNAME_ARG: &str = "BUILDKIT_SANDBOX_HOSTNAME";

/// The build argument that names a namespace of caches.
const CACHE_NAMESPACE_ARG: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// What a step is to run, and with what.
pub(crate) struct Job {
    words: Words,
    pub(crate) env: Vec<String>,
    pub(crate) mounts: Vec<Mounted>,
    pub(crate) network: Network,
    devices: Vec<Device>,
    is_insecure: bool,
    /// A directory of the host that the step writes to, and where it sees it.
    pub(crate) outbox: Option<(PathBuf, String)>,
}

impl Job {
    /// Runs these words, with nothing else.
    pub(crate) fn of(args: Vec<String>) -> Self {
        Self {
            words: Words { args, script: None },
            env: Vec::new(),
            mounts: Vec::new(),
            network: Network::Default,
            devices: Vec::new(),
            is_insecure: false,
            outbox: None,
        }
    }
}

/// A step that is ready to run. Dropped, nothing is left of it.
pub(crate) struct Ready {
    plan: StepPlan,
    /// Files that the step begins with.
    files: Files,
    held: Arc<Held>,
}

/// What a step uses. It stays until the last process of the step is gone, even if whoever waits for the
/// step has gone before.
struct Held {
    upper: Guarded,
    _prepared: Prepared,
    _seat: Seat,
}

impl Ready {
    pub(crate) fn plan(&self) -> StepPlan {
        self.plan.clone()
    }
}

/// What a `RUN` runs, variables and heredocs seen to.
struct Words {
    args: Vec<String>,
    /// A script that is mounted and executed: its name and its text.
    script: Option<(String, String)>,
}

impl Stage {
    /// `RUN`.
    pub(crate) async fn run(&mut self, run: &Run, located: &Located) -> Result<(), BuildError> {
        let step = self.begin_step(&located.text);
        let outcome = self.run_step(run, &step).await;
        outcome.inspect_err(|error| step.failed(error.to_string()))
    }

    async fn run_step(&mut self, run: &Run, step: &Step) -> Result<(), BuildError> {
        let network = match run.network {
            Network::Default => self.build.request.network,
            given => given,
        };
        self.check_allowed(run, network)?;
        let words = self.words(run)?;
        let created_by = self.created_by(&words);
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            let mount = RunMount::parse(&self.word(mount)?).map_err(|problem| {
                BuildError::Malformed { problem: format!("--mount: {problem}") }
            })?;
            mounts.push(self.mount(&self.in_namespace(mount)).await?);
        }
        let devices = self.devices(run)?;
        let env = self.run_env();
        let is_insecure = run.security == Security::Insecure;
        let mut job = Job { words, env, mounts, network, devices, is_insecure, outbox: None };
        let first_key = self.run_key(&job);
        let _turn = self.build.shared.locks.lock(&first_key).await;
        if let Some(result) = self.find(&first_key).await? {
            step.cached();
            self.accept(result, created_by);
            return Ok(());
        }
        // A stage that was built anew may have come to the same in what the step sees of it.
        for mounted in &mut job.mounts {
            mounted.know_by_content().await?;
        }
        let key = self.run_key(&job);
        let _second_turn = match key == first_key {
            true => None,
            false => Some(self.build.shared.locks.lock(&key).await),
        };
        let result = match self.find(&key).await? {
            Some(result) => {
                step.cached();
                result
            }
            None => {
                crate::emulation::check(&self.platform)?;
                let upper = self.execute(job, step).await?;
                let result = self.finish_step(&key, self.id_of_run(&key), upper, &created_by)?;
                step.done();
                result
            }
        };
        if key != first_key {
            self.keep_result(&first_key, &result, &created_by);
        }
        self.accept(result, created_by);
        Ok(())
    }

    /// The digest of all that the result of a command depends on.
    fn run_key(&self, job: &Job) -> String {
        key_of(&json!({
            "step": "run",
            "on": self.files.id,
            "args": job.words.args,
            "script": job.words.script,
            "env": job.env.iter().filter(|entry| !is_proxy(entry)).collect::<Vec<_>>(),
            "user": self.config.text("User"),
            "directory": self.config.text("WorkingDir"),
            "network": job.network.as_str(),
            "insecure": job.is_insecure,
            "mounts": job.mounts.iter().map(Mounted::key).collect::<Vec<_>>(),
            "devices": job.devices.iter().map(|device| &device.host).collect::<Vec<_>>(),
            "epoch": self.build.epoch_secs,
            "surroundings": self.surroundings(),
        }))
    }

    /// Gives a cache the id that it has in the namespace of caches that the client has named.
    fn in_namespace(&self, mut mount: RunMount) -> RunMount {
        if let Some(namespace) = self.build.request.build_args.get(CACHE_NAMESPACE_ARG)
            && let MountKind::Cache { id, .. } = &mut mount.kind
        {
            let own = id.take().unwrap_or_else(|| clean(&mount.target));
            *id = Some(format!("{namespace}/{own}"));
        }
        mount
    }

    /// Returns the devices that a step gets: those that are here, of those that it asks for.
    fn devices(&self, run: &Run) -> Result<Vec<Device>, BuildError> {
        let mut found = Vec::new();
        for text in &run.devices {
            let wanted = RunDevice::parse(&self.word(text)?).map_err(|problem| {
                BuildError::Malformed { problem: format!("--device: {problem}") }
            })?;
            if !wanted.required && !devices::is_described(&wanted.name) {
                continue;
            }
            let kind = wanted.name.split('=').next().unwrap_or_default();
            let allows = |name: &String| name.is_empty() || *name == wanted.name || name == kind;
            if !self.build.request.allow_devices.iter().any(allows) {
                return Err(BuildError::NotAllowed { what: "device" });
            }
            found.push(Device { host: wanted.name, ..Device::default() });
        }
        Ok(found)
    }

    /// What the client has said of all steps and they can see; nothing, if it has said nothing.
    fn surroundings(&self) -> serde_json::Value {
        let request = &self.build.request;
        let limits: Vec<_> = request
            .ulimits
            .iter()
            .map(|limit| json!([limit.name, limit.soft, limit.hard]))
            .collect();
        json!([request.extra_hosts, request.shm_size_bytes, limits, self.hostname()])
    }

    fn hostname(&self) -> &str {
        self.build.request.build_args.get(HOSTNAME_ARG).map_or(HOSTNAME, String::as_str)
    }

    fn check_allowed(&self, run: &Run, network: Network) -> Result<(), BuildError> {
        let request = &self.build.request;
        if run.security == Security::Insecure && !request.allow_insecure {
            return Err(BuildError::NotAllowed { what: "security.insecure" });
        }
        // Who types --network=host for the whole build has allowed it.
        let asked = run.network == Network::Host;
        if network == Network::Host
            && asked
            && !request.allow_host_network
            && request.network != Network::Host
        {
            return Err(BuildError::NotAllowed { what: "network.host" });
        }
        Ok(())
    }

    /// Decides what is executed (BuildKit's rules for heredocs).
    fn words(&self, run: &Run) -> Result<Words, BuildError> {
        let line = match &run.command {
            Command::Exec(words) => {
                return Ok(Words { args: words.clone(), script: None });
            }
            Command::Shell(line) => line,
        };
        let shell = |line: String| {
            let mut args = self.config.shell();
            args.push(line);
            args
        };
        let Some(first) = run.heredocs.first() else {
            return Ok(Words { args: shell(line.clone()), script: None });
        };
        let is_alone = parse_heredoc(line.trim(), self.build.file.directives.escape).is_some();
        if !is_alone {
            // The shell knows heredocs itself.
            let mut full = line.clone();
            for heredoc in &run.heredocs {
                full.push('\n');
                full.push_str(&heredoc.content);
                full.push_str(&heredoc.name);
            }
            return Ok(Words { args: shell(full), script: None });
        }
        let text = first.text();
        if text.starts_with("#!") {
            let path = format!("/dev/pipes/{}", first.name);
            return Ok(Words { args: vec![path], script: Some((first.name.clone(), text)) });
        }
        Ok(Words { args: shell(text), script: None })
    }

    fn created_by(&self, words: &Words) -> String {
        let args: Vec<String> = self
            .args
            .iter()
            .filter_map(|(key, value)| {
                let value = self.config.env(key).or_else(|| value.clone())?;
                Some(format!("{key}={value}"))
            })
            .collect();
        let prefix = match args.as_slice() {
            [] => String::new(),
            args => format!("|{} {} ", args.len(), args.join(" ")),
        };
        format!("RUN {prefix}{} # buildkit", words.args.join(" "))
    }

    /// The environment: the image's, arguments, and proxies.
    pub(crate) fn run_env(&self) -> Vec<String> {
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        for proxy in PROXY_ARGS {
            if let Some(value) = self.build.request.build_args.get(proxy) {
                env.insert(proxy.to_owned(), value.clone());
            }
        }
        for (key, value) in &self.args {
            if let Some(value) = value {
                env.insert(key.clone(), value.clone());
            }
        }
        if let Some(epoch) = self.build.epoch_secs
            && self.args.iter().any(|(key, _)| key == "SOURCE_DATE_EPOCH")
        {
            env.insert("SOURCE_DATE_EPOCH".to_owned(), epoch.to_string());
        }
        for entry in self.config.list("Env") {
            if let Some((key, value)) = entry.split_once('=') {
                env.insert(key.to_owned(), value.to_owned());
            }
        }
        env.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Makes a step ready to run on the stage's files.
    pub(crate) async fn ready(&mut self, job: Job) -> Result<Ready, BuildError> {
        let Job { words, mut env, mounts, network, devices, is_insecure, outbox } = job;
        let shared = Arc::clone(&self.build.shared);
        let seat = shared.seat().await?;
        let range = seat.range;
        let (files, user) = (self.files.clone(), self.config.text("User").to_owned());
        let directory = match self.config.text("WorkingDir") {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        let (upper, identity) = {
            let files = files.clone();
            shared
                .blocking(move |shared| {
                    let identity = identity_of(&files, &user)?;
                    let upper = shared.layers.take(&files, Some(store_range(range)))?;
                    shift_root(&files, &upper, range)
                        .inspect_err(|_| shared.layers.discard(&upper))?;
                    Ok((upper, identity))
                })
                .await?
        };
        let upper = Guarded::new(&shared, upper);
        let mut prepared = Prepared::new(self, &directory);
        for mount in mounts {
            prepared.add(mount, &mut env).await?;
        }
        if let Some((name, text)) = &words.script {
            prepared.add_script(name, text)?;
        }
        if let Some((path, target)) = outbox {
            prepared.add_outbox(path, &target);
        }
        let layers = &shared.layers;
        let root = layers.snapshotter().mounts_over(
            layers.ns(),
            &upper.key,
            &files.dirs(),
            Some(store_range(range)),
        )?;
        let plan = StepPlan {
            root,
            id_range: range,
            identity,
            args: words.args,
            env,
            working_dir: directory.into(),
            mounts: prepared.engine_mounts(),
            devices,
            network: network_mode(network, &shared),
            privileged: is_insecure,
            hostname: self.hostname().to_owned(),
            extra_hosts: self.build.request.extra_hosts.clone(),
            shm_size_bytes: self.build.request.shm_size_bytes,
            ulimits: self.build.request.ulimits.clone(),
            resources: self.build.request.resources.clone(),
            cgroup_parent: self.build.request.cgroup_parent.clone(),
            terminal: None,
            keeps: None,
        };
        let held = Arc::new(Held { upper, _prepared: prepared, _seat: seat });
        let plan = StepPlan { keeps: Some(Arc::clone(&held) as _), ..plan };
        Ok(Ready { plan, files, held })
    }

    /// Runs a step; returns what it changed.
    pub(crate) async fn execute(&mut self, job: Job, step: &Step) -> Result<Upper, BuildError> {
        let shared = Arc::clone(&self.build.shared);
        let ready = self.ready(job).await?;
        let (sink, output) = mpsc::channel(OUTPUT_PIECES);
        let running = shared.engine.run_step(ready.plan(), sink, None);
        let (exit, ()) = tokio::join!(running, tell(output, step));
        let exit = exit.map_err(|source| BuildError::Engine { source: Box::new(source) })?;
        if exit.code != 0 {
            if self.build.request.debug_shell != DebugShell::Never {
                let place = format!("in the container of {}", step.name());
                step.failed(BuildError::Exit { code: exit.code }.to_string());
                self.build.offer_shell(ready.plan(), &self.config.shell(), &place).await?;
            }
            return Err(BuildError::Exit { code: exit.code });
        }
        let Ready { plan, files, held } = ready;
        let (upper, range) = (held.upper.take().ok_or(BuildError::NoSnapshot)?, plan.id_range);
        shared
            .blocking(move |shared| {
                let is_whole = shared.layers.are_whole();
                let cleaned = Tree::directory(&upper.dir)
                    .and_then(|tree| unshift(&tree, range))
                    .map_err(BuildError::from)
                    .and_then(|()| remove_stubs(&files, &upper, &exit.mount_targets, is_whole));
                cleaned.inspect_err(|_| shared.layers.discard(&upper))?;
                Ok(upper)
            })
            .await
    }
}

fn store_range(range: IdRange) -> keg_store::IdRange {
    keg_store::IdRange { base: range.start, count: range.length }
}

/// A snapshot that is given up unless it is taken.
struct Guarded {
    shared: Arc<Shared>,
    key: String,
    upper: Mutex<Option<Upper>>,
}

impl Guarded {
    fn new(shared: &Arc<Shared>, upper: Upper) -> Self {
        let key = upper.key.clone();
        Self { shared: Arc::clone(shared), key, upper: Mutex::new(Some(upper)) }
    }

    fn take(&self) -> Option<Upper> {
        self.upper.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.take().is_some() {
            self.shared.tidy_up();
        }
    }
}

fn is_proxy(entry: &str) -> bool {
    entry.split_once('=').is_some_and(|(key, _)| PROXY_ARGS.contains(&key))
}

fn network_mode(network: Network, shared: &Shared) -> NetworkMode {
    match network {
        Network::Default => shared.engine.settings().default_network.clone(),
        Network::None => NetworkMode::None,
        Network::Host => NetworkMode::Host,
    }
}

/// Passes on what a step writes.
async fn tell(mut output: mpsc::Receiver<StepOutput>, step: &Step) {
    while let Some(piece) = output.recv().await {
        match piece {
            StepOutput::Stdout(bytes) => step.log(false, bytes),
            StepOutput::Stderr(bytes) => step.log(true, bytes),
        }
    }
}

/// Gives the new uppermost directory to the step's root, or to whom it belongs below, shifted.
fn shift_root(files: &Files, upper: &Upper, range: IdRange) -> Result<(), BuildError> {
    inherit_root(&files.dirs(), &upper.dir)?;
    let tree = Tree::directory(&upper.dir)?;
    let shift = |id: u32| if id < range.length { range.start + id } else { id };
    rustix::fs::fstat(tree.root())
        .and_then(|stat| {
            let (uid, gid) = (shift(stat.st_uid), shift(stat.st_gid));
            fchown(tree.root(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            rustix::fs::fchmod(tree.root(), rustix::fs::Mode::from_raw_mode(stat.st_mode & 0o7777))
        })
        .map_err(TreeError::io("give to the step", "/"))?;
    Ok(())
}

/// Removes the empty files and directories that the runtime made to mount something on them, and
/// directories of which nothing is left that differs from what is below.
fn remove_stubs(
    files: &Files,
    upper: &Upper,
    targets: &[PathBuf],
    is_whole: bool,
) -> Result<(), BuildError> {
    let below = match files.dirs() {
        dirs if dirs.is_empty() => None,
        dirs => Some(Tree::layers(&dirs)?),
    };
    let own = Tree::directory(&upper.dir)?;
    let mut touched: Vec<String> = Vec::new();
    for target in targets.iter().rev() {
        let mut path = target.to_string_lossy().trim_matches('/').to_owned();
        // The runtime may have made the directories above, too.
        while !path.is_empty() {
            if let Some(tree) = &below
                && tree.stat(&path).map_err(TreeError::io("look at", &path))?.is_some()
            {
                break;
            }
            let (parent, name) = match path.rsplit_once('/') {
                Some((parent, name)) => (parent.to_owned(), name.to_owned()),
                None => (String::new(), path.clone()),
            };
            let Ok(dir) = own.open_dir(&parent) else { break };
            if !remove_if_empty(&dir, &name) {
                break;
            }
            touched.push(parent.clone());
            path = parent;
        }
        let path = target.to_string_lossy().trim_matches('/').to_owned();
        touched
            .push(path.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default());
    }
    // Where the directory holds what is below too, what looks as there is there by right.
    if let Some(below) = below.as_ref().filter(|_| !is_whole) {
        touched.sort();
        touched.dedup();
        for path in touched.iter().rev().filter(|path| !path.is_empty()) {
            remove_if_same(&own, below, path);
        }
    }
    Ok(())
}

/// Removes an empty file or directory; tells whether it is gone.
fn remove_if_empty(dir: &std::os::fd::OwnedFd, name: &str) -> bool {
    let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok(),
        FileType::RegularFile if stat.st_size == 0 => unlinkat(dir, name, AtFlags::empty()).is_ok(),
        _ => false,
    }
}

/// Removes an empty directory of the upper layer that looks as the one below it: it is there only
/// because the runtime passed by.
fn remove_if_same(own: &Tree, below: &Tree, path: &str) {
    let (Ok(Some(mine)), Ok(Some(theirs))) = (own.stat(path), below.stat(path)) else { return };
    let is_same = mine.st_mode == theirs.st_mode
        && mine.st_uid == theirs.st_uid
        && mine.st_gid == theirs.st_gid
        && FileType::from_raw_mode(mine.st_mode) == FileType::Directory;
    // An opaque directory hides what is below: it is a change although it is empty.
    let is_opaque = |dir: std::os::fd::OwnedFd| {
        let mut value = [0_u8; 1];
        ["trusted.overlay.opaque", "user.overlay.opaque"]
            .iter()
            .any(|name| rustix::fs::fgetxattr(&dir, *name, &mut value[..]).is_ok())
    };
    if !is_same || own.open_dir(path).map_or(true, is_opaque) {
        return;
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    if let Ok(dir) = own.open_dir(parent) {
        // One with something in it stays.
        let _ = unlinkat(&dir, name, AtFlags::REMOVEDIR);
    }
}
