//! The flags that `run` and `create` share, and the container that they describe.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use keg_proto::keg::v1::{
    ContainerConfig, CreateContainerRequest, HostConfig, Mount, Platform, TerminalSize,
};

use super::life::LifeFlags;
use super::limits::LimitFlags;
use super::network::NetworkFlags;
use super::resources::ResourceFlags;
use super::{environment, mounts, platform, policy, security, size};
use crate::failure::Failure;
use crate::progress::ProgressStyle;

/// When the image is pulled before the container is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// Always, so that a tag that moved is noticed.
    Always,
    /// If it is not here.
    Missing,
    /// Never.
    Never,
}

/// A standard stream to attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum AttachStream {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

// The flags of `run` and `create`, in the order of their names. No doc comment: see `commands`.
#[derive(Debug, Args)]
#[command(next_display_order = None)]
pub(crate) struct ContainerFlags {
    /// Attach to stdin, stdout or stderr (repeatable; default: stdout, stderr, and stdin with -i)
    #[arg(
        short = 'a',
        long,
        value_name = "STREAM",
        ignore_case = true,
        hide_possible_values = true
    )]
    pub(crate) attach: Vec<AttachStream>,
    /// Set an annotation of the OCI specification
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// Take a default capability away, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<String>,
    /// Cgroup namespace: "private" or "host"
    #[arg(long, value_name = "MODE", default_value = "", hide_default_value = true)]
    pub(crate) cgroupns: String,
    /// Write the container's id into this file, which must not exist yet
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Program to run in place of the image's entry point ("" for none)
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Set an environment variable (NAME=VALUE; NAME alone takes its value from here)
    #[arg(short = 'e', long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Add the process to a group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) hostname: String,
    #[command(flatten)]
    pub(crate) life: LifeFlags,
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
    /// Keep standard input open
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// IPC namespace: "private", "shareable", "none", "host" or "container:NAME"
    #[arg(long, value_name = "MODE", default_value = "", hide_default_value = true)]
    pub(crate) ipc: String,
    /// Set a label (NAME[=VALUE])
    #[arg(short = 'l', long, value_name = "NAME[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Where what it writes is kept: json-file, local (the same) or none
    #[arg(long, value_name = "DRIVER", default_value = "", hide_default_value = true)]
    pub(crate) log_driver: String,
    /// Set an option of that: max-size, max-file, mode, labels, env
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// Mount something (type=bind|volume|tmpfs,source=…,target=…[,readonly])
    #[arg(long, value_name = "FIELDS")]
    pub(crate) mount: Vec<String>,
    /// Name of the container
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) network: NetworkFlags,
    /// Preference of the out-of-memory killer, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) oom_score_adj: Option<i32>,
    /// PID namespace: its own, "host" or "container:NAME"
    #[arg(long, value_name = "MODE", default_value = "", hide_default_value = true)]
    pub(crate) pid: String,
    /// Platform of the image, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// How to show the progress of a pull: auto, plain or json
    #[arg(long, value_name = "STYLE", default_value = "auto", hide_possible_values = true)]
    pub(crate) progress: ProgressStyle,
    /// Take down the walls that Keg puts up, those of the user namespace excepted
    #[arg(long)]
    pub(crate) privileged: bool,
    /// When to pull the image: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing", hide_possible_values = true)]
    pub(crate) pull: PullPolicy,
    /// Do not show the progress of a pull
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Mount the root filesystem read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// When to start it anew: no, always, unless-stopped or on-failure[:TIMES]
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub(crate) restart: String,
    #[command(flatten)]
    pub(crate) resources: ResourceFlags,
    /// Remove the container once it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Runtime: a name from the daemon's configuration, a path, or a shim such as io.containerd.runc.v2
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) runtime: String,
    /// Change a wall: no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE,
    /// label=user|role|type|level|filetype:VALUE, label=disable, systempaths=unconfined, mask=PATH:…, unmask=PATH:…|ALL
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Size of /dev/shm (default: 64m)
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// Signal that asks it to stop (default: the image's, else SIGTERM)
    #[arg(long, value_name = "SIGNAL", default_value = "", hide_default_value = true)]
    pub(crate) stop_signal: String,
    /// Seconds between that signal and SIGKILL (default: 10)
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<u32>,
    /// Set a kernel parameter of its namespaces
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) sysctl: Vec<String>,
    /// Mount a temporary filesystem (TARGET[:OPTIONS], as in /tmp:size=64m)
    #[arg(long, value_name = "TARGET")]
    pub(crate) tmpfs: Vec<String>,
    /// Give the process a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// Set a limit, as in nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// User to run as
    #[arg(
        short = 'u',
        long,
        value_name = "USER[:GROUP]",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) user: String,
    /// User namespace: "auto[:size=N]" (an id range of its own, the default), "host",
    /// "keep-id[:uid=N,gid=N]" (you are that user inside) or "container:NAME"
    #[arg(long, value_name = "MODE", default_value = "", hide_default_value = true)]
    pub(crate) userns: String,
    /// UTS namespace: its own, or "host"
    #[arg(long, value_name = "MODE", default_value = "", hide_default_value = true)]
    pub(crate) uts: String,
    /// Mount a path of the host, or a volume ([SOURCE:]TARGET[:ro,z,Z])
    #[arg(short = 'v', long, value_name = "VOLUME")]
    pub(crate) volume: Vec<String>,
    /// Driver of the volumes that are made for -v
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) volume_driver: String,
    /// Mount what another container has mounted (CONTAINER[:ro])
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) volumes_from: Vec<String>,
    /// Directory to start in
    #[arg(short = 'w', long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub(crate) workdir: String,
    /// The image, and the command with its arguments (default: the image's)
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "IMAGE [COMMAND] [ARG...]",
        num_args = 1..
    )]
    pub(crate) image_and_command: Vec<String>,
}

