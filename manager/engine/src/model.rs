//! What a container is asked to be, and what is remembered of it.
//!
//! These are the engine's own types: an API converts to and from them, and nothing in the engine
//! knows of any API. They are stored as JSON in the container's record, so a field that is added
//! has a default, and none changes its meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use keg_image::Platform;
use keg_network::{MacAddr, NetworkMode, PortRequest, Transport};
use keg_store::Durability;
use serde::{Deserialize, Serialize};

use crate::devices::{Device, DeviceLimit};
use crate::health::{Health, HealthCheck};
use crate::id::{ContainerId, ContainerName};
use crate::lifecycle::Lifecycle;
use crate::log::LogChoice;
use crate::restart::RestartPolicy;
use crate::selinux::SelinuxLabels;
use crate::signal::Signal;

/// Entry point: what stands before the arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entrypoint {
    /// The image's.
    #[default]
    FromImage,
    /// None, and none of the image's default arguments either.
    Cleared,
    /// This one, and none of the image's default arguments.
    Own(Vec<String>),
}

/// Size of a terminal, in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How to run a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Image, as people typed it.
    pub image: String,
    /// Arguments; empty: the image's, unless the entry point is not the image's.
    pub command: Vec<String>,
    /// Entry point.
    pub entrypoint: Entrypoint,
    /// `NAME=value` after the image's; `NAME` takes the image's away.
    pub env: Vec<String>,
    /// Working directory; empty: the image's, else `/`.
    pub working_dir: String,
    /// `user[:group]`; empty: the image's.
    pub user: String,
    /// Host name; empty: the beginning of the id, or the host's name with the host's network.
    pub hostname: String,
    /// NIS domain name; empty: none.
    pub domainname: String,
    /// Gives the process a terminal.
    pub tty: bool,
    /// Keeps standard input open for clients that attach.
    pub open_stdin: bool,
    /// Closes standard input when the first client that attached with it leaves.
    pub stdin_once: bool,
    /// Which streams who made it was to join; kept for those who ask.
    pub attached: AttachedStreams,
    /// Labels, those of the image included once the container is made.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to end; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<Signal>,
    /// Seconds between that signal and SIGKILL; `None`: the daemon's default.
    pub stop_timeout_secs: Option<u32>,
    /// Size of the terminal at start.
    pub terminal_size: Option<TerminalSize>,
    /// How to find out whether it works; `None`: as the image says.
    pub health_check: Option<HealthCheck>,
    /// Ports that the program listens on, those of the image included once the container is made.
    pub exposed_ports: BTreeSet<ExposedPort>,
}

/// Standard streams that a client joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AttachedStreams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// A port that a program listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExposedPort {
    /// The port.
    pub port: u16,
    /// Of which protocol.
    pub transport: Transport,
}

/// What a container is, or is to be, on a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// Further names that others on this network find the container by.
    pub aliases: Vec<String>,
    /// Address that it is to have; `None`: any.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address that it is to have; `None`: any.
    pub ipv6: Option<Ipv6Addr>,
    /// Hardware address that it is to have; `None`: a random one.
    pub mac: Option<MacAddr>,
    /// Name of the interface inside; empty: the first of `eth0`, `eth1`, … that is free.
    pub interface: String,
    /// The way out is through the network where this is highest; of equals, the first.
    pub gateway_priority: i32,
}

impl Attachment {
    /// To a network, with nothing to say of it.
    pub fn to(network: &str) -> Self {
        Self { network: network.to_owned(), ..Self::default() }
    }
}

/// An entry for `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address; `None`: the host's, as the container sees it.
    pub address: Option<IpAddr>,
}

/// Whose user and group ids a container has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsernsMode {
    /// A range of its own.
    #[default]
    Auto,
    /// A range of its own of so many ids.
    Sized(u32),
    /// A range of its own. On bind mounts, what belongs to the caller belongs to a user inside, who
    /// runs the process unless another is named.
    KeepId(KeptId),
    /// Those of another container: its id, or in a request its name.
    Container(String),
    /// The host's.
    Host,
}

/// Who the caller is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeptId {
    /// User inside; `None` in a request: the caller's own number.
    pub uid: Option<u32>,
    /// Group inside; `None` in a request: the caller's own number.
    pub gid: Option<u32>,
    /// The caller's user on the host.
    pub host_uid: u32,
    /// The caller's group on the host.
    pub host_gid: u32,
}

