//! `state`: prints what a container is, as JSON (runtime-spec, runtime.md, "Query State").

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{CommandError, Context};
use crate::lifecycle::Lifecycle;
use crate::state_store::{ContainerId, SavedState};

#[derive(Debug, Args)]
pub(super) struct State {
    /// Name of the container.
    pub(super) id: String,
}

/// A container as `state` and `list` print it, in runc's form.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row<'a> {
    oci_version: &'a str,
    pub(super) id: &'a str,
    pub(super) pid: i32,
    pub(super) status: &'static str,
    pub(super) bundle: &'a Path,
    rootfs: &'a Path,
    pub(super) created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    pub(super) owner: String,
}

impl<'a> Row<'a> {
    pub(super) fn new(state: &'a SavedState, lifecycle: Lifecycle, owner: String) -> Self {
        Self {
            oci_version: &state.oci_version,
            id: state.id.as_str(),
            pid: lifecycle.init().map_or(0, nix::unistd::Pid::as_raw),
            status: lifecycle.word(),
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: &state.created,
            annotations: &state.annotations,
            owner,
        }
    }
}

impl State {
    pub(super) fn run(self, context: &Context) -> Result<u8, CommandError> {
        let dir = context.store.open(&ContainerId::new(self.id)?)?;
        let state = dir.load_existing()?;
        let row = Row::new(&state, dir.observe(&state), String::new());
        let text = serde_json::to_string_pretty(&row).unwrap_or_default();
        writeln!(std::io::stdout(), "{text}").map_err(CommandError::io("print the state"))?;
        Ok(0)
    }
}
