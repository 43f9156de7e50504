//! Containers: record, OCI specification, lifecycle, logs, events, recovery.
//!
//! ```text
//!  request ──▶ create ──▶ Record ──▶ start ──▶ bundle, shim, task ──▶ exit ──▶ remove
//!                           │          ▲ attach            │
//!                           │          └── logs, stop, kill, wait
//!                        keg.db ◀── recovery, when the daemon starts
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`model`], [`lifecycle`], [`id`], [`signal`] | the words |
//! | [`process_plan`], [`users`], [`layered_root`], [`spec`] | what runs, as whom, behind which walls |
//! | [`shim`] | the seam to the shims |
//! | [`volumes`] | what outlives containers |
//! | [`log`], [`events`] | what containers write, and what happens to them |
//! | [`Engine`] | the operations, one module each |
//!
//! Every operation is a method of [`Engine`]; none knows of any API.

mod attach;
mod change;
mod container;
mod cpuset;
mod create;
pub mod devices;
mod engine;
mod error;
mod etc_files;
pub mod events;
mod exec;
mod exit;
pub mod files;
mod filters;
mod foreign;
pub mod health;
mod host;
pub mod id;
mod idmap;
mod joining;
pub mod labels;
pub mod layered_root;
pub mod lifecycle;
pub mod log;
mod logs;
pub mod model;
mod names;
mod networking;
mod networks;
pub mod process_plan;
mod procfs;
mod prune;
mod query;
mod recovery;
mod remove;
mod restart;
mod runtime_features;
mod runtimes;
pub mod selinux;
mod settings;
pub mod shim;
pub mod signal;
pub mod spec;
mod start;
mod stats;
mod step;
mod stop;
mod top;
mod update;
pub mod users;
pub mod volumes;

pub use attach::{AttachEnd, AttachOptions, Attachment, Resizer};
pub use create::Created;
pub use engine::Engine;
pub use error::EngineError;
pub use exec::{Exec, ExecRequest, ExecResizer};
pub use host::{CgroupVersion, Host};
pub use logs::{LogStreamReceiver, LogsRequest};
pub use networking::LiveEndpoint;
pub use networks::{NetworkFilters, NetworkView};
pub use procfs::ProcessInfo;
pub use prune::Pruned;
pub use query::{Counts, Details, ListQuery, RootDirectories, Size};
pub use recovery::Recovered;
pub use restart::RestartPolicy;
pub use runtimes::{RuntimeConfig, RuntimeError, ShimConfig, ShimOptions};
pub use settings::Settings;
pub use stats::{ContainerStats, Counted, StatsQuery, StatsStream};
pub use step::{StepExit, StepInput, StepOutput, StepPlan};
pub use stop::{Patience, WaitCondition};
pub use top::{ProcessTable, PsError};
pub use update::Update;
