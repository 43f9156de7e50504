//! The database: who is named what, and who needs whom.
//!
//! One SQLite file in WAL mode with `synchronous=FULL`: a committed transaction survives a power
//! cut, except where [`Durability::Crash`] is asked for. One connection writes, guarded by a mutex; readers take connections from a small pool and
//! never wait for the writer.
//!
//! [`ReadTx`] has the queries, [`WriteTx`] adds the changes; one file per kind of object adds its
//! methods to both.

mod blobs;
mod build_cache;
mod containers;
mod database;
mod error;
mod id_ranges;
mod images;
mod leases;
mod schema;
mod snapshots;
mod volumes;

pub use blobs::BlobInfo;
pub use build_cache::BuildResult;
pub use containers::{Container, Runtime};
pub(crate) use database::Database;
pub use database::{Durability, ReadTx, WriteTx};
pub use error::MetadataError;
pub use id_ranges::{IdRange, IdRangePool};
pub use images::Image;
pub use leases::{Lease, Resource};
pub(crate) use snapshots::{NewSnapshot, SnapshotRow};
pub use volumes::Volume;
