//! `resume`: lets the processes of a paused container go on.

use clap::Args;

use super::{CommandError, Context};
use crate::cgroup::CgroupError;
use crate::lifecycle::Event;
use crate::state_store::ContainerId;

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// Name of the container.
    id: String,
}

impl Resume {
    pub(super) fn run(self, context: &Context) -> Result<u8, CommandError> {
        let dir = context.store.open_locked(&ContainerId::new(self.id)?)?;
        let state = dir.load_existing()?;
        dir.observe(&state).apply(Event::Thawed)?;
        let cgroup = state.open_cgroup().ok_or(CommandError::Cgroup(CgroupError::NoFreezer))?;
        cgroup.thaw().map_err(CommandError::Cgroup)?;
        Ok(0)
    }
}
