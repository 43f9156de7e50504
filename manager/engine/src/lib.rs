//! Containers: record, OCI specification, lifecycle, logs, events, recovery.

pub mod events;
pub mod id;
pub mod layered_root;
pub mod lifecycle;
pub mod log;
pub mod model;
mod names;
pub mod process_plan;
pub mod shim;
pub mod signal;
pub mod spec;
pub mod users;
