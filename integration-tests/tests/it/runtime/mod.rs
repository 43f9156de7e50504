//! keg-runtime by its command line, on bundles; asked of the probe inside.

mod bad_input;
mod checkpoint;
mod escapes;
mod exec;
mod hooks;
mod hostile;
mod killed;
mod lifecycle;
mod limits;
mod manage;
mod mounts;
mod namespaces;
mod paths;
mod process;
mod rootless;
mod seccomp;
mod seccomp_agent;
mod sysctl;
mod terminal;
mod userns;
