//! containerd-shim-keg-v2 by itself, over ttrpc, as a daemon uses it.

mod bootstrap;
mod exec;
mod faults;
mod log;
mod task;
