//! Leases: what must not be collected although nothing refers to it yet.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::{column, labels, time, to_json, to_nanos};
use super::{MetadataError, ReadTx, WriteTx};
use crate::{Digest, Labels, Namespace};

const WHAT: &str = "lease";

/// A promise to keep things, for a time or until it is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: String,
    /// Labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself; `None`: never.
    pub expires_at: Option<Timestamp>,
}

impl Lease {
    /// Returns a lease to be created, without labels.
    #[must_use]
    pub fn new(id: impl Into<String>, expires_at: Option<Timestamp>) -> Self {
        Self { id: id.into(), labels: Labels::new(), created_at: Timestamp::now(), expires_at }
    }
}

/// What a lease keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A blob, and what its labels refer to.
    Blob(Digest),
    /// A snapshot and those below it.
    Snapshot {
        /// Name of its snapshotter.
        snapshotter: String,
        /// Its key.
        key: String,
    },
    /// A blob that is being received, by its reference.
    Ingest(String),
}

impl Resource {
    /// Returns kind and text as they are stored; kinds are containerd's resource types.
    fn to_columns(&self) -> (String, &str) {
        match self {
            Self::Blob(digest) => ("content".to_owned(), digest.as_str()),
            Self::Snapshot { snapshotter, key } => (format!("snapshots/{snapshotter}"), key),
            Self::Ingest(reference) => ("ingests".to_owned(), reference),
        }
    }

    fn from_columns(kind: &str, text: String) -> Option<Self> {
        match kind {
            "content" => text.parse().ok().map(Self::Blob),
            "ingests" => Some(Self::Ingest(text)),
            _ => kind.strip_prefix("snapshots/").map(|snapshotter| Self::Snapshot {
                snapshotter: snapshotter.to_owned(),
                key: text,
            }),
        }
    }
}

impl ReadTx<'_> {
    /// Returns the leases of the namespace, by id.
    ///
    /// # Errors
    /// Only if the database fails.
    pub fn leases(&self, ns: &Namespace) -> Result<Vec<Lease>, MetadataError> {
        self.rows("SELECT * FROM leases WHERE namespace = ?1 ORDER BY id", [ns.as_str()], lease)
    }

    /// Returns what a lease keeps.
    ///
    /// # Errors
    /// Only if the database fails; an unknown lease keeps nothing.
    pub fn lease_resources(
        &self,
        ns: &Namespace,
        lease: &str,
    ) -> Result<Vec<Resource>, MetadataError> {
        self.rows(
            "SELECT kind, resource, lease FROM lease_resources
             WHERE namespace = ?1 AND lease = ?2 ORDER BY kind, resource",
            [ns.as_str(), lease],
            resource,
        )
    }

    /// Returns what all leases keep that have not ended, with their namespaces.
    pub(crate) fn leased_resources(
        &self,
        now: Timestamp,
    ) -> Result<Vec<(String, Resource)>, MetadataError> {
        self.rows(
            "SELECT * FROM lease_resources JOIN leases
                 ON leases.namespace = lease_resources.namespace AND leases.id = lease_resources.lease
             WHERE leases.expires_at IS NULL OR leases.expires_at > ?1",
            [to_nanos(now)],
            |row| Ok((column(row, "namespace")?, resource(row)?)),
        )
    }
}

