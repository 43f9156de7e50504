//! From flags to the messages of keg.v1. Nothing here talks to the daemon.

pub(crate) mod container;
pub(crate) mod environment;
pub(crate) mod filters;
pub(crate) mod life;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod platform;
pub(crate) mod policy;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod size;
pub(crate) mod transfer;
