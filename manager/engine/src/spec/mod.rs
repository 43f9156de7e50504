//! The OCI runtime specification of a container (`config.json`).
//!
//! | module | part |
//! | --- | --- |
//! | [`capabilities`] | the five sets |
//! | [`seccomp`] | system calls |
//! | [`mounts`] | what is mounted where |
//! | [`resources`] | limits and devices |
//!
//! Invariant: [`build`] is a pure function of what it is given. Everything that must be asked of
//! the host or of the image is asked before, so that a specification can be tested without either.

pub mod capabilities;
pub mod mounts;
pub mod resources;
pub mod seccomp;
pub mod seccomp_profile;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Box as ConsoleSize, BoxBuilder, Capabilities, Hooks, Linux, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Root, Spec, User,
};

use crate::devices::DeviceEdits;
use crate::labels::Labels;
use crate::model::{ContainerDir, IdRange, NamespaceMode, Record, SeccompChoice, TerminalSize};
use crate::users::Identity;

/// Version of the runtime specification that the files are written for.
const OCI_VERSION: &str = "1.2.0";

/// Parts of `/proc` and `/sys` that tell about the host, or harm it, and are made invisible.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Parts of `/proc` that are shown and cannot be written to.
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Largest group id that the kernel takes for who may send a ping.
const MOST_GROUPS: u32 = 2_147_483_647;

/// Why there is no specification for a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// See [`capabilities::select`].
    #[error("the container's capabilities cannot be selected")]
    Capability(#[source] capabilities::UnknownCapability),
    /// No such limit.
    #[error("unknown limit {name:?}: give one of setrlimit(2) in lower case, such as nofile")]
    UnknownUlimit {
        /// What was given.
        name: String,
    },
    /// A profile of system calls that is none.
    #[error("the seccomp profile cannot be used: {problem}")]
    SeccompProfile {
        /// What the parser says.
        problem: String,
    },
    /// A soft limit beyond the hard one.
    #[error("limit {name}: the soft value {soft} is larger than the hard value {hard}")]
    UlimitOrder {
        /// Which limit.
        name: String,
        /// Soft value.
        soft: u64,
        /// Hard value.
        hard: u64,
    },
}

/// What a specification is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// The container.
    pub record: &'a Record,
    /// Its user, looked up in its own files.
    pub identity: &'a Identity,
    /// Its files on the host, bound over the image's.
    pub dir: &'a ContainerDir,
    /// Where bind mounts and volumes are on the host, by their targets.
    pub sources: &'a BTreeMap<PathBuf, PathBuf>,
    /// Targets of those that cannot have an id map.
    pub unmappable: &'a BTreeSet<PathBuf>,
    /// Highest capability that the running kernel knows.
    pub last_capability: u8,
    /// What it shares with others.
    pub joins: &'a Joins,
    /// What its devices change.
    pub devices: &'a DeviceEdits,
    /// Release of the running kernel.
    pub kernel: &'a str,
    /// What its processes are labelled with.
    pub labels: &'a Labels,
    /// The program that is put before its own.
    pub init: Option<&'a Path>,
    /// The container whose network namespace it is to have, if that is another's.
    pub network_of: Option<&'a NetworkOf>,
}

/// What a container shares with others, and what of the host it is to see.
#[derive(Debug, Clone, Default)]
pub struct Joins {
    /// User namespace to join.
    pub user: Option<PathBuf>,
    /// PID namespace to join.
    pub pid: Option<PathBuf>,
    /// IPC namespace to join.
    pub ipc: Option<PathBuf>,
    /// Directory of the host that is `/dev/shm`.
    pub shm: Option<PathBuf>,
    /// Whether the host has `/dev/mqueue`.
    pub has_mqueue: bool,
}

/// A container whose network namespace another is to have.
#[derive(Debug)]
pub struct NetworkOf {
    /// Where the namespace is.
    pub namespace: PathBuf,
    /// Its files on the host: what they say of names holds for both.
    pub dir: ContainerDir,
    /// Its host name.
    pub hostname: String,
}

impl Input<'_> {
    /// Where the files are that are bound over those in `/etc`.
    fn etc_dir(&self) -> &ContainerDir {
        self.network_of.map_or(self.dir, |other| &other.dir)
    }
}

/// Writes the specification.
///
/// # Errors
/// [`SpecError`] if a capability or a limit has no such name, or a limit contradicts itself.
pub fn build(input: &Input<'_>) -> Result<Spec, SpecError> {
    let record = input.record;
    let host = &record.host;
    let selected =
        capabilities::select(host.privileged, &host.cap_add, &host.cap_drop, input.last_capability)
            .map_err(SpecError::Capability)?;

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(host.read_only_rootfs));

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_process(Some(first_process(input, &selected)?))
        .set_mounts(Some(mounts::build(input)))
        .set_linux(Some(linux(input, &selected)?))
        .set_hostname(None)
        .set_domainname(None);
    if host.uts_mode == NamespaceMode::Private {
        let hostname = input.network_of.map_or(record.hostname(), |other| &other.hostname);
        spec.set_hostname(Some(hostname.to_owned()));
        if !record.config.domainname.is_empty() {
            spec.set_domainname(Some(record.config.domainname.clone()));
        }
    }
    if input.devices.hooks != Hooks::default() {
        spec.set_hooks(Some(input.devices.hooks.clone()));
    }
    if !host.annotations.is_empty() {
        spec.set_annotations(Some(host.annotations.clone().into_iter().collect()));
    }
    Ok(spec)
}

