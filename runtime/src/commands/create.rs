//! `create`: everything but the program.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::Args;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::Pid;

use super::standby::Standby;
use super::{CommandError, Context, passed, start};
use crate::cgroup::Cgroup;
use crate::console::{connect_stream, send_descriptor};
use crate::intel_rdt::{self, IntelRdtError, SavedRdt};
use crate::log::{Level, Log};
use crate::namespaces::NamespaceKind;
use crate::plan::mounts::MountPlan;
use crate::plan::{ContainerPlan, document};
use crate::security::lsm::selinux_is_enabled;
use crate::self_protect;
use crate::stage::launch::{Console, LaunchOptions, Launched, Meanwhile, launch};
use crate::state_store::{ContainerDir, ContainerId, SavedProcess, SavedState, read_bounded};
use crate::sys;

/// Where the caller tells the number of the root, see [`passed_rootfs`].
const ROOTFS_VARIABLE: &str = "KEG_ROOTFS_FD";

/// Options that `create` and `run` share.
#[derive(Debug, Args)]
pub(super) struct CreateOptions {
    /// Directory with config.json.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// The specification, in place of config.json in the bundle; relative to the bundle.
    #[arg(short = 'f', long, value_name = "FILE", default_value = "config.json")]
    pub(super) config: PathBuf,
    /// Socket that receives the container's terminal.
    #[arg(long, value_name = "PATH")]
    pub(super) console_socket: Option<PathBuf>,
    /// Socket that receives a descriptor of the container's first process.
    #[arg(long, value_name = "PATH")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// File that the pid of the container's first process is written to.
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Change the root without pivot_root; needed on an initramfs.
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Keep the caller's session keyring.
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Descriptors beyond the standard streams that the container inherits, from 3 upward.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    pub(super) options: CreateOptions,
    /// Name of the container.
    pub(super) id: String,
}

impl Create {
    pub(super) fn run(self, context: &Context, log: &mut Log) -> Result<u8, CommandError> {
        let standby = Standby::asked_for(log)?;
        let created = create(context, log, &self.id, &self.options, Start::Later)?;
        let Created { launched, .. } = &created;
        self.options
            .announce(launched.pid, launched.pidfd.as_fd())
            .and_then(|()| launched.keep().map_err(CommandError::Create))
            .inspect_err(|_| {
                launched.abandon();
                created.discard();
            })?;
        let Some(standby) = standby else { return Ok(0) };
        let init = created.into_init();
        standby.start_when_told(&init, || start::Start { id: self.id }.run(context))?;
        Ok(0)
    }
}

/// Who starts the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// A later command.
    Later,
    /// The caller of [`create`].
    Now,
}

/// A container whose init waits.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) dir: ContainerDir,
    pub(super) state: SavedState,
    pub(super) plan: ContainerPlan,
    pub(super) launched: Launched,
    pub(super) cgroup: Option<Cgroup>,
}

impl Created {
    /// Gives all up but the descriptor of the process; the container's lock, too.
    fn into_init(self) -> OwnedFd {
        self.launched.pidfd
    }

    /// Removes what was made; the process is gone already.
    pub(super) fn discard(&self) {
        // As below: the failure itself is what the user must see.
        let _ = self.state.rdt.as_ref().map(SavedRdt::remove);
        discard(&self.dir, self.cgroup.as_ref());
    }
}

/// A failed start leaves nothing. What cannot be removed is left to `delete --force`; the failure
/// itself is what the user must see.
pub(super) fn discard(dir: &ContainerDir, cgroup: Option<&Cgroup>) {
    if let Some(cgroup) = cgroup {
        cgroup.discard();
    }
    let _ = dir.remove();
}

/// Makes a container from its bundle; its terminal goes to `--console-socket`.
pub(super) fn create(
    context: &Context,
    log: &mut Log,
    id: &str,
    options: &CreateOptions,
    start: Start,
) -> Result<Created, CommandError> {
    create_with(context, log, id, options, start, |_| {
        options.console_socket.as_deref().map(Console::Socket)
    })
}

