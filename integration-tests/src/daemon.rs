//! kegd on private directories, and `keg` against it.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::wait::{self, PATIENCE};
use crate::{BadRegistry, Image, Machine, Outcome, Scratch, Terminal, Tree, programs};

/// A daemon of one test.
///
/// It can be killed and started anew, with containers running: their shims go to the supervisor of
/// the daemon that started them, as they would go to PID 1. `Drop` removes all containers, ends the
/// daemon, and fails the test if a mount or a process that cannot be ended is left.
#[derive(Debug)]
pub struct Daemon {
    // The last is the one that runs. Dropped before the directories.
    trees: Vec<Tree>,
    config: PathBuf,
    machine: Option<Machine>,
    log_level: &'static str,
    also: Vec<String>,
    /// More of its environment.
    environment: Vec<(String, String)>,
    _disk: Option<Disk>,
    scratch: Scratch,
}

/// A file system of memory, mounted until the daemon is gone.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, bytes: u64) -> Self {
        std::fs::create_dir_all(&at).expect("make a mount point");
        let options = format!("size={bytes},mode=711");
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some(options.as_str()))
            .expect("mount a small disk");
        Self(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is below it is a failure of the test, and found by the scratch directory.
        let _ = umount2(&self.0, MntFlags::empty());
    }
}

/// What a test's daemon is set to unless the test says otherwise: its containers do without a
/// network, so that the machine's interfaces and firewall stay as they are.
const QUIET: &str = "default_network = \"none\"\n";