/// Whether a namespace is the container's own or the host's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// Its own.
    #[default]
    Private,
    /// Its own, which others may join (IPC namespaces, with `/dev/shm`).
    Shareable,
    /// Its own, without `/dev/shm` (IPC namespaces).
    Bare,
    /// Another container's: its id, or in a request its name.
    Container(String),
    /// The host's.
    Host,
}

/// What system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompChoice {
    /// Those of the default allow-list.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// Those of a profile in Docker's format.
    Profile(String),
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, in lower case: `nofile`.
    pub name: String,
    /// What a process may raise itself to the hard limit.
    pub soft: u64,
    /// What only a privileged process may raise.
    pub hard: u64,
}

/// What of the host a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// Bind mounts, volumes, memory file systems.
    pub mounts: Vec<Mount>,
    /// Network; `None`: the daemon's default.
    pub network_mode: Option<NetworkMode>,
    /// Removes the container once its process has ended.
    pub auto_remove: bool,
    /// Limits.
    pub resources: Resources,
    /// The root file system cannot be written to.
    pub read_only_rootfs: bool,
    /// User namespace.
    pub userns: UsernsMode,
    /// Runtime in place of the daemon's: a configured name or a path; empty: the daemon's.
    pub runtime: String,
    /// PID namespace.
    pub pid_mode: NamespaceMode,
    /// IPC namespace.
    pub ipc_mode: NamespaceMode,
    /// UTS namespace.
    pub uts_mode: NamespaceMode,
    /// Cgroup namespace.
    pub cgroupns_mode: NamespaceMode,
    /// Capabilities besides the default ones; `ALL` means every one.
    pub cap_add: Vec<String>,
    /// Default capabilities that the container does without; `ALL` means every one.
    pub cap_drop: Vec<String>,
    /// Takes down the walls that the engine itself puts up.
    pub privileged: bool,
    /// A set-user-id program gains nothing (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// System calls.
    pub seccomp: SeccompChoice,
    /// Bytes of `/dev/shm`; `None`: 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// Limits of setrlimit(2).
    pub ulimits: Vec<Ulimit>,
    /// AppArmor's profile: a name, `unconfined`, or empty for the default.
    pub apparmor_profile: String,
    /// What is changed of SELinux' label, as `type:container_t`, or `disable`.
    pub selinux_options: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Further groups of the process, names or numbers.
    pub group_add: Vec<String>,
    /// Preference of the kernel's out-of-memory killer, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Annotations of the OCI specification.
    pub annotations: BTreeMap<String, String>,
    /// When it is started anew.
    pub restart: RestartPolicy,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Further rules for devices, as `c 1:3 mr`.
    pub device_cgroup_rules: Vec<String>,
    /// `/proc` and `/sys` are shown whole.
    pub system_paths_unconfined: bool,
    /// Paths that are invisible besides the default ones.
    pub masked_paths: Vec<String>,
    /// Default invisible paths that are shown.
    pub unmasked_paths: Vec<String>,
    /// Cgroup that the container's is made in; empty: the daemon's.
    pub cgroup_parent: String,
    /// Puts a small program before the container's, which passes signals on and reaps orphans.
    pub init: bool,
    /// Containers whose mounts it gets too, as `NAME[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// Its networks. A request need not repeat the one that is the mode; a record has them all.
    pub networks: Vec<Attachment>,
    /// Where what it writes is kept.
    pub log: LogChoice,
    /// Ports to publish.
    pub ports: Vec<PortRequest>,
    /// Publishes every exposed port, each on a port of the host that is free.
    pub publish_all: bool,
    /// Resolvers in place of the host's.
    pub dns: Vec<IpAddr>,
    /// Search domains in place of the host's; `.` alone: none.
    pub dns_search: Vec<String>,
    /// Resolver options in place of the host's.
    pub dns_options: Vec<String>,
    /// Entries for `/etc/hosts`.
    pub extra_hosts: Vec<ExtraHost>,
}

