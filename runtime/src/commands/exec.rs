//! `exec`: a further process in a running container.

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use nix::unistd::Pid;
use oci_spec::runtime::{Box as ConsoleBox, Process};

use super::create::{keep_descriptors, send_pidfd, write_pid_file};
use super::foreground::Foreground;
use super::{CommandError, Context};
use crate::cgroup::Cgroup;
use crate::console::ConsoleError;
use crate::lifecycle::{Event, Lifecycle, Refused};
use crate::log::Log;
use crate::namespaces::{NamespaceKind, is_apart};
use crate::plan::process::ProcessPlan;
use crate::plan::{ContainerPlan, document};
use crate::self_protect;
use crate::stage::exec::{ExecRequest, exec};
use crate::stage::launch::Console;
use crate::state_store::{ContainerDir, ContainerId, SavedState, read_bounded};

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Socket that receives the process's terminal; needs --detach.
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// Socket that receives a descriptor of the process.
    #[arg(long, value_name = "PATH")]
    pidfd_socket: Option<PathBuf>,
    /// Working directory.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Variable of the environment, NAME=VALUE; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give the process a terminal.
    #[arg(short, long)]
    tty: bool,
    /// User as UID or UID:GID.
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Supplementary group; may be repeated.
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the process as JSON, in place of the container's own and a command.
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return as soon as the process runs.
    #[arg(short, long)]
    detach: bool,
    /// File that the pid of the process is written to.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// SELinux label.
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// AppArmor profile.
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Let execve grant no privileges.
    #[arg(long)]
    no_new_privs: bool,
    /// Capability to add; may be repeated.
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// Descriptors beyond the standard streams that the process inherits, from 3 upward.
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Cgroup below the container's; CONTROLLER[,CONTROLLER]:PATH on v1, may be repeated.
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    /// Exec in a paused container too; the process runs when it is resumed.
    #[arg(long)]
    ignore_paused: bool,
    /// Name of the container.
    id: String,
    /// Program and arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn run(self, context: &Context, log: &mut Log) -> Result<u8, CommandError> {
        let dir = context.store.open(&ContainerId::new(&self.id[..])?)?;
        let state = dir.load_existing()?;
        let lifecycle = dir.observe(&state);
        match lifecycle {
            Lifecycle::Paused { .. } if self.ignore_paused => {}
            _ => {
                lifecycle.apply(Event::Joined)?;
            }
        }
        let refused = Refused { state: Lifecycle::Stopped, event: Event::Joined };
        let init = state.init.ok_or(refused)?;
        let init_fd = init.open().map_err(|_| refused)?;

        let (mut plan, spec_process) = self.load_plan(&dir, &state, log)?;
        if is_apart(NamespaceKind::Time, init.pid) {
            // CRIU restores into a time namespace, whether or not the bundle names one.
            plan.namespaces.new = plan.namespaces.new.with(NamespaceKind::Time);
        }
        let protected = self_protect::protect(&plan.namespaces).map_err(CommandError::Protect)?;
        keep_descriptors(self.preserve_fds, 0, log)?;
        let mut process = ProcessPlan::from_spec(&spec_process).map_err(CommandError::Plan)?;
        let caps = self.cap.iter().map(String::as_str);
        process.capabilities.add(caps).map_err(CommandError::Capability)?;
        if self.detach && process.terminal && self.console_socket.is_none() {
            return Err(CommandError::Console(ConsoleError::SocketMissing));
        }
        let cgroup = self.cgroup_of(&state)?;
        let request = |console| ExecRequest {
            protected,
            plan: &plan,
            process: &process,
            state: state.oci(),
            init: Pid::from_raw(init.pid),
            init_fd: init_fd.as_fd(),
            cgroup: cgroup.as_ref(),
            console,
            seccomp_cache: None,
            extra_env: &[],
        };
        let cache = context.store.seccomp_cache();
        if self.detach || self.console_socket.is_some() {
            let console = self.console_socket.as_deref().map(Console::Socket);
            let executed = exec(ExecRequest { seccomp_cache: Some(&cache), ..request(console) })
                .map_err(CommandError::Exec)?;
            self.announce(&state, executed.pid, executed.pidfd.as_fd())?;
            if self.detach {
                return Ok(0);
            }
            let (foreground, _) = Foreground::prepare(false)?;
            return foreground.supervise(executed.pid, executed.pidfd.as_fd(), false);
        }
        let (foreground, console) = Foreground::prepare(false)?;
        let console = process.terminal.then_some(Console::Connected(console));
        let executed = exec(ExecRequest { seccomp_cache: Some(&cache), ..request(console) })
            .map_err(CommandError::Exec)?;
        self.announce(&state, executed.pid, executed.pidfd.as_fd())?;
        foreground.supervise(executed.pid, executed.pidfd.as_fd(), process.terminal)
    }

    fn announce(
        &self,
        state: &SavedState,
        pid: Pid,
        pidfd: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), CommandError> {
        if let Some(rdt) = &state.rdt {
            rdt.enter(pid).map_err(CommandError::IntelRdt)?;
        }
        if let Some(path) = &self.pidfd_socket {
            send_pidfd(path, pidfd)?;
        }
        match &self.pid_file {
            None => Ok(()),
            Some(path) => write_pid_file(path, pid),
        }
    }

    /// Returns the container as it was created, and the process as the options change it.
    fn load_plan(
        &self,
        dir: &ContainerDir,
        state: &SavedState,
        log: &mut Log,
    ) -> Result<(ContainerPlan, Process), CommandError> {
        let spec = dir.load_config()?;
        let own = spec.process().clone().unwrap_or_default();
        let plan = ContainerPlan::from_spec(spec, &state.bundle).map_err(CommandError::Plan)?;
        let mut process = match &self.process {
            None => {
                let mut process = own;
                process.set_args(Some(self.command.clone()));
                process.set_terminal(Some(self.tty));
                process
            }
            Some(path) => {
                let text = read_bounded(path)
                    .map_err(CommandError::io(format!("read {path:?} (--process)")))?;
                let document = document::read_process(&text)
                    .map_err(|source| CommandError::Malformed { path: path.clone(), source })?;
                log.warn_capabilities(&document.unknown_capabilities);
                document.content
            }
        };
        self.apply_options(&mut process)?;
        Ok((plan, process))
    }

    fn apply_options(&self, process: &mut Process) -> Result<(), CommandError> {
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if !self.env.is_empty() {
            let mut env = process.env().clone().unwrap_or_default();
            env.extend(self.env.iter().cloned());
            process.set_env(Some(env));
        }
        if self.tty {
            process.set_terminal(Some(true));
        }
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        if let Some(label) = &self.process_label {
            process.set_selinux_label(Some(label.clone()));
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        if let Some(user) = &self.user {
            let (uid, gid) = parse_user(user)?;
            process.user_mut().set_uid(uid);
            if let Some(gid) = gid {
                process.user_mut().set_gid(gid);
            }
        }
        if !self.additional_gids.is_empty() {
            let mut gids = process.user().additional_gids().clone().unwrap_or_default();
            gids.extend(&self.additional_gids);
            process.user_mut().set_additional_gids(Some(gids));
        }
        if process.terminal() != Some(true) {
            process.set_console_size(None::<ConsoleBox>);
        }
        Ok(())
    }

    fn cgroup_of(&self, state: &SavedState) -> Result<Option<Cgroup>, CommandError> {
        let Some(cgroup) = state.open_cgroup() else { return Ok(None) };
        if self.cgroup.is_empty() {
            let init = state.init.map(|init| nix::unistd::Pid::from_raw(init.pid));
            return Ok(Some(match init {
                Some(init) => cgroup.beside(init),
                None => cgroup,
            }));
        }
        self.cgroup
            .iter()
            .try_fold(cgroup, |cgroup, below| cgroup.below(below))
            .map(Some)
            .map_err(CommandError::Cgroup)
    }
}

fn parse_user(text: &str) -> Result<(u32, Option<u32>), CommandError> {
    let invalid = || CommandError::Option {
        option: "--user",
        value: text.to_owned(),
        expected: "UID or UID:GID, as numbers",
    };
    let number = |text: &str| text.parse::<u32>().map_err(|_| invalid());
    match text.split_once(':') {
        None => Ok((number(text)?, None)),
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("5").unwrap(), (5, None));
        assert_eq!(parse_user("5:6").unwrap(), (5, Some(6)));
        for bad in ["", "root", "5:", ":6", "5:6:7", "-1"] {
            assert!(parse_user(bad).is_err(), "{bad:?}");
        }
    }
}