impl Daemon {
    /// Starts a daemon and waits until it accepts connections.
    ///
    /// # Panics
    /// If it does not come up, with its log.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::with_config("")
    }

    /// Starts a daemon in the network namespace of a machine of the test's own, with kegd's usual
    /// networks and the settings `toml`; returns the name of an image of busybox too.
    ///
    /// # Panics
    /// As [`Daemon::new`].
    #[must_use]
    #[track_caller]
    pub fn on(machine: &Machine, toml: &str) -> (Self, String) {
        machine.sh("ip link set lo up");
        let registry = machine.run(|| BadRegistry::new(Image::busybox(), |_, right| right));
        let scratch = Scratch::new();
        let config = scratch.file("kegd.toml", toml);
        let machine = Some(machine.clone());
        let mut daemon = Self {
            trees: Vec::new(),
            config,
            machine,
            log_level: "debug",
            also: Vec::new(),
            environment: Vec::new(),
            _disk: None,
            scratch,
        };
        daemon.start();
        let image = format!("{}/busybox:latest", registry.address());
        daemon.pull(&image);
        // Its end is asked for by a connection, which only that machine can make.
        let machine = daemon.machine.clone().expect("a machine");
        machine.run(move || drop(registry));
        (daemon, image)
    }

    /// Starts a daemon that holds [`Image::busybox`]; returns the image's name too.
    ///
    /// The registry it came from is gone: nothing can be pulled again.
    ///
    /// # Panics
    /// As [`Daemon::new`], or if the image cannot be pulled.
    #[must_use]
    #[track_caller]
    pub fn with_busybox() -> (Self, String) {
        let registry = BadRegistry::new(Image::busybox(), |_, right| right);
        let daemon = Self::new();
        let image = format!("{}/busybox:latest", registry.address());
        daemon.pull(&image);
        (daemon, image)
    }

    /// Starts a daemon that holds [`Image::busybox`], and whose persistent directory is a file
    /// system of its own of so many bytes; returns the image's name too.
    ///
    /// # Panics
    /// As [`Daemon::with_busybox`].
    #[must_use]
    #[track_caller]
    pub fn with_busybox_on_disk(bytes: u64) -> (Self, String) {
        let registry = BadRegistry::new(Image::busybox(), |_, right| right);
        let daemon = Self::configured("", Vec::new(), Some(bytes));
        let image = format!("{}/busybox:latest", registry.address());
        daemon.pull(&image);
        (daemon, image)
    }

    /// Starts a daemon with a configuration file (TOML).
    ///
    /// # Panics
    /// As [`Daemon::new`].
    #[must_use]
    #[track_caller]
    pub fn with_config(toml: &str) -> Self {
        Self::configured(toml, Vec::new(), None)
    }

    /// Starts a daemon with a configuration file (TOML) and more environment variables.
    ///
    /// # Panics
    /// As [`Daemon::new`].
    #[must_use]
    #[track_caller]
    pub fn with_environment(toml: &str, environment: &[(&str, &str)]) -> Self {
        let mut daemon = Self::configured(toml, Vec::new(), None);
        daemon.stop();
        let owned = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        daemon.environment = owned.collect();
        daemon.start();
        daemon
    }

    /// Starts a daemon with a configuration file (TOML) that serves `uri` beside its socket.
    ///
    /// # Panics
    /// As [`Daemon::new`].
    #[must_use]
    #[track_caller]
    pub fn listening(toml: &str, uri: &str) -> Self {
        Self::configured(toml, vec![uri.to_owned()], None)
    }

    #[track_caller]
    fn configured(toml: &str, also: Vec<String>, disk_bytes: Option<u64>) -> Self {
        let scratch = Scratch::new();
        let disk = disk_bytes.map(|bytes| Disk::mount(scratch.join("root"), bytes));
        let quiet = if toml.contains("default_network") { "" } else { QUIET };
        let config = scratch.file("kegd.toml", format!("{quiet}{toml}"));
        let mut daemon = Self {
            trees: Vec::new(),
            config,
            machine: None,
            log_level: "debug",
            also,
            environment: Vec::new(),
            _disk: disk,
            scratch,
        };
        daemon.start();
        daemon
    }

    /// Starts it anew, so that it writes less or more into its log.
    ///
    /// # Panics
    /// As [`Daemon::new`].
    #[must_use]
    #[track_caller]
    pub fn logging(mut self, level: &'static str) -> Self {
        self.stop();
        self.log_level = level;
        self.start();
        self
    }

    /// Starts it, after [`Daemon::kill9`] or [`Daemon::stop`].
    ///
    /// # Panics
    /// As [`Daemon::new`].
    #[track_caller]
    pub fn start(&mut self) {
        let mut command = Command::new(programs::ours("kegd"));
        command.arg("--root").arg(self.root()).arg("--state").arg(self.state());
        command.args(["--listen", &self.host(), "--log-level", self.log_level]);
        command.args(self.also.iter().flat_map(|uri| ["--listen", uri]));
        command.arg("--config").arg(&self.config);
        command.env("PATH", path_with_our_programs());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let tree = match &self.machine {
            Some(machine) => machine.run(|| Tree::spawn(&command)),
            None => Tree::spawn(&command),
        };
        let pid = tree.main_pid();
        self.trees.push(tree);
        let up = wait::poll(PATIENCE, || match UnixStream::connect(self.socket()) {
            Ok(_) => Some(true),
            Err(_) => self.tree().exit_code(pid).map(|_| false),
        });
        assert_eq!(up, Some(true), "kegd does not come up: {}", self.log());
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Panics
    /// If it is gone already.
    #[track_caller]
    pub fn kill9(&self) {
        let pid = self.tree().main_pid();
        self.tree().signal_main(Signal::SIGKILL);
        self.tree().wait_exit(pid, PATIENCE);
    }

    /// Kills it and starts it anew.
    ///
    /// # Panics
    /// If it does not come up.
    #[track_caller]
    pub fn crash(&mut self) {
        self.kill9();
        self.start();
    }

    /// Ends it by SIGTERM; returns its exit code.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn stop(&self) -> i32 {
        self.tree().terminate(PATIENCE)
    }

    /// Returns the process id of the daemon.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.tree().main_pid()
    }

    /// Returns the daemon's process and all that it has started, containers too.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        self.tree().pids()
    }

    /// Returns its `--root`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    /// Returns its `--state`.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.scratch.join("run")
    }

    /// Returns its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.scratch.join("kegd.sock")
    }

    /// Returns its address, as `KEG_HOST` has it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Returns what it has logged since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        format!("{}{}", self.tree().stdout(), self.tree().stderr())
    }

    /// Returns a directory of this test, for files to mount, to import and so on.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Returns a command line of `keg` against this daemon.
    #[must_use]
    pub fn keg_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(programs::ours("keg"));
        command.args(args).env("KEG_HOST", self.host()).env("HOME", self.scratch.path());
        command
    }

    /// Runs `keg` to its end.
    #[must_use]
    #[track_caller]
    pub fn keg<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        self.keg_within(PATIENCE, args)
    }

    /// Runs `keg` to its end, which may take longer or must come sooner than usual.
    #[must_use]
    #[track_caller]
    pub fn keg_within<S: AsRef<OsStr>>(
        &self,
        deadline: Duration,
        args: impl IntoIterator<Item = S>,
    ) -> Outcome {
        Outcome::of(&mut self.keg_command(args), deadline)
    }

    /// Runs `keg` to its end with `input` on its standard input.
    #[must_use]
    #[track_caller]
    pub fn keg_with_input<S: AsRef<OsStr>>(
        &self,
        input: impl AsRef<[u8]>,
        args: impl IntoIterator<Item = S>,
    ) -> Outcome {
        let input = self.scratch.file("input", input);
        let input = std::fs::File::open(input).expect("open the input");
        Outcome::with_stdin(&mut self.keg_command(args), input, PATIENCE)
    }

    /// Runs `keg` on a terminal.
    #[must_use]
    #[track_caller]
    pub fn keg_on_terminal<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Terminal {
        Terminal::spawn(&self.keg_command(args))
    }

    /// Runs a container in the background, by `keg run -d` with these arguments; returns its id.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn run_detached<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let mut command = self.keg_command(["run", "-d"]);
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        Outcome::of(&mut command, PATIENCE).success().stdout.trim().to_owned()
    }

    /// Returns what `keg inspect` prints of one object.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self, object: &str) -> Value {
        let list: Value = self.keg(["inspect", object]).success().json();
        list[0].clone()
    }

    /// Returns the process id of a container's process on the host.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    #[track_caller]
    pub fn pid_of(&self, container: &str) -> Pid {
        let pid = self.inspect(container)["State"]["Pid"].as_i64().unwrap_or(0);
        assert_ne!(pid, 0, "{container} does not run");
        Pid::from_raw(i32::try_from(pid).expect("a process id"))
    }

    /// Waits until a container's log has a line on standard output.
    ///
    /// # Panics
    /// After a while, with the log.
    #[track_caller]
    pub fn wait_for_line(&self, container: &str, line: &str) {
        let logs = || self.keg(["logs", container]).stdout;
        let seen = wait::poll(PATIENCE, || logs().lines().any(|l| l == line).then_some(()));
        assert!(seen.is_some(), "no line {line:?} in {:?}", logs());
    }

    /// Pulls an image.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn pull(&self, reference: &str) {
        let _ = self.keg(["pull", "--quiet", reference]).success();
    }

    fn tree(&self) -> &Tree {
        self.trees.last().expect("a daemon was started")
    }

    fn remove_all_containers(&self) {
        let list = Outcome::of(&mut self.keg_command(["ps", "-aq"]), PATIENCE);
        let ids: Vec<&str> = list.stdout.split_whitespace().collect();
        if !ids.is_empty() {
            let mut command = self.keg_command(["rm", "-f"].iter().chain(&ids));
            let _ = Outcome::of(&mut command, PATIENCE);
        }
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kegd's log:\n{}", self.log());
        }
        if UnixStream::connect(self.socket()).is_ok() {
            self.remove_all_containers();
        }
        let Some(tree) = self.trees.last() else { return };
        let pid = tree.main_pid();
        if tree.exit_code(pid).is_none() {
            let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
            let _ = wait::poll(PATIENCE, || tree.exit_code(pid));
        }
    }
}

/// Returns a search path that has our programs first.
#[must_use]
pub fn path_with_our_programs() -> String {
    let rest = std::env::var("PATH").unwrap_or_default();
    let newer = programs::newer_peers().join("bin");
    format!("{}:{}:{rest}:/usr/sbin:/sbin", programs::directory().display(), newer.display())
}