/// Makes a container from its bundle; its terminal goes to where `console` says.
pub(super) fn create_with<'a>(
    context: &Context,
    log: &mut Log,
    id: &str,
    options: &CreateOptions,
    start: Start,
    console: impl FnOnce(&ContainerPlan) -> Option<Console<'a>>,
) -> Result<Created, CommandError> {
    let id = ContainerId::new(id)?;
    let bundle = options.bundle.canonicalize().map_err(|source| CommandError::Config {
        path: options.bundle.join(&options.config),
        source,
    })?;
    let path = bundle.join(&options.config);
    let config = read_bounded(&path)
        .map_err(|source| CommandError::Config { path: path.clone(), source })?;
    // Without an id map there is no user namespace that could make the look below unnecessary, and
    // to read the specification twice costs more than to search it.
    if !contains(&config, b"uidMappings") {
        self_protect::protect_always().map_err(CommandError::Protect)?;
    }
    let document =
        document::read_spec(&config).map_err(|source| CommandError::Malformed { path, source })?;
    let mut plan =
        ContainerPlan::from_spec(document.content, &bundle).map_err(CommandError::Plan)?;
    let protected = self_protect::protect(&plan.namespaces).map_err(CommandError::Protect)?;
    log.warn_capabilities(&document.unknown_capabilities);
    if plan.rootfs.mount_label.is_some() && !selinux_is_enabled() {
        // Nothing is confined by labels here; a label on files alone confines nothing.
        plan.rootfs.mount_label = None;
        let message = "linux.mountLabel is without effect: SELinux is not enabled in this kernel";
        log.write(Level::Warning, message, None);
    }
    log.warn_ambient(&plan.process.capabilities.vain_ambient());
    let rootfs = passed_rootfs(&plan)?;
    let (mut extra_env, preserved) = options.keep_descriptors(log)?;
    extra_env.extend(pass_notify_socket(&mut plan));

    let dir = context.store.create(&id)?;
    let mut state = SavedState::new(id, bundle, &plan);
    let mut cgroup = None;
    let mut prepared = None;
    let outcome = make_cgroup(context, &plan, &dir, &mut state, &mut cgroup).and_then(|()| {
        let mut ready = Some(state.clone());
        let mut prepare =
            |init| prepared = ready.take().map(|state| write_down(&dir, &config, state, init));
        let options = LaunchOptions {
            protected,
            console: console(&plan),
            gate: (start == Start::Later).then(|| dir.as_fd()),
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            seccomp_cache: Some(&context.store.seccomp_cache()),
            extra_env: &extra_env,
            preserved: &preserved,
            rootfs,
            meanwhile: Some(Meanwhile(&mut prepare)),
        };
        launch(&plan, state.oci(), cgroup.as_mut(), options).map_err(CommandError::Create)
    });
    let launched = outcome.inspect_err(|_| discard(&dir, cgroup.as_ref()))?;
    if let (Some(cgroup), Some(resources)) = (&cgroup, &plan.resources) {
        log.warn_limits(&cgroup.without_effect(resources));
    }
    let settled = cgroup.as_mut().map_or(Ok(()), Cgroup::settle).map_err(CommandError::Cgroup);
    let gone = || Err(CommandError::kernel("look at the container's process")(Errno::ESRCH));
    let saved = settled.and_then(|()| prepared.unwrap_or_else(gone)).and_then(|prepared| {
        state = prepared;
        state.rdt = join_rdt(&plan, &dir, launched.pid)?;
        if state.rdt.is_some() {
            dir.prepare(&state)?;
        }
        dir.publish().map_err(CommandError::Store)
    });
    if let Err(error) = saved {
        launched.abandon();
        // What resists is found by `delete --force`.
        let _ = state.rdt.as_ref().map(SavedRdt::remove);
        discard(&dir, cgroup.as_ref());
        return Err(error);
    }
    Ok(Created { dir, state, plan, launched, cgroup })
}

/// Takes the root file system that the caller passes as a detached mount (open_tree(2), fsmount(2)), in
/// place of what is mounted at `root.path`: that is then mounted nowhere but in the container.
fn passed_rootfs(plan: &ContainerPlan) -> Result<Option<OwnedFd>, CommandError> {
    let Some(tree) = passed::descriptor(ROOTFS_VARIABLE)? else { return Ok(None) };
    let is_useless = |errno| passed::useless(ROOTFS_VARIABLE, errno);
    let mode = fstat(&tree).map_err(is_useless)?.st_mode;
    let kind = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFDIR {
        return Err(is_useless(Errno::ENOTDIR));
    }
    // A root that the host shares is entered where it is.
    if !plan.namespaces.has(NamespaceKind::Mount) {
        return Err(is_useless(Errno::EINVAL));
    }
    Ok(Some(tree))
}

/// Writes down what later commands need, but for the name under which they look for it: init is not
/// ready yet.
fn write_down(
    dir: &ContainerDir,
    config: &[u8],
    mut state: SavedState,
    init: Pid,
) -> Result<SavedState, CommandError> {
    dir.save_config(config)?;
    let found = SavedProcess::of(init);
    state.init = Some(found.map_err(CommandError::kernel("look at the container's process"))?);
    dir.prepare(&state)?;
    Ok(state)
}

/// Lets the program tell systemd that it is ready (sd_notify(3)), if whoever called the runtime may:
/// the socket appears inside. systemd believes what comes from the unit's own cgroup.
fn pass_notify_socket(plan: &mut ContainerPlan) -> Option<CString> {
    const INSIDE: &str = "/run/notify/notify.sock";
    let socket = PathBuf::from(std::env::var_os("NOTIFY_SOCKET")?);
    // An abstract socket belongs to a network namespace and cannot be mounted.
    if !socket.is_absolute() || !plan.namespaces.has(NamespaceKind::Mount) {
        return None;
    }
    plan.rootfs.mounts.push(MountPlan::of_socket(socket, PathBuf::from(INSIDE)));
    plan.process.env.retain(|variable| !variable.as_bytes().starts_with(b"NOTIFY_SOCKET="));
    CString::new(format!("NOTIFY_SOCKET={INSIDE}")).ok()
}

