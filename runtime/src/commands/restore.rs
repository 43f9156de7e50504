//! `restore`: makes a container from a checkpoint, by CRIU.
//!
//! ```text
//! state, cgroup, places for mounts ─▶ criu ─▶ namespaces ─▶ hooks, loopback ─▶ processes ─▶ state.json ─▶ they go on
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use clap::Args;
use nix::errno::Errno;
use nix::sched::setns;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::checkpoint::CriuOptions;
use super::create::{discard, make_cgroup, write_pid_file};
use super::delete::destroy;
use super::foreground::Foreground;
use super::{CommandError, Context};
use crate::cgroup::Cgroup;
use crate::console::{ConsoleError, connect_socket, send_master};
use crate::criu::{
    Criu, Directories, Externals, Notice, Place, PrivateMounts, Restore as Request, external,
    streams,
};
use crate::hooks::{self, Surroundings};
use crate::log::{Level, Log};
use crate::namespaces::{NamespaceKind, open_namespace};
use crate::net_devices::move_devices;
use crate::plan::{ContainerPlan, document};
use crate::stage::error::LaunchError;
use crate::state_store::{ContainerDir, ContainerId, SavedProcess, SavedState, read_bounded};
use crate::sys;

/// Where the root filesystem is shown to CRIU, in the container's state directory.
const ROOT: &str = "criu-root";

#[derive(Debug, Args)]
pub(super) struct Restore {
    #[command(flatten)]
    criu: CriuOptions,
    /// Directory with config.json.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Leave the container running and return.
    #[arg(short, long)]
    detach: bool,
    /// Socket that receives the container's terminal.
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// File that the pid of the container's first process is written to.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not adopt the container's orphans.
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted for compatibility: CRIU changes the root in its own way.
    #[arg(long)]
    no_pivot: bool,
    /// Profile of AppArmor or label of SELinux for the processes: apparmor:NAME or selinux:LABEL.
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// Label of SELinux for the mounts.
    #[arg(long, value_name = "LABEL")]
    lsm_mount_context: Option<String>,
    /// Name of the container.
    id: String,
}

/// What the restore has made so far, taken away if it fails.
struct Making<'a> {
    restore: &'a Restore,
    plan: &'a ContainerPlan,
    dir: ContainerDir,
    state: SavedState,
    cgroup: Option<Cgroup>,
    console: Option<OwnedFd>,
}

impl Restore {
    pub(super) fn run(self, context: &Context, log: &mut Log) -> Result<u8, CommandError> {
        let bundle = self.bundle.canonicalize().map_err(|source| CommandError::Config {
            path: self.bundle.join("config.json"),
            source,
        })?;
        let path = bundle.join("config.json");
        let config = read_bounded(&path)
            .map_err(|source| CommandError::Config { path: path.clone(), source })?;
        let document = document::read_spec(&config)
            .map_err(|source| CommandError::Malformed { path, source })?;
        let plan =
            ContainerPlan::from_spec(document.content, &bundle).map_err(CommandError::Plan)?;
        external::check(&plan).map_err(CommandError::Restore)?;
        let criu = Criu::find(context.criu.clone()).map_err(CommandError::Restore)?;
        let (foreground, console) = self.prepare_console(&plan)?;

        let id = ContainerId::new(self.id.clone())?;
        let dir = context.store.create(&id)?;
        let state = SavedState::new(id, bundle, &plan);
        let mut making = Making { restore: &self, plan: &plan, dir, state, cgroup: None, console };
        let init = making
            .dir
            .save_config(&config)
            .map_err(CommandError::Store)
            .and_then(|()| {
                make_cgroup(context, &plan, &making.dir, &mut making.state, &mut making.cgroup)
            })
            .and_then(|()| making.restore(&criu));
        let init = init.inspect_err(|_| making.discard())?;
        match foreground {
            None => Ok(0),
            Some(foreground) => making.supervise(foreground, init, log),
        }
    }

    /// Decides who gets the terminal: the socket's owner, this process in the foreground, or nobody.
    fn prepare_console(
        &self,
        plan: &ContainerPlan,
    ) -> Result<(Option<Foreground>, Option<OwnedFd>), CommandError> {
        let terminal = plan.process.terminal;
        match (&self.console_socket, self.detach) {
            (Some(_), _) if !terminal || !self.detach => {
                Err(CommandError::Console(ConsoleError::SocketUseless))
            }
            (Some(path), _) => {
                let socket = connect_socket(path).map_err(CommandError::Console)?;
                Ok((None, Some(socket)))
            }
            (None, true) if terminal => Err(CommandError::Console(ConsoleError::SocketMissing)),
            (None, true) => Ok((None, None)),
            (None, false) => {
                let (foreground, console) = Foreground::prepare(!self.no_subreaper)?;
                Ok((Some(foreground), Some(console).filter(|_| terminal)))
            }
        }
    }
}

