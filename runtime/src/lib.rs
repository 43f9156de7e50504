//! keg-runtime: a low-level OCI runtime. A bundle goes in, a container comes out.
//!
//! ```text
//! config.json ─▶ plan ─▶ stage (parent) ── clone3 ──▶ stage (init) ─▶ rootfs ─▶ process ─▶ execve
//!                           │ cgroup, id maps, hooks      ▲ typed messages over one socket
//!                           └──▶ state_store               └──────────────────────────────
//! ```
//!
//! `examples/start_container.rs` runs a bundle by the library alone. A program that does so is itself
//! what a container could overwrite: [`self_protect`] restarts it from where it cannot be written.
//!
//! The runtime is one single-threaded program that runs and exits. A specification is validated
//! once, into a [`plan::ContainerPlan`]; what comes after it has no optional field to reinterpret.
//! Invariants: no thread is ever started; every descriptor is close-on-exec; no path of a bundle
//! is used as a string where the container could have changed what it names.

pub mod cgroup;
pub mod commands;
pub mod console;
pub mod criu;
pub mod hooks;
pub mod intel_rdt;
pub mod lifecycle;
pub mod log;
mod mount_table;
pub mod namespaces;
pub mod net_devices;
pub mod plan;
pub mod process;
pub mod procfs;
pub mod rootfs;
pub mod security;
pub mod self_protect;
pub mod stage;
pub mod state_store;
#[allow(unsafe_code, reason = "kernel calls that no safe library offers; argued one by one")]
pub mod sys;
pub mod user;
