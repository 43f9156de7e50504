//! containerd-shim-keg-v2 by itself, over ttrpc, as a daemon uses it.

mod attach;
mod bootstrap;
mod checkpoint;
mod daemon_killed;
mod disk_full;
mod exec;
mod faults;
mod followers;
mod kills;
mod limits;
mod log;
mod rootfs;
mod stdio;
mod task;
