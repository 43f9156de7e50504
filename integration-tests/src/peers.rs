//! Debian's containerd and dockerd, on private directories, with our programs in them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::daemon::path_with_our_programs;
use crate::image::Image;
use crate::wait::{self, PATIENCE};
use crate::{Outcome, Scratch, Tree, programs};

/// A containerd.
#[derive(Debug)]
pub struct Containerd {
    server: Option<Tree>,
    /// Servers that were killed; what they started lives on below them.
    killed: Vec<Tree>,
    program: PathBuf,
    ctr: PathBuf,
    scratch: Scratch,
}

impl Containerd {
    /// The image that [`Containerd::import_busybox`] brings in.
    pub const BUSYBOX: &'static str = "keg.test/busybox:latest";

    /// Starts Debian's, and waits until it accepts connections.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let installed = |name| programs::installed(name).unwrap_or_else(|| panic!("{name}?"));
        Self::of(&installed("containerd"), installed("ctr"))
    }

    /// Starts the one of the next generation, see [`programs::newer_peers`].
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn newer() -> Self {
        let directory = programs::newer_peers().join("containerd/bin");
        Self::of(&directory.join("containerd"), directory.join("ctr"))
    }

    /// Starts the one that `KEG_NEWEST_CONTAINERD` names, a directory with `containerd` and `ctr`.
    ///
    /// # Panics
    /// If the variable is not set, or it does not come up.
    #[must_use]
    #[track_caller]
    pub fn newest() -> Self {
        let directory = programs::newest_containerd().expect("KEG_NEWEST_CONTAINERD is not set");
        Self::of(&directory.join("containerd"), directory.join("ctr"))
    }

    #[track_caller]
    fn of(program: &Path, ctr: PathBuf) -> Self {
        let scratch = Scratch::new();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.aufs\", \
             \"io.containerd.snapshotter.v1.devmapper\"]\n\
             [grpc]\naddress = {:?}\n",
            scratch.join("root"),
            scratch.join("run"),
            scratch.join("c.sock"),
        );
        let _ = scratch.file("config.toml", config);
        let (program, killed) = (program.to_owned(), Vec::new());
        let mut containerd = Self { server: None, killed, program, ctr, scratch };
        containerd.start();
        containerd
    }

    #[track_caller]
    fn start(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.scratch.join("config.toml"));
        command.env("PATH", path_with_our_programs());
        self.server = Some(Tree::spawn(&command));
        wait_for_socket(self.server(), &self.socket());
    }

    /// Kills it, and starts it anew on the same directories.
    ///
    /// # Panics
    /// If it does not come up again.
    #[track_caller]
    pub fn kill_and_restart(&mut self) {
        let server = self.server.take().expect("present until drop");
        server.signal_main(Signal::SIGKILL);
        let _ = server.wait_exit(server.main_pid(), PATIENCE);
        self.killed.push(server);
        // What nobody listens at any more.
        let _ = fs::remove_file(self.socket());
        self.start();
    }

    /// Returns the process id of the daemon.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.server().main_pid()
    }

    /// Returns its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.scratch.join("c.sock")
    }

    /// Returns a directory of this test.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Returns what it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.server().stderr()
    }

    /// Returns a command line of `ctr` against it.
    #[must_use]
    pub fn ctr_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(self.socket()).args(["--namespace", &self.namespace()]);
        command.args(args);
        command
    }

    /// Names the namespace of this test, which is also the parent of its containers' cgroups.
    fn namespace(&self) -> String {
        let name = self.scratch.path().file_name().and_then(OsStr::to_str).expect("UTF-8");
        name.replace('.', "-")
    }

    /// Runs `ctr` to its end.
    #[must_use]
    #[track_caller]
    pub fn ctr<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(&mut self.ctr_command(args), PATIENCE)
    }

    /// Runs `ctr` for what the container prints, again and again as long as `printed` says that it is
    /// not all there.
    ///
    /// `ctr` gives up a FIFO that it has not come to open when it hears that the process has ended, and
    /// what was written is lost: once in some 100 times on a busy machine, with runc as with us.
    #[must_use]
    #[track_caller]
    pub fn ctr_prints<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        printed: impl Fn(&Outcome) -> bool,
    ) -> Outcome {
        let mut command = self.ctr_command(args);
        let mut outcome = Outcome::of(&mut command, PATIENCE);
        for _ in 0..9 {
            if printed(&outcome) {
                break;
            }
            outcome = Outcome::of(&mut command, PATIENCE);
        }
        outcome
    }

    /// Returns the daemon's process and all that it has started, containers too.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        self.server().pids()
    }

    /// Imports [`Image::busybox`].
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn import_busybox(&self) {
        let archive = self.scratch.file("busybox.tar", Image::busybox().layout_archive("latest"));
        let archive = archive.to_str().expect("UTF-8");
        let arguments = ["image", "import", "--base-name", "keg.test/busybox", archive];
        let _ = self.ctr(arguments).success();
    }

    fn server(&self) -> &Tree {
        self.server.as_ref().expect("present until drop")
    }
}

