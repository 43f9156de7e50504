//! `delete`: removes what is left of a container.

use std::os::fd::AsFd;
use std::time::Duration;

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{CommandError, Context};
use crate::cgroup::Cgroup;
use crate::hooks::{self, Surroundings};
use crate::lifecycle::{Event, Lifecycle};
use crate::log::{Level, Log};
use crate::state_store::{ContainerDir, ContainerId, SavedState, StoreError};
use crate::sys::process::kill_by_pidfd;

/// How long a killed process takes to end, unless something is in its way.
const QUICK_DEATH: Duration = Duration::from_millis(200);

/// How long a killed process may take to end.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Kill the container if it still runs; that there is none is no error.
    #[arg(short, long)]
    pub(super) force: bool,
    /// Name of the container.
    pub(super) id: String,
}

impl Delete {
    pub(super) fn run(self, context: &Context, log: &mut Log) -> Result<u8, CommandError> {
        let dir = match context.store.open_locked(&ContainerId::new(self.id)?) {
            Err(error) if self.force && error.is_not_found() => return Ok(0),
            result => result?,
        };
        let state = match dir.load() {
            Ok(Some(state)) => state,
            // A killed `create` leaves a directory without a state, or a state that is not whole.
            Ok(None) | Err(StoreError::Damaged { .. }) if self.force => {
                remove_leftovers(context, &dir)?;
                return Ok(0);
            }
            Ok(None) => return Err(StoreError::NotFound { id: dir.id().to_string() }.into()),
            Err(error) => return Err(error.into()),
        };
        let lifecycle = dir.observe(&state);
        match lifecycle {
            Lifecycle::Stopped => {}
            // Nothing of it has ever run, so nothing is lost.
            Lifecycle::Created { .. } => kill_and_wait(&state)?,
            _ if self.force => kill_and_wait(&state)?,
            _ => {
                lifecycle.apply(Event::Deleted)?;
            }
        }
        destroy(&dir, &state, log)?;
        Ok(0)
    }
}

/// Removes the cgroup and the state of a container that has stopped, and runs its last hooks.
pub(super) fn destroy(
    dir: &ContainerDir,
    state: &SavedState,
    log: &mut Log,
) -> Result<(), CommandError> {
    if let Some(cgroup) = state.open_cgroup() {
        if state.shares_pids {
            // What resists keeps the cgroup from being removed, which tells.
            let _ = cgroup.kill_all(Signal::SIGKILL);
        }
        cgroup.destroy().map_err(CommandError::Cgroup)?;
    }
    if let Some(rdt) = &state.rdt {
        rdt.remove().map_err(CommandError::IntelRdt)?;
    }
    dir.remove()?;
    let Some(list) = state.hooks.poststop() else { return Ok(()) };
    let json = state.oci().to_json("stopped", None);
    // Each of them runs, and the container is gone, whatever becomes of them (runtime.md, "Lifecycle").
    for (index, hook) in list.iter().enumerate() {
        let surroundings = Surroundings::of_runtime(&json, &state.bundle);
        if let Err(source) = hooks::run(hook, surroundings) {
            let error = CommandError::Hook { kind: "poststop", index, source };
            log.write(Level::Warning, &super::chain(&error), Some(error.reason()));
        }
    }
    Ok(())
}

fn kill_and_wait(state: &SavedState) -> Result<(), CommandError> {
    let cgroup = state.open_cgroup();
    if let Some(cgroup) = &cgroup {
        // One by one below, where the cgroup is gone or does not answer.
        let _ = cgroup.kill_all(Signal::SIGKILL);
        let _ = cgroup.thaw();
    }
    let Some(init) = state.init else { return Ok(()) };
    let Ok(pidfd) = init.open() else { return Ok(()) };
    kill_by_pidfd(&pidfd).map_err(CommandError::kernel("kill the container"))?;
    if ends_within(&pidfd, QUICK_DEATH)? {
        return Ok(());
    }
    if let Some(cgroup) = &cgroup {
        // Whether it was somewhere else shows in whether it ends now.
        let _ = cgroup.take_back(Pid::from_raw(init.pid));
    }
    if ends_within(&pidfd, DEATH_PATIENCE)? {
        return Ok(());
    }
    let what = "wait for the killed container to end".to_owned();
    Err(CommandError::Kernel { what, errno: Errno::ETIMEDOUT })
}

fn ends_within(pidfd: impl AsFd, patience: Duration) -> Result<bool, CommandError> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Ok(count) => return Ok(count > 0),
            Err(errno) => return Err(CommandError::kernel("wait for the killed container")(errno)),
        }
    }
}

/// Without a state the cgroup is where the specification says.
fn remove_leftovers(context: &Context, dir: &ContainerDir) -> Result<(), CommandError> {
    let path = dir
        .load_config()
        .ok()
        .and_then(|spec| spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()));
    if let Ok(cgroup) = Cgroup::resolve(path.as_deref(), dir.id().as_str(), context.driver) {
        let _ = cgroup.kill_all(Signal::SIGKILL);
        cgroup.destroy().map_err(CommandError::Cgroup)?;
    }
    dir.remove()?;
    Ok(())
}