/// Bytes of `/dev/shm`.
pub(crate) fn shm_bytes(record: &Record) -> u64 {
    record.host.shm_size_bytes.unwrap_or(mounts::SHM_BYTES)
}

/// The first process; an init before it, if there is one.
fn first_process(input: &Input<'_>, selected: &Capabilities) -> Result<Process, SpecError> {
    let mut process = process(input.record, input.identity, selected, input.labels)?;
    if input.init.is_some() {
        let args = [mounts::INIT, "--"].map(str::to_owned);
        let own = input.record.process.args.iter().cloned();
        process.set_args(Some(args.into_iter().chain(own).collect()));
    }
    if !input.devices.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(input.devices.env.iter().cloned());
        process.set_env(Some(env));
    }
    Ok(process)
}

/// A process of the container, by default its first.
fn process(
    record: &Record,
    identity: &Identity,
    selected: &Capabilities,
    labels: &Labels,
) -> Result<Process, SpecError> {
    let mut process = Process::default();
    process
        .set_terminal(Some(record.config.tty))
        .set_user(user(identity))
        .set_args(Some(record.process.args.clone()))
        .set_env(Some(with_home(&record.process.env, identity)))
        .set_cwd(record.process.working_dir.clone())
        .set_capabilities(Some(capabilities::for_process(selected, identity.uid == 0)))
        .set_rlimits(rlimits(record)?)
        .set_no_new_privileges(Some(record.host.no_new_privileges))
        .set_apparmor_profile(labels.apparmor.clone())
        .set_selinux_label(process_label(labels))
        .set_oom_score_adj(record.host.oom_score_adj)
        .set_console_size(console_size(record.config.terminal_size.filter(|_| record.config.tty)));
    Ok(process)
}

/// The label of processes; none, if it was lifted.
fn process_label(labels: &Labels) -> Option<String> {
    let label = labels.selinux.as_ref().map(|labels| labels.process.clone());
    label.filter(|label| !label.is_empty())
}

/// A process that joins a running container.
#[derive(Debug, Clone)]
pub struct ExecPlan {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, each name once.
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: PathBuf,
    /// Has a terminal.
    pub tty: bool,
    /// Has every capability.
    pub privileged: bool,
    /// Size of the terminal at start.
    pub terminal_size: Option<TerminalSize>,
}

/// Writes the `process` of a process that joins a running container; what the plan does not say is
/// as for the container's first process.
///
/// # Errors
/// As [`build`].
pub fn exec_process(
    record: &Record,
    identity: &Identity,
    plan: ExecPlan,
    last_capability: u8,
    labels: &Labels,
) -> Result<Process, SpecError> {
    let host = &record.host;
    let privileged = plan.privileged || host.privileged;
    let selected = capabilities::select(privileged, &host.cap_add, &host.cap_drop, last_capability)
        .map_err(SpecError::Capability)?;
    let mut process = process(record, identity, &selected, labels)?;
    process
        .set_terminal(Some(plan.tty))
        .set_args(Some(plan.args))
        .set_env(Some(with_home(&plan.env, identity)))
        .set_cwd(plan.working_dir)
        .set_console_size(console_size(plan.terminal_size.filter(|_| plan.tty)));
    Ok(process)
}

fn console_size(size: Option<TerminalSize>) -> Option<ConsoleSize> {
    let size = size?;
    BoxBuilder::default().height(size.height).width(size.width).build().ok()
}

/// The process's user in the form of the specification.
pub(crate) fn user(identity: &Identity) -> User {
    let mut user = User::default();
    user.set_uid(identity.uid).set_gid(identity.gid);
    if !identity.additional_gids.is_empty() {
        user.set_additional_gids(Some(identity.additional_gids.clone()));
    }
    user
}

/// Adds `HOME`, which a user's account decides unless somebody else has.
pub(crate) fn with_home(env: &[String], identity: &Identity) -> Vec<String> {
    let mut env = env.to_vec();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    env
}

fn rlimits(record: &Record) -> Result<Option<Vec<PosixRlimit>>, SpecError> {
    let mut limits = Vec::new();
    for ulimit in &record.host.ulimits {
        let name = &ulimit.name;
        if ulimit.soft > ulimit.hard {
            let (soft, hard) = (ulimit.soft, ulimit.hard);
            return Err(SpecError::UlimitOrder { name: name.clone(), soft, hard });
        }
        let typ: PosixRlimitType = format!("RLIMIT_{}", name.to_ascii_uppercase())
            .parse()
            .map_err(|_| SpecError::UnknownUlimit { name: name.clone() })?;
        let limit = PosixRlimitBuilder::default()
            .typ(typ)
            .soft(ulimit.soft)
            .hard(ulimit.hard)
            .build()
            .map_err(|_| SpecError::UnknownUlimit { name: name.clone() })?;
        limits.push(limit);
    }
    Ok(Some(limits).filter(|limits| !limits.is_empty()))
}

