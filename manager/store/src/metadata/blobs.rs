//! Blobs: which digests a namespace knows, and their labels. The bytes are in
//! [`ContentStore`](crate::ContentStore), shared by all namespaces.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::{column, labels, time, to_json, to_nanos};
use super::{MetadataError, ReadTx, WriteTx};
use crate::{Digest, Labels, Namespace};

const WHAT: &str = "blob";

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Its labels.
    pub labels: Labels,
    /// When it was entered.
    pub created_at: Timestamp,
}

impl ReadTx<'_> {
    /// Returns a blob that the namespace knows, if it does.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn find_blob(
        &self,
        ns: &Namespace,
        digest: &Digest,
    ) -> Result<Option<BlobInfo>, MetadataError> {
        self.row(
            "SELECT * FROM blobs WHERE namespace = ?1 AND digest = ?2",
            params![ns.as_str(), digest.as_str()],
            blob,
        )
    }

    /// Returns the blobs that the namespace knows, by digest.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn blobs(&self, ns: &Namespace) -> Result<Vec<BlobInfo>, MetadataError> {
        self.rows("SELECT * FROM blobs WHERE namespace = ?1 ORDER BY digest", [ns.as_str()], blob)
    }

    /// Tells whether any namespace knows the blob.
    pub(crate) fn is_blob_known(&self, digest: &Digest) -> Result<bool, MetadataError> {
        let found =
            self.row("SELECT 1 FROM blobs WHERE digest = ?1 LIMIT 1", [digest.as_str()], |_| {
                Ok(())
            })?;
        Ok(found.is_some())
    }

    /// Returns the size of a blob that any namespace knows.
    pub(crate) fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, MetadataError> {
        self.row("SELECT size FROM blobs WHERE digest = ?1 LIMIT 1", [digest.as_str()], |row| {
            column(row, "size")
        })
    }

    /// Returns every blob with its namespace.
    pub(crate) fn all_blobs(&self) -> Result<Vec<(String, BlobInfo)>, MetadataError> {
        self.rows("SELECT * FROM blobs", [], |row| Ok((column(row, "namespace")?, blob(row)?)))
    }
}

impl WriteTx<'_> {
    /// Enters a blob whose bytes are in place, or adds labels to the entry that exists.
    pub(crate) fn enter_blob(
        &self,
        ns: &Namespace,
        digest: &Digest,
        size_bytes: u64,
        labels: &Labels,
    ) -> Result<(), MetadataError> {
        self.change(
            "INSERT INTO blobs (namespace, digest, size, labels, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET labels = json_patch(labels, excluded.labels)",
            params![
                ns.as_str(),
                digest.as_str(),
                size_bytes,
                to_json(labels),
                to_nanos(self.now())
            ],
        )
        .map_err(MetadataError::sql("enter a blob"))?;
        Ok(())
    }

    /// Adds labels to a blob, and changes those that it has; an empty value takes a label away.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if the namespace does not know the blob.
    pub fn label_blob(
        &self,
        ns: &Namespace,
        digest: &Digest,
        labels: &Labels,
    ) -> Result<(), MetadataError> {
        let mut info = self
            .find_blob(ns, digest)?
            .ok_or_else(|| MetadataError::not_found(WHAT, ns, digest.as_str()))?;
        for (name, value) in labels {
            if value.is_empty() {
                info.labels.remove(name);
            } else {
                info.labels.insert(name.clone(), value.clone());
            }
        }
        self.change(
            "UPDATE blobs SET labels = ?3 WHERE namespace = ?1 AND digest = ?2",
            params![ns.as_str(), digest.as_str(), to_json(&info.labels)],
        )
        .map_err(MetadataError::sql("label a blob"))?;
        Ok(())
    }

    /// Takes a blob out of the namespace; the bytes go with the next collection, if no other
    /// namespace knows them.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if the namespace does not know the blob.
    pub fn delete_blob(&self, ns: &Namespace, digest: &Digest) -> Result<(), MetadataError> {
        let deleted = self
            .change(
                "DELETE FROM blobs WHERE namespace = ?1 AND digest = ?2",
                params![ns.as_str(), digest.as_str()],
            )
            .map_err(MetadataError::sql("delete a blob"))?;
        if deleted == 0 {
            return Err(MetadataError::not_found(WHAT, ns, digest.as_str()));
        }
        Ok(())
    }
}

fn blob(row: &Row<'_>) -> Result<BlobInfo, MetadataError> {
    let key: String = column(row, "digest")?;
    let damaged = |_| MetadataError::Damaged { what: WHAT, key: key.clone(), column: "digest" };
    Ok(BlobInfo {
        digest: key.parse().map_err(damaged)?,
        size_bytes: column(row, "size")?,
        labels: labels(row, WHAT, &key)?,
        created_at: time(row, "created_at")?,
    })
}
