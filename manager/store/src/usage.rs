//! Usage: what takes how much below the root.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::metadata::{BlobInfo, SnapshotRow};
use crate::snapshot::SnapshotKind;
use crate::{ContentError, Digest, MetadataError, Store, gc};

/// What the store's parts take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreUsage {
    /// Layers that something needs, unpacked, each once.
    pub layers_bytes: u64,
    /// Blobs that something needs, each once.
    pub blobs_bytes: u64,
    /// Transfers that are under way or broke off.
    pub transfers_bytes: u64,
    /// Blobs and layers that nothing needs, and what is just being removed.
    pub garbage_bytes: u64,
    /// The database with its journal, and the small files beside it.
    pub other_bytes: u64,
}

impl Store {
    /// Adds up what the store takes. Containers' writable layers and directories are not among it.
    ///
    /// # Errors
    /// If the database or the disk fails.
    pub fn usage(&self) -> Result<StoreUsage, ContentError> {
        let (blobs, snapshots, needed) = self.read(|tx| {
            let (blobs, snapshots) = (tx.all_blobs()?, tx.all_snapshots()?);
            let needed = gc::needed(tx, &blobs, &snapshots)?;
            Ok::<_, MetadataError>((blobs, snapshots, needed))
        })?;
        let mut usage = StoreUsage::default();
        let is_layer = |row: &&SnapshotRow| row.info.kind == SnapshotKind::Committed;
        for row in snapshots.iter().filter(is_layer) {
            let bytes = row.info.usage.map_or(0, |usage| usage.size_bytes);
            match needed.has_snapshot(row) {
                true => usage.layers_bytes += bytes,
                false => usage.garbage_bytes += bytes,
            }
        }
        let mut by_digest: HashMap<&Digest, (u64, bool)> = HashMap::new();
        for (namespace, blob) in &blobs {
            let BlobInfo { digest, size_bytes, .. } = blob;
            let entry = by_digest.entry(digest).or_insert((*size_bytes, false));
            entry.1 |= needed.has_blob(namespace, blob);
        }
        for (bytes, is_needed) in by_digest.into_values() {
            match is_needed {
                true => usage.blobs_bytes += bytes,
                false => usage.garbage_bytes += bytes,
            }
        }
        usage.transfers_bytes =
            self.content().ingests()?.iter().map(|ingest| ingest.offset_bytes).sum();
        let trash = self.trash().bytes();
        usage.garbage_bytes +=
            trash.map_err(ContentError::io("measure the trash below", self.root()))?;
        usage.other_bytes = ["keg.db", "keg.db-wal", "keg.db-shm", "id", "lock"]
            .iter()
            .filter_map(|name| std::fs::metadata(self.root().join(name)).ok())
            .map(|metadata| metadata.len())
            .sum();
        Ok(usage)
    }
}

/// Measures a directory: the contents of its files, hard links once, holes not.
///
/// # Errors
/// If it cannot be read.
pub fn directory_bytes(path: &Path) -> io::Result<u64> {
    crate::measure(path).map(|usage| usage.size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Labels, Lease, Namespace, Resource};

    #[test]
    fn what_is_needed_is_told_from_what_is_not() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let ns = Namespace::default();
        let kept = store.content().write_blob(&ns, b"kept", &Labels::new(), None).unwrap();
        store.content().write_blob(&ns, b"not kept", &Labels::new(), None).unwrap();
        store
            .transaction(|tx| {
                tx.create_lease(&ns, &Lease::new("l", None))?;
                tx.add_to_lease(&ns, "l", &Resource::Blob(kept))
            })
            .unwrap();
        let mut ingest = store.content().ingest(&ns, "in", crate::Algorithm::Sha256).unwrap();
        ingest.write(b"begun").unwrap();

        let usage = store.usage().unwrap();

        assert_eq!((usage.blobs_bytes, usage.garbage_bytes, usage.transfers_bytes), (4, 8, 5));
        assert!(usage.other_bytes > 0);
    }
}