impl ContainerFlags {
    /// The image, and what is to run in it.
    pub(crate) fn image_and_command(&self) -> (&str, &[String]) {
        match self.image_and_command.split_first() {
            Some((image, command)) => (image, command),
            None => ("", &[]),
        }
    }

    /// Whether standard input is kept open, by `-i` or by `-a stdin`.
    pub(crate) fn wants_stdin(&self) -> bool {
        self.interactive || self.attach.contains(&AttachStream::Stdin)
    }

    /// Which streams `run` shows: standard input, output and error.
    pub(crate) fn attached_streams(&self) -> (bool, bool, bool) {
        let named = |stream| self.attach.contains(&stream);
        if self.attach.is_empty() {
            return (self.interactive, true, true);
        }
        (named(AttachStream::Stdin), named(AttachStream::Stdout), named(AttachStream::Stderr))
    }

    /// The platform of `--platform`.
    ///
    /// # Errors
    /// A [`Failure`] of usage if it is malformed.
    pub(crate) fn platform(&self) -> Result<Option<Platform>, Failure> {
        self.platform.as_deref().map(platform::parse).transpose().map_err(Failure::usage)
    }

    /// Describes the container. `terminal_size` is that of our terminal, if we have one; `detached`
    /// says that nobody joins it.
    ///
    /// # Errors
    /// A [`Failure`] of usage for the first flag that makes no sense.
    pub(crate) fn describe(
        &self,
        surroundings: &Surroundings,
        terminal_size: Option<TerminalSize>,
        detached: bool,
    ) -> Result<CreateContainerRequest, Failure> {
        let (image, command) = self.image_and_command();
        let env = environment::variables(&self.env_file, &self.env, surroundings.variables)
            .map_err(Failure::usage)?;
        let (stdin, stdout, stderr) = match detached {
            true => (false, false, false),
            false => self.attached_streams(),
        };
        let labels = environment::labels(&self.label_file, &self.label).map_err(Failure::usage)?;
        let config = ContainerConfig {
            image: image.to_owned(),
            command: command.to_vec(),
            entrypoint: self
                .entrypoint
                .iter()
                .filter(|program| !program.is_empty())
                .cloned()
                .collect(),
            clear_entrypoint: self.entrypoint.as_deref() == Some(""),
            env,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            tty: self.tty,
            open_stdin: self.wants_stdin(),
            // A terminal can be left and joined again; a pipe that ends has ended.
            stdin_once: !detached && self.wants_stdin() && !self.tty,
            labels,
            stop_signal: self.stop_signal.clone(),
            stop_timeout_secs: self.stop_timeout,
            terminal_size: terminal_size.filter(|_| self.tty),
            health_check: self.life.health_check().map_err(Failure::usage)?,
            domainname: self.network.domainname.clone(),
            exposed_ports: self.network.expose.clone(),
            attach_stdin: stdin,
            attach_stdout: stdout,
            attach_stderr: stderr,
        };
        let host_config = self.host_config(&surroundings.current_dir)?;
        Ok(CreateContainerRequest {
            name: self.name.clone(),
            config: Some(config),
            host_config: Some(host_config),
            platform: self.platform()?,
        })
    }

