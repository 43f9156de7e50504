//! The processes of a start, and how they talk.
//!
//! ```text
//! runtime                                init
//!   │ v2 cgroup made, sources opened       ·
//!   │── clone3: v2 cgroup, PIDs, users ───▶│ joins namespaces
//!   │   id maps, idmapped mounts, devices  │
//!   │── Proceed ──────────────────────────▶│ (only if one of these was needed)
//!   │   v1 cgroups made, limited           │ makes the other namespaces
//!   │── Enter: their `tasks` ─────────────▶│ (only if there are) enters them
//!   │   config.json, state                 │ mounts, devices, terminal
//!   │◀─ Mounted ───────────────────────────│ (only if there are hooks)
//!   │   prestart, createRuntime hooks      │
//!   │── HooksDone ────────────────────────▶│ createContainer hooks, masks, pivot
//!   │◀─ Ready ─────────────────────────────│
//!   │── Limited ──────────────────────────▶│ (only if rlimits are raised)
//!   │   state.json gets its name           │ privileges, filter
//!   │── Keep ─────────────────────────────▶│ (without it, init ends with the runtime)
//!                                          │ waits on start.sock (run: on the channel)
//! runtime (start)                          │
//!   │── connects, Execute ────────────────▶│ startContainer hooks, execve
//!   │◀─ end of stream: it runs ────────────│
//! ```
//!
//! One process is enough, since what clone3(2) makes is the first one in its namespaces of PIDs and
//! of users, and makes the others itself, while the runtime makes the cgroups. Only where a *user*
//! namespace is joined there is one more: the kernel gives the privilege to make the others after the
//! joining, and a PID namespace holds only later children. It sends `InitPid` and ends; init is its
//! sibling.
//!
//! A filter that does not let the waiting pass is loaded after it, and so are privileges given up. One that
//! asks a supervisor is loaded before `Ready`, since that wants to hear of a container that is created.
//!
//! Invariants: every message says all there is to say in eight bytes ([`message`]); a step that
//! fails is named by number ([`failure`]), and the parent finds the words. A process whose other
//! end is gone ends. Nothing of the container runs before `Ready` was sent and `Execute` came.

pub mod error;
pub mod exec;
pub mod failure;
pub mod gate;
pub mod idmap;
mod init;
pub mod joining;
pub mod launch;
pub mod message;