/// Limits; `None` means none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory.
    pub memory_bytes: Option<i64>,
    /// Memory and swap together; -1: as much swap as there is.
    pub memory_swap_bytes: Option<i64>,
    /// Billionths of a processor per second of wall time.
    pub nano_cpus: Option<u64>,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Processors, as `0-3,6`.
    pub cpuset_cpus: Option<String>,
    /// Processes and threads.
    pub pids_limit: Option<i64>,
    /// Microseconds of processor time per period.
    pub cpu_quota_usec: Option<i64>,
    /// Microseconds of that period.
    pub cpu_period_usec: Option<u64>,
    /// Memory nodes, as `0-1`.
    pub cpuset_mems: Option<String>,
    /// Microseconds of realtime scheduling per period.
    pub cpu_rt_runtime_usec: Option<i64>,
    /// Microseconds of that period.
    pub cpu_rt_period_usec: Option<u64>,
    /// Soft limit of memory.
    pub memory_reservation_bytes: Option<i64>,
    /// How readily memory is swapped out, 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// Processes that go beyond the limit wait instead of being killed.
    pub oom_kill_disable: bool,
    /// Weight of its share of block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Weights for single devices.
    pub blkio_weight_device: Vec<DeviceLimit>,
    /// Bytes read per second.
    pub device_read_bps: Vec<DeviceLimit>,
    /// Bytes written per second.
    pub device_write_bps: Vec<DeviceLimit>,
    /// Reads per second.
    pub device_read_iops: Vec<DeviceLimit>,
    /// Writes per second.
    pub device_write_iops: Vec<DeviceLimit>,
}

impl Resources {
    /// These limits, with those of `change` that are set in their place. Done on the stored form,
    /// so that no limit is forgotten here.
    ///
    /// # Errors
    /// Never, unless the two do not store alike.
    pub fn changed_by(&self, change: &Self) -> Result<Self, serde_json::Error> {
        let mut limits = serde_json::to_value(self)?;
        let change = serde_json::to_value(change)?;
        if let (Some(limits), Some(change)) = (limits.as_object_mut(), change.as_object()) {
            let is_set = |value: &serde_json::Value| match value {
                serde_json::Value::Null => false,
                serde_json::Value::Bool(value) => *value,
                serde_json::Value::Array(values) => !values.is_empty(),
                _ => true,
            };
            limits.extend(
                change
                    .iter()
                    .filter(|(_, value)| is_set(value))
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        serde_json::from_value(limits)
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host.
        path: PathBuf,
        /// Makes a directory there if nothing is there.
        create: bool,
    },
    /// A volume, made on demand.
    Volume {
        /// Its name; empty in a request for one that nobody names.
        name: String,
        /// How it is made if it is not there, and what of it is mounted.
        #[serde(default)]
        details: VolumeMount,
    },
    /// Memory.
    Tmpfs {
        /// Further options of mount(8), such as `size=1m`.
        #[serde(default)]
        options: Vec<String>,
    },
}

/// What only mounts of volumes have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// An empty volume stays so, and does not get what the image has at the target.
    pub nocopy: bool,
    /// Directory in the volume that is mounted in place of its root; empty: its root.
    pub subpath: String,
    /// Driver of a volume that is made for this mount; empty: `local`.
    pub driver: String,
    /// Options of a volume that is made for this mount.
    pub options: BTreeMap<String, String>,
    /// Labels of a volume that is made for this mount.
    pub labels: BTreeMap<String, String>,
}

/// What becomes of the mounts below the source of a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Submounts {
    /// They come along, and cannot be written to if the mount itself cannot.
    #[default]
    Enabled,
    /// They stay behind.
    Disabled,
    /// They come along as they are, also below a mount that cannot be written to.
    Writable,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What.
    #[serde(flatten)]
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Cannot be written to.
    #[serde(default)]
    pub read_only: bool,
    /// `rprivate`, `private`, `rshared`, `shared`, `rslave` or `slave`.
    #[serde(default)]
    pub propagation: Propagation,
    /// Mounts below the source of a bind mount.
    #[serde(default)]
    pub submounts: Submounts,
    /// What becomes of the labels of its files, where the host has SELinux.
    #[serde(default)]
    pub relabel: Relabel,
}

/// Which label of SELinux the files of a bind mount or a volume get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relabel {
    /// They keep theirs; volumes are shared.
    #[default]
    None,
    /// One that all containers can use (`:z`).
    Shared,
    /// The container's own (`:Z`).
    Private,
}

impl Relabel {
    /// The option of `-v` for it; "" for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Shared => "z",
            Self::Private => "Z",
        }
    }
}

/// How mounts that appear later spread (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum Propagation {
    #[default]
    RPrivate,
    Private,
    RShared,
    Shared,
    RSlave,
    Slave,
}