    fn host_config(&self, current_dir: &Path) -> Result<HostConfig, Failure> {
        let walls = security::parse(&self.security_opt).map_err(Failure::usage)?;
        let restart_policy = policy::restart(&self.restart).map_err(Failure::usage)?;
        if self.rm && restart_policy.is_some() {
            return Err(Failure::usage(RestartAndRemove));
        }
        let shm_size_bytes =
            self.shm_size.as_deref().map(size::bytes).transpose().map_err(Failure::usage)?;
        let ulimits = self.ulimit.iter().map(|text| policy::ulimit(text));
        let mut host = HostConfig {
            mounts: self.mounts(current_dir).map_err(Failure::usage)?,
            auto_remove: self.rm,
            resources: Some(self.resources.describe().map_err(Failure::usage)?),
            read_only_rootfs: self.read_only,
            userns_mode: self.userns.clone(),
            runtime: self.runtime.clone(),
            pid_mode: self.pid.clone(),
            ipc_mode: self.ipc.clone(),
            uts_mode: self.uts.clone(),
            cgroupns_mode: self.cgroupns.clone(),
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            privileged: self.privileged,
            no_new_privileges: walls.no_new_privileges,
            seccomp: walls.seccomp,
            shm_size_bytes: shm_size_bytes.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            ulimits: ulimits.collect::<Result<_, _>>().map_err(Failure::usage)?,
            sysctls: policy::pairs(&self.sysctl).map_err(Failure::usage)?,
            group_add: self.group_add.clone(),
            oom_score_adj: self.oom_score_adj,
            annotations: policy::pairs(&self.annotation).map_err(Failure::usage)?,
            restart_policy,
            volumes_from: self.volumes_from.clone(),
            init: self.life.init,
            log_driver: self.log_driver.clone(),
            log_options: policy::pairs(&self.log_opt).map_err(Failure::usage)?,
            ..HostConfig::default()
        };
        host.seccomp_profile = walls.profile;
        host.system_paths_unconfined = walls.system_paths_unconfined;
        host.masked_paths = walls.masked;
        host.apparmor_profile = walls.apparmor;
        host.selinux_options = walls.labels;
        host.unmasked_paths = walls.unmasked;
        self.limits.describe(&mut host).map_err(Failure::usage)?;
        self.network.describe(&mut host).map_err(Failure::usage)?;
        Ok(host)
    }

    fn mounts(&self, current_dir: &Path) -> Result<Vec<Mount>, mounts::MountError> {
        let volumes = self.volume.iter().map(|text| {
            let mut mount = mounts::volume(text, current_dir)?;
            if mount.r#type == "volume" {
                mount.volume_driver.clone_from(&self.volume_driver);
            }
            Ok(mount)
        });
        let mounts = self.mount.iter().map(|text| mounts::mount(text, current_dir));
        volumes.chain(mounts).chain(self.tmpfs.iter().map(|text| mounts::tmpfs(text))).collect()
    }
}

/// What flags refer to of the place where they are typed.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Directory that relative paths start from.
    pub(crate) current_dir: PathBuf,
    /// Looks up an environment variable.
    pub(crate) variables: fn(&str) -> Option<std::ffi::OsString>,
}

