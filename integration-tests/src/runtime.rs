//! An OCI runtime on a private `--root`, and the containers it makes.
//!
//! ```text
//! Runtime ──create──▶ Container ── Tree: keg-supervise ── keg-runtime create (exits)
//!                                            └── init (adopted when create has exited)
//! ```
//!
//! `KEG_TEST_RUNTIME` names another runtime (`/usr/sbin/runc`), to see whether a test is right.
//! Invariant: when the last handle is dropped, no container, mount, cgroup or state of the runtime is
//! left; what is left is removed, and fails the test unless it failed already.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::terminal::ConsoleSocket;
use crate::wait::{self, PATIENCE};
use crate::{Bundle, Outcome, Scratch, Terminal, Tree, programs};

static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// A runtime on a root of its own. Clones share it.
#[derive(Debug, Clone)]
pub struct Runtime {
    program: PathBuf,
    scratch: Arc<Scratch>,
}

/// Where a container is in its life (runtime-spec, runtime.md, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the specification's words")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

/// What `state` prints.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the runtime-spec.
    pub oci_version: String,
    /// Container.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Its init on the host; absent or 0 when stopped.
    #[serde(default)]
    pub pid: i32,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Annotations of `config.json`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Runtime {
    /// Returns the runtime under test: `KEG_TEST_RUNTIME`, else ours.
    #[must_use]
    pub fn new() -> Self {
        Self::of(match env::var_os("KEG_TEST_RUNTIME") {
            Some(path) => path.into(),
            None => programs::ours("keg-runtime"),
        })
    }

    /// Returns the runtime `program`, with runc's command line.
    #[must_use]
    pub fn of(program: PathBuf) -> Self {
        let scratch = Scratch::new();
        let _ = scratch.directory("root");
        Self { program, scratch: Arc::new(scratch) }
    }

    /// Returns its program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns its `--root`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    /// Returns a container id that nobody else uses.
    #[must_use]
    pub fn new_id() -> String {
        let number = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        format!("keg-it-{}-{number}", std::process::id())
    }

    /// Returns a command line of the runtime, with its root and its log.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root()).arg("--log").arg(self.log());
        command.args(["--log-format", "json"]).args(args);
        command.env("PATH", crate::daemon::path_with_our_programs());
        command
    }

    /// Runs a command of the runtime to its end.
    #[must_use]
    #[track_caller]
    pub fn call<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        let _ = fs::remove_file(self.log());
        let outcome = Outcome::of(&mut self.command(args), PATIENCE);
        self.with_logged_error(outcome)
    }

    /// Runs a bundle in the foreground, to its end.
    #[must_use]
    #[track_caller]
    pub fn run(&self, bundle: Bundle) -> Outcome {
        let id = Self::new_id();
        let bundle = bundle.prepare(&id);
        let guard = self.guard(&id);
        let outcome = self.call([
            "run".as_ref(),
            "--bundle".as_ref(),
            bundle.path().as_os_str(),
            id.as_ref(),
        ]);
        drop(guard);
        outcome
    }

    /// Sees to it that a container which the test makes by [`Runtime::command`] goes with the guard.
    #[must_use]
    pub fn guard<'r>(&'r self, id: &'r str) -> Guard<'r> {
        Guard { runtime: self, id }
    }

    /// Runs a bundle of the probe in the foreground and returns its report.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    #[track_caller]
    pub fn report(&self, bundle: Bundle) -> crate::Report {
        self.run(bundle).success().report()
    }

    /// Runs the probe's `try` in the foreground; returns for each attempt the errno, "" for success.
    ///
    /// # Panics
    /// If the container cannot be run.
    #[must_use]
    #[track_caller]
    pub fn attempts(&self, bundle: Bundle, attempts: &[&str]) -> Vec<String> {
        let args = ["try"].into_iter().chain(attempts.iter().copied());
        let tried: Vec<crate::report::Attempt> = self.run(bundle.args(args)).success().json();
        tried.into_iter().map(|attempt| attempt.errno.unwrap_or_default()).collect()
    }

    /// Creates a container.
    ///
    /// # Panics
    /// If the runtime refuses.
    #[must_use]
    #[track_caller]
    pub fn create(&self, bundle: Bundle) -> Container {
        match self.try_create(bundle) {
            Ok(container) => container,
            Err(outcome) => panic!("create failed: {outcome:#?}"),
        }
    }

    /// Creates a container, unless the runtime refuses.
    ///
    /// # Errors
    /// What the runtime said.
    #[track_caller]
    pub fn try_create(&self, bundle: Bundle) -> Result<Container, Outcome> {
        self.create_with(bundle, &[])
    }

    /// Tries to create a container that the runtime must refuse; returns what it said.
    ///
    /// # Panics
    /// If it does not refuse, or if it says nothing.
    #[must_use]
    #[track_caller]
    pub fn refused(&self, bundle: Bundle) -> Outcome {
        match self.try_create(bundle) {
            Ok(container) => panic!("{} was created", container.id()),
            Err(outcome) => {
                assert!(!outcome.error.is_empty(), "refused without a word: {outcome:?}");
                outcome
            }
        }
    }

    /// Creates a container with further flags of `create`.
    ///
    /// # Errors
    /// What the runtime said.
    #[track_caller]
    pub fn create_with(&self, bundle: Bundle, flags: &[&OsStr]) -> Result<Container, Outcome> {
        let id = Self::new_id();
        let bundle = Arc::new(bundle.prepare(&id));
        let pid_file = self.scratch.join(format!("{id}.pid"));
        self.make("create", id, bundle, &pid_file, flags, Tree::spawn)
    }

    #[track_caller]
    fn make(
        &self,
        command: &str,
        id: String,
        bundle: Arc<Bundle>,
        pid_file: &Path,
        flags: &[&OsStr],
        spawn: impl FnOnce(&Command) -> Tree,
    ) -> Result<Container, Outcome> {
        let _ = fs::remove_file(self.log());
        let mut command = self.command([command, "--bundle"]);
        command.arg(bundle.path()).arg("--pid-file").arg(pid_file).args(flags).arg(&id);
        let tree = spawn(&command);
        let exit_code = tree.wait_exit(tree.main_pid(), PATIENCE);
        let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
        let init = Pid::from_raw(pid.unwrap_or(0));
        let container = Container { runtime: self.clone(), id, init, tree: Some(tree), bundle };
        if exit_code == 0 {
            return Ok(container);
        }
        let (stdout, stderr) = (container.stdout(), container.stderr());
        let error = stderr.trim_end().lines().last().unwrap_or_default().to_owned();
        Err(self.with_logged_error(Outcome { exit_code, stdout, stderr, error }))
    }

    /// Makes a container from the checkpoint of another, with its bundle, its id and its output, and
    /// with further flags of `restore`.
    ///
    /// # Errors
    /// What the runtime said.
    #[track_caller]
    pub fn restore_with(
        &self,
        of: &Container,
        images: &Path,
        flags: &[&OsStr],
    ) -> Result<Container, Outcome> {
        self.restore_as(of.id.clone(), of, images, flags)
    }

    /// The same under another id, while the first container is still there.
    ///
    /// # Errors
    /// What the runtime said.
    #[track_caller]
    pub fn restore_as(
        &self,
        id: String,
        of: &Container,
        images: &Path,
        flags: &[&OsStr],
    ) -> Result<Container, Outcome> {
        let pid_file = self.scratch.join(format!("{id}.pid"));
        let _ = fs::remove_file(&pid_file);
        let mut flagged = vec!["--image-path".as_ref(), images.as_os_str(), "--detach".as_ref()];
        flagged.extend(flags);
        let bundle = Arc::clone(&of.bundle);
        self.make("restore", id, bundle, &pid_file, &flagged, |command| {
            Tree::spawn_after(command, of.tree())
        })
    }

    /// Creates a container whose process has a terminal, which arrives over a console socket.
    ///
    /// # Panics
    /// If the runtime refuses, or sends no terminal.
    #[must_use]
    #[track_caller]
    pub fn create_on_terminal(&self, bundle: Bundle) -> (Container, Terminal) {
        let socket = ConsoleSocket::new();
        let bundle = bundle.set("/process/terminal", true);
        let flags = ["--console-socket".as_ref(), socket.path().as_os_str()];
        let container = self
            .create_with(bundle, &flags)
            .unwrap_or_else(|outcome| panic!("create failed: {outcome:#?}"));
        (container, socket.receive(PATIENCE))
    }

    /// Returns its log: that of the last command, as JSON lines.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.scratch.join("log.json")
    }

    fn with_logged_error(&self, mut outcome: Outcome) -> Outcome {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let logged = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|entry| matches!(entry["level"].as_str(), Some("error" | "fatal")))
            .filter_map(|entry| entry["msg"].as_str().map(str::to_owned))
            .next_back();
        if let Some(error) = logged {
            outcome.error = error;
        }
        outcome
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if Arc::strong_count(&self.scratch) > 1 || std::thread::panicking() {
            return;
        }
        let left: Vec<PathBuf> = fs::read_dir(self.root())
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| !is_cache(path))
            .collect();
        assert!(left.is_empty(), "state left behind by {:?}: {left:?}", self.program);
    }
}