fn linux(input: &Input<'_>, selected: &Capabilities) -> Result<Linux, SpecError> {
    let record = input.record;
    let host = &record.host;
    let confined = !host.privileged;
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(input)))
        .set_resources(Some(resources::build(host, input.devices)))
        .set_cgroups_path(Some(cgroup(record)))
        .set_masked_paths(Some(masked_paths(record)).filter(|paths| !paths.is_empty()))
        .set_readonly_paths(Some(read_only_paths(record)).filter(|paths| !paths.is_empty()))
        .set_rootfs_propagation(mounts::rootfs_propagation(record).map(str::to_owned))
        .set_mount_label(input.labels.selinux.as_ref().map(|labels| labels.mount.clone()));
    match &host.seccomp {
        SeccompChoice::Profile(profile) => {
            let filter = seccomp_profile::translate(profile, selected, input.kernel)?;
            linux.set_seccomp(Some(filter));
        }
        SeccompChoice::Default if confined => {
            linux.set_seccomp(Some(seccomp::default_filter(selected)));
        }
        SeccompChoice::Default | SeccompChoice::Unconfined => {}
    }
    if !input.devices.nodes.is_empty() {
        linux.set_devices(Some(input.devices.nodes.clone()));
    }
    if let (Some(range), None) = (record.id_range, &input.joins.user) {
        linux.set_uid_mappings(Some(mapping(range))).set_gid_mappings(Some(mapping(range)));
    }
    let sysctls = sysctls(record);
    if !sysctls.is_empty() {
        linux.set_sysctl(Some(sysctls));
    }
    Ok(linux)
}

/// Where the container's control group is.
fn cgroup(record: &Record) -> PathBuf {
    let parent = match record.host.cgroup_parent.trim_start_matches('/') {
        "" => "keg",
        parent => parent,
    };
    Path::new("/").join(parent).join(record.id.as_str())
}

/// The paths that are covered in a container.
pub fn masked_paths(record: &Record) -> Vec<String> {
    hidden(record, &MASKED_PATHS, &record.host.masked_paths)
}

/// The paths that a container can read and not change.
pub fn read_only_paths(record: &Record) -> Vec<String> {
    hidden(record, &READONLY_PATHS, &[])
}

/// The default paths but those that are to be shown, and more.
fn hidden(record: &Record, default: &[&str], more: &[String]) -> Vec<String> {
    let host = &record.host;
    let shows_all = host.privileged
        || host.system_paths_unconfined
        || host.unmasked_paths.iter().any(|path| path.eq_ignore_ascii_case("ALL"));
    let default = default
        .iter()
        .map(|path| (*path).to_owned())
        .filter(|path| !shows_all && !host.unmasked_paths.iter().any(|shown| shown == path));
    default.chain(more.iter().cloned()).collect()
}

/// Kernel parameters: what was asked for, and in a network namespace of its own what lets any user
/// open any port and send a ping, since nobody else's ports and packets are there.
fn sysctls(record: &Record) -> HashMap<String, String> {
    let mut sysctls = HashMap::new();
    if record.network_mode().has_own_namespace() {
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        // Groups that are not mapped cannot be named.
        let last = record.id_range.map_or(MOST_GROUPS, |range| range.length - 1).min(MOST_GROUPS);
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}"));
    }
    sysctls.extend(record.host.sysctls.clone());
    sysctls
}

/// Id 0 and up inside are the range outside.
pub(crate) fn mapping(range: IdRange) -> Vec<LinuxIdMapping> {
    LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(range.start)
        .size(range.length)
        .build()
        .into_iter()
        .collect()
}

fn namespaces(input: &Input<'_>) -> Vec<LinuxNamespace> {
    let record = input.record;
    let host = &record.host;
    let joins = input.network_of.is_some();
    let own = |mode: &NamespaceMode| *mode != NamespaceMode::Host;
    let wanted = [
        (LinuxNamespaceType::User, record.id_range.is_some()),
        (LinuxNamespaceType::Mount, true),
        (LinuxNamespaceType::Pid, own(&host.pid_mode)),
        (LinuxNamespaceType::Ipc, own(&host.ipc_mode)),
        (LinuxNamespaceType::Uts, own(&host.uts_mode)),
        (LinuxNamespaceType::Cgroup, own(&host.cgroupns_mode)),
        (LinuxNamespaceType::Network, record.network_mode().has_own_namespace() || joins),
    ];
    wanted
        .into_iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(typ, _)| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(typ);
            namespace.set_path(match typ {
                LinuxNamespaceType::Network => {
                    input.network_of.map(|other| other.namespace.clone())
                }
                LinuxNamespaceType::User => input.joins.user.clone(),
                LinuxNamespaceType::Pid => input.joins.pid.clone(),
                LinuxNamespaceType::Ipc => input.joins.ipc.clone(),
                _ => None,
            });
            namespace
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
