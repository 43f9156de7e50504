//! The runtime's side of a start: from a plan to an init that waits, or to nothing at all.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use oci_spec::runtime::Hook;

use super::error::{LaunchError, step_error, told_error};
use super::failure::{Failure, Step};
use super::gate;
use super::idmap;
use super::init::{Gate, Init, clone_flags};
use super::joining::Joins;
use super::message::{ParentEnd, ToChild, ToParent, channel};
use crate::cgroup::{Cgroup, V2Entrance};
use crate::console::{ConsoleError, Receiver, connect_socket};
use crate::hooks::{self, Surroundings};
use crate::namespaces::{NamespaceKind, open_namespace};
use crate::net_devices::{NetDeviceError, move_devices};
use crate::plan::ContainerPlan;
use crate::plan::mounts::MountSource;
use crate::procfs::Procfs;
use crate::rootfs::Sources;
use crate::rootfs::cgroups::Hierarchy;
use crate::security::lsm::ExecLabel;
use crate::security::seccomp::Program;
use crate::self_protect::Protected;
use crate::state_store::OciState;
use crate::sys::clone::{Cloned, Kinship, clone_alone};
use crate::sys::process::kill_by_pidfd;

/// What the caller decides about a start.
#[derive(Debug)]
pub struct LaunchOptions<'a> {
    /// That the caller's program cannot be overwritten.
    pub protected: Protected,
    /// Receives the terminal, if there is one.
    pub console: Option<Console<'a>>,
    /// The state directory in which init listens for `start`; `None` for `run`.
    pub gate: Option<BorrowedFd<'a>>,
    /// chroot(2) instead of pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Where compiled filters are kept.
    pub seccomp_cache: Option<&'a Path>,
    /// Variables that the runtime adds (`LISTEN_FDS`, `NOTIFY_SOCKET`).
    pub extra_env: &'a [CString],
    /// The descriptors that the container inherits beside the standard streams.
    pub preserved: &'a [u32],
    /// A detached mount that becomes the root, in place of a copy of what is at `root.path`.
    pub rootfs: Option<OwnedFd>,
    /// What the caller has to do and can do while init builds its root; gets init's number.
    pub meanwhile: Option<Meanwhile<'a>>,
}

/// See [`LaunchOptions::meanwhile`].
pub struct Meanwhile<'a>(pub &'a mut dyn FnMut(Pid));

impl std::fmt::Debug for Meanwhile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// Who receives a terminal.
#[derive(Debug)]
pub enum Console<'a> {
    /// A socket of the caller's, by path.
    Socket(&'a Path),
    /// A connected socket.
    Connected(OwnedFd),
}

/// An init that waits for `Execute`.
#[derive(Debug)]
pub struct Launched {
    /// Its number in the caller's PID namespace.
    pub pid: Pid,
    /// The same without the danger of a recycled number.
    pub pidfd: OwnedFd,
    channel: ParentEnd,
}

/// Makes the container's process and brings it to where only the program is missing. `cgroup` is at
/// least begun ([`Cgroup::begin`]), and finished afterwards.
///
/// # Errors
/// [`LaunchError`]; no process is left then.
pub fn launch<'a>(
    plan: &ContainerPlan,
    state: OciState<'_>,
    cgroup: Option<&'a mut Cgroup>,
    options: LaunchOptions<'a>,
) -> Result<Launched, LaunchError> {
    let procfs = Procfs::open().map_err(LaunchError::Procfs)?;
    let joins = Joins::open(&plan.namespaces).map_err(LaunchError::Join)?;
    let label = ExecLabel::prepare(
        plan.process.apparmor_profile.as_deref(),
        plan.process.selinux_label.as_deref(),
    )
    .map_err(LaunchError::Label)?;
    let seccomp = plan
        .seccomp
        .as_ref()
        .map(|profile| Program::prepare(profile, options.seccomp_cache))
        .transpose()
        .map_err(LaunchError::Seccomp)?;
    let sources =
        Sources::open(plan, options.rootfs).map_err(|failure| step_error(failure, plan))?;
    let hierarchies = hierarchies(plan, cgroup.as_deref());
    let gate = match options.gate {
        None => Gate::Parent,
        Some(directory) => Gate::Socket(
            gate::create(directory)
                .map_err(|errno| LaunchError::Host { what: "create start.sock", errno })?,
        ),
    };
    let keyring = (!options.no_new_keyring)
        .then(|| CString::new(format!("_ses.{}", state.id)).unwrap_or_default());
    let new_user = plan.namespaces.new.contains(NamespaceKind::User);
    let init = Init {
        plan,
        state,
        procfs: &procfs,
        joins: &joins,
        enters_v1: cgroup.as_ref().is_some_and(|cgroup| cgroup.has_v1()),
        hierarchies: &hierarchies,
        sources,
        label: &label,
        notify: connect_listener(seccomp.as_ref())?,
        seccomp: seccomp.as_ref(),
        console: connect_console(plan.process.terminal, options.console)?,
        gate,
        setgroups_denied: new_user && idmap::denies_setgroups(&plan.namespaces.gid_map),
        limits_itself: plan.process.rlimits.is_within_own(),
        awaits_proceed: new_user || needs_idmaps(plan) || !plan.net_devices.is_empty(),
        no_pivot: options.no_pivot,
        keyring,
        extra_env: options.extra_env,
        preserved: options.preserved,
        hook_words: String::new(),
    };
    make(init, cgroup, options.meanwhile)
}

