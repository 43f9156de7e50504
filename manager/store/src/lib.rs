//! Content, metadata, snapshots, leases and their collection.
//!
//! The object model is containerd's: a *namespace* holds *content* (immutable blobs named by
//! digest), *images* (a name for a descriptor), *snapshots* (a key, a parent, a directory), *leases*
//! (which keep things from the collector) and *containers* (records).
//!
//! ```text
//!            Store ── transaction / read ──▶ WriteTx, ReadTx        keg.db, one commit per operation
//!              │
//!              ├── content() ──▶ ContentStore ── ingest ──▶ Ingest  content/, hash, sync, rename, enter
//!              │
//!              ├── OverlaySnapshotter │ CopySnapshotter             snapshots/N/{fs,work}
//!              │
//!              └── trash() ──▶ Trash                                trash/, removed in the background
//!
//!              collect(store, snapshotters)                         mark from roots, sweep, scan for debris
//! ```
//!
//! # Invariants
//! - The database names only what is whole on disk: bytes and directories come first, synced, and the
//!   row that names them last; on removal the row goes first. A crash leaves debris, never a dangling
//!   name, and [`collect`] finds the debris.
//! - Files under `content/blobs` and directories under `snapshots/` appear and vanish only while
//!   the database's write lock is held, so a collection never meets one in between.
//! - One process uses a root at a time ([`OpenError::InUse`]).

mod ahead;
mod check;
mod content;
mod descriptor;
mod digest;
mod explain;
mod gc;
mod lock;
mod metadata;
mod namespace;
mod snapshot;
mod store;
mod trash;
mod usage;

pub use ahead::Ahead;
pub use check::{CheckError, Checked, Finding, check, repair};
pub use content::{BlobReader, ContentError, ContentStore, Ingest, IngestStatus, Sealed};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use explain::{ErrorClass, Explain, Reason, io_reason};
pub use gc::{CollectError, Collected, collect};
pub use metadata::{
    BlobInfo, BuildResult, Container, Durability, IdRange, IdRangePool, Image, Lease,
    MetadataError, ReadTx, Resource, Runtime, Volume, WriteTx,
};
pub use namespace::{Namespace, NamespaceError};
pub use snapshot::{
    CommitOptions, CopySnapshotter, Mount, OverlaySnapshotter, PrepareOptions, SnapshotError,
    SnapshotInfo, SnapshotKind, Snapshotter, Usage, copy_directory, detect_snapshotter, measure,
};
pub use store::{OpenError, Store};
pub use trash::Trash;
pub use usage::{StoreUsage, directory_bytes};

/// Labels of an object: small texts for programs, in the order of their names.
pub type Labels = std::collections::BTreeMap<String, String>;

/// Labels that the collector understands; the names are containerd's.
pub mod labels {
    /// On a blob or snapshot: a root of the collection, whatever the value.
    pub const GC_ROOT: &str = "containerd.io/gc.root";
    /// On a blob or snapshot, alone or with a suffix after `.` or `/`: the value is the digest of
    /// a blob that this one needs.
    pub const GC_REF_CONTENT: &str = "containerd.io/gc.ref.content";
    /// On a blob or snapshot, followed by `.SNAPSHOTTER`: the value is the key of a snapshot that
    /// this one needs.
    pub const GC_REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot";
    /// On a layer blob: digest of its uncompressed content.
    pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
}