impl Surroundings {
    /// Those of this process.
    ///
    /// # Errors
    /// A [`Failure`] if the current directory is gone.
    pub(crate) fn of_this_process() -> Result<Self, Failure> {
        let current_dir = std::env::current_dir()
            .map_err(|source| Failure::client(CurrentDirError { source }))?;
        Ok(Self { current_dir, variables: |name| std::env::var_os(name) })
    }
}

/// What was typed contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("--restart and --rm exclude each other")]
struct RestartAndRemove;

/// The current directory cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("the current directory cannot be told")]
struct CurrentDirError {
    #[source]
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(disable_help_flag = true)]
    struct Run {
        #[command(flatten)]
        flags: ContainerFlags,
    }

    fn describe(line: &str) -> Result<CreateContainerRequest, String> {
        let words = ["run"].into_iter().chain(line.split_whitespace());
        let run = Run::try_parse_from(words).map_err(|error| error.to_string())?;
        let surroundings = Surroundings { current_dir: "/here".into(), variables: |_| None };
        let size = Some(TerminalSize { width: 80, height: 24 });
        run.flags.describe(&surroundings, size, false).map_err(|failure| failure.render())
    }

    fn config(line: &str) -> ContainerConfig {
        describe(line).expect(line).config.expect("a config")
    }

    fn host_config(line: &str) -> HostConfig {
        describe(line).expect(line).host_config.expect("a host config")
    }

    #[test]
    fn flags_end_at_the_image() {
        let config = config("-it --rm -e A=1 busybox:1 sh -c -it --rm -- -x");

        assert_eq!(config.image, "busybox:1");
        assert_eq!(config.command, ["sh", "-c", "-it", "--rm", "--", "-x"]);
        assert!(config.tty && config.open_stdin);
        assert_eq!(config.env, ["A=1"]);
        assert_eq!(config.terminal_size, Some(TerminalSize { width: 80, height: 24 }));
    }

    #[test]
    fn unknown_flags_before_the_image_are_refused() {
        let error = describe("--no-such-flag busybox").expect_err("a flag that does not exist");

        assert!(error.contains("--no-such-flag"), "{error}");
    }

    #[test]
    fn hostname_is_h_and_an_empty_entrypoint_clears_the_images() {
        let words = ["run", "-h", "web", "--entrypoint", "", "img", "x"];
        let run = Run::try_parse_from(words).expect("flags");
        let surroundings = Surroundings { current_dir: "/".into(), variables: |_| None };

        let request = run.flags.describe(&surroundings, None, true).expect("a container");

        let config = request.config.expect("a config");
        assert_eq!(config.hostname, "web");
        assert!(config.clear_entrypoint);
        assert!(config.entrypoint.is_empty());
        assert!(!config.tty && !config.open_stdin && config.terminal_size.is_none());
    }

    #[test]
    fn limits_and_mounts_are_carried_over() {
        let host = host_config(
            "-m 512m --memory-swap -1 --cpus 1.5 --cpuset-cpus 0 --pids-limit -1 -c 512 \
             --net none --read-only --userns host --runtime /bin/crun --rm \
             --cap-drop ALL --security-opt no-new-privileges --ulimit nofile=5 --shm-size 1m \
             --sysctl net.x=1 -v /a:/b:ro --tmpfs /tmp --mount type=bind,src=x,dst=/y img",
        );

        let resources = host.resources.expect("resources");
        assert_eq!(resources.memory_bytes, 512 << 20);
        assert_eq!(resources.memory_swap_bytes, -1);
        assert_eq!(resources.nano_cpus, 1_500_000_000);
        assert_eq!((resources.cpu_shares, resources.pids_limit), (512, -1));
        assert_eq!(host.network_mode, "none");
        assert_eq!((host.userns_mode.as_str(), host.runtime.as_str()), ("host", "/bin/crun"));
        assert!(host.read_only_rootfs && host.auto_remove);
        let targets: Vec<_> = host.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/b", "/y", "/tmp"]);
        assert_eq!(host.mounts[1].source, "/here/x");
        assert_eq!(host.cap_drop, ["ALL"]);
        assert!(host.no_new_privileges && !host.privileged);
        assert_eq!((host.ulimits[0].hard, host.shm_size_bytes), (5, 1 << 20));
        assert_eq!(host.sysctls.get("net.x").map(String::as_str), Some("1"));
    }

    #[test]
    fn streams_to_attach_can_be_chosen() {
        let streams = |line: &str| {
            let words = ["run"].into_iter().chain(line.split_whitespace());
            Run::try_parse_from(words).expect(line).flags.attached_streams()
        };

        assert_eq!(streams("img"), (false, true, true));
        assert_eq!(streams("-i img"), (true, true, true));
        assert_eq!(streams("-a stdin -a STDOUT img"), (true, true, false));
        assert_eq!(streams("-a stderr img"), (false, false, true));
    }

    #[test]
    fn a_pipe_ends_with_its_client_and_a_terminal_does_not() {
        assert!(config("-i img").stdin_once);
        assert!(!config("-it img").stdin_once);
        assert!(!config("img").stdin_once);
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        let table = [
            ("-m lots img", "\"lots\" is no number of bytes"),
            ("--cpus many img", "\"many\" is no number of processors"),
            ("-v a:b:c:d img", "\"a:b:c:d\" is no volume"),
            ("--platform a/b/c/d img", "is no platform"),
            ("--pull sometimes img", "invalid value 'sometimes'"),
            ("-e =x img", "no name before"),
            ("--restart always --rm img", "exclude each other"),
            ("--security-opt colour=x img", "no security option"),
            ("", "required"),
        ];
        for (line, expected) in table {
            let error = describe(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    /// An example for each of Docker's flags that say something of the container.
    const EXAMPLES: [(&str, &str); 78] = [
        ("--add-host", "--add-host a:1.2.3.4"),
        ("--annotation", "--annotation a=b"),
        ("--attach", "-a stdin"),
        ("--blkio-weight", "--blkio-weight 100"),
        ("--blkio-weight-device", "--blkio-weight-device /dev/null:100"),
        ("--cap-add", "--cap-add SYS_TIME"),
        ("--cap-drop", "--cap-drop CHOWN"),
        ("--cgroup-parent", "--cgroup-parent /a"),
        ("--cgroupns", "--cgroupns host"),
        ("--cpu-period", "--cpu-period 50000"),
        ("--cpu-quota", "--cpu-quota 50000"),
        ("--cpu-rt-period", "--cpu-rt-period 50000"),
        ("--cpu-rt-runtime", "--cpu-rt-runtime 50000"),
        ("--cpu-shares", "-c 512"),
        ("--cpus", "--cpus 0.5"),
        ("--cpuset-cpus", "--cpuset-cpus 0"),
        ("--cpuset-mems", "--cpuset-mems 0"),
        ("--device", "--device /dev/null"),
        ("--device-cgroup-rule", "--device-cgroup-rule c:1:3:r"),
        ("--device-read-bps", "--device-read-bps /dev/null:1m"),
        ("--device-read-iops", "--device-read-iops /dev/null:100"),
        ("--device-write-bps", "--device-write-bps /dev/null:1m"),
        ("--device-write-iops", "--device-write-iops /dev/null:100"),
        ("--dns", "--dns 1.2.3.4"),
        ("--dns-option", "--dns-option ndots:2"),
        ("--dns-search", "--dns-search example.org"),
        ("--domainname", "--domainname example.org"),
        ("--entrypoint", "--entrypoint sh"),
        ("--env", "-e A=1"),
        ("--env-file", "--env-file /etc/os-release"),
        ("--expose", "--expose 80"),
        ("--gpus", "--gpus all"),
        ("--group-add", "--group-add 7"),
        ("--health-cmd", "--health-cmd true"),
        ("--health-interval", "--health-cmd true --health-interval 5s"),
        ("--health-retries", "--health-cmd true --health-retries 5"),
        ("--health-start-interval", "--health-cmd true --health-start-interval 2s"),
        ("--health-start-period", "--health-cmd true --health-start-period 2s"),
        ("--health-timeout", "--health-cmd true --health-timeout 2s"),
        ("--hostname", "-h name"),
        ("--init", "--init"),
        ("--interactive", "-i"),
        ("--ip", "--network net --ip 10.0.0.9"),
        ("--ip6", "--network net --ip6 fd00::9"),
        ("--ipc", "--ipc host"),
        ("--label", "-l a=b"),
        ("--log-opt", "--log-opt max-size=1m"),
        ("--mac-address", "--network net --mac-address 02:00:00:00:00:01"),
        ("--memory", "-m 64m"),
        ("--memory-reservation", "--memory-reservation 32m"),
        ("--memory-swap", "-m 64m --memory-swap 128m"),
        ("--memory-swappiness", "--memory-swappiness 10"),
        ("--mount", "--mount type=tmpfs,target=/t"),
        ("--name", "--name n"),
        ("--network", "--network none"),
        ("--network-alias", "--network net --network-alias a"),
        ("--no-healthcheck", "--no-healthcheck"),
        ("--oom-kill-disable", "--oom-kill-disable"),
        ("--oom-score-adj", "--oom-score-adj 5"),
        ("--pid", "--pid host"),
        ("--pids-limit", "--pids-limit 10"),
        ("--platform", "--platform linux/arm64"),
        ("--privileged", "--privileged"),
        ("--publish", "-p 80:80"),
        ("--publish-all", "-P"),
        ("--read-only", "--read-only"),
        ("--restart", "--restart always"),
        ("--rm", "--rm"),
        ("--runtime", "--runtime r"),
        ("--security-opt", "--security-opt no-new-privileges"),
        ("--shm-size", "--shm-size 1m"),
        ("--stop-signal", "--stop-signal 3"),
        ("--stop-timeout", "--stop-timeout 3"),
        ("--sysctl", "--sysctl net.ipv4.ip_forward=1"),
        ("--tmpfs", "--tmpfs /t"),
        ("--tty", "-t"),
        ("--ulimit", "--ulimit nofile=5"),
        ("--user", "-u 1"),
    ];

    /// The rest of them; an array of more would be no easier to read.
    const MORE_EXAMPLES: [(&str, &str); 7] = [
        ("--log-driver", "--log-driver none"),
        ("--userns", "--userns host"),
        ("--uts", "--uts host"),
        ("--volume", "-v a:/a"),
        ("--volume-driver", "--volume-driver local -v a:/a"),
        ("--volumes-from", "--volumes-from c"),
        ("--workdir", "-w /w"),
    ];

    /// Flags that are this program's own business, or were tried elsewhere with files of their own.
    const NOT_OF_THE_CONTAINER: [&str; 8] = [
        "--cidfile",
        "--detach",
        "--detach-keys",
        "--label-file",
        "--progress",
        "--pull",
        "--quiet",
        "--sig-proxy",
    ];

    #[test]
    fn every_flag_that_is_called_done_reaches_the_request() {
        let table = include_str!("../../COMPATIBILITY.md");
        let section = table.split("### `create`").nth(1).expect("a section about create");
        let section = section.split("\n### ").next().expect("its text");
        let mut tried = 0;
        for line in section.lines().filter(|line| line.contains("| done |")) {
            let flag = line.split('`').nth(1).expect("a flag");
            if NOT_OF_THE_CONTAINER.contains(&flag) || flag == "--net" {
                continue;
            }
            let examples = EXAMPLES.iter().chain(&MORE_EXAMPLES);
            let example = examples.clone().find(|(name, _)| *name == flag);
            let (_, example) = example.unwrap_or_else(|| panic!("{flag} needs an example here"));
            // Without the flag itself; what it needs besides stays.
            let rest: Vec<&str> = example.split(" --").collect();
            let besides = match rest.as_slice() {
                [first, ..] if rest.len() > 1 && !first.starts_with(flag) => *first,
                _ => "",
            };

            let with =
                describe(&format!("{example} img")).unwrap_or_else(|e| panic!("{flag}: {e}"));
            let without = describe(&format!("{besides} img")).expect("without the flag");

            assert_ne!(with, without, "{flag} changes nothing");
            tried += 1;
        }
        assert!(tried > 50, "only {tried} flags were found in the table");
    }
}