/// What a `cgroup` mount shows: the container's place in each hierarchy, and the caller's where an
/// unprivileged one could make none.
fn hierarchies(plan: &ContainerPlan, cgroup: Option<&Cgroup>) -> Vec<Hierarchy> {
    let mut shown: Vec<Hierarchy> = cgroup.into_iter().flat_map(Cgroup::hierarchies).collect();
    let is_mounted = plan.rootfs.mounts.iter().any(|mount| mount.source == MountSource::Cgroups);
    if is_mounted && cgroup.is_none_or(Cgroup::is_partial) {
        let of_caller = Cgroup::hierarchies_of_caller().unwrap_or_default();
        let missing = |place: &Hierarchy| shown.iter().all(|other| other.mount != place.mount);
        let missing: Vec<Hierarchy> = of_caller.into_iter().filter(missing).collect();
        shown.extend(missing);
    }
    shown
}

fn needs_idmaps(plan: &ContainerPlan) -> bool {
    plan.rootfs.mounts.iter().any(|mount| mount.idmap.is_some())
}

pub(super) fn connect_console(
    terminal: bool,
    console: Option<Console<'_>>,
) -> Result<Option<Receiver>, LaunchError> {
    match (terminal, console) {
        (false, None) => Ok(None),
        (true, None) => Err(LaunchError::Console(ConsoleError::SocketMissing)),
        (false, Some(_)) => Err(LaunchError::Console(ConsoleError::SocketUseless)),
        (true, Some(Console::Connected(socket))) => Ok(Some(Receiver { socket, is_plain: true })),
        (true, Some(Console::Socket(path))) => {
            let socket = connect_socket(path).map_err(LaunchError::Console)?;
            Ok(Some(Receiver { socket, is_plain: false }))
        }
    }
}

pub(super) fn connect_listener(program: Option<&Program>) -> Result<Option<OwnedFd>, LaunchError> {
    let Some(listener) = program.and_then(Program::listener) else { return Ok(None) };
    crate::console::connect_stream(&listener.path)
        .map(Some)
        .map_err(|errno| LaunchError::Listener { path: listener.path.clone(), errno })
}

/// Clones, and speaks the parent's part.
fn make<'a>(
    init: Init<'_>,
    cgroup: Option<&'a mut Cgroup>,
    meanwhile: Option<Meanwhile<'a>>,
) -> Result<Launched, LaunchError> {
    let plan = init.plan;
    let into = cgroup.as_ref().map(|cgroup| cgroup.v2_entrance()).transpose();
    let into = into.map_err(LaunchError::Cgroup)?.flatten();
    let mut apart = Some(Apart { cgroup, meanwhile });
    let (ours, theirs) =
        channel().map_err(|errno| LaunchError::Host { what: "create a socket pair", errno })?;
    // A process that joins a user namespace makes the others there, see the module above.
    let flags = if init.joins.user { 0 } else { clone_flags(plan).bits() };
    let flags = u64::try_from(flags).unwrap_or(0);
    idmap::hide().map_err(|errno| LaunchError::Host { what: "hide the runtime", errno })?;
    let back = init.joins.enter().map_err(LaunchError::Join)?;
    let cloned = clone_alone(flags, Kinship::Child, into.as_ref().map(V2Entrance::fd));
    let (pid, pidfd) = match cloned {
        Ok(Cloned::Child) => {
            drop(ours);
            init.run(theirs)
        }
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Err(errno) => {
            back.go().map_err(LaunchError::Join)?;
            return Err(LaunchError::Clone { errno });
        }
    };
    drop(theirs);
    let mut launched = Launched { pid, pidfd, channel: ours };
    let outcome =
        back.go().map_err(LaunchError::Join).and_then(|()| assist(&init, &launched)).and_then(
            |()| {
                if !init.joins.user
                    && let Some(apart) = apart.take()
                {
                    apart.act(&init, &launched)?;
                }
                converse(&init, &mut launched, apart)
            },
        );
    match outcome {
        Ok(()) => Ok(launched),
        Err(error) => {
            launched.abandon();
            Err(error)
        }
    }
}