impl Propagation {
    /// Parses the kernel's word for it; empty means the default.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "" | "rprivate" => Self::RPrivate,
            "private" => Self::Private,
            "rshared" => Self::RShared,
            "shared" => Self::Shared,
            "rslave" => Self::RSlave,
            "slave" => Self::Slave,
            _ => return None,
        })
    }

    /// The kernel's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RPrivate => "rprivate",
            Self::Private => "private",
            Self::RShared => "rshared",
            Self::Shared => "shared",
            Self::RSlave => "rslave",
            Self::Slave => "slave",
        }
    }
}

/// A container to be made.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// Name; `None`: one is made up.
    pub name: Option<ContainerName>,
    /// What runs.
    pub config: ContainerConfig,
    /// What it gets of the host.
    pub host: HostConfig,
    /// `None`: the host's.
    pub platform: Option<Platform>,
    /// User and group of who asks, as far as they are known.
    pub caller: Option<(u32, u32)>,
}

/// Ids of the host that a user namespace maps 0 and up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First user and group id.
    pub start: u32,
    /// How many.
    pub length: u32,
}

/// What runs, with everything decided that the image and the request leave open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// How many of them, at the beginning, are the entry point.
    #[serde(default)]
    pub entrypoint_count: usize,
    /// `NAME=value`, each name once.
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: PathBuf,
    /// `user[:group]`, looked up in the container's own files at start; empty: root.
    pub user: String,
    /// Asks the process to end.
    pub stop_signal: Signal,
}

/// The image that a container was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// As people typed it.
    pub reference: String,
    /// Digest of its configuration.
    pub id: String,
    /// Its platform, `linux/amd64`; empty if it does not say.
    #[serde(default)]
    pub platform: String,
}

/// Everything that is remembered of a container; what happens while it runs is in [`Lifecycle`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Id.
    pub id: ContainerId,
    /// Name.
    pub name: ContainerName,
    /// When it was made.
    pub created_at: Timestamp,
    /// Image.
    pub image: ImageUse,
    /// As it was asked for, completed from the image.
    pub config: ContainerConfig,
    /// As it was asked for, completed from the daemon's settings.
    pub host: HostConfig,
    /// What is mounted: what was asked for, what comes from other containers, and the image's
    /// volumes. Every volume has its name.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// What runs.
    pub process: ProcessPlan,
    /// `None`: the host's ids.
    pub id_range: Option<IdRange>,
    /// Key of the snapshot that is its writable layer.
    pub snapshot_key: String,
    /// Labels of SELinux; `None` if the host had none when it was made.
    #[serde(default)]
    pub selinux: Option<SelinuxLabels>,
    /// How often a restart policy started it anew.
    #[serde(default)]
    pub restart_count: u32,
    /// Whether somebody asked its process to end, when it ended last.
    #[serde(default)]
    pub stop_asked: bool,
    /// Whether it works, as far as its health check knows; `None` without one.
    #[serde(default)]
    pub health: Option<Health>,
    /// Whether a restart policy is about to start it anew; filled in for those who look.
    #[serde(skip)]
    pub is_restarting: bool,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
}

impl Record {
    /// What a change of it must have outlived before it is told: a container that is removed when it
    /// ends leaves nothing that a power cut could lose.
    pub(crate) fn durability(&self) -> Durability {
        if self.host.auto_remove { Durability::Crash } else { Durability::PowerCut }
    }

    /// The name of its state, as `ps` and filters have it.
    pub fn state_name(&self) -> &'static str {
        if self.is_restarting { "restarting" } else { self.lifecycle.name() }
    }

    /// Network mode, which the engine has filled in when it made the record.
    pub fn network_mode(&self) -> NetworkMode {
        self.host.network_mode.clone().unwrap_or(NetworkMode::None)
    }

    /// Host name inside: what was asked for, else the beginning of the id.
    pub fn hostname(&self) -> &str {
        if self.config.hostname.is_empty() { self.id.short() } else { &self.config.hostname }
    }
}

/// Files of one container below the daemon's persistent directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerDir(PathBuf);

impl ContainerDir {
    /// The directory of container `id` below `containers`.
    pub fn new(containers: &Path, id: &ContainerId) -> Self {
        Self(containers.join(id.as_str()))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Log of its first process.
    pub fn log(&self) -> PathBuf {
        self.0.join("log.json")
    }

    /// Exit record of its first process, written by the shim.
    pub fn exit_record(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    /// A file that is bound over `/etc/NAME` of the image.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
