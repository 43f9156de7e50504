//! `start`: lets the program run.

use clap::Args;
use nix::errno::Errno;

use super::{CommandError, Context};
use crate::hooks::{self, Surroundings};
use crate::lifecycle::{Event, Refused};
use crate::plan::ContainerPlan;
use crate::stage::error::{LaunchError, told_error};
use crate::stage::failure::Failure;
use crate::stage::gate;
use crate::stage::message::{ParentEnd, ToChild, ToParent};
use crate::state_store::{ContainerDir, ContainerId, SavedState};
use crate::sys::process::kill_by_pidfd;

#[derive(Debug, Args)]
pub(super) struct Start {
    /// Name of the container.
    pub(super) id: String,
}

impl Start {
    pub(super) fn run(self, context: &Context) -> Result<u8, CommandError> {
        let dir = context.store.open_locked(&ContainerId::new(self.id)?)?;
        let state = dir.load_existing()?;
        dir.observe_for_start(&state).apply(Event::Started)?;
        let init = gate::knock(&dir).map_err(|errno| match errno {
            // It has died since it was looked at, or a `start` was killed before it could tell.
            Errno::ECONNREFUSED => {
                CommandError::Refused(Refused { state: dir.observe(&state), event: Event::Started })
            }
            errno => CommandError::Kernel { what: "reach the container's init".to_owned(), errno },
        })?;
        let talk = || CommandError::kernel("talk to the container's init");
        init.send(ToChild::Execute).map_err(talk())?;
        dir.remove_gate()?;
        match init.receive().map_err(talk())? {
            None => {}
            Some(ToParent::Failed(failure)) => {
                return Err(explain(&dir, &state, &init, failure));
            }
            Some(_) => return Err(talk()(Errno::EBADMSG)),
        }
        run_poststart(&state)?;
        Ok(0)
    }
}

fn explain(
    dir: &ContainerDir,
    state: &SavedState,
    init: &ParentEnd,
    failure: Failure,
) -> CommandError {
    let plan = dir
        .load_config()
        .map_err(CommandError::Store)
        .and_then(|spec| ContainerPlan::from_spec(spec, &state.bundle).map_err(CommandError::Plan));
    CommandError::Start(match plan {
        Ok(plan) => told_error(init, failure, &plan),
        // The bundle has gone since; the step still has a name.
        Err(_) => LaunchError::Step {
            what: failure.describe(None),
            step: failure.step,
            errno: Errno::from_raw(failure.errno),
        },
    })
}

/// Runs the poststart hooks. Since version 1.3 of the specification, one that fails stops the
/// container.
pub(super) fn run_poststart(state: &SavedState) -> Result<(), CommandError> {
    let Some(list) = state.hooks.poststart() else { return Ok(()) };
    let pid = state.init.map(|init| init.pid);
    let json = state.oci().to_json("running", pid);
    hooks::run_all(list, Surroundings::of_runtime(&json, &state.bundle)).map_err(
        |(index, source)| {
            if let Some(Ok(pidfd)) = state.init.map(|init| init.open()) {
                // It may have ended by itself.
                let _ = kill_by_pidfd(pidfd);
            }
            CommandError::Hook { kind: "poststart", index, source }
        },
    )
}