impl Making<'_> {
    fn restore(&mut self, criu: &Criu) -> Result<Pid, CommandError> {
        let root = self.dir.path().join(ROOT);
        std::fs::create_dir(&root).map_err(CommandError::io(format!("make {root:?}")))?;
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.finish(self.plan.resources.as_ref()).map_err(CommandError::Cgroup)?;
        }
        let cgroup = self.cgroup.as_ref();
        let entrance = cgroup.map(Cgroup::entrance).transpose().map_err(CommandError::Cgroup)?;
        let hierarchies: Vec<_> =
            cgroup.map(|cgroup| cgroup.hierarchies().collect()).unwrap_or_default();
        let mut externals =
            external::of_plan(self.plan, &hierarchies).map_err(CommandError::Restore)?;
        let options = &self.restore.criu;
        let (mounts, directories) = PrivateMounts::make(&self.plan.rootfs.path, &root, || {
            Directories::open(&options.image_path, options.work_path.as_deref())
        })
        .map_err(CommandError::Restore)?;
        if self.plan.namespaces.has(NamespaceKind::User) {
            directories.open_to_others().map_err(CommandError::Restore)?;
        }
        let descriptors = std::mem::take(&mut externals.descriptors);
        let cgroup_roots = cgroup.map(Cgroup::v1_roots).unwrap_or_default();
        let request = self.request(
            &directories,
            externals,
            cgroup_roots,
            Place {
                entrance: entrance.as_ref(),
                mounts: &mounts,
                root: &root,
                inherited: &descriptors,
            },
        )?;
        let mut restored = None;
        let outcome = criu
            .restore(request, CommandError::Restore, |notice| self.answer(notice, &mut restored));
        // What CRIU saw there was in a mount namespace of its own.
        let _ = std::fs::remove_dir(&root);
        let outcome = outcome.and_then(|init| {
            self.cgroup.as_mut().map_or(Ok(()), Cgroup::settle).map_err(CommandError::Cgroup)?;
            Ok(init)
        });
        if let (Err(_), Some(init)) = (&outcome, restored) {
            // CRIU may have ended it already.
            let _ = kill(init, Signal::SIGKILL);
            let _ = waitpid(init, None);
        }
        outcome
    }

    fn request<'r>(
        &self,
        directories: &'r Directories,
        externals: Externals,
        cgroup_roots: Vec<(String, PathBuf)>,
        place: Place<'r>,
    ) -> Result<Request<'r>, CommandError> {
        Ok(Request {
            common: self.restore.criu.common(self.plan),
            directories,
            place,
            externals,
            cgroup_roots,
            streams: streams::load(directories.images()).map_err(CommandError::Restore)?,
            lsm_profile: self.restore.lsm_profile.clone(),
            lsm_mount_context: self.restore.lsm_mount_context.clone(),
        })
    }

    fn answer(&mut self, notice: Notice, restored: &mut Option<Pid>) -> Result<(), CommandError> {
        match notice {
            Notice::SetupNamespaces(pid) => self.set_up_namespaces(pid),
            Notice::PostRestore(pid) => {
                *restored = Some(pid);
                let init = SavedProcess::of(pid)
                    .map_err(CommandError::kernel("look at the container's process"))?;
                self.state.init = Some(init);
                self.dir.save(&self.state)?;
                self.restore.pid_file.as_ref().map_or(Ok(()), |path| write_pid_file(path, pid))
            }
            Notice::OrphanTerminal(master) => match &self.console {
                None => Ok(()),
                Some(socket) => send_master(socket, master)
                    .map_err(CommandError::kernel("send the terminal (--console-socket)")),
            },
            Notice::StatusReady | Notice::Other => Ok(()),
        }
    }

    /// Does what a start does between the making of the namespaces and the program.
    fn set_up_namespaces(&self, pid: Pid) -> Result<(), CommandError> {
        if self.plan.namespaces.new.contains(NamespaceKind::Network) {
            let network = open_namespace(format!("/proc/{pid}/ns/net").as_ref())
                .map_err(CommandError::kernel("open the container's network namespace"))?;
            let own = open_namespace("/proc/self/ns/net".as_ref())
                .map_err(CommandError::kernel("open the runtime's network namespace"))?;
            bring_loopback_up(&network, &own)
                .map_err(CommandError::kernel("bring the loopback device up"))?;
            move_devices(&self.plan.net_devices, network.as_fd(), own.as_fd())
                .map_err(|error| CommandError::Create(LaunchError::NetDevice(error)))?;
        }
        let state = self.state.oci().to_json("creating", Some(pid.as_raw()));
        let hooks = &self.plan.hooks;
        #[allow(deprecated, reason = "prestart hooks are still in use and in the specification")]
        let kinds = [("prestart", hooks.prestart()), ("createRuntime", hooks.create_runtime())];
        for (kind, list) in kinds {
            let surroundings = Surroundings::of_runtime(&state, &self.state.bundle);
            hooks::run_all(list.as_deref().unwrap_or_default(), surroundings)
                .map_err(|(index, source)| CommandError::Hook { kind, index, source })?;
        }
        Ok(())
    }

    fn discard(&self) {
        discard(&self.dir, self.cgroup.as_ref());
    }

    fn supervise(
        self,
        foreground: Foreground,
        init: Pid,
        log: &mut Log,
    ) -> Result<u8, CommandError> {
        let saved = self.state.init.ok_or(Errno::ESRCH);
        let pidfd = saved
            .and_then(|init| init.open())
            .map_err(CommandError::kernel("look at the container's process"))?;
        // Whoever else has a copy of this end would be waited for.
        drop(self.console);
        let code = foreground.supervise(init, pidfd.as_fd(), self.plan.process.terminal);
        if let Err(error) = destroy(&self.dir, &self.state, log) {
            // The program's own exit code is worth more.
            log.write(Level::Warning, &super::chain(&error), Some(error.reason()));
        }
        code
    }
}

/// Enters `network` for a moment: the device is reached by a socket that was made there.
fn bring_loopback_up(network: &OwnedFd, own: &OwnedFd) -> Result<(), Errno> {
    let flag = NamespaceKind::Network.flag();
    setns(network, flag)?;
    let inside = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    setns(own, flag)?;
    sys::network::bring_loopback_up(inside?)
}