impl Default for Containerd {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("containerd's log:\n{}", self.log());
        }
        let tasks = Outcome::of(&mut self.ctr_command(["task", "ls", "-q"]), PATIENCE);
        for id in tasks.stdout.split_whitespace() {
            let _ = Outcome::of(&mut self.ctr_command(["task", "rm", "--force", id]), PATIENCE);
        }
        if let Some(server) = self.server.take() {
            server.terminate(PATIENCE);
        }
        self.killed.clear();
        for cgroup in crate::runtime::cgroups_of(&self.namespace()) {
            remove_cgroup(&cgroup);
        }
    }
}

/// Debian's dockerd, in a network and a mount namespace of its own, with keg-runtime as `keg`.
///
/// Without those namespaces it would change the host's firewall. Unless asked for one, it has no
/// bridge: containers run with `--network none`.
#[derive(Debug)]
pub struct Dockerd {
    server: Option<Tree>,
    cgroup: String,
    scratch: Scratch,
}

impl Dockerd {
    /// The image that [`Dockerd::import_busybox`] brings in.
    pub const BUSYBOX: &'static str = "keg-test";

    /// Starts it, and waits until it accepts connections.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::with_network(&[
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-masq=false",
            "--ip-forward=false",
            "--userland-proxy=false",
        ])
    }

    /// Starts it with its default network, in the network namespace that is its own.
    ///
    /// # Panics
    /// As [`Dockerd::new`].
    #[must_use]
    #[track_caller]
    pub fn with_bridge() -> Self {
        Self::with_network(&[])
    }

    #[track_caller]
    fn with_network(flags: &[&str]) -> Self {
        let scratch = Scratch::new();
        let name = scratch.path().file_name().and_then(OsStr::to_str).expect("UTF-8");
        let cgroup = format!("keg-it-docker-{}", name.replace('.', "-"));
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "--"]);
        command.arg(programs::installed("dockerd").expect("dockerd is missing"));
        command.arg("--data-root").arg(scratch.join("root"));
        command.arg("--exec-root").arg(scratch.join("run"));
        command.arg("--pidfile").arg(scratch.join("pid"));
        command.arg(format!("--host=unix://{}", scratch.join("d.sock").display()));
        command.arg(format!("--add-runtime=keg={}", programs::ours("keg-runtime").display()));
        command.arg(format!("--cgroup-parent=/{cgroup}"));
        command.args(flags).arg("--storage-driver=overlay2");
        command.arg("--config-file").arg(scratch.file("daemon.json", "{}"));
        command.env("PATH", path_with_our_programs()).env("TMPDIR", scratch.directory("tmp"));
        let server = Tree::spawn(&command);
        let dockerd = Self { server: Some(server), cgroup, scratch };
        wait_for_socket(dockerd.server(), &dockerd.scratch.join("d.sock"));
        wait::wait_until("dockerd answers", PATIENCE, || {
            dockerd.docker(["version"]).exit_code == 0
        });
        dockerd
    }

    /// Returns what it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.server().stderr()
    }

    /// Returns the process id of the daemon.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.server().main_pid()
    }

    /// Returns a command line of `docker` against it.
    ///
    /// # Panics
    /// If it is not installed.
    #[must_use]
    pub fn docker_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(programs::installed("docker").expect("docker is missing"));
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.scratch.join("d.sock").display()))
            .env("DOCKER_CONFIG", self.scratch.join("client"));
        command
    }

    /// Runs `docker` to its end.
    #[must_use]
    #[track_caller]
    pub fn docker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(&mut self.docker_command(args), PATIENCE)
    }

    /// Returns the daemon's process and all that it has started, containers too.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        self.server().pids()
    }

    /// Imports the root filesystem of the tests.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn import_busybox(&self) {
        let root = self.scratch.directory("rootfs");
        crate::bundle::fill_rootfs(&root);
        let archive = self.scratch.join("rootfs.tar");
        let mut builder = tar::Builder::new(File::create(&archive).expect("make an archive"));
        builder.follow_symlinks(false);
        builder.append_dir_all(".", &root).expect("archive the root filesystem");
        builder.finish().expect("archive the root filesystem");
        let archive = archive.to_str().expect("UTF-8");
        let _ = self.docker(["import", "-c", "CMD [\"sh\"]", archive, Self::BUSYBOX]).success();
    }

    fn server(&self) -> &Tree {
        self.server.as_ref().expect("present until drop")
    }
}

