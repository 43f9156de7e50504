//! Fixtures for the tests that need a kernel.
//!
//! Every fixture owns what it makes and takes it away in `Drop`, also when the test panics:
//!
//! ```text
//! Scratch          a private directory
//! Tree             a process and everything it forks, ended together (by keg-supervise)
//! Bundle           rootfs (probe + busybox) and config.json
//! Runtime          keg-runtime or a peer on a private --root; makes Containers
//! Shim             one containerd-shim-keg-v2, spoken to over ttrpc
//! Daemon           kegd on private directories, and `keg` against it
//! trace            a program that is killed at a chosen system call
//! Machine          a network namespace: a host, or another machine beside it
//! Terminal         a pseudo-terminal: type, expect, resize
//! Registry         Debian's docker-registry on a free port; BadRegistry misbehaves on purpose,
//!                  TokenRegistry has a token server before it
//! Buildah          Debian's buildah on private directories
//! Containerd, Dockerd   Debian's daemons on private directories, with our programs in them
//! ```
//!
//! Invariants: no fixture sleeps (they wait for conditions, with deadlines), none looks at anything
//! outside its own directories, and a `Drop` that finds something left behind fails the test.

pub mod buildah;
pub mod bundle;
pub mod daemon;
pub mod debian;
pub mod host;
pub mod image;
pub mod machine;
pub mod outcome;
pub mod peers;
pub mod programs;
pub mod registry;
pub mod report;
pub mod root_archive;
pub mod runtime;
pub mod scratch;
pub mod shim;
pub mod terminal;
pub mod token_registry;
pub mod trace;
pub mod tree;
pub mod wait;

#[allow(unsafe_code, reason = "system calls that neither nix nor rustix wraps")]
pub mod sys;

pub use buildah::Buildah;
pub use bundle::Bundle;
pub use daemon::Daemon;
pub use host::Host;
pub use image::{Image, Layer};
pub use machine::Machine;
pub use outcome::Outcome;
pub use peers::{Containerd, Dockerd, PODMAN_CONFIG, Podman};
pub use registry::{BadRegistry, Registry};
pub use report::Report;
pub use root_archive::RootArchive;
pub use runtime::{Container, Runtime, Status};
pub use scratch::Scratch;
pub use shim::Shim;
pub use terminal::Terminal;
pub use token_registry::TokenRegistry;
pub use tree::Tree;
pub use wait::{wait_for, wait_until};
