//! Our programs beside those that people run today: each of ours in their place.

mod binary_name;
mod containerd;
mod dockerd;
mod foreign_shim;
mod podman;
mod runc;
