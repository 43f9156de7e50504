//! A container's state in the forms that the specification gives it.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::security::seccomp::Program;

/// The fixed part of a container's state (runtime-spec, runtime.md, "State").
#[derive(Debug, Clone, Copy)]
pub struct OciState<'a> {
    /// `ociVersion`.
    pub oci_version: &'a str,
    /// `id`.
    pub id: &'a str,
    /// `bundle`.
    pub bundle: &'a Path,
    /// `annotations`.
    pub annotations: &'a HashMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateJson<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessStateJson<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: StateJson<'a>,
}

impl<'a> OciState<'a> {
    fn with(&self, status: &'a str, pid: Option<i32>) -> StateJson<'a> {
        StateJson {
            oci_version: self.oci_version,
            id: self.id,
            status,
            pid,
            bundle: self.bundle,
            annotations: self.annotations,
        }
    }

    /// Returns the state as hooks get it.
    #[must_use]
    pub fn to_json(&self, status: &'a str, pid: Option<i32>) -> Vec<u8> {
        serde_json::to_vec(&self.with(status, pid)).unwrap_or_default()
    }

    /// Returns what a supervisor of system calls is told (runtime-spec, config-linux.md, "The
    /// Container Process State").
    #[must_use]
    pub fn process_state(&self, pid: i32, program: Option<&Program>) -> Vec<u8> {
        let metadata = program.and_then(Program::listener).and_then(|l| l.metadata.as_deref());
        let state = ProcessStateJson {
            oci_version: self.oci_version,
            fds: ["seccompFd"],
            pid,
            metadata,
            state: self.with("creating", Some(pid)),
        };
        serde_json::to_vec(&state).unwrap_or_default()
    }
}