fn join_rdt(
    plan: &ContainerPlan,
    dir: &ContainerDir,
    init: Pid,
) -> Result<Option<SavedRdt>, CommandError> {
    let Some(spec) = &plan.intel_rdt else { return Ok(None) };
    if !intel_rdt::is_mounted() {
        return Err(CommandError::IntelRdt(IntelRdtError::NotMounted));
    }
    intel_rdt::apply(Path::new(intel_rdt::MOUNT), spec, dir.id().as_str(), init)
        .map(Some)
        .map_err(CommandError::IntelRdt)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Begins the cgroup ([`Cgroup::begin`]), after writing down where it is: if this process is killed,
/// `delete --force` finds it.
pub(super) fn make_cgroup(
    context: &Context,
    plan: &ContainerPlan,
    dir: &ContainerDir,
    state: &mut SavedState,
    slot: &mut Option<Cgroup>,
) -> Result<(), CommandError> {
    if context.without_cgroup {
        return dir.save(state).map_err(CommandError::Store);
    }
    let resolved = Cgroup::resolve(plan.cgroups_path.as_deref(), dir.id().as_str(), context.driver);
    let mut cgroup = match resolved {
        Ok(cgroup) => cgroup,
        Err(_) if context.rootless && plan.cgroups_path.is_none() => {
            return dir.save(state).map_err(CommandError::Store);
        }
        Err(error) => return Err(CommandError::Cgroup(error)),
    };
    cgroup.ask_for(&plan.annotations).map_err(CommandError::Cgroup)?;
    state.cgroup = Some(cgroup.saved());
    dir.save(state)?;
    match cgroup.begin(plan.resources.as_ref()) {
        Ok(()) => {
            state.cgroup = Some(cgroup.saved());
            *slot = Some(cgroup);
            Ok(())
        }
        Err(error) if context.rootless && error.is_permission() && plan.cgroups_path.is_none() => {
            state.cgroup = None;
            Ok(())
        }
        Err(error) => Err(CommandError::Cgroup(error)),
    }
}

impl CreateOptions {
    /// Tells the caller which process it is.
    pub(super) fn announce(&self, pid: Pid, pidfd: BorrowedFd<'_>) -> Result<(), CommandError> {
        if let Some(path) = &self.pidfd_socket {
            send_pidfd(path, pidfd)?;
        }
        match &self.pid_file {
            None => Ok(()),
            Some(path) => write_pid_file(path, pid),
        }
    }

    /// Makes every inherited descriptor close-on-exec but those that the container is to have:
    /// the ones of `--preserve-fds`, after those of systemd's socket activation. Returns the
    /// variables that go with them, and their numbers.
    fn keep_descriptors(&self, log: &mut Log) -> Result<(Vec<CString>, Vec<u32>), CommandError> {
        let listen: u32 =
            std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
        let kept = keep_descriptors(self.preserve_fds, listen, log)?;
        let mut env = Vec::new();
        if listen > 0 {
            env.push(CString::new(format!("LISTEN_FDS={listen}")).unwrap_or_default());
            env.push(c"LISTEN_PID=1".to_owned());
        }
        Ok((env, kept))
    }
}

/// See [`CreateOptions::keep_descriptors`]. Numbers in the range that the caller has not opened are
/// passed over, as by crun; what the runtime itself has opened there is not the caller's to give.
pub(super) fn keep_descriptors(
    preserve: u32,
    listen: u32,
    log: &mut Log,
) -> Result<Vec<u32>, CommandError> {
    let count = preserve.checked_add(listen).filter(|count| *count < 1 << 20).ok_or_else(|| {
        CommandError::Option {
            option: "--preserve-fds",
            value: preserve.to_string(),
            expected: "a number of open descriptors",
        }
    })?;
    sys::fd::cloexec_from(3 + count)
        .map_err(CommandError::kernel("mark descriptors close-on-exec"))?;
    let kept: Vec<u32> = (3..3 + count).filter(|fd| sys::fd::is_inherited(*fd)).collect();
    if kept.len() < count as usize {
        let message = format!("--preserve-fds {preserve}: open are only {kept:?}");
        log.write(Level::Debug, &message, None);
    }
    Ok(kept)
}

pub(super) fn send_pidfd(path: &Path, pidfd: BorrowedFd<'_>) -> Result<(), CommandError> {
    let sent: Result<(), Errno> =
        connect_stream(path).and_then(|socket| send_descriptor(socket, b"pidfd", pidfd));
    sent.map_err(CommandError::kernel(format!("send the pidfd to {path:?} (--pidfd-socket)")))
}

/// Writes the number and nothing else, under a name that appears when it is whole.
pub(super) fn write_pid_file(path: &Path, pid: Pid) -> Result<(), CommandError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(CommandError::io(format!("write {path:?} (--pid-file)")))
}
