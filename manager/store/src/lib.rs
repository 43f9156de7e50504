//! Content, metadata, snapshots, leases and their collection.
