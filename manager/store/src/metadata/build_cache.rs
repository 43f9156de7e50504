//! Results of build steps, each under the digest of all that it was made of.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::{column, time, to_nanos};
use super::{MetadataError, ReadTx, WriteTx};
use crate::{Digest, Namespace};

const WHAT: &str = "build result";

/// A result of a build step. It keeps its snapshot and its blob from the collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildResult {
    /// Digest of what it was made of.
    pub key: String,
    /// Digest that stands for the files after the step; equal for different keys that lead to the
    /// same files.
    pub result: String,
    /// Name of the snapshot's snapshotter.
    pub snapshotter: String,
    /// Snapshot with the files that the step changed; `None` if it changed none.
    pub snapshot: Option<String>,
    /// The snapshot as the blob of a layer, once an image needed it.
    pub blob: Option<Digest>,
    /// What else the builder wants to know again, as JSON.
    pub details: String,
    /// The step, for people.
    pub description: String,
    /// Bytes of the snapshot.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a build last used it.
    pub used_at: Timestamp,
    /// How many builds used it.
    pub uses: u64,
}

impl ReadTx<'_> {
    /// Returns the result under a key, if there is one.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn find_build_result(
        &self,
        ns: &Namespace,
        key: &str,
    ) -> Result<Option<BuildResult>, MetadataError> {
        self.row(
            "SELECT * FROM build_cache WHERE namespace = ?1 AND key = ?2",
            [ns.as_str(), key],
            result,
        )
    }

    /// Returns all results, those unused for the longest time first.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn build_results(&self, ns: &Namespace) -> Result<Vec<BuildResult>, MetadataError> {
        self.rows(
            "SELECT * FROM build_cache WHERE namespace = ?1 ORDER BY used_at, key",
            [ns.as_str()],
            result,
        )
    }

    /// Returns what results need: namespace, snapshotter and key of snapshots.
    pub(crate) fn build_snapshots(&self) -> Result<Vec<(String, String, String)>, MetadataError> {
        self.rows(
            "SELECT DISTINCT namespace, snapshotter, snapshot FROM build_cache
             WHERE snapshot IS NOT NULL",
            [],
            |row| {
                Ok((
                    column(row, "namespace")?,
                    column(row, "snapshotter")?,
                    column(row, "snapshot")?,
                ))
            },
        )
    }

    /// Returns what results need: namespace and digest of blobs.
    pub(crate) fn build_blobs(&self) -> Result<Vec<(String, String)>, MetadataError> {
        self.rows(
            "SELECT DISTINCT namespace, blob FROM build_cache WHERE blob IS NOT NULL",
            [],
            |row| Ok((column(row, "namespace")?, column(row, "blob")?)),
        )
    }
}

impl WriteTx<'_> {
    /// Enters a result, or replaces the one under the same key.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn put_build_result(
        &self,
        ns: &Namespace,
        result: &BuildResult,
    ) -> Result<(), MetadataError> {
        self.change(
            "INSERT OR REPLACE INTO build_cache (namespace, key, result, snapshotter, snapshot, blob,
                 details, description, size, created_at, used_at, uses)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                ns.as_str(),
                result.key,
                result.result,
                result.snapshotter,
                result.snapshot,
                result.blob.as_ref().map(Digest::as_str),
                result.details,
                result.description,
                result.size_bytes,
                to_nanos(result.created_at),
                to_nanos(result.used_at),
                result.uses,
            ],
        )
        .map_err(MetadataError::sql("enter a build result"))?;
        Ok(())
    }

    /// Notes that a build used a result now.
    ///
    /// # Errors
    /// Only if the database fails; a result that is gone is no error.
    pub fn touch_build_result(&self, ns: &Namespace, key: &str) -> Result<(), MetadataError> {
        self.change(
            "UPDATE build_cache SET used_at = ?3, uses = uses + 1 WHERE namespace = ?1 AND key = ?2",
            params![ns.as_str(), key, to_nanos(self.now())],
        )
        .map_err(MetadataError::sql("touch a build result"))?;
        Ok(())
    }

    /// Notes the blob that a snapshot became, for all results that are this snapshot.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn set_build_blob(
        &self,
        ns: &Namespace,
        snapshot: &str,
        blob: &Digest,
        details: &str,
    ) -> Result<(), MetadataError> {
        self.change(
            "UPDATE build_cache SET blob = ?3, details = ?4 WHERE namespace = ?1 AND snapshot = ?2",
            params![ns.as_str(), snapshot, blob.as_str(), details],
        )
        .map_err(MetadataError::sql("note the blob of a build result"))?;
        Ok(())
    }

    /// Forgets a result; what it kept goes with the next collection, if nothing else needs it.
    ///
    /// # Errors
    /// Only if the database fails; a result that is gone is no error.
    pub fn delete_build_result(&self, ns: &Namespace, key: &str) -> Result<(), MetadataError> {
        self.change(
            "DELETE FROM build_cache WHERE namespace = ?1 AND key = ?2",
            params![ns.as_str(), key],
        )
        .map_err(MetadataError::sql("delete a build result"))?;
        Ok(())
    }

    /// Gives a committed snapshot another key, wherever it is named: by those on top of it, by
    /// leases, and by build results.
    pub(crate) fn rename_snapshot(
        &self,
        ns: &Namespace,
        snapshotter: &str,
        from: &str,
        to: &str,
    ) -> Result<(), MetadataError> {
        let fail = || MetadataError::sql("rename a snapshot");
        // Children name their parent by its key: for a moment one of the two is wrong.
        self.sql.execute_batch("PRAGMA defer_foreign_keys = ON").map_err(fail())?;
        let changes = [
            "UPDATE snapshots SET key = ?4 WHERE namespace = ?1 AND snapshotter = ?2 AND key = ?3",
            "UPDATE snapshots SET parent = ?4
             WHERE namespace = ?1 AND snapshotter = ?2 AND parent = ?3",
            "UPDATE build_cache SET snapshot = ?4
             WHERE namespace = ?1 AND snapshotter = ?2 AND snapshot = ?3",
            "UPDATE OR IGNORE lease_resources SET resource = ?4
             WHERE namespace = ?1 AND kind = 'snapshots/' || ?2 AND resource = ?3",
        ];
        for change in changes {
            self.change(change, params![ns.as_str(), snapshotter, from, to]).map_err(fail())?;
        }
        Ok(())
    }
}

fn result(row: &Row<'_>) -> Result<BuildResult, MetadataError> {
    let key: String = column(row, "key")?;
    let blob: Option<String> = column(row, "blob")?;
    let blob = blob.map(|blob| blob.parse()).transpose().map_err(|_| MetadataError::Damaged {
        what: WHAT,
        key: key.clone(),
        column: "blob",
    })?;
    Ok(BuildResult {
        result: column(row, "result")?,
        snapshotter: column(row, "snapshotter")?,
        snapshot: column(row, "snapshot")?,
        blob,
        details: column(row, "details")?,
        description: column(row, "description")?,
        size_bytes: column(row, "size")?,
        created_at: time(row, "created_at")?,
        used_at: time(row, "used_at")?,
        uses: column(row, "uses")?,
        key,
    })
}
