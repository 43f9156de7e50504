//! Snapshots as the database has them; the directories are the snapshotters'.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::{column, labels, time, to_json, to_nanos};
use super::{IdRange, MetadataError, ReadTx, WriteTx};
use crate::{Labels, Namespace, SnapshotInfo, SnapshotKind, Usage};

const WHAT: &str = "snapshot";

/// A snapshot and the number of its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotRow {
    pub(crate) number: u64,
    pub(crate) namespace: String,
    pub(crate) snapshotter: String,
    pub(crate) info: SnapshotInfo,
}

/// A snapshot to be entered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewSnapshot<'a> {
    pub(crate) snapshotter: &'a str,
    pub(crate) key: &'a str,
    pub(crate) parent: Option<&'a str>,
    pub(crate) kind: SnapshotKind,
    pub(crate) labels: &'a Labels,
    pub(crate) id_range: Option<IdRange>,
}

impl ReadTx<'_> {
    pub(crate) fn find_snapshot(
        &self,
        ns: &Namespace,
        snapshotter: &str,
        key: &str,
    ) -> Result<Option<SnapshotRow>, MetadataError> {
        self.row(
            "SELECT * FROM snapshots WHERE snapshotter = ?1 AND namespace = ?2 AND key = ?3",
            [snapshotter, ns.as_str(), key],
            snapshot,
        )
    }

    pub(crate) fn snapshots(
        &self,
        ns: &Namespace,
        snapshotter: &str,
    ) -> Result<Vec<SnapshotRow>, MetadataError> {
        self.rows(
            "SELECT * FROM snapshots WHERE snapshotter = ?1 AND namespace = ?2 ORDER BY number",
            [snapshotter, ns.as_str()],
            snapshot,
        )
    }

    /// Returns every snapshot of every namespace and snapshotter.
    pub(crate) fn all_snapshots(&self) -> Result<Vec<SnapshotRow>, MetadataError> {
        self.rows("SELECT * FROM snapshots ORDER BY number", [], snapshot)
    }

    /// Returns the numbers that a snapshotter's directories may have.
    pub(crate) fn snapshot_numbers(&self) -> Result<Vec<u64>, MetadataError> {
        self.rows("SELECT number FROM snapshots", [], |row| column(row, "number"))
    }

    /// Returns the numbers from `parent` down to the lowest snapshot.
    pub(crate) fn snapshot_chain(
        &self,
        ns: &Namespace,
        snapshotter: &str,
        parent: &str,
    ) -> Result<Vec<u64>, MetadataError> {
        self.rows(
            "WITH RECURSIVE chain (depth, number, parent) AS (
                 SELECT 0, number, parent FROM snapshots
                     WHERE snapshotter = ?1 AND namespace = ?2 AND key = ?3
                 UNION ALL
                 SELECT depth + 1, s.number, s.parent FROM chain JOIN snapshots AS s
                     ON s.snapshotter = ?1 AND s.namespace = ?2 AND s.key = chain.parent
             )
             SELECT number FROM chain ORDER BY depth",
            [snapshotter, ns.as_str(), parent],
            |row| column(row, "number"),
        )
    }
}

impl WriteTx<'_> {
    /// Enters a snapshot and returns the number of its directory, never given before.
    pub(crate) fn insert_snapshot(
        &self,
        ns: &Namespace,
        new: &NewSnapshot<'_>,
    ) -> Result<u64, MetadataError> {
        self.change(
            "INSERT INTO snapshots (snapshotter, namespace, key, parent, kind, labels, created_at,
                                    updated_at, id_base, id_count)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9)",
            params![
                new.snapshotter,
                ns.as_str(),
                new.key,
                new.parent,
                new.kind.as_str(),
                to_json(new.labels),
                to_nanos(self.now()),
                new.id_range.map(|range| range.base),
                new.id_range.map(|range| range.count)
            ],
        )
        .map_err(|source| MetadataError::insert(WHAT, ns, new.key, source))?;
        Ok(u64::try_from(self.sql.last_insert_rowid()).unwrap_or_default())
    }

    /// Makes an active snapshot a committed one under another key, on top of `parent`.
    pub(crate) fn commit_snapshot(
        &self,
        ns: &Namespace,
        number: u64,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
        usage: Usage,
    ) -> Result<(), MetadataError> {
        self.change(
            "UPDATE snapshots
             SET key = ?2, parent = ?3, kind = 'committed', labels = ?4, updated_at = ?5, size = ?6,
                 inodes = ?7, id_base = NULL, id_count = NULL
             WHERE number = ?1",
            params![
                number,
                key,
                parent,
                to_json(labels),
                to_nanos(self.now()),
                usage.size_bytes,
                usage.inodes
            ],
        )
        .map_err(|source| MetadataError::insert(WHAT, ns, key, source))?;
        Ok(())
    }

    /// Takes a snapshot out of the database.
    pub(crate) fn delete_snapshot(
        &self,
        ns: &Namespace,
        snapshotter: &str,
        key: &str,
    ) -> Result<(), MetadataError> {
        let child = self.row(
            "SELECT key FROM snapshots WHERE snapshotter = ?1 AND namespace = ?2 AND parent = ?3
             LIMIT 1",
            [snapshotter, ns.as_str(), key],
            |row| column::<String>(row, "key"),
        )?;
        if child.is_some() {
            return Err(MetadataError::StillNeeded {
                what: WHAT,
                key: key.to_owned(),
                needed_by: "a snapshot on top of it",
            });
        }
        let deleted = self
            .change(
                "DELETE FROM snapshots WHERE snapshotter = ?1 AND namespace = ?2 AND key = ?3",
                [snapshotter, ns.as_str(), key],
            )
            .map_err(MetadataError::sql("delete a snapshot"))?;
        if deleted == 0 {
            return Err(MetadataError::not_found(WHAT, ns, key));
        }
        Ok(())
    }

    /// Deletes a snapshot by its number, whatever is on top of it: the caller deletes that too.
    pub(crate) fn delete_snapshot_number(&self, number: u64) -> Result<(), MetadataError> {
        self.change("DELETE FROM snapshots WHERE number = ?1", params![number])
            .map_err(MetadataError::sql("delete a snapshot"))?;
        Ok(())
    }
}

fn snapshot(row: &Row<'_>) -> Result<SnapshotRow, MetadataError> {
    let key: String = column(row, "key")?;
    let kind: String = column(row, "kind")?;
    let kind = SnapshotKind::from_str(&kind).ok_or_else(|| MetadataError::Damaged {
        what: WHAT,
        key: key.clone(),
        column: "kind",
    })?;
    let (base, count): (Option<u32>, Option<u32>) =
        (column(row, "id_base")?, column(row, "id_count")?);
    let (size, inodes): (Option<u64>, Option<u64>) = (column(row, "size")?, column(row, "inodes")?);
    let created_at: Timestamp = time(row, "created_at")?;
    Ok(SnapshotRow {
        number: column(row, "number")?,
        namespace: column(row, "namespace")?,
        snapshotter: column(row, "snapshotter")?,
        info: SnapshotInfo {
            labels: labels(row, WHAT, &key)?,
            parent: column(row, "parent")?,
            kind,
            created_at,
            updated_at: time(row, "updated_at")?,
            id_range: base.zip(count).map(|(base, count)| IdRange { base, count }),
            usage: size.zip(inodes).map(|(size_bytes, inodes)| Usage { size_bytes, inodes }),
            key,
        },
    })
}
