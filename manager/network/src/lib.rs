//! Networks of containers: modes, and the files in `/etc` that go with them.
//!
//! | module | what |
//! | --- | --- |
//! | [`mode`] | where a container's network namespace comes from |
//! | [`files`] | `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` for a container |
//!
//! The engine asks two things of a mode: whether the container has a network namespace of its own,
//! and which addresses its files name. A bridge or a plugin is one more variant of
//! [`mode::NetworkMode`] that answers the same two.

pub mod files;
pub mod mode;

pub use files::EtcFiles;
pub use mode::{NetworkMode, UnknownNetwork};
