//! What is fuzzed: everything that the runtime reads and did not write. Each takes any bytes and must
//! neither panic nor hang.

use std::path::Path;

use keg_runtime::plan::process::{ProcessPlan, parse_bit_list};
use keg_runtime::plan::{ContainerPlan, document};
use keg_runtime::security::seccomp::Program;
use keg_runtime::state_store::SavedState;
use oci_spec::runtime::RootBuilder;

/// config.json, to the plan and to the compiled system call filter.
pub fn config(data: &[u8]) {
    let Ok(document) = document::read_spec(data) else { return };
    let mut spec = document.content;
    // Nothing is gained by trying other paths of this machine.
    spec.set_root(RootBuilder::default().path("/").build().ok());
    let Ok(plan) = ContainerPlan::from_spec(spec, Path::new("/")) else { return };
    if let Some(profile) = &plan.seccomp {
        let _ = Program::prepare(profile, None);
    }
}

/// process.json of `exec --process`.
pub fn process(data: &[u8]) {
    let Ok(document) = document::read_process(data) else { return };
    let _ = ProcessPlan::from_spec(&document.content);
}

/// state.json, and what becomes of it when it is written again.
pub fn state(data: &[u8]) {
    let Ok(state) = serde_json::from_slice::<SavedState>(data) else { return };
    let written = serde_json::to_vec(&state).expect("what was read can be written");
    assert!(serde_json::from_slice::<SavedState>(&written).is_ok());
    let _ = state.oci().to_json("running", Some(1));
}

/// `/etc/passwd` of an image, and lists of CPUs and memory nodes.
pub fn passwd(data: &[u8]) {
    let _ = keg_runtime::user::home_of(data, 0);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_bit_list(text);
    }
}