/// A runtime may keep caches in its root; their names are none that a container can have.
fn is_cache(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'~'))
}

impl Bundle {
    /// Gives the bundle the cgroup of container `id`, unless the test has chosen one.
    pub(crate) fn prepare(self, id: &str) -> Self {
        if self.spec()["linux"].get("cgroupsPath").is_some() || !self.spec()["linux"].is_object() {
            return self;
        }
        self.edit(|spec| spec["linux"]["cgroupsPath"] = json!(format!("/{id}")))
    }
}

/// A container that was created.
#[derive(Debug)]
pub struct Container {
    runtime: Runtime,
    id: String,
    init: Pid,
    tree: Option<Tree>,
    bundle: Arc<Bundle>,
}

impl Container {
    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns its init, as the pid file names it.
    #[must_use]
    pub fn init(&self) -> Pid {
        self.init
    }

    /// Returns its bundle.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Returns its runtime.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Starts it.
    ///
    /// # Panics
    /// If the runtime refuses.
    #[track_caller]
    pub fn start(&self) {
        let _ = self.try_start().success();
    }

    /// Starts it, or tells why not.
    #[must_use]
    #[track_caller]
    pub fn try_start(&self) -> Outcome {
        self.runtime.call(["start", &self.id])
    }

    /// Returns what `state` prints.
    ///
    /// # Panics
    /// If the runtime does not know the container.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> State {
        self.runtime.call(["state", &self.id]).success().json()
    }

    /// Waits until it has a status.
    ///
    /// # Panics
    /// After `deadline`.
    #[track_caller]
    pub fn wait_for(&self, status: Status, deadline: Duration) {
        wait::wait_until(&format!("{} is {status:?}", self.id), deadline, || {
            self.state().status == status
        });
    }

    /// Signals its init.
    #[must_use]
    #[track_caller]
    pub fn kill(&self, signal: Signal) -> Outcome {
        self.runtime.call(["kill", &self.id, signal.as_str()])
    }

    /// Deletes it; `--force` kills it first.
    #[must_use]
    #[track_caller]
    pub fn delete(&self, force: bool) -> Outcome {
        let flags: &[&str] = if force { &["--force"] } else { &[] };
        self.runtime.call(["delete"].iter().chain(flags).chain(&[self.id.as_str()]))
    }

    /// Runs a second process in it, to its end.
    #[must_use]
    #[track_caller]
    pub fn exec(&self, args: &[&str]) -> Outcome {
        self.runtime.call(["exec", &self.id].iter().chain(args))
    }

    /// Waits until its init has ended, and returns the exit code, 128 + n for signal n.
    ///
    /// # Panics
    /// After `deadline`.
    #[track_caller]
    pub fn wait_exit(&self, deadline: Duration) -> i32 {
        self.tree().wait_exit(self.init, deadline)
    }

    /// Starts it, waits for its end, and returns what came of it.
    ///
    /// # Panics
    /// If it does not start or does not end.
    #[must_use]
    #[track_caller]
    pub fn start_and_wait(&self) -> Outcome {
        self.start();
        let exit_code = self.wait_exit(PATIENCE);
        let (stdout, stderr) = (self.stdout(), self.stderr());
        Outcome { exit_code, stdout, stderr, error: String::new() }
    }

    /// Waits until its output has the line `line`.
    ///
    /// # Panics
    /// After a while, with its output.
    #[track_caller]
    pub fn wait_for_line(&self, line: &str) {
        let seen = wait::poll(PATIENCE, || self.stdout().lines().any(|l| l == line).then_some(()));
        assert!(seen.is_some(), "no line {line:?} in {:?}, {:?}", self.stdout(), self.stderr());
    }

    /// Returns what was written to the standard output that `create` was given.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.tree().stdout()
    }

    /// Returns what was written to the standard error that `create` was given.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.tree().stderr()
    }

    /// Returns the directories of its cgroup, one per hierarchy.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        cgroups_of(&self.id)
    }

    fn tree(&self) -> &Tree {
        self.tree.as_ref().expect("present until drop")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        remove(&self.runtime, &self.id);
        drop(self.tree.take());
        check_nothing_left(&self.id);
    }
}

/// Removes a container that was run in the foreground, should it still be there.
#[derive(Debug)]
pub struct Guard<'r> {
    runtime: &'r Runtime,
    id: &'r str,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        remove(self.runtime, self.id);
        check_nothing_left(self.id);
    }
}

fn remove(runtime: &Runtime, id: &str) {
    let mut command = runtime.command(["delete", "--force", id]);
    let _ = Outcome::of(&mut command, PATIENCE);
}

/// Fails the test if a cgroup is left behind, after taking it away.
pub(crate) fn check_nothing_left(id: &str) {
    let left = cgroups_of(id);
    for cgroup in &left {
        let _ = fs::remove_dir(cgroup);
    }
    if !std::thread::panicking() {
        assert!(left.is_empty(), "cgroups left behind: {left:?}");
    }
}

/// Returns the cgroups of a name directly below the roots of all hierarchies, or below this process.
#[must_use]
pub fn cgroups_of(name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = hierarchies
        .map(|entry| entry.path().join(name))
        .chain([Path::new("/sys/fs/cgroup").join(name)])
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}