impl Default for Dockerd {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("dockerd's log:\n{}", self.log());
        }
        let list = Outcome::of(&mut self.docker_command(["ps", "-aq"]), PATIENCE);
        for id in list.stdout.split_whitespace() {
            let _ = Outcome::of(&mut self.docker_command(["rm", "-f", id]), PATIENCE);
        }
        if let Some(server) = self.server.take() {
            server.terminate(PATIENCE);
        }
        for cgroup in crate::runtime::cgroups_of(&self.cgroup) {
            remove_cgroup(&cgroup);
        }
    }
}

/// Podman's `containers.conf` for a machine without `CAP_SYS_RESOURCE`: its defaults raise limits above
/// those that are inherited; this asks for none that is.
pub const PODMAN_CONFIG: &str = "\
[containers]
default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]
[engine]
events_logger = \"none\"
";

/// Debian's podman on private directories, with keg-runtime as its runtime and [`PODMAN_CONFIG`].
#[derive(Debug)]
pub struct Podman {
    cgroup: String,
    scratch: Scratch,
}

impl Podman {
    /// Makes the directories and a root filesystem for containers.
    #[must_use]
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let name = scratch.path().file_name().and_then(OsStr::to_str).expect("UTF-8");
        let cgroup = format!("keg-it-podman-{}", name.replace('.', "-"));
        let _ = scratch.file("containers.conf", PODMAN_CONFIG);
        crate::bundle::fill_rootfs(&scratch.directory("rootfs"));
        Self { cgroup, scratch }
    }

    /// Runs `podman` to its end.
    ///
    /// # Panics
    /// If it is not installed.
    #[must_use]
    #[track_caller]
    pub fn podman<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        let mut command = Command::new(programs::installed("podman").expect("podman is missing"));
        for (option, directory) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.scratch.join(directory));
        }
        command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--runtime"]);
        command.arg(programs::ours("keg-runtime")).args(args);
        command.env("CONTAINERS_CONF", self.scratch.join("containers.conf"));
        Outcome::of(&mut command, PATIENCE)
    }

    /// Runs a script in a new container, with further options of `podman run`.
    #[must_use]
    #[track_caller]
    pub fn run(&self, options: &[&str], script: &str) -> Outcome {
        let parent = format!("--cgroup-parent=/{}", self.cgroup);
        let rootfs = self.scratch.join("rootfs");
        let fixed = ["run", "--network=none", "--cgroups=no-conmon", &parent];
        let rest = ["--rootfs", rootfs.to_str().expect("UTF-8"), "sh", "-c", script];
        self.podman(fixed.iter().chain(options).chain(&rest))
    }
}

impl Default for Podman {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.podman(["rm", "--all", "--force", "--time", "0"]);
        // It keeps its store mounted on itself.
        let _ = nix::mount::umount(&self.scratch.join("root/vfs"));
        let _ = nix::mount::umount(&self.scratch.join("root"));
        for cgroup in crate::runtime::cgroups_of(&self.cgroup) {
            remove_cgroup(&cgroup);
        }
    }
}

/// Removes a cgroup that a peer leaves behind, children first.
fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

#[track_caller]
fn wait_for_socket(server: &Tree, socket: &Path) {
    let pid = server.main_pid();
    let up = wait::poll(PATIENCE, || match UnixStream::connect(socket) {
        Ok(_) => Some(true),
        Err(_) => server.exit_code(pid).map(|_| false),
    });
    assert_eq!(up, Some(true), "{socket:?} does not come up: {}", server.stderr());
}