impl WriteTx<'_> {
    /// Makes a lease that keeps nothing yet.
    ///
    /// # Errors
    /// [`MetadataError::Exists`] if the id is taken.
    pub fn create_lease(&self, ns: &Namespace, lease: &Lease) -> Result<(), MetadataError> {
        self.change(
            "INSERT INTO leases (namespace, id, labels, created_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                ns.as_str(),
                lease.id,
                to_json(&lease.labels),
                to_nanos(lease.created_at),
                lease.expires_at.map(to_nanos)
            ],
        )
        .map_err(|source| MetadataError::insert(WHAT, ns, &lease.id, source))?;
        Ok(())
    }

    /// Lets a lease keep one thing more; what it keeps already is no error.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is no such lease.
    pub fn add_to_lease(
        &self,
        ns: &Namespace,
        lease: &str,
        resource: &Resource,
    ) -> Result<(), MetadataError> {
        let (kind, text) = resource.to_columns();
        let added = self
            .change(
                "INSERT OR REPLACE INTO lease_resources (namespace, lease, kind, resource)
                 SELECT namespace, id, ?3, ?4 FROM leases WHERE namespace = ?1 AND id = ?2",
                params![ns.as_str(), lease, kind, text],
            )
            .map_err(MetadataError::sql("add to a lease"))?;
        if added == 0 {
            return Err(MetadataError::not_found(WHAT, ns, lease));
        }
        Ok(())
    }

    /// Changes when a lease ends.
    ///
    /// # Errors
    /// [`MetadataError::NotFound`] if there is no such lease.
    pub fn set_lease_end(
        &self,
        ns: &Namespace,
        lease: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<(), MetadataError> {
        let changed = self
            .change(
                "UPDATE leases SET expires_at = ?3 WHERE namespace = ?1 AND id = ?2",
                params![ns.as_str(), lease, expires_at.map(to_nanos)],
            )
            .map_err(MetadataError::sql("update a lease"))?;
        if changed == 0 {
            return Err(MetadataError::not_found(WHAT, ns, lease));
        }
        Ok(())
    }

    /// Ends a lease; what it kept goes with the next collection, if nothing else needs it.
    ///
    /// # Errors
    /// Only if the database fails: a lease that does not exist has ended.
    pub fn delete_lease(&self, ns: &Namespace, lease: &str) -> Result<(), MetadataError> {
        self.change("DELETE FROM leases WHERE namespace = ?1 AND id = ?2", [ns.as_str(), lease])
            .map_err(MetadataError::sql("delete a lease"))?;
        Ok(())
    }

    /// Deletes the leases that have ended.
    pub(crate) fn delete_ended_leases(&self) -> Result<(), MetadataError> {
        self.change("DELETE FROM leases WHERE expires_at <= ?1", [to_nanos(self.now())])
            .map_err(MetadataError::sql("delete ended leases"))?;
        Ok(())
    }
}

fn lease(row: &Row<'_>) -> Result<Lease, MetadataError> {
    let id: String = column(row, "id")?;
    let expires: Option<i64> = column(row, "expires_at")?;
    Ok(Lease {
        labels: labels(row, WHAT, &id)?,
        created_at: time(row, "created_at")?,
        expires_at: expires.map(|_| time(row, "expires_at")).transpose()?,
        id,
    })
}

fn resource(row: &Row<'_>) -> Result<Resource, MetadataError> {
    let (kind, text): (String, String) = (column(row, "kind")?, column(row, "resource")?);
    let key: String = column(row, "lease")?;
    Resource::from_columns(&kind, text).ok_or(MetadataError::Damaged {
        what: WHAT,
        key,
        column: "kind",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[test]
    fn a_lease_keeps_each_thing_once_and_forgets_all_with_its_end() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let ns = Namespace::default();
        let things = [
            Resource::Blob(Digest::sha256(b"a")),
            Resource::Ingest("r".to_owned()),
            Resource::Snapshot { snapshotter: "overlayfs".to_owned(), key: "k".to_owned() },
        ];

        let kept = store
            .transaction(|tx| {
                tx.create_lease(&ns, &Lease::new("l", None))?;
                for thing in things.iter().chain(&things) {
                    tx.add_to_lease(&ns, "l", thing)?;
                }
                tx.lease_resources(&ns, "l")
            })
            .unwrap();
        let missing = store.transaction(|tx| tx.add_to_lease(&ns, "other", &things[0]));
        let left = store
            .transaction(|tx| {
                tx.delete_lease(&ns, "l")?;
                tx.leased_resources(Timestamp::now())
            })
            .unwrap();

        assert_eq!(kept, things);
        assert!(matches!(missing, Err(MetadataError::NotFound { what: "lease", .. })));
        assert_eq!(left, []);
    }

    #[test]
    fn a_lease_that_has_ended_keeps_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let ns = Namespace::default();
        let past = Timestamp::from_second(1).unwrap();

        let kept = store
            .transaction(|tx| {
                tx.create_lease(&ns, &Lease::new("l", Some(past)))?;
                tx.add_to_lease(&ns, "l", &Resource::Ingest("r".to_owned()))?;
                tx.leased_resources(tx.now())
            })
            .unwrap();

        assert_eq!(kept, []);
    }
}
