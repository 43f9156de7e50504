//! Supervises one container: standard streams, log, exit status, execs, terminal size.
//!
//! ```text
//! kegd or containerd ──ttrpc──▶ task_service ─▶ supervisor ─▶ runtime_cli ──exec──▶ keg-runtime, runc, crun
//!                    ◀─events─                      │   ▲
//! attached clients ◀──.io──▶ stdio/hub ◀─ pumps ─ process  reaper ◀─ SIGCHLD
//!                                │
//!                               log
//! ```
//!
//! One process per container, one thread per process, no wake-up while nothing happens. The shim
//! outlives the daemon: it owns whatever must not be lost when the daemon is killed.
//!
//! Invariants:
//! - An exit is recorded durably before anyone is told of it, and told of after all output that
//!   the process wrote was read.
//! - No client, attached or calling, can stall the container, except where the output's only
//!   destination is a FIFO that nobody empties, as containerd's users expect.
//! - Events leave in the order in which things happened.
//! - Everything that `Create` made is undone when it fails, and by `delete` after a `kill -9`.

pub mod bootstrap;
mod bundle;
pub mod cgroup;
pub mod cleanup;
mod clock;
mod events;
mod exit_record;
mod id_map;
mod later;
mod log;
mod oom;
mod process;
mod reaper;
pub mod relay;
mod rootfs;
mod runtime_cli;
mod self_log;
pub mod server;
mod stats;
mod stdio;
mod supervisor;
#[allow(unsafe_code, reason = "kernel calls that no library wraps safely")]
mod sys;
mod task_service;
