//! `pause`: stops all processes of a container where they are.

use clap::Args;

use super::{CommandError, Context};
use crate::cgroup::CgroupError;
use crate::lifecycle::Event;
use crate::state_store::ContainerId;

#[derive(Debug, Args)]
pub(super) struct Pause {
    /// Name of the container.
    id: String,
}

impl Pause {
    pub(super) fn run(self, context: &Context) -> Result<u8, CommandError> {
        let dir = context.store.open_locked(&ContainerId::new(self.id)?)?;
        let state = dir.load_existing()?;
        dir.observe(&state).apply(Event::Frozen)?;
        let cgroup = state.open_cgroup().ok_or(CommandError::Cgroup(CgroupError::NoFreezer))?;
        cgroup.freeze().map_err(CommandError::Cgroup)?;
        Ok(0)
    }
}
