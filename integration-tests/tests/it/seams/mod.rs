//! Our programs beside those that people run today: each of ours in their place.

mod containerd;
mod dockerd;
mod runc;