/// What the runtime does while init makes its namespaces and its root.
struct Apart<'a> {
    cgroup: Option<&'a mut Cgroup>,
    meanwhile: Option<Meanwhile<'a>>,
}

impl Apart<'_> {
    fn act(self, init: &Init<'_>, launched: &Launched) -> Result<(), LaunchError> {
        if let Some(cgroup) = self.cgroup {
            cgroup.finish(init.plan.resources.as_ref()).map_err(LaunchError::Cgroup)?;
            if init.enters_v1 {
                let tasks = cgroup.v1_entrance().map_err(LaunchError::Cgroup)?;
                launched.tell_with(ToChild::Enter, &tasks)?;
            }
        }
        if let Some(Meanwhile(act)) = self.meanwhile {
            act(launched.pid);
        }
        Ok(())
    }
}

/// Does for the new process what only the host's rights can do.
fn assist(init: &Init<'_>, launched: &Launched) -> Result<(), LaunchError> {
    let plan = init.plan;
    if !init.awaits_proceed || init.joins.user {
        return Ok(());
    }
    if plan.namespaces.new.contains(NamespaceKind::User) {
        let namespaces = &plan.namespaces;
        idmap::write_maps(init.procfs, launched.pid, &namespaces.uid_map, &namespaces.gid_map)
            .map_err(LaunchError::IdMap)?;
        if let Some(score) = plan.process.oom_score_adj {
            let path = format!("{}/oom_score_adj", launched.pid);
            init.procfs
                .write(path, score.to_string().as_bytes())
                .map_err(|errno| step_error(Failure::new(Step::OomScore, errno), plan))?;
        }
    }
    bring_in(init, launched)
}

/// Gives init the mounts and devices that wait for its namespaces.
fn bring_in(init: &Init<'_>, launched: &Launched) -> Result<(), LaunchError> {
    let plan = init.plan;
    idmap::map_mounts(init.procfs, launched.pid, &plan.rootfs.mounts, &init.sources.binds)
        .map_err(|failure| step_error(failure, plan))?;
    if !plan.net_devices.is_empty() {
        let open = |path: &Path| {
            open_namespace(path)
                .map_err(|errno| LaunchError::NetDevice(NetDeviceError::Enter(errno)))
        };
        // A namespace that is joined has a name of its own; init may not be in it yet.
        let kind = NamespaceKind::Network;
        let joined = plan.namespaces.joined.iter().find(|joined| joined.kind == kind);
        let made = PathBuf::from(format!("/proc/{}/ns/net", launched.pid));
        let container = open(joined.map_or(&made, |joined| &joined.path))?;
        let own = open(Path::new("/proc/self/ns/net"))?;
        move_devices(&plan.net_devices, container.as_fd(), own.as_fd())
            .map_err(LaunchError::NetDevice)?;
    }
    launched.tell(ToChild::Proceed)
}

/// Listens until init is ready.
fn converse(
    init: &Init<'_>,
    launched: &mut Launched,
    mut apart: Option<Apart<'_>>,
) -> Result<(), LaunchError> {
    loop {
        match launched.hear()? {
            ToParent::InitPid(pid) => {
                launched.replace(Pid::from_raw(pid))?;
                if init.awaits_proceed {
                    bring_in(init, launched)?;
                }
                if let Some(apart) = apart.take() {
                    apart.act(init, launched)?;
                }
            }
            ToParent::Mounted => {
                run_outer_hooks(init, launched.pid)?;
                launched.tell(ToChild::HooksDone)?;
            }
            ToParent::Ready if init.limits_itself => return Ok(()),
            // Only the host's rights raise a limit.
            ToParent::Ready => {
                let limits = &init.plan.process.rlimits;
                limits.apply_to(launched.pid).map_err(|failure| {
                    let index = u16::try_from(failure.index).unwrap_or(u16::MAX);
                    let errno = failure.errno as i32;
                    step_error(Failure { step: Step::Rlimits, index, errno }, init.plan)
                })?;
                return launched.tell(ToChild::Limited);
            }
            ToParent::Failed(failure) => {
                return Err(told_error(&launched.channel, failure, init.plan));
            }
        }
    }
}

