//! What a process of a container may do, beyond what its namespaces and cgroup decide.
//!
//! Each wall is built in two steps. The parent prepares: it reads the bundle, may allocate, and fails
//! with errors that say what to change. The process itself applies what was prepared, in this order,
//! since each step takes away what an earlier one needs:
//!
//! ```text
//! rlimits ─▶ bounding set ─▶ keep capabilities ─▶ setgroups setgid setuid ─▶ capabilities
//!   ─▶ no_new_privs ─▶ seccomp (earlier where there is no no_new_privs) ─▶ execve
//! ```

pub mod capabilities;
pub mod lsm;
pub mod rlimits;
pub mod seccomp;
