//! The published interfaces, as `.proto` files and what is generated from them; nothing else.
//!
//! | module | interface | between |
//! | --- | --- | --- |
//! | [`keg::v1`] | `keg.v1` | `keg` (and any gRPC client) and `kegd` |
//! | [`keg::shim::v1`] | frames of the attach socket | `kegd` and `containerd-shim-keg-v2` |
//! | `containerd` | Task API, events, runtime options | any of containerd or `kegd`, and any shim |
//!
//! Messages are always there; the feature `client` adds gRPC clients and `server` gRPC servers, so
//! that the shim, which speaks ttrpc, links neither.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    rustdoc::all,
    reason = "generated from the .proto files"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::*;

/// Every interface above as an encoded `google.protobuf.FileDescriptorSet`, for gRPC reflection.
#[cfg(feature = "server")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// `domain` of the `google.rpc.ErrorInfo` that every failed call of `keg.v1` carries.
pub const ERROR_DOMAIN: &str = "keg.v1";