/// Hooks of the old kind are told that the container is created: when they were defined, they ran
/// at its start.
fn run_outer_hooks(init: &Init<'_>, pid: Pid) -> Result<(), LaunchError> {
    let hooks = &init.plan.hooks;
    #[allow(deprecated, reason = "prestart hooks are still in use and in the specification")]
    let kinds = [
        ("prestart", "created", hooks.prestart()),
        ("createRuntime", "creating", hooks.create_runtime()),
    ];
    for (kind, status, list) in kinds {
        let state = init.state.to_json(status, Some(pid.as_raw()));
        let list: &[Hook] = list.as_deref().unwrap_or_default();
        hooks::run_all(list, Surroundings::of_runtime(&state, init.state.bundle))
            .map_err(|(index, source)| LaunchError::Hook { kind, index, source })?;
    }
    Ok(())
}

impl Launched {
    /// Lets init execute the program, where the runtime itself is what it waits for; returns when
    /// it has.
    ///
    /// # Errors
    /// [`LaunchError`]; no process is left then.
    pub fn execute(&self, plan: &ContainerPlan) -> Result<(), LaunchError> {
        let outcome = self.tell(ToChild::Execute).and_then(|()| match self.channel.receive() {
            Ok(None) => Ok(()),
            Ok(Some(ToParent::Failed(failure))) => Err(told_error(&self.channel, failure, plan)),
            Ok(Some(_)) => Err(protocol(Errno::EBADMSG)),
            Err(errno) => Err(protocol(errno)),
        });
        if outcome.is_err() {
            self.abandon();
        }
        outcome
    }

    /// Lets init wait for `start`, once the container is written down. An init that hears nothing
    /// ends with the runtime.
    ///
    /// # Errors
    /// [`LaunchError::Host`] if init is gone.
    pub fn keep(&self) -> Result<(), LaunchError> {
        self.channel.send(ToChild::Keep).map_err(protocol)
    }

    /// Kills the process and waits for its end. What cannot be killed is gone already.
    pub fn abandon(&self) {
        let _ = kill_by_pidfd(&self.pidfd);
        let _ = waitpid(self.pid, None);
    }

    fn tell(&self, message: ToChild) -> Result<(), LaunchError> {
        told(self.channel.send(message))
    }

    fn tell_with(&self, message: ToChild, files: &[OwnedFd]) -> Result<(), LaunchError> {
        told(self.channel.send_descriptors(message, files))
    }

    fn hear(&self) -> Result<ToParent, LaunchError> {
        match self.channel.receive().map_err(protocol)? {
            Some(message) => Ok(message),
            None => Err(LaunchError::Died { how: self.how_it_ended() }),
        }
    }

    /// The process before init has made it, and ends.
    fn replace(&mut self, init: Pid) -> Result<(), LaunchError> {
        let error = |errno| LaunchError::Host { what: "take over init from its maker", errno };
        waitpid(self.pid, None).map_err(error)?;
        let raw = rustix::process::Pid::from_raw(init.as_raw()).ok_or(error(Errno::ESRCH))?;
        self.pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())
            .map_err(|errno| error(Errno::from_raw(errno.raw_os_error())))?;
        self.pid = init;
        Ok(())
    }

    fn how_it_ended(&self) -> String {
        // The stream has ended, so the process is ending; if it is not, it is not ours any more.
        let _ = kill_by_pidfd(self.pidfd.as_fd());
        match waitpid(self.pid, None) {
            Ok(WaitStatus::Exited(_, code)) => format!("exit code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!(
                "killed by {signal}; a limit in linux.resources may be too low, see the kernel's log"
            ),
            Ok(_) | Err(_) => "for an unknown reason".to_owned(),
        }
    }
}

/// What a process said before it went is worth more than that it went.
fn told(outcome: Result<(), Errno>) -> Result<(), LaunchError> {
    match outcome {
        Err(Errno::EPIPE) => Ok(()),
        result => result.map_err(protocol),
    }
}

fn protocol(errno: Errno) -> LaunchError {
    LaunchError::Host { what: "talk to the container's process", errno }
}
